"""Alerts for any webhook: CloudEvents in structured mode. The rule: an event is one POST, named by its id."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from urllib.parse import quote

from fleetwatch.alert_feed import Received
from fleetwatch.alerts_cli import structured
from fleetwatch.forward import LaneOf, Message, Outcome, Standing
from telemetry.alerts import Severity

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
SIGNATURE, TIMESTAMP = "X-Fleetwatch-Signature", "X-Fleetwatch-Timestamp"
IDEMPOTENCY = "Idempotency-Key"


def signature(key: bytes, timestamp: str, body: bytes) -> str:
    """Over the timestamp, a dot and the body, so that an old request cannot be sent again as a new one."""
    return "sha256=" + hmac.new(key, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class WebhookMessage:
    """One event."""

    id: str
    body: bytes
    key: bytes | None

    def render(self, now_s: float) -> tuple[dict[str, str], bytes]:
        headers = {
            "Content-Type": CONTENT_TYPE,
            IDEMPOTENCY: quote(self.id, safe="/:", errors="replace"),  # a device may be named in any script
        }
        if self.key is not None:
            headers[TIMESTAMP] = str(int(now_s))
            headers[SIGNATURE] = signature(self.key, headers[TIMESTAMP], self.body)
        return headers, self.body

    def parts(self) -> list[Message]:
        return [self]


class Webhook:
    """Remembers nothing: each event says all."""

    stateful = False

    def __init__(self, path: str, min_severity: Severity, key: bytes | None) -> None:
        self.path = path
        self._min, self._key = min_severity, key

    def accept(self, received: Received, partition: int, offset: int) -> tuple[Message | None, int]:
        del partition
        if received.alert.severity.rank < self._min.rank:
            return None, offset
        # one_line() has left no half of a character pair
        body = structured(received).encode()
        return WebhookMessage(received.attributes["id"], body, self._key), offset

    def recall(self, received: Received, partition: int, offset: int) -> None:
        del received, partition, offset

    def again(self, now_s: float, lanes: set[int], lane_of: LaneOf, when: Standing) -> dict[int, Message]:
        del now_s, lanes, lane_of, when
        return {}

    def heard(self, message: Message, now_s: float, result: Outcome) -> None:
        del message, now_s, result

    def oldest(self, partition: int) -> int | None:
        del partition
        return None

    def forget(self, partition: int) -> None:
        del partition

    @property
    def open(self) -> int:
        return 0
