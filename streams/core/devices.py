"""Devices of one class: id -> slot, duplicates by sequence, frames -> rows of a block.

The rule: a frame is applied once. Its offset says whether a restored row has seen it already, its sequence
number whether the device sent it twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streams.core.device_index import D_KEY, D_KEY_LEN, entry_of, find, lookup, reindex
from telemetry.framescan import (
    F_CLASS,
    F_ID_AT,
    F_ID_LEN,
    F_OFFSET,
    F_PERIOD,
    F_SEQ,
    F_STEPS,
    F_TS,
    F_VALUES_AT,
    copy_values,
    load_tail,
    valid_id,
)
from telemetry.partitioner import partition_at
from telemetry.rawmem import INLINE, load_u64

# Words of a device's row, int64 (n, DEVICE_WORDS): two cache lines.
# The first ones are the index's: the id's bytes and their number.
D_OWNER, D_OFFSET, D_SEQ, D_SEEN, D_TS, D_FIRST_TS, D_FLAGS = range(9, 16)
DEVICE_WORDS = 16
#: Bits of D_FLAGS: dirty since the last snapshot; consecutive frames whose time ran backwards.
FLAG_DIRTY = 1
BACKWARDS_ONE = 2

# Counters that `place` keeps, int64 (COUNTERS,).
(
    C_DEVICES,
    C_FREE,
    C_ROWS,
    C_FRAMES,
    C_SAMPLES,
    C_DUPLICATES,
    C_REPLAYED,
    C_OUT_OF_ORDER,
    C_REBOOTS,
    C_GAPS,
    C_NON_FINITE,
    C_CLOCK_STEPS,
) = range(12)
COUNTERS = 16

# What `place` returns besides the next frame's number.
DONE, BLOCK_FULL, TABLE_FULL, BAD_ID, MISPLACED = range(5)

# Order of a block's row.
OUT_OF_ORDER, IN_ORDER, RESTART = 0, 1, 2
#: So many missing frames are counted at one gap at most: a number out of nowhere must not overflow the counter.
GAP_MAX = 1 << 20
#: So many frames in a row, rightly numbered but with a time that runs backwards: the device's clock was set back.
BACKWARDS_FRAMES = 16

#: How a device's row names the input partition that it belongs to: the topic's number above the partition's.
OWNER_SHIFT = 20
PARTITION_MASK = (1 << OWNER_SHIFT) - 1


@njit(**INLINE)
def _admit(devices: NDArray[np.int64], slot: int, frame: NDArray[np.int64], counters: NDArray[np.int64]) -> int:
    """Order of the frame's rows, or -1 for a duplicate; keeps the sequence window."""
    seq = frame[F_SEQ]
    last = devices[slot, D_SEQ]
    ts_last = frame[F_TS] + frame[F_PERIOD] * (frame[F_STEPS] - 1)
    delta = seq - last
    newer = frame[F_TS] > devices[slot, D_TS]
    order = IN_ORDER
    if delta > 0:
        if last >= 0:
            counters[C_GAPS] += min(delta - 1, GAP_MAX)
        devices[slot, D_SEEN] = ((devices[slot, D_SEEN] << delta) | 1) if delta < 64 else 1
        devices[slot, D_SEQ] = seq
        if not newer:
            order = OUT_OF_ORDER
    elif newer:  # numbers begin anew while time goes on: the device was switched off and on
        counters[C_REBOOTS] += 1
        devices[slot, D_SEEN] = 1
        devices[slot, D_SEQ] = seq
    elif delta > -64 and not (devices[slot, D_SEEN] >> -delta) & 1:
        devices[slot, D_SEEN] |= np.int64(1) << -delta
        counters[C_OUT_OF_ORDER] += 1
        return OUT_OF_ORDER
    else:
        counters[C_DUPLICATES] += 1
        return -1
    if order == IN_ORDER:
        devices[slot, D_FLAGS] &= FLAG_DIRTY
        devices[slot, D_TS] = ts_last
        return IN_ORDER
    counters[C_OUT_OF_ORDER] += 1
    devices[slot, D_FLAGS] += BACKWARDS_ONE
    if devices[slot, D_FLAGS] // BACKWARDS_ONE >= BACKWARDS_FRAMES:
        counters[C_CLOCK_STEPS] += 1
        devices[slot, D_FLAGS] &= FLAG_DIRTY
        devices[slot, D_TS] = ts_last
        return RESTART
    return OUT_OF_ORDER


@njit(cache=True, error_model="numpy", nogil=True)
def place(
    table: NDArray[np.int64],
    first: int,
    count: int,
    wanted: int,
    owner: int,
    partitions: int,
    signals: int,
    devices: NDArray[np.int64],
    index: NDArray[np.uint64],
    free: NDArray[np.int32],
    slots: NDArray[np.int32],
    ts_us: NDArray[np.int64],
    values: NDArray[np.uint32],
    frame_no: NDArray[np.int32],
    order: NDArray[np.uint8],
    counters: NDArray[np.int64],
) -> tuple[int, int]:
    """Turn frames first..count-1 of class `wanted` into rows of the block, appended from counters[C_ROWS].

    values is flat, (rows * signals,), the bits of float32. Returns (what, next frame): DONE, BLOCK_FULL,
    TABLE_FULL (make room, call again from that frame), BAD_ID or MISPLACED (that frame is refused; go on after it).
    partitions : of the topic; a device's frames belong to its id's. 0 = not looked at.
    """
    rows = counters[C_ROWS]
    rows_max = len(slots)
    for i in range(first, count):
        if table[i, F_CLASS] != wanted:
            continue
        steps = table[i, F_STEPS]
        if rows + steps > rows_max:
            counters[C_ROWS] = rows
            return BLOCK_FULL, i
        at = table[i, F_ID_AT]
        n = table[i, F_ID_LEN]
        slot, j, tag = find(at, n, table[i, F_VALUES_AT], devices, index)
        if slot < 0 and not valid_id(at, n):
            counters[C_ROWS] = rows
            return BAD_ID, i
        moved = slot < 0 or devices[slot, D_OWNER] != owner
        if partitions > 0 and moved and partition_at(at, n, partitions) != owner & PARTITION_MASK:
            counters[C_ROWS] = rows
            return MISPLACED, i
        if slot < 0:
            if counters[C_FREE] > 0:
                slot = np.int64(free[counters[C_FREE] - 1])
            elif counters[C_DEVICES] < len(devices):
                slot = counters[C_DEVICES]
            else:
                counters[C_ROWS] = rows
                return TABLE_FULL, i
            if counters[C_FREE] > 0:
                counters[C_FREE] -= 1
            else:
                counters[C_DEVICES] += 1
            index[j] = entry_of(tag, slot)
            for w in range(DEVICE_WORDS):
                devices[slot, w] = 0
            full = n >> 3
            for w in range(full):
                devices[slot, w] = np.int64(load_u64(at + 8 * w))
            if full < 8:
                devices[slot, full] = np.int64(load_tail(at + 8 * full, n & 7, table[i, F_VALUES_AT]))
            devices[slot, D_KEY_LEN] = n
            devices[slot, D_OWNER] = owner
            devices[slot, D_OFFSET] = -1
            devices[slot, D_SEQ] = -1
            devices[slot, D_TS] = np.iinfo(np.int64).min
            devices[slot, D_FIRST_TS] = table[i, F_TS]
        if table[i, F_OFFSET] <= devices[slot, D_OFFSET] and devices[slot, D_OWNER] == owner:
            counters[C_REPLAYED] += 1
            continue
        devices[slot, D_OFFSET] = table[i, F_OFFSET]
        devices[slot, D_OWNER] = owner
        devices[slot, D_FLAGS] |= FLAG_DIRTY
        kind = _admit(devices, slot, table[i], counters)
        if kind < 0:
            continue
        period = table[i, F_PERIOD]
        t = table[i, F_TS]
        for _ in range(steps):
            slots[rows] = slot
            ts_us[rows] = t
            frame_no[rows] = i
            order[rows] = kind
            t += period
            rows += 1
            if kind == RESTART:
                kind = IN_ORDER
        total = steps * signals
        counters[C_NON_FINITE] += copy_values(table[i, F_VALUES_AT], total, values, (rows - steps) * signals)
        counters[C_FRAMES] += 1
        counters[C_SAMPLES] += total
    counters[C_ROWS] = rows
    return DONE, count


class DeviceTable:
    """The rows and the index of one class. Slots are stable while their device is held; freed ones are reused."""

    def __init__(self, capacity: int = 1024) -> None:
        self.rows: NDArray[np.int64] = np.zeros((capacity, DEVICE_WORDS), np.int64)
        self.index: NDArray[np.uint64] = np.zeros(self._index_size(capacity), np.uint64)
        self.free: NDArray[np.int32] = np.zeros(capacity, np.int32)
        self.counters: NDArray[np.int64] = np.zeros(COUNTERS, np.int64)

    @staticmethod
    def _index_size(capacity: int) -> int:
        return 1 << max(4, (2 * capacity - 1).bit_length())

    @property
    def capacity(self) -> int:
        return len(self.rows)

    @property
    def high(self) -> int:
        """Slots 0..high-1 have been used."""
        return int(self.counters[C_DEVICES])

    @property
    def held(self) -> int:
        return self.high - int(self.counters[C_FREE])

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + self.index.nbytes + self.free.nbytes

    def grow(self, capacity: int) -> None:
        """Make room for `capacity` devices; slots stay what they are."""
        rows = np.zeros((capacity, DEVICE_WORDS), np.int64)
        rows[: self.capacity] = self.rows
        free = np.zeros(capacity, np.int32)
        free[: len(self.free)] = self.free
        self.rows, self.free = rows, free
        self._reindex()

    def _reindex(self) -> None:
        self.index = np.zeros(self._index_size(self.capacity), np.uint64)
        reindex(self.rows, np.arange(self.high, dtype=np.int32), self.index)

    def key(self, slot: int) -> bytes:
        n = int(self.rows[slot, D_KEY_LEN])
        return self.rows[slot, D_KEY : D_KEY + 8].tobytes()[:n]

    def keys(self, slots: NDArray[np.int32]) -> list[bytes]:
        """Ids of many slots; ids have no zero bytes, so numpy's S64 restores their lengths."""
        packed = np.ascontiguousarray(self.rows[slots, D_KEY : D_KEY + 8])
        keys: list[bytes] = packed.view("S64").ravel().tolist()
        return keys

    def slots_of_keys(self, keys: Sequence[bytes]) -> NDArray[np.int32]:
        """int32 (n,): the slots of these ids, of 1 to 64 bytes each, -1 = not held."""
        rows = np.zeros((len(keys), DEVICE_WORDS), np.int64)
        rows[:, D_KEY : D_KEY + 8] = np.array(keys, "S64").view(np.int64).reshape(-1, 8)
        rows[:, D_KEY_LEN] = [len(key) for key in keys]
        return self.slots_of(rows)

    def owned_by(self, owners: set[int]) -> NDArray[np.int32]:
        """Slots of the devices that these (topic, partition) owners hold."""
        rows = self.rows[: self.high]
        held = rows[:, D_KEY_LEN] > 0
        return np.flatnonzero(held & np.isin(rows[:, D_OWNER], list(owners))).astype(np.int32)

    def dirty(self) -> NDArray[np.int32]:
        """Slots that changed since they were last marked clean."""
        rows = self.rows[: self.high]
        return np.flatnonzero(rows[:, D_FLAGS] & FLAG_DIRTY).astype(np.int32)

    def mark_clean(self, slots: NDArray[np.int32]) -> None:
        self.rows[slots, D_FLAGS] &= ~FLAG_DIRTY

    def release(self, slots: NDArray[np.int32]) -> None:
        """Forget these devices; their slots may be given to others."""
        if len(slots) == 0:
            return
        self.rows[slots] = 0
        free = int(self.counters[C_FREE])
        self.free[free : free + len(slots)] = slots
        self.counters[C_FREE] += len(slots)
        self._reindex()

    def slots_of(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """int32 (n,): the slot of each of these rows' device, -1 = not held. rows : int64 (n, DEVICE_WORDS)."""
        slots = np.empty(len(rows), np.int32)
        lookup(rows, self.rows, self.index, slots)
        return slots

    def adopt(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Give slots to restored device rows, their own where they are held; (all slots, those held before).

        rows : int64 (n, DEVICE_WORDS), each device once; the caller has grown the table.
        """
        slots = self.slots_of(rows)
        new = np.flatnonzero(slots < 0)
        held = slots[slots >= 0]
        free = int(self.counters[C_FREE])
        reused = min(len(new), free)
        fresh = np.arange(self.high, self.high + len(new) - reused, dtype=np.int32)
        slots[new] = np.concatenate([self.free[free - reused : free], fresh])
        assert self.high + len(fresh) <= self.capacity
        self.counters[C_FREE] -= reused
        self.counters[C_DEVICES] += len(fresh)
        self.rows[slots] = rows
        reindex(self.rows, slots[new], self.index)
        return slots, held
