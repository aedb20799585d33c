"""Truth and exposure as their topics hold them. The rule: a spectator leaves no trace: no group, no commits.

Records are read once, in the topic's order, committed ones only; what is kept is a fault's or a device's, never a
record's.
"""

from __future__ import annotations

import io
import logging
from functools import cache
from typing import Any

import fastavro

from fleetwatch.scorecard import Exposure, Fault
from fleetwatch.topic_reader import TopicReader
from producers.faults import KINDS
from producers.faulttypes import ClockFault
from telemetry import codec, schemas
from telemetry.codec import RefusedError
from telemetry.errors import TopicError
from telemetry.settings import Settings
from telemetry.topics import topics

log = logging.getLogger("fleetwatch.scorecard")

#: More faults than this are not scored.
FAULTS_MAX = 1_000_000
_HEAD = ("device_id", "catalog", "window_start", "hop_us")


def fault_of(record: dict[str, Any]) -> Fault:
    """A truth record."""
    kind = KINDS.get(record["kind"])
    rate = 1.0 + record["magnitude"] if isinstance(kind, ClockFault) else 1.0
    return Fault(
        record["fault_id"],
        record["kind"],
        record["device_id"],
        record["onset"],
        record["end"],
        frozenset(record["signals"]),
        record["catalog"].partition("/")[0],
        rate if rate > 0 else 1.0,  # a clock that stands or runs backwards dates nothing
    )


def faults(settings: Settings, since_ms: int) -> tuple[list[Fault], int]:
    """The truth topic's faults, each with its end where that was told; and the records that are none.

    since_ms : of faults that were told before it, a later end is passed over.

    Raises
    ------
    TopicError : no topic, no fault in it, or too many.
    """
    found: dict[str, Fault] = {}
    bad = 0
    with TopicReader(settings, topics(settings).truth.name, since_ms) as reader:
        for message in reader:
            try:
                fault = fault_of(codec.decode("truth", message.value() or b""))
            except RefusedError:
                bad += 1
                continue
            known = found.get(fault.fault_id)
            if known is None and since_ms and fault.end_us is not None:
                continue  # it began before that, and so did what would have found it
            if known is None or known.end_us is None:
                found[fault.fault_id] = fault
            if len(found) > FAULTS_MAX:
                raise TopicError(f"{reader.topic} holds more than {FAULTS_MAX:,} faults: choose with --since")
    if not found:
        which = " since then" if since_ms else ""
        raise TopicError(
            f"{reader.topic} holds no fault{which}, so there is nothing to score against: inject some (`fleetwatch "
            "simulate vehicles --inject tyre_leak@5m`, `fleetwatch inject tyre_leak`), or score without Kafka: "
            "`fleetwatch scorecard --simulate`"
        )
    return list(found.values()), bad


@cache
def _heads() -> dict[bytes, Any]:
    """Header -> the writer's schema of window features, cut behind the last field that is wanted.

    Reading a record with it leaves the arrays, which are nearly all of its bytes, untouched.
    """
    found = {}
    for version in schemas.versions("window_features"):
        fields = version.schema["fields"]
        last = max(n for n, f in enumerate(fields) if f["name"] in _HEAD)
        found[version.header] = fastavro.parse_schema({**version.schema, "fields": fields[: last + 1]})
    return found


def see_window(exposure: Exposure, value: bytes) -> bool:
    """Count a record of the features topic: one hop of its device's time. False = it is none."""
    head = _heads().get(value[:10])
    if head is None:
        return False
    stream = io.BytesIO(value)
    stream.seek(10)
    try:
        record: Any = fastavro.schemaless_reader(stream, head, None)
    except (EOFError, ValueError, IndexError, OverflowError, UnicodeDecodeError, MemoryError):
        return False
    start_us = codec.micros(record["window_start"])
    exposure.see(record["device_id"], record["catalog"].partition("/")[0], start_us, record["hop_us"])
    return True


def exposure(settings: Settings, since_ms: int) -> tuple[Exposure, int]:
    """Device time by the windows that workers published; and the records that are none."""
    found, bad = Exposure(), 0
    with TopicReader(settings, topics(settings).features.name, since_ms) as reader:
        for message in reader:
            bad += not see_window(found, message.value() or b"")
    return found, bad
