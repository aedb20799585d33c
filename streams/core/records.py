"""Kafka v2 record batches to the frame table, without a Python object a record.

The rule: every record ends in exactly one place, the frame table or the refusals, in the order of its offset.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from telemetry.rawmem import INLINE, load_u8, load_u64, read_zigzag
from telemetry.reasons import Reason

# Columns of the refusals, int64 (n, REFUSAL_COLUMNS); addresses and lengths, -1 = null.
R_REASON, R_OFFSET, R_KEY_AT, R_KEY_LEN, R_VALUE_AT, R_VALUE_LEN = range(6)
REFUSAL_COLUMNS = 6

# What `scan_records` leaves in its progress array.
P_ADDRESS, P_RECORD, P_FRAMES, P_REFUSALS = range(4)

_KEY_MISMATCH = int(Reason.KEY_MISMATCH)


class CorruptBatchError(ValueError):
    """The records section of a batch is not what its header says: the broker's data are damaged."""


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
    base_ts_ms: int,
    min_offset: int,
    classes: NDArray[np.int64],
    ts_min_us: int,
    ts_max_us: int,
    table: NDArray[np.int64],
    refusals: NDArray[np.int64],
    progress: NDArray[np.int64],
) -> int:
    """Scan records first..count-1 of one batch's records section at addresses [p, end).

    Records before min_offset are passed over: a fetch may begin in the middle of a batch. Returns 0 when done,
    1 when the table or the refusals are full (call again from `progress`), -1 when the section is corrupt.
    """
    frames = progress[P_FRAMES]
    refused = progress[P_REFUSALS]
    for i in range(first, count):
        if frames >= len(table) or refused >= len(refusals):
            progress[P_ADDRESS] = p
            progress[P_RECORD] = i
            progress[P_FRAMES] = frames
            progress[P_REFUSALS] = refused
            return 1
        length, p = read_zigzag(p, end)
        if p < 0 or length < 0 or length > end - p:
            return -1
        record_end = p + length
        ts_delta, p = read_zigzag(p + 1, record_end)  # after the attributes byte
        if p < 0:
            return -1
        offset_delta, p = read_zigzag(p, record_end)
        if p < 0:
            return -1
        key_len, p = read_zigzag(p, record_end)
        if p < 0 or key_len > record_end - p:
            return -1
        key_at = p
        if key_len > 0:
            p += key_len
        value_len, p = read_zigzag(p, record_end)
        if p < 0 or value_len > record_end - p:
            return -1
        offset = base_offset + offset_delta
        if offset >= min_offset:
            reason = scan_frame(p, value_len, classes, ts_min_us, ts_max_us, frames, table)
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
    return 0


@dataclass(slots=True)
class Part:
    """The records section of one batch, decompressed: buffer[start:end] holds `count` records."""

    buffer: bytes | bytearray | memoryview
    start: int
    end: int
    count: int
    base_offset: int
    base_ts_ms: int


@dataclass(slots=True)
class RecordScanner:
    """Scans parts into a frame table of bounded size.

    frames_max, refusals_max : when either is full the scan pauses, so memory is bounded whatever arrives.
    """

    classes: ClassTable
    frames_max: int = 8192
    refusals_max: int = 1024
    table: NDArray[np.int64] = field(init=False)
    refusals: NDArray[np.int64] = field(init=False)
    _progress: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.table = np.zeros((self.frames_max, FRAME_COLUMNS), np.int64)
        self.refusals = np.zeros((self.refusals_max, REFUSAL_COLUMNS), np.int64)
        self._progress = np.zeros(4, np.int64)

    def scan(self, parts: list[Part], min_offset: int, ts_min_us: int, ts_max_us: int) -> Iterator[tuple[int, int]]:
        """Yield (frames, refusals) in the arrays, as often as they fill up and once at the end.

        Addresses in the arrays are good until the next step.

        Raises
        ------
        CorruptBatchError : the records section does not parse.
        """
        progress = self._progress
        progress[P_FRAMES] = progress[P_REFUSALS] = 0
        for part in parts:
            base = int(np.frombuffer(part.buffer, np.uint8).ctypes.data)
            p, first = base + part.start, 0
            while True:
                code = scan_records(
                    p,
                    base + part.end,
                    first,
                    part.count,
                    part.base_offset,
                    part.base_ts_ms,
                    min_offset,
                    self.classes.array,
                    ts_min_us,
                    ts_max_us,
                    self.table,
                    self.refusals,
                    progress,
                )
                if code == 0:
                    break
                if code < 0:
                    raise CorruptBatchError(f"record batch at offset {part.base_offset} does not parse")
                yield int(progress[P_FRAMES]), int(progress[P_REFUSALS])
                p, first = int(progress[P_ADDRESS]), int(progress[P_RECORD])
                progress[P_FRAMES] = progress[P_REFUSALS] = 0
        yield int(progress[P_FRAMES]), int(progress[P_REFUSALS])
