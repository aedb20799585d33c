"""The compiled half of `detectors.covariance`: score a row, then learn it. The rule: what surprises teaches less,
and what alarms teaches little, but not for ever."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detectors.covariance_judge import judge, learn_overall, learn_tails, name, overall
from detectors.covariance_matrix import (
    HELD,
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
    WHOLE,
    N,
    fill,
    offsets,
    refresh,
)
from detectors.surprise import CAP

CLIP, CLIP_WHOLE = np.float32(5.0), np.float32(10.0)  # farthest that counts: column by column, and as a whole
MOVES = np.float32(0.3)  # weight of the last step in how much a value moves
MOVES_LEAST, MOVES_OF_SPREAD = 0.05, 0.06  # share of the usual movement that is stillness; of the variance in it
WHOLE_GAIN = 0.4
ROBUST = 3.0  # sizes of a usual row from which a row teaches less
LITTLE = 0.1  # what a row that alarms teaches
SETTLE = 20.0  # rows of its own until a device with a prior is judged
WHOLE_AT, WHOLE_SLOPE = 1.2, 0.6  # from the log size of a row to surprise
STILL = np.float32(1e-30)
ABSURD, ABSURD_SLOPE = 100.0, 3.0  # from so many standard deviations, surprise by a power of ten
FAR = 1e9  # units from the mean: farther is as far
MOST = np.float32(16_000_000.0)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _features(
    x: NDArray[np.float32],
    state: NDArray[np.float32],
    wide: NDArray[np.float64],
    there: NDArray[np.bool_],
    off: NDArray[np.float32],
) -> int:
    """Fill `off` with how far each feature lies from its mean, in its unit, 0 where missing; the present values.
    Follows how much each value moves, which is no learning: it forgets within a few rows."""
    d = len(x)
    o_fast, o_slow, o_last, o_seen = offsets(d)[:4]
    present = 0
    for j in range(d):
        there[j] = abs(x[j]) < np.float32(1e30)
        there[d + j] = False
        off[j] = np.float32(0)
        off[d + j] = np.float32(0)
        if not there[j]:
            continue
        present += 1
        value = np.float64(x[j])
        if state[o_seen + j] == np.float32(0):
            wide[j] = value
            state[o_last + j] = x[j]
            continue
        apart = value - wide[j]
        unit = wide[2 * d + j]
        if unit == 0.0:
            if apart == 0.0:
                continue
            unit = max(abs(apart), 1e-6 * abs(value))
            wide[2 * d + j] = unit
        off[j] = np.float32(min(max(apart / unit, -FAR), FAR))
        step = np.float32(min(max((value - np.float64(state[o_last + j])) / unit, -FAR), FAR))
        state[o_last + j] = x[j]
        fast = state[o_fast + j] + MOVES * (step * step - state[o_fast + j])
        state[o_fast + j] = fast if fast > STILL else np.float32(0)  # never a denormal: they are slow
        at = j * (j + 1) // 2 + j
        usual = np.float64(state[o_slow + j]) + MOVES_OF_SPREAD * np.float64(state[at])
        if usual <= 0.0:
            continue
        moved = 0.5 * math.log(np.float64(state[o_fast + j]) / usual + MOVES_LEAST)
        there[d + j] = True
        if wide[3 * d + j] == 0.0:
            wide[d + j] = moved
            wide[3 * d + j] = 1.0
        off[d + j] = np.float32(min(max((moved - wide[d + j]) / wide[3 * d + j], -FAR), FAR))
    return present


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
    there: NDArray[np.bool_],
    off: NDArray[np.float32],
    weight: float,
    alpha: float,
    gain: NDArray[np.float64],
) -> None:
    """Learn a row with `weight` (1 = in full). gain : scratch, the features' own gains."""
    n = len(off)
    d = n // 2
    o_fast, o_slow, _, o_seen = offsets(d)[:4]
    same = True
    for j in range(d):
        mine = weight * max(alpha, 1.0 / (np.float64(state[o_seen + j]) + 1.0))
        gain[j] = mine if there[j] else 0.0
        gain[d + j] = mine if there[d + j] else 0.0
        same &= (gain[j] == gain[0]) & (gain[d + j] == gain[0])
    for j in range(d):
        if there[j]:
            if there[d + j] or state[o_slow + j] == np.float32(0):
                step = state[o_fast + j]
                usual = state[o_slow + j]
                bound = np.float32(100) * usual if usual > np.float32(0) else step
                state[o_slow + j] += np.float32(gain[j]) * (min(step, bound) - usual)
            state[o_seen + j] = min(state[o_seen + j] + np.float32(weight), MOST)
    for j in range(n):
        wide[j] += gain[j] * np.float64(off[j]) * wide[n + j]
    if same:
        keep, own = np.float32(1.0 - gain[0]), np.float32(gain[0] * (1.0 - gain[0]))
        at = 0
        for j in range(n):
            f = own * off[j]
            row = state[at : at + j + 1]
            for k in range(j + 1):
                row[k] = keep * row[k] + f * off[k]
            at += j + 1
        return
    for j in range(n):
        at = j * (j + 1) // 2
        for k in range(j + 1):
            if there[j] and there[k]:
                g = np.float32(max(gain[j], gain[k]))
                state[at + k] += g * ((np.float32(1) - g) * off[j] * off[k] - state[at + k])


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _weight(
    state: NDArray[np.float32], surprise: float, alarm: float, size: float, prm: NDArray[np.float64], d: int
) -> float:
    """How much a row may teach, 0..1; follows the stretch of alarms and the usual size of a row.

    A stretch grows by its rows and shrinks by calm ones. Once it is longer than hold_rows it is the new normal:
    it teaches in full, and quickly, as if no more than hold_rows had been learnt before.
    """
    o_seen, o_scalar = offsets(d)[3], offsets(d)[9]
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
    there: NDArray[np.bool_],
    off: NDArray[np.float32],
    z: NDArray[np.float32],
    far: NDArray[np.float32],
    r: NDArray[np.float32],
    u: NDArray[np.float32],
    gone: NDArray[np.int64],
    work: NDArray[np.float64],
    right: NDArray[np.float64],
) -> float:
    """Fill z (clipped, what is missing implied), far (clipped wider), r = joint z, u = whole far. Returns the root
    of the row's mean square, -1 = no feature that counts is there. gone, work, right : scratch."""
    n = len(off)
    d = n // 2
    o_live = offsets(d)[4]
    live = state[o_live : o_live + n]
    counted, known = np.int64(0), np.int64(0)
    for j in range(n):
        v = off[j] * live[j]
        z[j] = min(max(v, -CLIP), CLIP)
        far[j] = min(max(v, -CLIP_WHOLE), CLIP_WHOLE)
    for j in range(n):
        is_live = live[j] > np.float32(0)
        known += np.int64(is_live)
        counted += np.int64(is_live & there[j])
    if counted == 0:
        return -1.0
    if counted < known:
        fill(z, there, live, joint, gone, work, right)
    _times(joint, z, n, r)
    _times(whole, far, d, u)
    total = np.float32(0)
    for j in range(d):
        total += far[j] * u[j] + far[d + j] * far[d + j]
    return math.sqrt(max(np.float64(total), 0.0) / counted)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _absurd(state: NDArray[np.float32], there: NDArray[np.bool_], off: NDArray[np.float32], d: int) -> float:
    """A value a thousand standard deviations off surprises at once, whatever the smoothing says of it."""
    o_live = offsets(d)[4]
    most = np.float32(0)
    for j in range(d):
        if there[j] and state[o_live + j] > np.float32(0):
            most = max(most, abs(off[j]))
    return ABSURD_SLOPE * math.log10(np.float64(most) / ABSURD) if most > ABSURD else 0.0


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
    o_scalar = offsets(d)[9]
    there = np.zeros(n, np.bool_)
    off, z, far = np.zeros(n, np.float32), np.zeros(n, np.float32), np.zeros(n, np.float32)
    r, u = np.zeros(n, np.float32), np.zeros(d, np.float32)
    gain, right = np.zeros(n, np.float64), np.zeros(n, np.float64)
    gone = np.zeros(n, np.int64)
    work = np.zeros((n, n), np.float64)
    for at in range(len(order)):
        i = order[at]
        slot = np.int64(slots[i])
        own, place = state[slot], wide[slot]
        present = _features(values[i], own, place, there, off)
        if present == 0:
            continue
        scalar = own[o_scalar:]
        size, told, worst = -1.0, -1.0, 0.0
        if scalar[READY] > np.float32(0):
            size = _measure(own, joint[slot], whole[slot], there, off, z, far, r, u, gone, work, right)
        if size >= 0.0:
            apart = 2.0 * math.log(max(size, 0.1)) - np.float64(scalar[WHOLE])
            scalar[WHOLE] += np.float32(WHOLE_GAIN * apart)
            worst = max(judge(own, there, r, d) - prm[P_TRIES], 0.0) + 0.01
            told = max(overall(scalar, worst), WHOLE_AT + WHOLE_SLOPE * np.float64(scalar[WHOLE]))
            told = min(max(told, _absurd(own, there, off, d)), CAP)
        judged = told >= 0.0 and scalar[OWN] >= SETTLE
        if judged:
            surprise[i] = np.float32(told)
            if told >= prm[P_EXPLAIN]:
                name(
                    values[i], own, place, joint[slot], z, r, far, u, there, told, column[i], expected[i], share[i]
                )
        heard = np.float64(alarm[i]) if len(alarm) > 0 else 0.0
        weight = _weight(own, told if judged else 0.0, heard, size, prm, d)
        if told >= 0.0:
            if heard < prm[P_HOLD] or weight == 1.0:
                learn_tails(own, there, d)
                learn_overall(scalar, worst)
            scalar[TOLD] = min(scalar[TOLD] + np.float32(1), MOST)
        scalar[OWN] = min(scalar[OWN] + np.float32(1), MOST)
        if weight > 0.0:
            _learn(own, place, there, off, weight, prm[P_ALPHA], gain)
            scalar[N] = min(scalar[N] + np.float32(1), MOST)
            if scalar[N] >= prm[P_WARM] and scalar[N] >= scalar[NEXT]:
                refresh(own, place, joint[slot], whole[slot], prm, work, right)
