"""Offsets of many partitions in one question. The rule: a partition that is just being led anew is asked again."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from telemetry.passing import PASSING

#: A broker that has not heard of a new topic yet says so.
_PASSING = PASSING | {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
}
_PAUSE_S = 0.1


def _answered(offset: int, at: TopicPartition) -> int:
    """librdkafka 2.16 gives -1001, and no error, for a leader that did not answer in time; -1 is an answer."""
    if offset < -1:
        text = f"{at.topic}/{at.partition}: its leader does not answer"
        raise KafkaException(KafkaError(KafkaError.REQUEST_TIMED_OUT, text))
    return offset


def list_offsets(
    client: AdminClient, partitions: Mapping[str, int], spec: OffsetSpec, timeout_s: float
) -> dict[tuple[str, int], int]:
    """`offsets_of` all partitions. partitions : topic -> how many there are."""
    return offsets_of(client, [(name, p) for name, n in partitions.items() for p in range(n)], spec, timeout_s)


def offsets_of(
    client: AdminClient,
    partitions: Iterable[tuple[str, int]],
    spec: OffsetSpec,
    timeout_s: float,
    *,
    stable: bool = False,
) -> dict[tuple[str, int], int]:
    """Offset of each partition by (topic, partition); -1 = none satisfies `spec`.

    stable : the latest offset is where a reader of committed records stands; else the end of the log, records of
        open transactions included.

    Raises
    ------
    KafkaException : no answer within `timeout_s`, or a refusal.
    """
    wanted = {TopicPartition(name, p): spec for name, p in partitions}
    if not wanted:
        return {}
    isolation = IsolationLevel.READ_COMMITTED if stable else IsolationLevel.READ_UNCOMMITTED
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            futures = client.list_offsets(wanted, request_timeout=timeout_s, isolation_level=isolation)
            return {
                (tp.topic, tp.partition): _answered(future.result().offset, tp) for tp, future in futures.items()
            }
        except KafkaException as exc:
            if exc.args[0].code() not in _PASSING or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_S)
