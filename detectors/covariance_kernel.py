"""The compiled half of `detectors.covariance`: score a row, then learn it. The rule: what surprises teaches less,
and what alarms teaches little, but not for ever."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detectors.covariance_features import features
from detectors.covariance_judge import judge, learn_overall, learn_tails, name, overall
from detectors.covariance_matrix import (
    BATCH,
    HELD,
    KEPT,
    NEXT,
    OWN,
    P_ALPHA,
    P_EXPLAIN,
    P_HOLD,
    P_HOLD_ROWS,
    P_TRIES,
    P_WARM,
    READY,
    TOLD,
    USUAL,
    WAITING,
    WHOLE,
    N,
    fill,
    offsets,
    refresh,
    settle,
)
from detectors.surprise import CAP

CLIP, CLIP_WHOLE = np.float32(5.0), np.float32(10.0)  # farthest that counts: column by column, and as a whole
WHOLE_GAIN = 0.4
ROBUST = 3.0  # sizes of a usual row from which a row teaches less
LITTLE = 0.1  # what a row that alarms teaches
SETTLE = 20.0  # rows of its own until a device with a prior is judged
WHOLE_AT, WHOLE_SLOPE = 1.2, 0.6  # from the log size of a row to surprise
ABSURD, ABSURD_SLOPE = 100.0, 3.0  # from so many standard deviations, surprise by a power of ten
MOST = np.float32(16_000_000.0)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _times(matrix: NDArray[np.float32], z: NDArray[np.float32], n: int, out: NDArray[np.float32]) -> None:
    """out = matrix z, for a symmetric matrix: rows are added up, four at once, so that it vectorises."""
    for j in range(n):
        out[j] = np.float32(0)
    k = 0
    while k + 4 <= n:
        a, b, c, e = z[k], z[k + 1], z[k + 2], z[k + 3]
        one, two, three, four = matrix[k], matrix[k + 1], matrix[k + 2], matrix[k + 3]
        for j in range(n):
            out[j] += one[j] * a + two[j] * b + (three[j] * c + four[j] * e)
        k += 4
    while k < n:
        a = z[k]
        one = matrix[k]
        for j in range(n):
            out[j] += one[j] * a
        k += 1


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _learn(
    state: NDArray[np.float32],
    wide: NDArray[np.float64],
    there: NDArray[np.float32],
    off: NDArray[np.float32],
    weight: float,
    alpha: float,
    gain: NDArray[np.float32],
) -> None:
    """Learn a row with `weight` (1 = in full). gain : scratch, the features' own gains.

    The covariance of a row that all values have, learnt alike, waits until BATCH such rows are there.
    """
    n = len(off)
    d = n // 2
    o_fast, o_slow, o_last, o_seen, o_spread, o_part = offsets(d)[:6]
    fast, slow = state[o_fast:o_slow], state[o_slow:o_last]
    seen, spread = state[o_seen:o_spread], state[o_spread:o_part]
    every = weight * max(alpha, 1.0 / (np.float64(seen[0]) + 1.0))
    alike = np.int64(0)
    for j in range(d):
        alike += np.int64((there[j] > np.float32(0)) & (seen[j] == seen[0]))
        gain[j] = np.float32(every)
    if alike < d:
        for j in range(d):
            gain[j] = np.float32(weight * max(alpha, 1.0 / (np.float64(seen[j]) + 1.0))) * there[j]
    for j in range(d):
        gain[d + j] = gain[j] * there[d + j]
    for j in range(d):
        first = slow[j] == np.float32(0)
        step = min(fast[j], fast[j] if first else np.float32(100) * slow[j])
        moving = (there[d + j] > np.float32(0)) | first
        slow[j] += (gain[j] if moving else np.float32(0)) * (step - slow[j])
        spread[j] += gain[j] * ((np.float32(1) - gain[j]) * off[j] * off[j] - spread[j])
        seen[j] = min(seen[j] + np.float32(weight) * there[j], MOST)
    for j in range(n):
        wide[j] += np.float64(gain[j] * off[j]) * wide[n + j]
    if alike == d and every <= 0.5:
        _wait(state, off, every)
    else:
        settle(state, n)
        _learn_some(state, there, off, gain)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _wait(state: NDArray[np.float32], off: NDArray[np.float32], gain: float) -> None:
    """Keep a row for `settle`, which multiplies all that is there by KEPT, the product of what each row keeps."""
    n = len(off)
    o_wait, o_scalar = offsets(n // 2)[11:]
    scalar = state[o_scalar:]
    waiting = np.int64(scalar[WAITING])
    kept = (np.float64(scalar[KEPT]) if waiting > 0 else 1.0) * (1.0 - gain)
    own = np.float32(math.sqrt(gain * (1.0 - gain) / kept))
    row = state[o_wait + waiting * n : o_wait + waiting * n + n]
    for j in range(n):
        row[j] = own * off[j]
    scalar[KEPT] = np.float32(kept)
    scalar[WAITING] = np.float32(waiting + 1)
    if waiting + 1 == BATCH:
        settle(state, n)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _learn_some(
    state: NDArray[np.float32], there: NDArray[np.float32], off: NDArray[np.float32], gain: NDArray[np.float32]
) -> None:
    """Learn the covariances of what is there, each by the larger gain of the two."""
    for j in range(len(off)):
        if there[j] == np.float32(0):
            continue
        at = j * (j + 1) // 2
        row = state[at : at + j + 1]
        own, far = gain[j], off[j]
        for k in range(j + 1):
            g = max(own, gain[k]) * there[k]
            row[k] += g * ((np.float32(1) - g) * far * off[k] - row[k])


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _total(part: NDArray[np.float32]) -> float:
    """The sum, which uses the array up: halves are added, so that it vectorises."""
    m = len(part)
    while m > 1:
        half = (m + 1) // 2
        for j in range(m - half):
            part[j] += part[half + j]
        m = half
    return np.float64(part[0])


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _weight(
    state: NDArray[np.float32], surprise: float, alarm: float, size: float, prm: NDArray[np.float64], d: int
) -> float:
    """How much a row may teach, 0..1; follows the stretch of alarms and the usual size of a row.

    A stretch grows by its rows and shrinks by calm ones. Once it is longer than hold_rows it is the new normal:
    it teaches in full, and quickly, as if no more than hold_rows had been learnt before.
    """
    o_seen, o_scalar = offsets(d)[3], offsets(d)[12]
    scalar = state[o_scalar:]
    usual = np.float64(scalar[USUAL]) if scalar[USUAL] > np.float32(0) else 1.0
    weight = 1.0
    if scalar[TOLD] > np.float32(0) and size > ROBUST * usual:
        weight = (ROBUST * usual / size) ** 2
    alarming = surprise >= prm[P_HOLD] or alarm >= prm[P_HOLD]
    if alarming:
        scalar[HELD] = min(scalar[HELD] + np.float32(1), np.float32(2.0 * prm[P_HOLD_ROWS] + 1.0))
        if scalar[HELD] <= prm[P_HOLD_ROWS]:
            return LITTLE
        weight = 1.0
        if scalar[HELD] == np.float32(prm[P_HOLD_ROWS]) + np.float32(1):
            most = np.float32(prm[P_HOLD_ROWS])
            scalar[N] = min(scalar[N], most)
            scalar[NEXT] = np.float32(0)
            for j in range(d):
                state[o_seen + j] = min(state[o_seen + j], most)
    elif scalar[HELD] > np.float32(0):
        scalar[HELD] -= np.float32(1)
    if size >= 0.0:
        told = np.float64(scalar[TOLD])
        scalar[USUAL] = np.float32(usual + max(0.002, 1.0 / (told + 10.0)) * (min(size, 3.0 * usual) - usual))
    return weight


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _measure(
    state: NDArray[np.float32],
    joint: NDArray[np.float32],
    whole: NDArray[np.float32],
    there: NDArray[np.float32],
    counts: NDArray[np.float32],
    off: NDArray[np.float32],
    z: NDArray[np.float32],
    far: NDArray[np.float32],
    r: NDArray[np.float32],
    part: NDArray[np.float32],
    summed: NDArray[np.float32],
    gone: NDArray[np.int64],
    work: NDArray[np.float64],
    right: NDArray[np.float64],
) -> float:
    """Fill counts (1 = there and live), z (clipped, what is missing implied), far (clipped wider), r = joint z,
    part (d, each column's part in the row's square). Returns the root of the row's mean square, -1 = none counts.
    summed (d), gone, work, right : scratch."""
    n = len(off)
    d = n // 2
    o_part, o_live, o_rate = offsets(d)[5:8]
    live = state[o_live:o_rate]
    counted, known = np.int64(0), np.int64(0)
    for j in range(n):
        v = off[j] * live[j]
        z[j] = min(max(v, -CLIP), CLIP)
        far[j] = min(max(v, -CLIP_WHOLE), CLIP_WHOLE)
        counts[j] = there[j] * live[j]
    for j in range(n):
        known += np.int64(live[j] > np.float32(0))
        counted += np.int64(counts[j] > np.float32(0))
    if counted == 0:
        return -1.0
    if counted < known:
        fill(z, there, live, joint, gone, work, right)
    _times(joint, z, n, r)
    _times(whole, far, d, part)
    moved, smooth = far[d:], state[o_part:o_live]
    for j in range(d):
        part[j] = far[j] * part[j] + moved[j] * moved[j]
        summed[j] = part[j]
        smooth[j] += np.float32(WHOLE_GAIN) * (part[j] - smooth[j])
    return math.sqrt(max(_total(summed), 0.0) / counted)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _absurd(counts: NDArray[np.float32], off: NDArray[np.float32], d: int) -> float:
    """A value a thousand standard deviations off surprises at once, whatever the smoothing says of it."""
    absurd = np.int64(0)
    for j in range(d):
        absurd += np.int64(counts[j] * abs(off[j]) > np.float32(ABSURD))
    if absurd == 0:
        return 0.0
    most = np.float32(0)
    for j in range(d):
        most = max(most, counts[j] * abs(off[j]))
    return ABSURD_SLOPE * math.log10(np.float64(most) / ABSURD)


@njit(cache=True, nogil=True, error_model="numpy")
def update_rows(
    order: NDArray[np.int64],
    slots: NDArray[np.int32],
    values: NDArray[np.float32],
    alarm: NDArray[np.float32],
    state: NDArray[np.float32],
    wide: NDArray[np.float64],
    joint: NDArray[np.float32],
    whole: NDArray[np.float32],
    prm: NDArray[np.float64],
    surprise: NDArray[np.float32],
    column: NDArray[np.int16],
    expected: NDArray[np.float32],
    share: NDArray[np.float32],
) -> None:
    """Score and learn each row.

    order : all rows, each slot's in their order. alarm : of length 0 = nobody was asked.
    """
    d = values.shape[1]
    n = 2 * d
    o_part, o_live, o_scalar = offsets(d)[5], offsets(d)[6], offsets(d)[12]
    there, counts, off = np.zeros(n, np.float32), np.zeros(n, np.float32), np.zeros(n, np.float32)
    z, far, r = np.zeros(n, np.float32), np.zeros(n, np.float32), np.zeros(n, np.float32)
    part, summed, gain = np.zeros(d, np.float32), np.zeros(d, np.float32), np.zeros(n, np.float32)
    near, over = np.zeros(2 * n + 1, np.float32), np.zeros(2 * n + 1, np.float32)
    near_bits, over_bits = near.view(np.int32), over.view(np.int32)
    ratio = np.zeros(d, np.float32)
    ratio_bits = ratio.view(np.int32)
    gone, right, work = np.zeros(n, np.int64), np.zeros(n, np.float64), np.zeros((n, n), np.float64)
    for at in range(len(order)):
        i = order[at]
        slot = np.int64(slots[i])
        own, place = state[slot], wide[slot]
        present = features(values[i], own, place, there, off, ratio, ratio_bits, summed)
        if present == 0:
            continue
        scalar = own[o_scalar:]
        size, told, worst, by_column, as_whole = -1.0, -1.0, 0.0, 0.0, 0.0
        if scalar[READY] > np.float32(0):
            size = _measure(
                own, joint[slot], whole[slot], there, counts, off, z, far, r, part, summed, gone, work, right
            )
        if size >= 0.0:
            apart = 2.0 * math.log(max(size, 0.1)) - np.float64(scalar[WHOLE])
            scalar[WHOLE] += np.float32(WHOLE_GAIN * apart)
            worst = max(judge(own, counts, r, near, over, near_bits, over_bits) - prm[P_TRIES], 0.0) + 0.01
            by_column, as_whole = overall(scalar, worst), WHOLE_AT + WHOLE_SLOPE * np.float64(scalar[WHOLE])
            told = min(max(by_column, as_whole, _absurd(counts, off, d)), CAP)
        judged = told >= 0.0 and scalar[OWN] >= SETTLE
        if judged:
            surprise[i] = np.float32(told)
            if told >= prm[P_EXPLAIN]:
                parts = own[o_part:o_live] if as_whole > by_column else part
                name(
                    values[i],
                    place,
                    joint[slot],
                    z,
                    r,
                    parts,
                    counts,
                    near,
                    over,
                    told,
                    as_whole > by_column,
                    column[i],
                    expected[i],
                    share[i],
                )
        heard = np.float64(alarm[i]) if len(alarm) > 0 else 0.0
        weight = _weight(own, told if judged else 0.0, heard, size, prm, d)
        if told >= 0.0:
            if heard < prm[P_HOLD] or weight == 1.0:
                learn_tails(own, counts)
                learn_overall(scalar, worst)
            scalar[TOLD] = min(scalar[TOLD] + np.float32(1), MOST)
        scalar[OWN] = min(scalar[OWN] + np.float32(1), MOST)
        if weight > 0.0:
            _learn(own, place, there, off, weight, prm[P_ALPHA], gain)
            scalar[N] = min(scalar[N] + np.float32(1), MOST)
            if scalar[N] >= prm[P_WARM] and scalar[N] >= scalar[NEXT]:
                refresh(own, place, joint[slot], whole[slot], prm, work, right)
