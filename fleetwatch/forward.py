"""What forwarding decides without a clock, a network or Kafka. The rule: an event is final or owed, never lost.

A record is final when it was answered with 2xx, refused for good, or is nothing to send. A partition's committed
offset is its oldest record that is not.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Protocol

from fleetwatch.alert_feed import Received

#: Client errors that pass: the server is slow, not ready, or has too much to do.
_PASSING_4XX = frozenset({408, 425, 429})
_DOUBLINGS_MAX = 32
_STATE_PREFIX = "from="


LaneOf = Callable[[str], int]


class Outcome(StrEnum):
    DELIVERED = "delivered"
    RETRY = "retry"
    REFUSED = "refused"


def outcome(status: int) -> Outcome:
    """What an HTTP status means for the event. A redirect is a refusal: it is not followed."""
    if 200 <= status < 300:
        return Outcome.DELIVERED
    if status >= 500 or status in _PASSING_4XX:
        return Outcome.RETRY
    return Outcome.REFUSED


def retry_after_s(value: str | None, now_s: float) -> float:
    """Seconds to wait by a Retry-After header, in either form; 0 = none, or not understood."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        moment = parsedate_to_datetime(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - now_s)
    except (ValueError, OverflowError):
        return 0.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential, with full jitter: receivers that come back are not met by everybody at once."""

    first_s: float
    max_s: float
    chance: Callable[[], float] = random.random

    def wait_s(self, failures: int) -> float:
        """The pause after so many failures in a row; between 0 and a ceiling that doubles."""
        doublings = min(max(0, failures - 1), _DOUBLINGS_MAX)
        ceiling = min(self.max_s, self.first_s * (1 << doublings))
        return ceiling * self.chance()


class Message(Protocol):
    """Something to post."""

    def render(self, now_s: float) -> tuple[dict[str, str], bytes]:
        """(headers, body) of one attempt at that time: times and signatures are of the attempt."""

    def parts(self) -> list[Message]:
        """The same, one thing a message; itself alone if it cannot be divided."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Partitions by how far they are read. known : once to their end. current : to their present end."""

    known: frozenset[int]
    current: frozenset[int]


class Target(Protocol):
    """Makes messages of events; one for each kind of receiver. Called in each partition's order.

    stateful : `recall` must be given what came before the committed offset.
    """

    path: str
    stateful: bool

    def accept(self, received: Received, partition: int, offset: int) -> tuple[Message | None, int]:
        """What to post for an event, None = nothing; and the offset from which `recall` must begin to know it."""

    def recall(self, received: Received, partition: int, offset: int) -> None:
        """An event that was final before this process began."""

    def again(self, now_s: float, lanes: set[int], lane_of: LaneOf, when: Standing) -> dict[int, Message]:
        """What is to be said again: one message for each of these lanes at most."""

    def heard(self, message: Message, now_s: float, result: Outcome) -> None:
        """How a message of `again` ended, or one of its parts."""

    def oldest(self, partition: int) -> int | None:
        """The offset from which `recall` must begin; None = nothing is open."""

    def forget(self, partition: int) -> None:
        """The partition is another's now."""

    @property
    def open(self) -> int:
        """Alerts that are open."""


@dataclass(slots=True)
class Progress:
    """One partition's records.

    Attributes
    ----------
    next : after the last record that was read.
    owed : offset -> (from which offset it can be known again, when it arrived in ms), in order.
    """

    next: int
    owed: dict[int, tuple[int, int]] = field(default_factory=dict)

    def read(self, offset: int) -> None:
        self.next = offset + 1

    def owe(self, offset: int, since: int, arrived_ms: int) -> None:
        """The record must be delivered. Raises AssertionError out of order."""
        assert not self.owed or offset > next(reversed(self.owed))
        self.owed[offset] = (since, arrived_ms)

    def done(self, offset: int) -> None:
        del self.owed[offset]

    @property
    def final(self) -> int:
        """To be committed: everything before it is final."""
        return next(iter(self.owed), self.next)

    def since(self, oldest_open: int | None) -> int:
        """From where to read to know what is open and what is owed."""
        known = [since for since, _ in self.owed.values()]
        return min([self.final, *known, *([] if oldest_open is None else [oldest_open])])

    @property
    def oldest_ms(self) -> int | None:
        """When the oldest record that is owed arrived."""
        return next(iter(self.owed.values()))[1] if self.owed else None


def state_text(since: int) -> str:
    """For the metadata of a committed offset."""
    return f"{_STATE_PREFIX}{since}"


def state_since(text: str | None) -> int | None:
    """The inverse; None = not ours."""
    value = (text or "").removeprefix(_STATE_PREFIX)
    return int(value) if text and text.startswith(_STATE_PREFIX) and value.isascii() and value.isdigit() else None
