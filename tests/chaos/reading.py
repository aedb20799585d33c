"""Reads whole partitions and asks the group and the topics how far they are. The rule: read only, join no group."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from telemetry import clients
from telemetry.settings import Settings
from tests.chaos.records import Entry

TopicPart = tuple[str, int]
READ_TIMEOUT_S = 300.0


def read(
    settings: Settings, at: Iterable[TopicPart], *, committed: bool = True, newest: frozenset[str] = frozenset()
) -> dict[TopicPart, list[Entry]]:
    """Partitions from their beginning to their end as of now.

    Parameters
    ----------
    newest : topics of which only the last record of each key is kept.

    Raises
    ------
    KafkaException : one cannot be read. TimeoutError : an end was not reached.
    """
    consumer = clients.consumer(
        settings,
        "chaos-check",
        enable_partition_eof=True,
        fetch_wait_max_ms=50,
        isolation_level="read_committed" if committed else "read_uncommitted",
    )
    found: dict[TopicPart, list[Entry]] = {where: [] for where in at}
    last: dict[TopicPart, dict[bytes | None, Entry]] = {where: {} for where in found}
    left, end = set(found), time.monotonic() + READ_TIMEOUT_S
    try:
        consumer.assign([TopicPartition(*where, OFFSET_BEGINNING) for where in found])
        while left and time.monotonic() < end:
            for message in consumer.consume(5000, 0.05):
                error, where = message.error(), (message.topic(), message.partition())
                if error is None and where[0] in newest:
                    last[where][message.key()] = _entry(message)
                elif error is None:
                    found[where].append(_entry(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(where)
                elif not error.retriable():
                    raise KafkaException(error)
    finally:
        consumer.close()
    if left:
        raise TimeoutError(f"the ends of {sorted(left)} were not reached within {READ_TIMEOUT_S:.0f} s")
    return {where: list(last[where].values()) if where[0] in newest else found[where] for where in found}


def _entry(message: Any) -> Entry:
    headers = tuple(message.headers() or ())
    return Entry(message.key(), message.value(), headers, message.offset(), message.timestamp()[1])


def ends(admin: AdminClient, at: Iterable[TopicPart], *, committed: bool) -> dict[TopicPart, int]:
    """End offsets; committed : the last stable offset, below which no transaction is open."""
    level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
    asked = {TopicPartition(topic, partition): OffsetSpec.latest() for topic, partition in at}
    answers = admin.list_offsets(asked, isolation_level=level, request_timeout=20)
    return {(tp.topic, tp.partition): future.result(30).offset for tp, future in answers.items()}


def await_leaders(admin: AdminClient, at: Iterable[TopicPart], timeout_s: float) -> None:
    """Return when the leader of each partition answers for it.

    Before that a new partition can lose what is sent to it: its first batch is refused, the second, in flight
    behind it, is taken, and the first one's repetition is then taken for a copy.

    Raises
    ------
    KafkaException : some do not within the time.
    """
    wanted, end = list(at), time.monotonic() + timeout_s
    while True:
        try:
            ends(admin, wanted, committed=False)
        except KafkaException:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        else:
            return


def open_transactions(admin: AdminClient, at: Iterable[TopicPart], timeout_s: float) -> list[TopicPart]:
    """Wait until no transaction is open; returns the partitions where one still is."""
    wanted, end = list(at), time.monotonic() + timeout_s
    while True:
        stable, high = ends(admin, wanted, committed=True), ends(admin, wanted, committed=False)
        held = [where for where in wanted if stable[where] < high[where]]
        if not held or time.monotonic() > end:
            return held
        time.sleep(0.5)


class GroupView:
    """What a group has committed, asked again and again by one client that never joins it."""

    def __init__(self, settings: Settings, at: Iterable[TopicPart]) -> None:
        self._at = list(at)
        # uncommitted: a pending transaction must not make us wait for it
        self._client: Consumer = clients.consumer(
            settings, settings.processing.group, isolation_level="read_uncommitted"
        )

    def committed(self, timeout_s: float = 4.0) -> dict[TopicPart, int] | None:
        """Offsets by partition, 0 = none yet; None = the coordinator does not answer now."""
        try:
            found = self._client.committed([TopicPartition(*at) for at in self._at], timeout=timeout_s)
        except KafkaException:
            return None
        if any(entry.error is not None for entry in found):
            return None
        return {(entry.topic, entry.partition): max(0, entry.offset) for entry in found}

    def close(self) -> None:
        self._client.close()
