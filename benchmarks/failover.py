"""Two workers share a fleet, one is killed: how long until its partitions move on, and what the time goes into.

The rule: each share is the distance of two moments that were seen; together they are the whole.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import (
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    TopicPartition,
)
from confluent_kafka.admin import OffsetSpec

from benchmarks import restore, workerlog
from benchmarks.job import PARTITIONS
from benchmarks.process import WorkerProcess
from benchmarks.restore import Fleet
from telemetry import clients
from telemetry.topics import topics

#: Frames a second, and rounds of all devices, while a worker is killed: 40 s.
RATE = 20_000.0
LOAD_ROUNDS = 8
LOAD_S = LOAD_ROUNDS * restore.DEVICES / RATE
#: The load runs for so long before the kill.
BEFORE_KILL_S = 5.0
FAILOVER_S = 120.0
WORKERS = 2
POLL_S = 0.03
#: Whether the victim dies with rows in the changelog that are not committed.
KINDS = {"between_checkpoints": False, "within_checkpoint": True}


@dataclass(frozen=True, slots=True)
class Moments:
    """Epoch seconds. noticed : the group knows of the death. released : the victim's transaction is over.

    committed : all of the victim's partitions have moved on.
    """

    killed: float
    noticed: float
    assigned: float
    released: float
    restored: float
    committed: float

    def shares(self) -> dict[str, float]:
        """Seconds of each part; their sum is `total_s`.

        A transaction that is still pending when the partitions are assigned holds the restore back until it ends.
        """
        free = min(max(self.assigned, self.released), self.restored)
        return {
            "total_s": self.committed - self.killed,
            "session_timeout_s": self.noticed - self.killed,
            "rebalance_s": self.assigned - self.noticed,
            "pending_transaction_s": free - self.assigned,
            "restore_s": self.restored - free,
            "first_commit_s": self.committed - self.restored,
        }


class Observer:
    """Asks the brokers what they know of the group and of the victim's partitions."""

    def __init__(self, fleet: Fleet, partitions: Iterable[int]) -> None:
        self._admin = clients.admin(fleet.settings)
        self._group, self._topic = fleet.settings.processing.group, fleet.topic
        self._rows = [TopicPartition(topics(fleet.settings).state.name, p) for p in sorted(partitions)]

    def stable(self) -> bool:
        """No rebalance is under way, and nobody has left."""
        group = self._admin.describe_consumer_groups([self._group])[self._group].result(10)
        return group.state == ConsumerGroupState.STABLE and len(group.members) == WORKERS

    def committed(self) -> dict[int, int]:
        """Committed offset by partition; a transaction that is pending does not count."""
        wanted = [TopicPartition(self._topic, p) for p in range(PARTITIONS)]
        question = ConsumerGroupTopicPartitions(self._group, wanted)
        answer = self._admin.list_consumer_group_offsets([question])[self._group].result(10)
        return {e.partition: e.offset for e in answer.topic_partitions}

    def _ends(self, isolation: IsolationLevel) -> dict[int, int]:
        futures = self._admin.list_offsets(
            dict.fromkeys(self._rows, OffsetSpec.latest()), isolation_level=isolation
        )
        return {at.partition: future.result(10).offset for at, future in futures.items()}

    def pending(self) -> bool:
        """Whether some row of the victim's partitions is not committed."""
        stable = self._ends(IsolationLevel.READ_COMMITTED)
        return stable != self._ends(IsolationLevel.READ_UNCOMMITTED)


def _freeze(victim: WorkerProcess, observer: Observer, *, within: bool) -> float:
    """Stop the victim (SIGSTOP) within a checkpoint, or between two; returns when, epoch seconds."""
    end = time.monotonic() + LOAD_S
    while True:
        if observer.pending() == within:
            victim.freeze()
            frozen = time.time()
            time.sleep(0.05)  # what was on its way is there
            if observer.pending() == within:
                return frozen
            victim.thaw()
        if time.monotonic() > end:
            raise TimeoutError(
                "the worker was never found " + ("within" if within else "between") + " a checkpoint"
            )


def _watch(observer: Observer, survivor: WorkerProcess, victims: set[int], killed: float) -> dict[str, float]:
    """The moments noticed, released and committed; how long the survivor's own partitions stood still."""
    before = observer.committed()
    seen: dict[str, float] = {}
    own, own_at, pause = before, killed, 0.0
    while "committed" not in seen:
        survivor.check()
        now = time.time()
        if now - killed > FAILOVER_S:
            raise TimeoutError(f"the victim's partitions did not move on within {FAILOVER_S:.0f} s: {seen}")
        if "noticed" not in seen and not observer.stable():
            seen["noticed"] = now
        if "released" not in seen and not observer.pending():
            seen["released"] = now
        found = observer.committed()
        if any(found[p] != own[p] for p in found.keys() - victims):
            pause, own, own_at = max(pause, now - own_at), found, now
        if all(found[p] > before[p] for p in victims):
            seen["committed"] = now
        time.sleep(POLL_S)
    return seen | {"survivor_pause_s": max(pause, time.time() - own_at)}


def once(fleet: Fleet, survivor: WorkerProcess, *, within: bool) -> dict[str, float]:
    """Start a second worker, load both, kill the second; seconds of each share."""
    restored = len(_restores(survivor))
    with fleet.worker() as victim:
        victim.wait_owned(restore.OWNED // 2)
        survivor.wait_owned(restore.OWNED // 2)
        victims = {partition for _, partition in victim.owned()}
        observer = Observer(fleet, victims)
        load = threading.Thread(target=fleet.write, args=(LOAD_ROUNDS, RATE), name="load")
        load.start()
        time.sleep(BEFORE_KILL_S)
        killed = _freeze(victim, observer, within=within)
        victim.kill()
        seen = _watch(observer, survivor, victims, killed)
        load.join()
    fleet.wait_finished()
    took = next(r for r in _restores(survivor)[restored:] if r.at_s > killed and victims <= r.partitions)
    assigned = min(at for at in workerlog.assignments(_text(survivor)) if at > killed)
    released = seen.get("released", took.at_s)  # not seen before the survivor's own rows came: at the latest then
    moments = Moments(killed, seen["noticed"], assigned, released, took.at_s, max(seen["committed"], took.at_s))
    figures = moments.shares() | {
        "transaction_over_s": moments.released - moments.killed,
        "survivor_pause_s": seen["survivor_pause_s"],
        "records": took.records,
    }
    print("failover, " + ("within" if within else "between") + " checkpoints: "
          + ", ".join(f"{key} {value:,.2f}" for key, value in figures.items()), flush=True)  # fmt: skip
    return figures


def _text(worker: WorkerProcess) -> str:
    return worker.log.read_text(encoding="utf-8")


def _restores(worker: WorkerProcess) -> list[workerlog.Restore]:
    return workerlog.restores(_text(worker))


def measure(fleet: Fleet, runs: int) -> dict[str, Any]:
    """Medians of each kind over so many kills, the kills, and the settings that they depend on."""
    done: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    with fleet.worker() as survivor:
        survivor.wait_owned(restore.OWNED)
        for _ in range(runs):
            for kind, within in KINDS.items():
                done[kind].append(once(fleet, survivor, within=within))
    p = fleet.settings.processing
    return {
        kind: {key: statistics.median(run[key] for run in found) for key in found[0]} | {"runs": found}
        for kind, found in done.items()
    } | {
        "devices": restore.DEVICES,
        "frames_per_s": RATE,
        "session_timeout_s": p.session_timeout_s,
        "heartbeat_s": p.heartbeat_s,
        "transaction_timeout_s": p.transaction_timeout_s,
        "commit_interval_ms": p.commit_interval_ms,
    }
