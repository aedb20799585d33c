"""Dead letters as they stand in their topic. The rule: what they hold is hostile and is never trusted.

Reading leaves no trace: no group is joined and nothing is committed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fleetwatch.topic_reader import TopicReader
from telemetry.log import printable
from telemetry.reasons import Reason
from telemetry.settings import Settings
from telemetry.topics import topics

log = logging.getLogger("fleetwatch.dlq")

_CONNECT = "__connect.errors."
_BY_CODE = {reason.code: reason for reason in Reason}


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter. partition, offset : where it is itself; arrived_ms : broker time."""

    partition: int
    offset: int
    arrived_ms: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]

    def text(self, header: str) -> str:
        """A header's text, safe to print; empty if there is none."""
        return printable(self.headers.get(header, b"").decode("utf-8", "replace"))

    def number(self, header: str, default: int = -1) -> int:
        """A header's number, or `default` for whatever is no plain number."""
        raw = self.headers.get(header, b"")
        return int(raw) if raw.isdigit() and len(raw) <= 19 else default

    @property
    def topic(self) -> str:
        return self.text(_CONNECT + "topic")

    @property
    def source_partition(self) -> int:
        return self.number(_CONNECT + "partition")

    @property
    def source_offset(self) -> int:
        return self.number(_CONNECT + "offset")

    @property
    def last_offset(self) -> int:
        """Of a whole batch: its last offset; -1 = the letter is one record."""
        return self.number("x-last-offset")

    @property
    def records(self) -> int:
        """How many records it stands for."""
        return max(1, self.last_offset - self.source_offset + 1) if self.last_offset >= 0 else 1

    @property
    def reason(self) -> str:
        return self.text("x-reason") or self.text(_CONNECT + "exception.class.name") or "?"

    @property
    def known_reason(self) -> Reason | None:
        """None = a reason that this version does not have."""
        return _BY_CODE.get(self.reason)

    @property
    def attempt(self) -> int:
        return self.number("x-attempt", 0)

    @property
    def is_cut(self) -> bool:
        return "x-truncated" in self.headers or "x-truncated-key" in self.headers

    @property
    def place(self) -> str:
        """Its own place, as `fleetwatch dlq show` takes it."""
        return f"{self.partition}/{self.offset}"

    @property
    def source(self) -> str:
        """Where the record was, or the records."""
        last = f"-{self.last_offset}" if self.last_offset >= 0 else ""
        return f"{self.topic or '?'}[{self.source_partition}]@{self.source_offset}{last}"

    @property
    def key_text(self) -> str:
        return key_text(self.key)


def key_text(key: bytes | None) -> str:
    """A key safe to print: as text if it is text, else as hex."""
    if key is None:
        return "(null)"
    try:
        return printable(key.decode(), 64)
    except UnicodeDecodeError:
        return f"0x{key[:32].hex()}{'...' if len(key) > 32 else ''}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters. Empty = all; until_ms : broker time, exclusive, 0 = no end."""

    reasons: frozenset[str] = frozenset()
    topics: frozenset[str] = frozenset()
    keys: frozenset[bytes] = frozenset()
    until_ms: int = 0
    places: frozenset[tuple[int, int]] = frozenset()

    def __call__(self, letter: Letter) -> bool:
        return (
            (not self.reasons or letter.reason in self.reasons)
            and (not self.topics or letter.topic in self.topics)
            and (not self.keys or letter.key in self.keys)
            and (not self.until_ms or letter.arrived_ms < self.until_ms)
            and (not self.places or (letter.partition, letter.offset) in self.places)
        )


class LetterReader(TopicReader):
    """The dead letters; see `TopicReader`."""

    def __init__(
        self, settings: Settings, since_ms: int = 0, places: frozenset[tuple[int, int]] = frozenset()
    ) -> None:
        super().__init__(settings, topics(settings).dlq.name, since_ms, places)

    def to_end(self) -> Iterator[Letter]:
        """All letters, each partition in its order."""
        return map(letter_of, self)


def letter_of(message: Any) -> Letter:
    """A consumed message as a letter; of a header that comes twice the last one counts."""
    headers = {name: bytes(value or b"") for name, value in message.headers() or ()}
    return Letter(
        message.partition(), message.offset(), message.timestamp()[1], message.key(), message.value(), headers
    )
