"""A fresh worker takes over the state of a whole fleet. The rule: the state was written by a real worker's commits.

Each round of frames is committed before the next is written, so that the changelog has as many records a device as
there were rounds: more than the state needs, as it has between two compactions.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cluster, process, workerlog
from benchmarks.job import FRAMES, PARTITIONS, Writer
from telemetry.settings import Settings
from telemetry.topics import topics

DEVICES = 100_000
ROUNDS = 3
#: Partitions of both input topics.
OWNED = 2 * PARTITIONS
RESTORE_S = 180.0
SAMPLE_S = 0.02
#: keep_revoked_s : a worker that loses a partition keeps nothing of it, so that every restore is a whole one.
CHANGES: process.Changes = {
    "processing": {"session_timeout_s": 6.0, "heartbeat_s": 2.0, "keep_revoked_s": 0.0},
    "service": {"log_level": "INFO"},
}


@dataclass(slots=True)
class Fleet:
    """The devices, their topics and the group whose state is written. rounds : written so far."""

    config: Path
    settings: Settings
    folder: Path
    rounds: int = 0
    workers: int = 0

    @property
    def topic(self) -> str:
        return topics(self.settings).vehicle.name

    def worker(self) -> process.WorkerProcess:
        self.workers += 1
        return process.WorkerProcess(self.config, self.folder / f"restore-{self.workers}.log")

    def write(self, rounds: int, rate: float = 0.0, each: Callable[[int], None] | None = None) -> None:
        """So many further frames of every device."""
        Writer(FRAMES, DEVICES).run(self.settings, self.topic, rounds * DEVICES, rate, each, self.rounds)
        self.rounds += rounds

    def wait_finished(self, timeout_s: float = RESTORE_S) -> None:
        """Return when all that was written is committed."""
        cluster.wait_committed(self.settings, self.topic, self.rounds * DEVICES, timeout_s)


def prepare(bootstrap: str, folder: Path) -> Fleet:
    """The state of `DEVICES` devices, written by a worker that has ended."""
    config = folder / "restore.yaml"
    wanted = process.sections(bootstrap, FRAMES, "bench.restore", "restore", CHANGES)
    fleet = Fleet(config, process.write_settings(config, wanted), folder)
    cluster.fresh_topics(fleet.settings, keep_input=False)
    with fleet.worker() as worker:
        worker.wait_owned(OWNED)
        fleet.write(ROUNDS, each=lambda sent: cluster.wait_committed(fleet.settings, fleet.topic, sent, RESTORE_S))
        rows = worker.totals()["state_rows"]
    print(f"restore: {rows:,.0f} state rows of {DEVICES:,} devices written", flush=True)
    return fleet


@dataclass(slots=True)
class Usage:
    """A process's CPU seconds and memory over time, sampled by a thread while the `with` lasts."""

    worker: process.WorkerProcess
    rows: list[tuple[float, float, float]] = field(default_factory=list)
    _done: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def _run(self) -> None:
        while not self._done.wait(SAMPLE_S):
            self.rows.append((time.time(), self.worker.cpu_s(), self.worker.rss_bytes() / 1e6))

    def __enter__(self) -> Usage:
        self._thread = threading.Thread(target=self._run, name="usage")
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        assert self._thread is not None
        self._done.set()
        self._thread.join()

    def between(self, begin_s: float, end_s: float) -> tuple[float, float, float]:
        """CPU seconds, memory before and highest memory, MB, between two times of the epoch's clock."""
        at, cpu, rss = np.array(self.rows).T
        inside = (at >= begin_s) & (at <= end_s)
        used = float(np.interp(end_s, at, cpu) - np.interp(begin_s, at, cpu))
        before = float(np.interp(begin_s, at, rss))
        return used, before, float(rss[inside].max(initial=before))


def wait_restored(worker: process.WorkerProcess) -> workerlog.Restore:
    """The worker's first restore, once its log tells of it.

    Raises
    ------
    RuntimeError : it ended. TimeoutError : it took longer.
    """
    end = time.monotonic() + RESTORE_S
    while not (found := workerlog.restores(worker.log.read_text(encoding="utf-8"))):
        worker.check()
        if time.monotonic() > end:
            raise TimeoutError(f"no restore within {RESTORE_S:.0f} s")
        time.sleep(0.05)
    return found[0]


def once(fleet: Fleet) -> dict[str, Any]:
    """One worker, from its start until it has all devices.

    restore_s : as its log says, from knowing where to go on to the last row. assigned_to_restored_s : the question
    for committed offsets included. cpu_s and rss_peak_mb : of that time.
    """
    started_s = time.time()
    with fleet.worker() as worker, Usage(worker) as usage:
        found = wait_restored(worker)
        time.sleep(5 * SAMPLE_S)
        devices = worker.devices()
        assigned_s = workerlog.assignments(worker.log.read_text(encoding="utf-8"))[0]
    cpu_s, before_mb, peak_mb = usage.between(assigned_s, found.at_s)
    figures = {
        "assigned_to_restored_s": found.at_s - assigned_s,
        "restore_s": found.seconds,
        "cpu_s": cpu_s,
        "records": found.records,
        "rows": found.rows,
        "records_per_s": found.records / found.seconds,
        "rss_before_mb": before_mb,
        "rss_peak_mb": peak_mb,
        "start_to_assigned_s": assigned_s - started_s,
        "devices": devices,
    }
    took = (
        f"{figures['assigned_to_restored_s']:.2f} s, {cpu_s:.2f} s of CPU, RSS {before_mb:.0f} to {peak_mb:.0f} MB"
    )
    print(f"restore: {devices:,} devices from {found.records:,} records in {took}", flush=True)
    return figures


def measure(fleet: Fleet, runs: int) -> dict[str, Any]:
    """Medians over so many fresh workers, and the runs. verified : each of them held every device."""
    done = [once(fleet) for _ in range(runs)]
    figures = {key: statistics.median(run[key] for run in done) for key in done[0]}
    return figures | {"verified": all(run["devices"] == DEVICES for run in done), "runs": done}
