"""The features of a row: how far each value lies from its mean, and how much it moved lately. The rule: one pass
without branches for all values, what is missing is 0 behind a mask.

Part of `detectors.covariance_kernel`; `state`, `wide` and the offsets are those of `detectors.covariance_matrix`.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detectors.covariance_matrix import offsets

MOVES = np.float32(0.3)  # weight of the last step in how much a value moves
MOVES_LEAST = np.float32(0.05)  # share of the usual movement that is stillness
MOVES_OF_SPREAD = np.float32(0.06)  # part of a value's mean square that counts as usual movement
STILL = np.float32(1e-30)
FAR = 1e9  # units from the mean: farther is as far
#: log2(1 + m) = m + m (1 - m) (the polynomial of these), to 2e-5 for m in 0..1: a least-maximum fit of ours.
LOG = (np.float32(0.44191691), np.float32(-0.26717833), np.float32(0.14842427), np.float32(-0.04514751))
HALF_LOG_2 = np.float32(0.34657359)
MANTISSA, MANTISSA_BITS, BIAS, GRAIN = 0x7FFFFF, 23, 127, np.float32(2.0**-23)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def half_log(bits: NDArray[np.int32], out: NDArray[np.float32]) -> None:
    """out = half the logarithm of the positive float32 whose bits these are, to 1e-5. It vectorises."""
    for j in range(len(bits)):
        exponent = np.float32(np.int32((bits[j] >> MANTISSA_BITS) - BIAS))
        m = np.float32(np.int32(bits[j] & MANTISSA)) * GRAIN
        curve = LOG[0] + m * (LOG[1] + m * (LOG[2] + m * LOG[3]))
        out[j] = HALF_LOG_2 * (exponent + (m + m * (np.float32(1) - m) * curve))


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _meet(x: NDArray[np.float32], state: NDArray[np.float32], wide: NDArray[np.float64]) -> None:
    """A value's first row is its mean, its first other value gives its unit."""
    d = len(x)
    o_last, o_seen = offsets(d)[2:4]
    for j in range(d):
        if not abs(x[j]) < np.float32(1e30):
            continue
        value = np.float64(x[j])
        if state[o_seen + j] == np.float32(0):
            wide[j] = value
            state[o_last + j] = x[j]
        elif wide[2 * d + j] == 0.0 and value != wide[j]:
            wide[2 * d + j] = max(abs(value - wide[j]), 1e-6 * abs(value))


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def features(
    x: NDArray[np.float32],
    state: NDArray[np.float32],
    wide: NDArray[np.float64],
    there: NDArray[np.float32],
    off: NDArray[np.float32],
    ratio: NDArray[np.float32],
    bits: NDArray[np.int32],
    moved: NDArray[np.float32],
) -> int:
    """Fill `there` with 1 where a feature is present and `off` with how far it lies from its mean, in its unit, 0
    where missing; the present values. Follows how much each value moves, which is no learning: it forgets soon.

    ratio, bits : scratch of d numbers and its bits. moved : scratch of d.
    """
    d = len(x)
    o_fast, o_slow, o_last, o_seen, o_spread, o_part = offsets(d)[:6]
    fast, slow, last = state[o_fast:o_slow], state[o_slow:o_last], state[o_last:o_seen]
    seen, spread = state[o_seen:o_spread], state[o_spread:o_part]
    mean, unit, mean_moved, unit_moved = wide[:d], wide[2 * d : 3 * d], wide[d : 2 * d], wide[3 * d :]
    off_moved, there_moved = off[d:], there[d:]
    present, strange = np.int64(0), np.int64(0)
    for j in range(d):
        is_there = abs(x[j]) < np.float32(1e30)
        present += np.int64(is_there)
        strange += np.int64(is_there & ((seen[j] == np.float32(0)) | (unit[j] == 0.0)))
    if strange > 0:
        _meet(x, state, wide)
    for j in range(d):
        is_there = abs(x[j]) < np.float32(1e30)
        known = is_there & (unit[j] > 0.0)
        there[j] = np.float32(1) if is_there else np.float32(0)
        value = np.float64(x[j]) if known else mean[j]
        before = np.float64(last[j]) if known else mean[j]
        per = 1.0 / (unit[j] if known else 1.0)
        off[j] = np.float32(min(max((value - mean[j]) * per, -FAR), FAR))
        step = np.float32(min(max((value - before) * per, -FAR), FAR))
        now = fast[j] + MOVES * (step * step - fast[j])
        now = now if now > STILL else np.float32(0)  # never a denormal: they are slow
        fast[j] = now if known else fast[j]
        last[j] = x[j] if known else last[j]
        usual = slow[j] + MOVES_OF_SPREAD * spread[j]
        moves = known & (usual > STILL)
        there_moved[j] = np.float32(1) if moves else np.float32(0)
        ratio[j] = (fast[j] if moves else np.float32(1)) / (usual if moves else np.float32(1)) + MOVES_LEAST
    half_log(bits, moved)
    for j in range(d):
        new = (unit_moved[j] == 0.0) & (there_moved[j] > np.float32(0))
        mean_moved[j] = np.float64(moved[j]) if new else mean_moved[j]
        unit_moved[j] = 1.0 if new else unit_moved[j]
        moves = there_moved[j] > np.float32(0)
        apart = (np.float64(moved[j]) - mean_moved[j]) / (unit_moved[j] if moves else 1.0)
        off_moved[j] = np.float32(min(max(apart, -FAR), FAR)) if moves else np.float32(0)
    return int(present)
