"""Fetch responses as whole record batches. The rule: what is skipped is skipped by the protocol's own marks.

For the registered topics aiokafka's fetcher hands over one `RawBatches` a partition and response, instead of
one Python object a record: batches are found by their 61-byte headers, checked by their CRC-32C, decompressed
whole; control batches and aborted transactions are left out, as for any read_committed reader.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import aiokafka.errors
import google_crc32c
from aiokafka import codec
from aiokafka.consumer import fetcher
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.default_records import DefaultRecordBatch

from streams.core.records import Part

#: base offset, length, leader epoch, magic, CRC, attributes, last offset delta, first timestamp, max timestamp,
#: producer id, producer epoch, base sequence, records.
HEADER = struct.Struct(">qiibIhiqqqhii")
_CRC_FROM = 21  # the CRC covers the batch from its attributes on
_LENGTH_FROM = 12  # the length counts from the leader epoch on
_CODEC, _TRANSACTIONAL, _CONTROL = 0x07, 0x10, 0x20

_DECOMPRESS = {
    1: codec.gzip_decode,
    2: codec.snappy_decode,
    3: codec.lz4_decode,
    4: codec.zstd_decode,
}

#: Topics whose records come as `RawBatches`.
raw_topics: set[str] = set()


@dataclass(slots=True)
class RawBatches:
    """Consecutive batches of one partition, from one fetch response.

    fetched_from : where reading began: the next_offset of the one before, whatever was left out between.
    first_offset : records before it are not wanted, although the first batch may hold them. next_offset : where
    reading goes on, past batches that were left out at the end. max_ts_ms : newest record timestamp. parts may be
    empty: a stretch of control batches and aborted transactions.
    """

    topic: str
    partition: int
    fetched_from: int
    first_offset: int
    last_offset: int
    next_offset: int
    count: int
    nbytes: int
    max_ts_ms: int
    parts: list[Part] = field(default_factory=list)


def decompress(kind: int, data: memoryview) -> bytes:
    """A batch's records section.

    Raises
    ------
    aiokafka.errors.UnsupportedCodecError : a codec that Kafka does not have.
    """
    if kind not in _DECOMPRESS:
        raise aiokafka.errors.UnsupportedCodecError(f"compression codec {kind}")
    return bytes(_DECOMPRESS[kind](bytes(data)))


class _Transactions:
    """Which producers' batches belong to aborted transactions, as the response's list and its markers say."""

    def __init__(self, aborted: Any) -> None:
        self._waiting = sorted(aborted or (), key=lambda entry: entry[1])
        self._pids: set[int] = set()

    def is_aborted(self, base_offset: int, pid: int, attributes: int, batch: memoryview) -> bool:
        if pid == -1:
            return False
        while self._waiting and self._waiting[0][1] <= base_offset:
            self._pids.add(self._waiting.pop(0)[0])
        if attributes & _CONTROL:
            record = next(DefaultRecordBatch(batch))
            if ControlRecord.parse(record.key) == ABORT_MARKER:
                self._pids.discard(pid)
            return False
        return bool(attributes & _TRANSACTIONAL) and pid in self._pids


class RawPartitionRecords:
    """Takes the place of aiokafka's PartitionRecords: iterating it gives at most one `RawBatches`."""

    def __init__(
        self, tp: Any, data: Any, aborted: Any, fetch_offset: int, *, check_crcs: bool, committed_only: bool
    ) -> None:
        self._tp, self._data, self._aborted = tp, data, aborted
        self._check_crcs, self._committed_only = check_crcs, committed_only
        self.next_fetch_offset = fetch_offset

    def __iter__(self) -> Iterator[RawBatches]:
        return self

    def __next__(self) -> RawBatches:
        if self._data is None:
            raise StopIteration
        data, self._data = self._data, None
        batches = self._parse(data)
        if batches.next_offset == batches.fetched_from:
            raise StopIteration
        return batches

    def _parse(self, data: Any) -> RawBatches:
        wanted = self.next_fetch_offset
        out = RawBatches(self._tp.topic, self._tp.partition, wanted, -1, -1, wanted, 0, len(data), 0)
        transactions = _Transactions(self._aborted)
        pos, view = 0, memoryview(data)
        while len(data) - pos >= HEADER.size:
            base, length, _, magic, crc, attributes, last_delta, first_ts, max_ts, pid, _, _, count = (
                HEADER.unpack_from(data, pos)
            )
            end = pos + _LENGTH_FROM + length
            if end > len(data):  # the response's last batch may be cut off
                break
            if magic != 2:
                raise aiokafka.errors.UnsupportedForMessageFormatError(f"message format v{magic}")
            # by the processor's own instruction: even with the copy that it wants, a third of aiokafka's cost
            if self._check_crcs and google_crc32c.value(bytes(view[pos + _CRC_FROM : end])) != crc:
                raise aiokafka.errors.CorruptRecordException(f"wrong CRC in {self._tp} at offset {base}")
            aborted = self._committed_only and transactions.is_aborted(base, pid, attributes, view[pos:end])
            last = base + last_delta
            if count > 0 and not attributes & _CONTROL and not aborted and last >= wanted:
                kind = attributes & _CODEC
                if kind:
                    buffer = decompress(kind, view[pos + HEADER.size : end])
                    out.parts.append(Part(buffer, 0, len(buffer), count, base, first_ts))
                else:
                    out.parts.append(Part(data, pos + HEADER.size, end, count, base, first_ts))
                if out.first_offset < 0:
                    out.first_offset = max(base, wanted)
                out.last_offset = last
                out.count += count
                out.max_ts_ms = max(out.max_ts_ms, max_ts)
            self.next_fetch_offset = last + 1
            pos = end
        out.next_offset = self.next_fetch_offset
        if out.first_offset < 0:
            out.first_offset, out.last_offset = wanted, out.next_offset - 1
        return out


class _Response:
    """Takes the place of MemoryRecords: decides between raw and ordinary once the topic is known."""

    __slots__ = ("data",)

    def __init__(self, data: Any) -> None:
        self.data = b"" if data is None else data

    def has_next(self) -> bool:
        data = self.data
        return len(data) >= 17 and len(data) >= _LENGTH_FROM + int(struct.unpack_from(">i", data, 8)[0])

    def size_in_bytes(self) -> int:
        return len(self.data)


_memory_records = fetcher.MemoryRecords
_partition_records = fetcher.PartitionRecords


def _records(
    tp: Any,
    response: _Response,
    aborted: Any,
    fetch_offset: int,
    key_deserializer: Any,
    value_deserializer: Any,
    check_crcs: bool,
    isolation_level: int,
) -> Any:
    committed_only = isolation_level == fetcher.READ_COMMITTED
    if tp.topic in raw_topics:
        return RawPartitionRecords(
            tp, response.data, aborted, fetch_offset, check_crcs=check_crcs, committed_only=committed_only
        )
    return _partition_records(
        tp,
        _memory_records(bytes(response.data)),
        aborted,
        fetch_offset,
        key_deserializer,
        value_deserializer,
        check_crcs,
        isolation_level,
    )


def install() -> None:
    """Let the fetcher's two record factories be ours; its 150-line request method stays untouched."""
    fetcher.MemoryRecords = _Response
    fetcher.PartitionRecords = _records
