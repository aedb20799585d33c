"""Device id -> slot: an open-addressing table over the ids' own bytes. The rule: a hit is compared byte for byte.

Index entries, uint64: high 32 bits = tag of the id's hash, low 32 bits = slot + 1, 0 = empty. The table is a power
of two long and never more than half full.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from telemetry.framescan import load_tail
from telemetry.rawmem import INLINE, load_u64

# Words of a device's row (`streams.core.devices`): the id's bytes, zeros after them, and how many they are.
D_KEY, D_KEY_LEN = 0, 8

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_ROW_BITS = np.uint64(32)
_ROW_MASK = np.uint64(0xFFFFFFFF)


@njit(**INLINE)
def entry_of(tag: Any, slot: Any) -> Any:
    """The index entry of a slot."""
    return (np.uint64(tag) << _ROW_BITS) | np.uint64(np.int64(slot) + 1)


@njit(**INLINE)
def _mix(h: Any, word: Any) -> Any:
    h = (h ^ word) * _MULTIPLIER
    return h ^ (h >> np.uint64(32))


@njit(**INLINE)
def find(at: int, n: int, end: int, devices: NDArray[np.int64], index: NDArray[np.uint64]) -> Any:
    """(slot or -1, place in the index, hash tag) of the id of n bytes at address `at`.

    Index entries: high 32 bits = tag of the hash, low 32 bits = slot + 1, 0 = empty.
    """
    full = n >> 3
    tail = load_tail(at + 8 * full, n & 7, end)
    h = np.uint64(n) * _MULTIPLIER
    for w in range(full):
        h = _mix(h, load_u64(at + 8 * w))
    h = _mix(h, tail)
    tag = h >> _ROW_BITS
    mask = np.uint64(len(index) - 1)
    j = h & mask
    while True:
        entry = index[j]
        if entry == np.uint64(0):
            return -1, np.int64(j), np.int64(tag)
        if entry >> _ROW_BITS == tag:
            slot = np.int64(entry & _ROW_MASK) - 1
            if devices[slot, D_KEY_LEN] == n and (full == 8 or np.uint64(devices[slot, full]) == tail):
                w = 0
                while w < full and load_u64(at + 8 * w) == np.uint64(devices[slot, w]):
                    w += 1
                if w == full:
                    return slot, np.int64(j), np.int64(tag)
        j = (j + np.uint64(1)) & mask


@njit(**INLINE)
def _hash(row: NDArray[np.int64]) -> Any:
    n = row[D_KEY_LEN]
    full = n >> 3
    h = np.uint64(n) * _MULTIPLIER
    for w in range(full):
        h = _mix(h, np.uint64(row[w]))
    return _mix(h, np.uint64(row[full]) if full < 8 else np.uint64(0))


@njit(cache=True, error_model="numpy", nogil=True)
def reindex(devices: NDArray[np.int64], slots: NDArray[np.int32], index: NDArray[np.uint64]) -> None:
    """Enter those of these slots that hold a device and are not in the index."""
    mask = np.uint64(len(index) - 1)
    for slot in slots:
        if devices[slot, D_KEY_LEN] == 0:
            continue
        h = _hash(devices[slot])
        j = h & mask
        while index[j] != np.uint64(0):
            j = (j + np.uint64(1)) & mask
        index[j] = entry_of(h >> _ROW_BITS, slot)


@njit(cache=True, error_model="numpy", nogil=True)
def lookup(
    rows: NDArray[np.int64], devices: NDArray[np.int64], index: NDArray[np.uint64], out: NDArray[np.int32]
) -> None:
    """The slot that holds the device of each of these rows, or -1."""
    mask = np.uint64(len(index) - 1)
    for i in range(len(rows)):
        h = _hash(rows[i])
        out[i] = -1
        j = h & mask
        while index[j] != np.uint64(0):
            entry = index[j]
            if entry >> _ROW_BITS == h >> _ROW_BITS:
                slot = np.int64(entry & _ROW_MASK) - 1
                same = True
                for w in range(D_KEY_LEN + 1):
                    same = same and devices[slot, w] == rows[i, w]
                if same:
                    out[i] = slot
                    break
            j = (j + np.uint64(1)) & mask
