"""An input topic gets more partitions while workers run. The rule: workers refuse it, and nothing is lost by that.

A key's partition follows from the number of partitions: after a growth a device's frames would go to another
partition than its state. So each worker must notice, say so in one line, and end with the exit code of a wrong
configuration, which supervisors do not answer with a restart; no record of a new partition may be processed.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka.admin import NewPartitions

from telemetry import clients
from tests.chaos.reading import GroupView
from tests.chaos.session import PARTITIONS, Session
from tests.chaos.workers import EXIT_CONFIG, Slot
from tests.chaos.workload import Record, records

NEW_PARTITIONS = 2
BEFORE_S = 8.0
#: Within a refresh of the metadata, which the workers ask for at least so often, and an end of the process.
NOTICE_TIMEOUT_S = 90.0


def grow(session: Session) -> None:
    """The scenario, and the check of what was committed until then; problems are in the outcome."""
    problems, workers = session.outcome.problems, session.world.workers
    time.sleep(BEFORE_S)
    topic = session.names.vehicle.name
    grown = PARTITIONS + NEW_PARTITIONS
    (made,) = session.world.admin.create_partitions([NewPartitions(topic, grown)], request_timeout=20).values()
    made.result(30)
    began = time.monotonic()
    session.say(f"{topic} has {grown} partitions now, not {PARTITIONS}")
    new = [(topic, p) for p in range(PARTITIONS, grown)]
    _send(session, new)
    while any(slot.alive or slot.process is not None for slot in workers.slots):
        if time.monotonic() - began > NOTICE_TIMEOUT_S:
            problems.append(f"workers still run {NOTICE_TIMEOUT_S:.0f} s after {topic} grew")
            break
        time.sleep(0.2)
    session.say(f"after {time.monotonic() - began:.1f} s: " + _ends(workers.slots))
    for slot in workers.slots:
        problems += _judge_worker(slot, topic)
    view = GroupView(session.settings, new)
    committed = view.committed(20.0) or {}
    view.close()
    for at in new:
        if committed.get(at, 0):
            problems.append(f"{at}: {committed[at]} records of a new partition were committed")
    session.sender.finish(60)
    session.outcome.sent, session.outcome.ends = session.sender.total, workers.ends
    old = GroupView(session.settings, session.sender.acked())
    upto = old.committed(30.0)
    old.close()
    workers.close()
    if upto is None:
        problems.append("the group's coordinator does not answer")
        return
    session.say(f"{sum(upto.values())} of {session.outcome.sent} records were committed before; checking them")
    session.judge(upto)


def _send(session: Session, new: Sequence[tuple[str, int]]) -> None:
    """Some good records into each new partition, as a producer that knows of them would."""
    producer = clients.producer(session.settings)
    source: list[Record] = list(itertools.islice(records(session.options.seed + 1, PARTITIONS), 200))
    for topic, partition in new:
        for record in source:
            if record.topic == 0:
                producer.produce(topic, record.value, record.key, partition)
    left = producer.flush(30)
    assert left == 0, f"{left} records for the new partitions were not acknowledged"


def _ends(slots: Sequence[Slot]) -> str:
    return "; ".join(f"{s.name} exit {s.ends[-1].code}" if s.ends else f"{s.name} runs" for s in slots)


def _judge_worker(slot: Slot, topic: str) -> list[str]:
    if not slot.ends:
        return []  # told already: it still runs
    end, problems = slot.ends[-1], []
    if end.code != EXIT_CONFIG:
        problems.append(f"{slot.name} ended with {end.code}, not {EXIT_CONFIG}: {end.cause}")
    said = [line for line in _messages(slot.log) if topic in line and "partitions" in line]
    if not said:
        problems.append(f"{slot.name} does not say in its log that {topic} has another number of partitions")
    return problems


def _messages(log: Path) -> list[str]:
    """What a worker logged above the level of information, and what it printed."""
    found = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.startswith("{"):
            found.append(line)
        elif (entry := json.loads(line))["level"] in ("warning", "error", "critical"):
            found.append(entry["message"])
    return found
