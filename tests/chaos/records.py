"""What stands on a topic, and what names a record. The rule: an id is made of content, not of a place or a time.

Expected and found records are the same type, so that one comparison serves all topics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from telemetry import codec

#: The output topics that are compared record by record, by their field in `telemetry.topics.Topics`.
OUTPUTS = ("features", "scores", "alerts", "late", "dlq")
STATE = "state"
#: Headers of a dead letter that tell who refused it and when, not what: they differ from run to run.
NOT_COMPARED = frozenset({"x-worker", "x-attempt", "x-time", "__connect.errors.timestamp"})

Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One output record. offset, ts_ms : where and when it was found; -1 for an expected one."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    offset: int = -1
    ts_ms: int = -1

    @property
    def content(self) -> tuple[bytes | None, bytes | None, Headers]:
        """What two runs must have in common."""
        return self.key, self.value, tuple(pair for pair in self.headers if pair[0] not in NOT_COMPARED)


def lane(kind: str, entry: Entry) -> tuple[Any, ...]:
    """Within what the order of records is kept: a device; of scores a device and detector, of dead letters a key
    and input topic. Where a batch was cut, and which input came first, is not a matter of the input."""
    if kind == "scores":
        return entry.key, codec.decode("score", entry.value or b"")["detector"]
    if kind == "dlq":
        return entry.key, dict(entry.headers)["__connect.errors.topic"]
    return (entry.key,)


def identity(kind: str, entry: Entry) -> tuple[Any, ...]:
    """The deterministic id of an output record: what a consumer of at-least-once results dedupes by."""
    if kind == "features":
        window = codec.decode("window_features", entry.value or b"")
        return window["device_id"], window["window_start"]
    if kind == "scores":
        score = codec.decode("score", entry.value or b"")
        return score["device_id"], score["detector"], score["window_start"]
    if kind == "alerts":
        return (dict(entry.headers)["ce_id"],)
    if kind == "dlq":
        headers = dict(entry.headers)
        return tuple(headers[f"__connect.errors.{name}"] for name in ("topic", "partition", "offset"))
    if kind == "late":
        frame = codec.decode("frame", entry.value or b"")
        return frame["device_id"], frame["seq"], frame["ts"]
    assert kind == STATE, kind
    return (entry.key,)
