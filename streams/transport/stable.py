"""Committed offsets, as the coordinator that we have joined knows them. The rule: what is pending is waited for.

aiokafka asks without `require_stable`, so that offsets of a transaction which is still open are passed over; a
client of its own may find another coordinator than the group's, one that was cut off and does not know it yet.
Kafka's protocol: OffsetFetch version 7 (KIP-447), brokers from 2.5 on.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

#: Coordinator loading, not available, not this one; offsets pending in a transaction.
_LOADING, _UNAVAILABLE, _NOT_COORDINATOR, _UNSTABLE = 14, 15, 16, 88
_PASSING = frozenset({_LOADING, _UNAVAILABLE, _NOT_COORDINATOR, _UNSTABLE})
PAUSE_S = 0.1


class _OffsetFetchResponse(Response):
    API_KEY = 9
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", CompactString("utf-8")),
                        ("error_code", Int16),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("error_code", Int16),
        ("tags", TaggedFields),
    )


class _OffsetFetchRequest(RequestStruct):
    API_KEY = 9
    API_VERSION = 7
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _OffsetFetchResponse
    SCHEMA = Schema(
        ("group_id", CompactString("utf-8")),
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")),
                ("partitions", CompactArray(Int32)),
                ("tags", TaggedFields),
            ),
        ),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    )


class StableOffsetFetch(Request[_OffsetFetchRequest]):
    """Offsets of these partitions, none of them pending."""

    API_KEY = 9

    def __init__(self, group: str, wanted: Iterable[tuple[str, int]], *, stable: bool = True) -> None:
        by_topic: dict[str, list[int]] = defaultdict(list)
        for topic, partition in wanted:
            by_topic[topic].append(partition)
        self._group, self._stable = group, stable
        self._topics: list[tuple[str, list[int], dict[int, bytes]]] = [
            (t, some, {}) for t, some in by_topic.items()
        ]

    def build(self, request_struct_class: type[_OffsetFetchRequest]) -> _OffsetFetchRequest:
        return request_struct_class(self._group, self._topics, self._stable, {})


async def notes(coordinator: Any, wanted: list[tuple[str, int]]) -> dict[tuple[str, int], str]:
    """The metadata of the group's committed offsets as of now, pending ones passed over; empty = no answer."""
    try:
        await coordinator.ensure_coordinator_known()
        response = await coordinator._send_req(StableOffsetFetch(coordinator.group_id, wanted, stable=False))
    except KafkaError:
        return {}
    return {
        (topic, p): (note or "").rstrip("\0")  # librdkafka sends the C string's end, too
        for topic, some, _ in response.topics
        for p, _, _, note, code, _ in some
        if not code
    }


async def stable_offsets(
    coordinator: Any, wanted: list[tuple[str, int]], known: Mapping[tuple[str, int], int]
) -> dict[tuple[str, int], int | None]:
    """The group's offsets; None = none yet. Waits as long as it takes, in the consumer's thread.

    coordinator : aiokafka's GroupCoordinator, which has joined. known : offsets that were committed, at the least.
        A coordinator that has just started after a crash answers, for an instant, as of some seconds before.

    Raises
    ------
    aiokafka.errors.KafkaError : an error that asking again will not mend.
    """
    while wanted:
        await coordinator.ensure_coordinator_known()
        try:
            response = await coordinator._send_req(StableOffsetFetch(coordinator.group_id, wanted))
        except KafkaError as exc:
            if not exc.retriable:
                raise
            await asyncio.sleep(PAUSE_S)
            continue
        found, codes = {}, {response.error_code} - {0}
        for topic, partitions, _ in response.topics:
            for partition, offset, _, _, code, _ in partitions:
                found[topic, partition] = offset if offset >= 0 else None
                codes |= {code} - {0}
        if not codes:
            if all((found.get(at) or 0) >= offset for at, offset in known.items()):
                return found
            codes = {_NOT_COORDINATOR}
        if refused := codes - _PASSING:
            raise for_code(min(refused))(
                f"committed offsets of {coordinator.group_id}: error codes {sorted(refused)}"
            )
        if _NOT_COORDINATOR in codes:
            coordinator.coordinator_dead()
        await asyncio.sleep(PAUSE_S)
    return {}
