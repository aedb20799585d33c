"""What processing a batch brings about. The rule: values only; the shell publishes them, in one place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict

from telemetry.alerts import Alert
from telemetry.reasons import TEXT, Reason


class Message(TypedDict):
    """A record for an output topic, on the input's partition: a dict, as `Producer.produce_batch` wants it."""

    key: bytes
    value: bytes
    partition: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A refused record, byte for byte, and where it came from."""

    topic: str
    partition: int
    offset: int
    reason: Reason
    key: bytes | None
    value: bytes | None

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
        }
        return [(name, text.encode()) for name, text in pairs.items()]


@dataclass(slots=True)
class Effects:
    """Everything that a batch led to, in order within each list.

    alert_times_us : for each alert, the event time and the record's broker time of its row, for latencies.
    """

    features: list[Message] = field(default_factory=list)
    scores: list[Message] = field(default_factory=list)
    late: list[Message] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    alert_times_us: list[tuple[int, int]] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)

    @property
    def records(self) -> int:
        return len(self.features) + len(self.scores) + len(self.late) + len(self.alerts) + len(self.dead)
