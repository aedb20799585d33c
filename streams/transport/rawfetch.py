"""Fetch responses as whole record batches. The rule: what is skipped is skipped by the protocol's own marks.

For the registered topics aiokafka's fetcher hands over one `RawBatches` a partition and response, instead of
one Python object a record: batches are found by their 61-byte headers, checked by their CRC-32C, decompressed
whole; control batches and aborted transactions are left out, as for any read_committed reader.

A batch that cannot be read becomes a refused `Part`, and reading goes on behind it. Damage may have come about on
the way, so a damaged batch is fetched again a few times first. Nothing that is fetched raises.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
from aiokafka.consumer import fetcher

from streams.core.records import Part, read_varint
from streams.transport.decompress import BATCH_BYTES_MAX, UnreadableBatchError, decompress
from telemetry.reasons import Reason

#: base offset, length, leader epoch, magic, CRC, attributes, last offset delta, first timestamp, max timestamp,
#: producer id, producer epoch, base sequence, records.
HEADER = struct.Struct(">qiibIhiqqqhii")
_CRC_FROM = 21  # the CRC covers the batch from its attributes on
_LENGTH_FROM = 12  # the length counts from the leader epoch on
_CODEC, _TRANSACTIONAL, _CONTROL = 0x07, 0x10, 0x20

#: Message formats v0 and v1: offset, length, CRC-32, magic; the CRC covers all from the magic on.
_OLD_HEADER = struct.Struct(">qiIb")
_OLD_CRC_FROM, _OLD_LENGTH_MIN = 16, 14
_LENGTH_MIN = HEADER.size - _LENGTH_FROM

#: No partition gets there: a larger base offset is damage, and it must not overflow.
_OFFSET_MAX = 1 << 62
#: A damaged batch is fetched so often before it is refused.
READS = 4
#: Once so much of a response is decompressed, the rest is left to the next.
_RESPONSE_BYTES = BATCH_BYTES_MAX

#: Topics whose records come as `RawBatches`.
raw_topics: set[str] = set()


@dataclass(slots=True)
class RawBatches:
    """Consecutive batches of one partition, from one fetch response.

    parts : also refused ones, in the order of their offsets; may be empty: a stretch of control batches and
    aborted transactions. fetched_from : where reading began: the next_offset of the one before, whatever was left
    out between.
    first_offset : records before it are not wanted, although the first batch may hold them. next_offset : where
    reading goes on, past batches that were left out at the end. max_ts_ms : newest record timestamp.
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


def _is_abort(batch: memoryview) -> bool:
    """Whether a control batch's record is an abort marker: of its key, the version comes first, then type 0."""
    at = read_varint(batch, HEADER.size)[1] + 1  # past the length and the attributes
    for _ in range(3):  # timestamp, offset, the key's length
        at = read_varint(batch, at)[1]
    return bytes(batch[at + 2 : at + 4]) == b"\0\0"


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
            if _is_abort(batch):
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
        pos, view, size, inflated, last = 0, memoryview(data), len(data), 0, -1
        while pos < size and inflated < _RESPONSE_BYTES:
            if size - pos < HEADER.size:
                self._cut(out, view, pos)
                break
            base, length, _, magic, crc, attributes, last_delta, first_ts, max_ts, pid, _, _, count = (
                HEADER.unpack_from(data, pos)
            )
            end = pos + _LENGTH_FROM + length
            if end > size:
                self._cut(out, view, pos)
                break
            # by the processor's own instruction: even with the copy that it wants, a third of aiokafka's cost
            if (
                magic != 2
                or length < _LENGTH_MIN
                or last_delta < 0
                or not last < base < _OFFSET_MAX
                or (self._check_crcs and google_crc32c.value(bytes(view[pos + _CRC_FROM : end])) != crc)
            ):
                self._damaged(out, view[pos:])
                break
            aborted = self._committed_only and transactions.is_aborted(base, pid, attributes, view[pos:end])
            last = base + last_delta
            wanted_records = count != 0 or end - pos > HEADER.size
            if wanted_records and not attributes & _CONTROL and not aborted and last >= wanted:
                part = _part(data, view, pos, end, count, base, first_ts, last)
                out.parts.append(part)
                if attributes & _CODEC:
                    inflated += BATCH_BYTES_MAX if part.refused else part.end
                if out.first_offset < 0:
                    out.first_offset = max(base, wanted)
                out.last_offset = last
                out.count += part.count or last_delta + 1
                out.max_ts_ms = max(out.max_ts_ms, max_ts)
            self.next_fetch_offset = max(wanted, last + 1)
            pos = end
        out.next_offset = self.next_fetch_offset
        if out.first_offset < 0:
            out.first_offset, out.last_offset = wanted, out.next_offset - 1
        return out

    def _cut(self, out: RawBatches, view: memoryview, pos: int) -> None:
        """The last batch of a response may be cut off; the first comes whole, so that its length must be wrong."""
        if pos == 0:
            self._damaged(out, view)

    def _damaged(self, out: RawBatches, rest: memoryview) -> None:
        """The batch that `rest` begins with is damaged: leave it to the next fetch, or refuse it at last."""
        at = self.next_fetch_offset
        seen_at, times = _damage.get(self._tp, (at, 0))
        times = times + 1 if seen_at == at else 1
        _damage[self._tp] = (at, times)
        if times < READS:
            return
        del _damage[self._tp]
        reason, last, nbytes = _diagnosis(rest, at)
        out.parts.append(Part(b"", 0, 0, 0, at, 0, last, rest[:nbytes], reason))
        if out.first_offset < 0:
            out.first_offset = at
        out.last_offset = last
        out.count += last - at + 1
        self.next_fetch_offset = last + 1


#: How often the same batch of a partition was damaged: {partition: (offset, times)}.
_damage: dict[Any, tuple[int, int]] = {}


def _part(data: Any, view: memoryview, pos: int, end: int, count: int, base: int, first_ts: int, last: int) -> Part:
    """The batch at data[pos:end], whose checksum is right: readable, or refused."""
    start, raw = pos + HEADER.size, view[pos:end]
    kind = raw[_CRC_FROM + 1] & _CODEC
    if count < 0 or count > last - base + 1:
        return Part(b"", 0, 0, 0, base, first_ts, last, raw, Reason.BATCH_CORRUPT)
    if not kind:
        return Part(data, start, end, count, base, first_ts, last, raw)
    try:
        buffer = decompress(kind, view[start:end])
    except UnreadableBatchError as exc:
        return Part(b"", 0, 0, 0, base, first_ts, last, raw, exc.reason)
    return Part(buffer, 0, len(buffer), count, base, first_ts, last, raw)


def _diagnosis(rest: memoryview, at: int) -> tuple[Reason, int, int]:
    """(reason, last offset, bytes) of the damaged batch at the start of `rest`; `at` is the offset wanted.

    Of what damage may have changed only figures that confirm each other are believed. Else one offset is given up,
    and the next fetch brings the batch again: nothing behind it is skipped.
    """
    if len(rest) < _OLD_HEADER.size:
        return Reason.BATCH_CORRUPT, at, len(rest)
    base, length, old_crc, magic = _OLD_HEADER.unpack_from(rest, 0)
    nbytes = _LENGTH_FROM + length
    if not _OLD_LENGTH_MIN <= length <= len(rest) - _LENGTH_FROM:
        return Reason.BATCH_CORRUPT, at, len(rest)
    if magic in (0, 1):
        sound = zlib.crc32(rest[_OLD_CRC_FROM:nbytes]) == old_crc
        return Reason.BATCH_FORMAT, max(at, base) if sound else at, nbytes
    if magic != 2 or length < _LENGTH_MIN:
        return Reason.BATCH_CORRUPT, at, nbytes
    last_delta, count = HEADER.unpack_from(rest, 0)[6], HEADER.unpack_from(rest, 0)[12]
    if last_delta < 0:
        return Reason.BATCH_CORRUPT, at, nbytes
    believed = count == last_delta + 1 and base <= at <= base + last_delta
    return Reason.BATCH_CRC, base + last_delta if believed else at, nbytes


class _Response:
    """Takes the place of MemoryRecords: decides between raw and ordinary once the topic is known."""

    __slots__ = ("data",)

    def __init__(self, data: Any) -> None:
        self.data = b"" if data is None else data

    def has_next(self) -> bool:
        return len(self.data) >= _OLD_HEADER.size

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
