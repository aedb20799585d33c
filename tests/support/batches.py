"""Kafka v2 record batches made by aiokafka's own builder, as `Part`s for the core."""

from __future__ import annotations

from collections.abc import Sequence

from aiokafka.record.default_records import DefaultRecordBatchBuilder

from streams.core.records import Part
from streams.transport.rawfetch import HEADER

Record = tuple[bytes | None, bytes | None]


def batch(
    records: Sequence[Record],
    base_offset: int = 0,
    ts_ms: int = 1_760_000_000_000,
    codec: int = 0,
    headers: Sequence[tuple[str, bytes]] = (),
) -> bytes:
    """One record batch, as it stands in a fetch response."""
    builder = DefaultRecordBatchBuilder(
        2, codec, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1, batch_size=1 << 30
    )
    for i, (key, value) in enumerate(records):
        assert builder.append(i, ts_ms + i, key, value, headers=list(headers)) is not None
    data = bytearray(builder.build())
    data[:8] = base_offset.to_bytes(8, "big")
    return bytes(data)


def part(records: Sequence[Record], base_offset: int = 0, ts_ms: int = 1_760_000_000_000) -> Part:
    """The records section of one batch."""
    data = batch(records, base_offset, ts_ms)
    return Part(data, HEADER.size, len(data), len(records), base_offset, ts_ms)
