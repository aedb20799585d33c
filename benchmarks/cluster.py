"""The benchmark's Kafka: topics emptied, records read back. The rule: a run starts from topics that are empty."""

from __future__ import annotations

import time
from collections.abc import Iterator

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, Message, TopicPartition

from benchmarks.job import PARTITIONS
from telemetry import clients
from telemetry.settings import Settings
from telemetry.topics import ensure, topics

WAIT_S = 60.0


def fresh_topics(settings: Settings, *, keep_input: bool) -> None:
    """Delete the topics under the settings' prefix and make them anew.

    Raises
    ------
    TimeoutError : the broker did not delete them within a minute.
    """
    names = topics(settings)
    kept = {spec.name for spec in names.inputs} if keep_input else set()
    wanted = {spec.name for spec in names.all()} - kept
    admin = clients.admin(settings)
    present = wanted & set(clients.cluster_metadata(admin, settings).topics)
    if present:
        for future in admin.delete_topics(sorted(present), operation_timeout=30).values():
            future.result(40)
    end = time.monotonic() + WAIT_S
    while wanted & set(clients.cluster_metadata(admin, settings).topics):
        if time.monotonic() > end:
            raise TimeoutError("the broker did not delete the topics of the last run")
        time.sleep(0.1)
    ensure(settings)


def records(settings: Settings, topic: str) -> Iterator[Message]:
    """Every committed record of a topic up to its end as of now."""
    consumer = clients.consumer(
        settings,
        "benchmark-check",
        enable_partition_eof=True,
        fetch_max_bytes=50 << 20,
        queued_min_messages=100_000,
    )
    consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(PARTITIONS)])
    left = set(range(PARTITIONS))
    try:
        while left:
            for message in consumer.consume(10_000, 1.0):
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                else:
                    raise KafkaException(error)
    finally:
        consumer.close()


def read_all(settings: Settings, topic: str) -> list[Message]:
    """`records`, all at once."""
    return list(records(settings, topic))


def committed(settings: Settings, topic: str) -> int:
    """Records of the topic that the worker's group has finished."""
    wanted = [(topic, p) for p in range(PARTITIONS)]
    found = clients.committed_offsets(settings, settings.processing.group, wanted)
    return sum(offset or 0 for offset in found.values())


def wait_committed(settings: Settings, topic: str, total: int, timeout_s: float) -> None:
    """Return when the group has finished `total` records.

    Raises
    ------
    TimeoutError : it has not within timeout_s.
    """
    end = time.monotonic() + timeout_s
    while (done := committed(settings, topic)) < total:
        if time.monotonic() > end:
            raise TimeoutError(f"the worker finished {done:,} of {total:,} records within {timeout_s:.0f} s")
        time.sleep(0.2)
