"""What processing a batch brings about. The rule: values only; the shell publishes them, in one place."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TypedDict

from telemetry.alerts import Alert
from telemetry.reasons import TEXT, Reason
from telemetry.schemas import SINGLE_OBJECT_MARKER


class Message(TypedDict):
    """A record for an output topic, on the input's partition: a dict, as `Producer.produce_batch` wants it."""

    key: bytes
    value: bytes
    partition: int


#: Key and value of a dead letter take so many bytes at most: with its headers it fits into a producer's 1,000,000.
LETTER_BYTES_MAX = 990_000
_KEY_BYTES_MAX = LETTER_BYTES_MAX // 2


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A refused record, byte for byte, and where it came from; or a batch whose records cannot be told apart.

    last_offset : -1 = one record; else the letter stands for all from offset to here, and its value is the batch
    as it was fetched. time_us : when it was refused. Nothing that tells a letter from another depends on it.
    attempt : how often the record had been sent again from the dead letters.
    """

    topic: str
    partition: int
    offset: int
    reason: Reason
    key: bytes | None
    value: bytes | None
    last_offset: int = -1
    time_us: int = 0
    key_length: int = -1
    value_length: int = -1
    attempt: int = 0

    def bounded(self, time_us: int) -> DeadLetter:
        """This letter with its time, its key and value cut to what can be published; their lengths are kept."""
        key, value = self.key, self.value
        if len(key or b"") + len(value or b"") <= LETTER_BYTES_MAX:
            return replace(self, time_us=time_us)
        key = key[:_KEY_BYTES_MAX] if key is not None else None
        value = value[: LETTER_BYTES_MAX - len(key or b"")] if value is not None else None
        return replace(
            self,
            key=key,
            value=value,
            time_us=time_us,
            key_length=len(self.key or b""),
            value_length=len(self.value or b""),
        )

    def headers(self, worker: str) -> list[tuple[str, bytes]]:
        """In the manner of Kafka Connect, so that its tools read them."""
        reason = self.reason
        pairs = {
            "__connect.errors.topic": self.topic,
            "__connect.errors.partition": str(self.partition),
            "__connect.errors.offset": str(self.offset),
            "__connect.errors.stage": reason.stage,
            "__connect.errors.class.name": "fleetwatch.streams",
            "__connect.errors.exception.class.name": reason.code,
            "__connect.errors.exception.message": TEXT[reason],
            "x-reason": reason.code,
            "x-worker": worker,
            "x-attempt": str(self.attempt),
            "x-time": datetime.fromtimestamp(self.time_us / 1e6, UTC).isoformat(timespec="milliseconds"),
        }
        if self.value is not None and self.value[:2] == SINGLE_OBJECT_MARKER and self.last_offset < 0:
            pairs["x-schema-fp"] = self.value[2:10].hex()
        if self.last_offset >= 0:
            pairs["x-last-offset"] = str(self.last_offset)
        if self.value_length > len(self.value or b""):
            pairs["x-truncated"] = str(self.value_length)
        if self.key_length > len(self.key or b""):
            pairs["x-truncated-key"] = str(self.key_length)
        return [(name, text.encode()) for name, text in pairs.items()]


@dataclass(frozen=True, slots=True)
class Drift:
    """A detector's scores of a device changed their mean. ts_us : end of the window that showed it, event time;
    before, after : the means of windows' peaks, cut at `detectors.drift.HIGHEST`."""

    device_id: str
    catalog: str
    detector: str
    ts_us: int
    before: float
    after: float

    @property
    def sentence(self) -> str:
        """In plain words, one line."""
        way = "rose" if self.after > self.before else "fell"
        when = datetime.fromtimestamp(self.ts_us / 1e6, UTC).isoformat(timespec="seconds")
        return (
            f"{self.device_id} ({self.catalog}): the surprise of {self.detector} {way} from "
            f"{self.before:.2f} to {self.after:.2f} on average, seen at {when}"
        )


@dataclass(slots=True)
class Effects:
    """Everything that a batch led to, in order within each list.

    alert_times_us : for each alert, the event time and the record's broker time of its row, for latencies.
    drifts : not published; see decision 0017.
    """

    features: list[Message] = field(default_factory=list)
    scores: list[Message] = field(default_factory=list)
    late: list[Message] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    alert_times_us: list[tuple[int, int]] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    drifts: list[Drift] = field(default_factory=list)

    @property
    def records(self) -> int:
        """How many there are to publish."""
        return len(self.features) + len(self.scores) + len(self.late) + len(self.alerts) + len(self.dead)
