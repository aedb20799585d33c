"""Dead letters as they stand in their topic. The rule: what they hold is hostile and is never trusted.

Reading leaves no trace: no group is joined and nothing is committed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, TopicPartition

from telemetry.clients import cluster_metadata, consumer
from telemetry.errors import BrokerUnavailableError, TopicError
from telemetry.log import printable
from telemetry.reasons import Reason
from telemetry.settings import Settings
from telemetry.topics import topics

log = logging.getLogger("fleetwatch.dlq")

_BATCH_MAX = 500
_POLL_S = 0.2
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


class LetterReader:
    """Reads the dead-letter topic from a broker time on up to where it ended when reading began.

    Parameters
    ----------
    since_ms : 0 = from the beginning. places : only the partitions of these, from the first of each on.
    """

    def __init__(
        self, settings: Settings, since_ms: int = 0, places: frozenset[tuple[int, int]] = frozenset()
    ) -> None:
        self.topic = topics(settings).dlq.name
        self._settings = settings
        self._consumer = consumer(settings, f"{settings.processing.group}-spectator", enable_partition_eof=True)
        try:
            starts = self._starts(since_ms, places)
            self._open = {start.partition for start in starts}
            self._consumer.assign(starts)
        except BaseException:
            self._consumer.close()
            raise

    def _starts(self, since_ms: int, places: frozenset[tuple[int, int]]) -> list[TopicPartition]:
        found: Any = cluster_metadata(self._consumer, self._settings).topics.get(self.topic)
        if found is None or found.error is not None:
            raise TopicError(
                f"topic {self.topic} does not exist at {self._settings.kafka.bootstrap}: "
                "create the topics with `fleetwatch topics apply`, or start a worker"
            )
        if places:
            first: dict[int, int] = {}
            for partition, offset in places:
                first[partition] = min(offset, first.get(partition, offset))
            if missing := sorted(first.keys() - found.partitions.keys()):
                raise TopicError(f"{self.topic} has no partition {missing[0]}; it has {len(found.partitions)}")
            return [TopicPartition(self.topic, p, o) for p, o in first.items()]
        if not since_ms:
            return [TopicPartition(self.topic, p, OFFSET_BEGINNING) for p in found.partitions]
        at = [TopicPartition(self.topic, p, since_ms) for p in found.partitions]
        starts = self._consumer.offsets_for_times(at, timeout=self._settings.kafka.connect_timeout_s)
        return [
            start if start.offset >= 0 else TopicPartition(self.topic, start.partition, OFFSET_END)
            for start in starts
        ]

    def to_end(self, patience_s: float = 30.0) -> Iterator[Letter]:
        """All letters, each partition in its order.

        Raises
        ------
        BrokerUnavailableError : nothing came for `patience_s`, or the topic cannot be read.
        """
        heard = time.monotonic()
        while self._open:
            for message in self._consumer.consume(_BATCH_MAX, _POLL_S):
                heard = time.monotonic()
                error = message.error()
                if error is None:
                    if message.partition() in self._open:
                        yield letter_of(message)
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 (the client's own name for it)
                    self._open.discard(message.partition())
                elif error.retriable():
                    log.warning("reading %s: %s", self.topic, error.str())
                else:
                    raise BrokerUnavailableError(f"reading {self.topic}: {error.str()}")
            if time.monotonic() - heard > patience_s:
                raise BrokerUnavailableError(
                    f"{self.topic} at {self._settings.kafka.bootstrap}: nothing came for {patience_s:.0f} s"
                )

    def __enter__(self) -> LetterReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self._consumer.close()


def letter_of(message: Any) -> Letter:
    """A consumed message as a letter; of a header that comes twice the last one counts."""
    headers = {name: bytes(value or b"") for name, value in message.headers() or ()}
    return Letter(
        message.partition(), message.offset(), message.timestamp()[1], message.key(), message.value(), headers
    )
