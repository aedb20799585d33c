"""Which partition a key belongs to. The rule: murmur2, as Java, Faust and librdkafka's `murmur2_random` compute it.

Source: org.apache.kafka.common.utils.Utils.murmur2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from telemetry.rawmem import INLINE, address, load_u8, load_u32

_M, _SEED, _BITS = np.uint64(0x5BD1E995), np.uint64(0x9747B28C), np.uint64(0xFFFFFFFF)


@njit(**INLINE)
def murmur2_at(p: int, n: int) -> Any:
    """The hash of the n bytes at address p, 32 bits. Compiled code multiplies in 64 bits: cut after each step."""
    h = _SEED ^ np.uint64(n)
    words = n >> 2
    for w in range(words):
        k = np.uint64(load_u32(p + 4 * w)) * _M & _BITS
        k = (k ^ (k >> np.uint64(24))) * _M & _BITS
        h = (h * _M & _BITS) ^ k
    for i in range(n - 1, 4 * words - 1, -1):
        h ^= np.uint64(load_u8(p + i)) << np.uint64(8 * (i - 4 * words))
    if n > 4 * words:
        h = h * _M & _BITS
    h = (h ^ (h >> np.uint64(13))) * _M & _BITS
    return h ^ (h >> np.uint64(15))


@njit(**INLINE)
def partition_at(p: int, n: int, partitions: int) -> Any:
    """The partition of the key of n bytes at address p."""
    return np.int64(murmur2_at(p, n) & np.uint64(0x7FFFFFFF)) % partitions


@njit(cache=True, error_model="numpy", nogil=True)
def _partitions(p: int, length: int, partitions: int, out: NDArray[np.int64]) -> None:
    for i in range(len(out)):
        out[i] = partition_at(p + i * length, length, partitions)


def partitions_of(keys: NDArray[np.uint8], partitions: int) -> NDArray[np.int64]:
    """int64 (n,): the partition of each key, of so many. keys : uint8 (n, length)."""
    keys = np.ascontiguousarray(keys)
    out = np.empty(len(keys), np.int64)
    _partitions(address(keys), keys.shape[1], partitions, out)
    return out
