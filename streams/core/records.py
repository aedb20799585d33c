"""Kafka v2 record batches to the frame table, without a Python object a record.

The rule: every record ends in exactly one place, in the order of its offset: the frame table, the refusals, or,
from where a batch cannot be read, the unreadable parts. No bytes raise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray

from telemetry.framescan import (
    F_ID_AT,
    F_ID_LEN,
    F_OFFSET,
    F_RECORD_TS,
    F_VALUE_AT,
    F_VALUE_LEN,
    FRAME_COLUMNS,
    ClassTable,
    scan_frame,
)
from telemetry.rawmem import INLINE, address, copy_bytes, load_u8, load_u64, read_zigzag
from telemetry.reasons import Reason

# Columns of the refusals, int64 (n, REFUSAL_COLUMNS); addresses and lengths, -1 = null.
R_REASON, R_OFFSET, R_KEY_AT, R_KEY_LEN, R_VALUE_AT, R_VALUE_LEN = range(6)
REFUSAL_COLUMNS = 6

# What `scan_records` leaves in its progress array.
P_ADDRESS, P_RECORD, P_FRAMES, P_REFUSALS, P_OFFSET = range(5)

#: How often a record was sent again by `fleetwatch dlq replay`, in decimal; looked for among so many headers.
ATTEMPT_HEADER = b"x-attempt"
HEADERS_MAX = 64

_KEY_MISMATCH = int(Reason.KEY_MISMATCH)
_UNKNOWN_FINGERPRINT = int(Reason.UNKNOWN_FINGERPRINT)


@njit(**INLINE)
def _same(p: int, q: int, n: int) -> bool:
    i = 0
    while i + 8 <= n:
        if load_u64(p + i) != load_u64(q + i):
            return False
        i += 8
    while i < n:
        if load_u8(p + i) != load_u8(q + i):
            return False
        i += 1
    return True


@njit(cache=True, error_model="numpy", nogil=True)
def scan_records(
    p: int,
    end: int,
    first: int,
    count: int,
    base_offset: int,
    last_offset: int,
    base_ts_ms: int,
    min_offset: int,
    classes: NDArray[np.int64],
    ts_min_us: int,
    ts_max_us: int,
    asked: bool,
    table: NDArray[np.int64],
    refusals: NDArray[np.int64],
    progress: NDArray[np.int64],
) -> int:
    """Scan records first..count-1 of one batch's records section at addresses [p, end).

    Records before min_offset are passed over: a fetch may begin in the middle of a batch. Offsets ascend from
    progress[P_OFFSET] and do not pass last_offset. Returns 0 when done, 1 when the table or the refusals are full,
    2 before a frame whose schema is not known, unless `asked` (call again from `progress` after both), -1 when the
    section cannot be read behind progress[P_OFFSET].
    """
    frames = progress[P_FRAMES]
    refused = progress[P_REFUSALS]
    offset = progress[P_OFFSET]
    code = 0
    for i in range(first, count):
        if frames >= len(table) or refused >= len(refusals):
            progress[P_ADDRESS] = p
            progress[P_RECORD] = i
            code = 1
            break
        code = -1  # until the record is found to be whole
        record_at = p
        length, p = read_zigzag(p, end)
        if p < 0 or length < 0 or length > end - p:
            break
        record_end = p + length
        ts_delta, p = read_zigzag(p + 1, record_end)  # after the attributes byte
        if p < 0:
            break
        offset_delta, p = read_zigzag(p, record_end)
        if p < 0 or offset_delta > last_offset - base_offset or base_offset + offset_delta <= offset:
            break
        key_len, p = read_zigzag(p, record_end)
        if p < 0 or key_len < -1 or key_len > record_end - p:
            break
        key_at = p
        if key_len > 0:
            p += key_len
        value_len, p = read_zigzag(p, record_end)
        if p < 0 or value_len < -1 or value_len > record_end - p:
            break
        code = 0
        offset = base_offset + offset_delta
        if offset >= min_offset:
            reason = scan_frame(p, value_len, classes, ts_min_us, ts_max_us, frames, table)
            if reason == _UNKNOWN_FINGERPRINT and not asked:
                progress[P_ADDRESS] = record_at
                progress[P_RECORD] = i
                offset -= 1
                code = 2
                break
            if reason == 0 and not (
                key_len == table[frames, F_ID_LEN] and _same(key_at, table[frames, F_ID_AT], key_len)
            ):
                reason = _KEY_MISMATCH
            if reason == 0:
                table[frames, F_OFFSET] = offset
                table[frames, F_RECORD_TS] = base_ts_ms + ts_delta
                table[frames, F_VALUE_AT] = p
                table[frames, F_VALUE_LEN] = value_len
                frames += 1
            else:
                refusals[refused, R_REASON] = reason
                refusals[refused, R_OFFSET] = offset
                refusals[refused, R_KEY_AT] = key_at
                refusals[refused, R_KEY_LEN] = key_len
                refusals[refused, R_VALUE_AT] = p
                refusals[refused, R_VALUE_LEN] = value_len
                refused += 1
        p = record_end
    progress[P_FRAMES] = frames
    progress[P_REFUSALS] = refused
    progress[P_OFFSET] = offset
    return code


@njit(cache=True, error_model="numpy", nogil=True)
def find_headers(
    p: int, end: int, count: int, base_offset: int, wanted: NDArray[np.int64], found: NDArray[np.int64]
) -> None:
    """Where the headers of some records are, in a records section at addresses [p, end) that was scanned.

    wanted : ascending offsets; found : int64 (n, 2), address and length of each one's headers, length 0 = not here.
    """
    at = 0
    for _ in range(count):
        if at == len(wanted):
            return
        length, p = read_zigzag(p, end)
        if p < 0 or length < 0 or length > end - p:
            return
        record_end = p + length
        _, p = read_zigzag(p + 1, record_end)
        if p < 0:
            return
        delta, p = read_zigzag(p, record_end)
        for _ in range(2):  # the key, the value
            if p < 0:
                return
            n, p = read_zigzag(p, record_end)
            if p < 0 or n > record_end - p:
                return
            p += max(n, 0)
        if base_offset + delta == wanted[at]:
            found[at, 0] = p
            found[at, 1] = record_end - p
            at += 1
        p = record_end


def attempts(part: Part, offsets: list[int]) -> list[int]:
    """What the header `x-attempt` of these records says, ascending offsets of one part; 0 = there is none."""
    found = np.zeros((len(offsets), 2), np.int64)
    base = address(part.buffer)
    wanted = np.array(offsets, np.int64)
    find_headers(base + part.start, base + part.end, part.count, part.base_offset, wanted, found)
    return [_attempt(copy_bytes(at, n)) if n > 1 else 0 for at, n in found.tolist()]


def read_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """An int in Kafka's zigzag encoding and where it ends; of bytes that are none, some int and some end."""
    value = shift = 0
    while at < len(data) and shift < 35:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            break
    return (value >> 1) ^ -(value & 1), at


def _attempt(headers: bytes) -> int:
    """The last `x-attempt` among the first headers of a record; whatever is wrong with them, it is not raised."""
    count, at = read_varint(headers, 0)
    attempt = 0
    for _ in range(min(count, HEADERS_MAX)):
        size, at = read_varint(headers, at)
        name, at = headers[at : at + max(size, 0)], at + max(size, 0)
        size, at = read_varint(headers, at)
        value, at = headers[at : at + max(size, 0)], at + max(size, 0)
        if name == ATTEMPT_HEADER and len(value) <= 4 and value.isdigit():
            attempt = int(value)
    return attempt


@dataclass(slots=True)
class Part:
    """The records section of one batch, decompressed: buffer[start:end] holds `count` records.

    last_offset : of the batch; -1 = no offset of it was ever left out. raw : the whole batch as it was fetched,
    for a dead letter. refused : why there is nothing to scan, only `raw`; base_offset is then the first one lost.
    """

    buffer: bytes | bytearray | memoryview
    start: int
    end: int
    count: int
    base_offset: int
    base_ts_ms: int
    last_offset: int = -1
    raw: bytes | memoryview = b""
    refused: Reason = Reason.OK

    def __post_init__(self) -> None:
        if self.last_offset < 0:
            self.last_offset = self.base_offset + self.count - 1


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Records first_offset..last_offset, which cannot be told apart. raw : the batch that holds them."""

    reason: Reason
    first_offset: int
    last_offset: int
    raw: bytes | memoryview


@dataclass(slots=True)
class RecordScanner:
    """Scans parts into a frame table of bounded size.

    learn : called once a scan at most, before the first frame whose schema is not in `classes` would be refused: it
        may have `classes` accept more.
    frames_max, refusals_max : when either is full the scan pauses, so memory is bounded whatever arrives.
    unreadable : what the last scan met, in the order of the offsets; good when the scan is over.
    """

    classes: ClassTable
    frames_max: int = 8192
    refusals_max: int = 1024
    learn: Callable[[], None] | None = None
    table: NDArray[np.int64] = field(init=False)
    refusals: NDArray[np.int64] = field(init=False)
    unreadable: list[Unreadable] = field(init=False, default_factory=list)
    _progress: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.table = np.zeros((self.frames_max, FRAME_COLUMNS), np.int64)
        self.refusals = np.zeros((self.refusals_max, REFUSAL_COLUMNS), np.int64)
        self._progress = np.zeros(5, np.int64)

    def scan(self, parts: list[Part], min_offset: int, ts_min_us: int, ts_max_us: int) -> Iterator[tuple[int, int]]:
        """Yield (frames, refusals) in the arrays, as often as they fill up and once at the end.

        Addresses in the arrays are good until the next step.
        """
        progress = self._progress
        progress[P_FRAMES] = progress[P_REFUSALS] = 0
        self.unreadable = []
        asked = self.learn is None
        for part in parts:
            if part.refused:
                first = max(part.base_offset, min_offset)
                self.unreadable.append(Unreadable(part.refused, first, part.last_offset, part.raw))
                continue
            base = address(part.buffer)
            p, first = base + part.start, 0
            progress[P_OFFSET] = part.base_offset - 1
            while True:
                code = scan_records(
                    p,
                    base + part.end,
                    first,
                    part.count,
                    part.base_offset,
                    part.last_offset,
                    part.base_ts_ms,
                    min_offset,
                    self.classes.array,
                    ts_min_us,
                    ts_max_us,
                    asked,
                    self.table,
                    self.refusals,
                    progress,
                )
                if code <= 0:
                    break
                p, first = int(progress[P_ADDRESS]), int(progress[P_RECORD])
                if code == 1:
                    yield int(progress[P_FRAMES]), int(progress[P_REFUSALS])
                    progress[P_FRAMES] = progress[P_REFUSALS] = 0
                elif self.learn is not None:
                    self.learn()
                    asked = True
            if code < 0:
                self._damaged(part, max(int(progress[P_OFFSET]) + 1, min_offset))
        yield int(progress[P_FRAMES]), int(progress[P_REFUSALS])

    def _damaged(self, part: Part, first: int) -> None:
        """A batch whose records cannot be read from offset `first` on; those before it are applied."""
        if first <= part.last_offset:
            raw = part.raw or copy_bytes(address(part.buffer) + part.start, part.end - part.start)
            self.unreadable.append(Unreadable(Reason.BATCH_CORRUPT, first, part.last_offset, raw))
