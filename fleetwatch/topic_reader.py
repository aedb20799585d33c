"""One topic, from where one likes to where it ends now. The rule: committed records, and no group is joined."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any, Self

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, TopicPartition

from telemetry.clients import cluster_metadata, consumer
from telemetry.errors import BrokerUnavailableError, TopicError
from telemetry.settings import Settings

log = logging.getLogger(__name__)

_BATCH_MAX = 1000
_POLL_S = 0.2


class TopicReader:
    """Reads each partition in its order, up to where it ended when reading began.

    Parameters
    ----------
    since_ms : broker time; 0 = from the beginning.
    places : (partition, offset): only these partitions, from the first offset of each on.
    patience_s : nothing for so long is an error.

    Raises
    ------
    TopicError : the topic or a partition of it does not exist. BrokerUnavailableError : it cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        topic: str,
        since_ms: int = 0,
        places: frozenset[tuple[int, int]] = frozenset(),
        patience_s: float = 30.0,
    ) -> None:
        self.topic = topic
        self._settings, self._patience_s = settings, patience_s
        self._consumer = consumer(
            settings,
            f"{settings.processing.group}-spectator",
            enable_partition_eof=True,
            queued_max_messages_kbytes=16_384,
        )
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
                f"topic {self.topic} does not exist at {self._settings.kafka.bootstrap} (or this login may not see "
                "it): create the topics with `fleetwatch topics apply`, or start a worker"
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
        return [s if s.offset >= 0 else TopicPartition(self.topic, s.partition, OFFSET_END) for s in starts]

    def __iter__(self) -> Iterator[Any]:
        """The messages, each partition's in order."""
        heard_s = time.monotonic()
        while self._open:
            for message in self._consumer.consume(_BATCH_MAX, _POLL_S):
                heard_s = time.monotonic()
                error = message.error()
                if error is None:
                    if message.partition() in self._open:
                        yield message
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 (the client's own name for it)
                    self._open.discard(message.partition())
                elif error.retriable():
                    log.warning("reading %s: %s", self.topic, error.str())
                else:
                    raise BrokerUnavailableError(f"reading {self.topic}: {error.str()}")
            if time.monotonic() - heard_s > self._patience_s:
                raise BrokerUnavailableError(
                    f"{self.topic} at {self._settings.kafka.bootstrap}: nothing came for {self._patience_s:.0f} s"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._consumer.close()
