"""State back from the changelog, when partitions are assigned. The rule: only what is missing or behind is read."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from streams.core.core import Core
from streams.core.state import Restored, load
from telemetry import clients
from telemetry.settings import Settings

log = logging.getLogger("fleetwatch.changelog")

PROGRESS_EVERY_S = 5.0


class Changelog:
    """Reads the compacted state topic. Blocking: called in an executor, while no batch is processed."""

    def __init__(self, settings: Settings, topic: str, core: Core) -> None:
        self._settings, self._topic, self._core = settings, topic, core

    def committed(self, assigned: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int | None]:
        """The group's committed offsets, once no transaction is pending on them; None = none yet.

        Raises
        ------
        KafkaException : the group's coordinator does not answer.
        """
        return clients.committed_offsets(self._settings, self._settings.processing.group, assigned)

    def newest(self, partitions: set[int]) -> tuple[dict[bytes, bytes], int]:
        """({device id: newest row}, records read) of these partitions, up to their end as of now.

        Raises
        ------
        KafkaException : the topic cannot be read.
        """
        consumer = clients.consumer(
            self._settings,
            self._settings.processing.group + "-restore",
            enable_partition_eof=True,
            fetch_max_bytes=50 << 20,
            max_partition_fetch_bytes=8 << 20,
            queued_min_messages=100_000,
        )
        newest: dict[bytes, bytes] = {}
        records, left, told = 0, set(partitions), time.monotonic()
        try:
            consumer.assign([TopicPartition(self._topic, p, OFFSET_BEGINNING) for p in sorted(partitions)])
            while left:
                for message in consumer.consume(10_000, 1.0):
                    error = message.error()
                    if error is None:
                        records += 1
                        if message.value() is None:
                            newest.pop(message.key(), None)
                        else:
                            newest[message.key()] = message.value()
                    elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                        left.discard(message.partition())
                    else:
                        raise KafkaException(error)
                if time.monotonic() - told > PROGRESS_EVERY_S:
                    told = time.monotonic()
                    log.info(
                        "restoring: %d records, %d devices, %d partitions left", records, len(newest), len(left)
                    )
        finally:
            consumer.close()
        return newest, records

    def restore(self, wanted: Mapping[int, set[int]]) -> Restored:
        """Adopt the devices of these partitions. wanted : changelog partition -> owners whose rows to take."""
        started = time.monotonic()
        newest, records = self.newest(set(wanted))
        owners = {owner for group in wanted.values() for owner in group}
        found = load(self._core, newest.values(), owners)
        found.records = records
        log.info(
            "restored %d devices of partitions %s from %d records in %.2f s",
            found.devices, sorted(wanted), records, time.monotonic() - started,
        )  # fmt: skip
        return found
