"""Reads the alert topic, for the pages that show it. The rule: a spectator leaves no trace: no group, no commits.

A record that is no alert is counted and reported, never fatal; an event that comes twice (the worker delivers
at least once) is passed on once.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, TopicPartition

from telemetry.alerts import Alert, AlertState, ce_attributes
from telemetry.clients import cluster_metadata, consumer
from telemetry.errors import BrokerUnavailableError, TopicError
from telemetry.settings import Settings
from telemetry.topics import topics

log = logging.getLogger("fleetwatch.alerts")

_SEEN_MAX = 50_000
_OPEN_MAX = 10_000
_BATCH_MAX = 1000
_POLL_S = 0.2
_FINAL_ERRORS = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
    }
)


@dataclass(frozen=True, slots=True)
class Received:
    """One alert event as it came. attributes : CloudEvents', without ``ce_``; arrived_ms : broker time."""

    alert: Alert
    attributes: Mapping[str, str]
    arrived_ms: int


class AlertFeed:
    """Alert events in the topic's order: each device's own are in order, those of several are as they come.

    Parameters
    ----------
    since_ms : broker time to start from; 0 = the beginning, None = only what comes from now on.

    Attributes
    ----------
    records : all that were read.
    bad : records that are no alerts; first_bad says where the first is and what is wrong with it.
    repeated : events that had been seen already.
    """

    def __init__(self, settings: Settings, since_ms: int | None = 0) -> None:
        self.topic = topics(settings).alerts.name
        self.records = 0
        self.bad = 0
        self.first_bad: str | None = None
        self.repeated = 0
        self._settings = settings
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._consumer = consumer(
            settings,
            f"{settings.processing.group}-spectator",
            enable_partition_eof=True,
            queued_max_messages_kbytes=4096,
        )
        try:
            starts = self._starts(since_ms)
            self._ends: set[int] = set()  # partitions that are read to their end
            self._partitions = {start.partition for start in starts}
            self._consumer.assign(starts)
        except BaseException:
            self._consumer.close()
            raise

    def _starts(self, since_ms: int | None) -> list[TopicPartition]:
        metadata = cluster_metadata(self._consumer, self._settings)
        found = metadata.topics.get(self.topic)
        if found is None or found.error is not None:
            raise TopicError(
                f"topic {self.topic} does not exist at {self._settings.kafka.bootstrap} (or this login may not see "
                "it): create the topics with `fleetwatch topics apply`, or start a worker"
            )
        if since_ms is None or since_ms == 0:
            offset = OFFSET_END if since_ms is None else OFFSET_BEGINNING
            return [TopicPartition(self.topic, partition, offset) for partition in found.partitions]
        at = [TopicPartition(self.topic, partition, since_ms) for partition in found.partitions]
        return list(self._consumer.offsets_for_times(at, timeout=self._settings.kafka.connect_timeout_s))

    @property
    def at_end(self) -> bool:
        """Every partition was read to where it ended at that moment."""
        return self._ends == self._partitions

    def read(self, timeout_s: float) -> list[Received]:
        """What comes within `timeout_s`; may be empty.

        Raises
        ------
        BrokerUnavailableError : the topic cannot be read (gone, or not allowed). A broker that is away for a
            while is waited for.
        """
        received = []
        for message in self._consumer.consume(_BATCH_MAX, timeout_s):
            error = message.error()
            if error is None:
                if (item := self._take(message)) is not None:
                    received.append(item)
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 (the client's own name for it)
                self._ends.add(message.partition())
            elif error.fatal() or error.code() in _FINAL_ERRORS:
                raise BrokerUnavailableError(f"reading {self.topic}: {error.str()}")
            else:
                log.warning("reading %s: %s", self.topic, error.str())
        return received

    def to_end(self, patience_s: float = 30.0) -> Iterator[Received]:
        """All up to the present end.

        Raises
        ------
        BrokerUnavailableError : nothing came for `patience_s`, and the end was not reached.
        """
        seen = self._position
        progress = time.monotonic()
        while not self.at_end:
            yield from self.read(_POLL_S)
            if self._position != seen:
                seen, progress = self._position, time.monotonic()
            elif time.monotonic() - progress > patience_s:
                raise BrokerUnavailableError(
                    f"{self.topic} at {self._settings.kafka.bootstrap}: nothing came for {patience_s:.0f} s"
                )

    @property
    def _position(self) -> tuple[int, int]:
        return self.records, len(self._ends)

    def _take(self, message: Any) -> Received | None:
        headers = message.headers()
        self.records += 1
        try:
            alert = Alert.from_message(message.value(), headers)
        except ValueError as exc:
            self.bad += 1
            if self.first_bad is None:
                self.first_bad = f"partition {message.partition()}, offset {message.offset()}: {exc}"
            return None
        attributes = ce_attributes(headers)
        if attributes["id"] in self._seen:
            self.repeated += 1
            return None
        self._seen[attributes["id"]] = None
        if len(self._seen) > _SEEN_MAX:
            self._seen.popitem(last=False)
        return Received(alert, attributes, message.timestamp()[1])

    def close(self) -> None:
        self._consumer.close()

    def __enter__(self) -> AlertFeed:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class OpenAlerts:
    """The episodes that are open; holds the newest `_OPEN_MAX` of them."""

    def __init__(self) -> None:
        self._by_id: OrderedDict[str, Received] = OrderedDict()

    def apply(self, received: Received) -> None:
        """One event, in the topic's order."""
        episode = received.alert.id
        if received.alert.state is AlertState.RESOLVED:
            self._by_id.pop(episode, None)
            return
        self._by_id[episode] = received
        if len(self._by_id) > _OPEN_MAX:
            self._by_id.popitem(last=False)

    def __len__(self) -> int:
        return len(self._by_id)

    def urgent_first(self) -> list[Received]:
        """By severity, then by the time of the last news."""
        return sorted(self._by_id.values(), key=lambda r: (r.alert.severity.rank, r.alert.ts_us), reverse=True)
