"""How strange the residuals of a row are, and who is guilty. The rule: each residual is measured by its own past.

Part of `detectors.covariance_kernel`; `state` and the offsets are those of `detectors.covariance_matrix`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detectors.covariance_matrix import EXCESS, SMOOTHING, START, TOLD, offsets
from detectors.protocol import TOP

TAIL, TAIL_STEP, TAIL_SHAPE = 0.01, 0.01, 0.1  # share above a tail's start, how fast that is followed, Pareto shape
#: The same of the column statistic, and where its start and mean excess begin; it starts no lower than START_LEAST.
OVERALL_TAIL, OVERALL_START, OVERALL_EXCESS, START_LEAST = 0.002, 3.0, 0.1, 0.5
BASE, OVERALL_BASE = -math.log10(TAIL), -math.log10(OVERALL_TAIL)
LOG_TENTH = 0.43429448


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def tail_surprise(share: float, over: float, base: float) -> float:
    """-log10 p by a learnt tail of base = -log10 p at its start: straight below, generalised Pareto above.

    share : of the start. over : what is above the start, in mean excesses, 0 = nothing.
    """
    if over > 0.0:
        return base + LOG_TENTH * math.log1p(TAIL_SHAPE * over) / TAIL_SHAPE
    return base * share


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def judge(
    state: NDArray[np.float32],
    counts: NDArray[np.float32],
    r: NDArray[np.float32],
    share: NDArray[np.float32],
    over: NDArray[np.float32],
    share_bits: NDArray[np.int32],
    over_bits: NDArray[np.int32],
) -> float:
    """Smooth the residuals r = (precision z) of what counts (1, else 0); the largest surprise of any.

    share, over : filled for both scales as `tail_surprise` wants them, 0 where nothing counts; their bits grow with
    them, and the largest of integers is found faster. Behind them the largest of each.
    """
    n = len(r)
    o_rate, o_smooth, o_start, o_excess = offsets(n // 2)[7:11]
    rate = state[o_rate:o_smooth]
    for s in range(2):
        gain = np.float32(SMOOTHING[s])
        at, end = s * n, s * n + n
        smooth = state[o_smooth + at : o_smooth + end]
        start, excess = state[o_start + at : o_start + end], state[o_excess + at : o_excess + end]
        own_share, own_over = share[at:end], over[at:end]
        for j in range(n):
            value = smooth[j] + counts[j] * gain * (r[j] * rate[j] - smooth[j])
            smooth[j] = value
            size = counts[j] * abs(value)
            own_share[j] = size / start[j]
            own_over[j] = max(size - start[j], np.float32(0)) / excess[j]
    largest, most = np.int64(0), np.int64(0)
    for j in range(2 * n):
        largest = max(largest, np.int64(share_bits[j]))
        most = max(most, np.int64(over_bits[j]))
    share_bits[2 * n], over_bits[2 * n] = largest, most
    return tail_surprise(np.float64(share[2 * n]), np.float64(over[2 * n]), BASE)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def name(
    x: NDArray[np.float32],
    wide: NDArray[np.float64],
    joint: NDArray[np.float32],
    z: NDArray[np.float32],
    r: NDArray[np.float32],
    part: NDArray[np.float32],
    counts: NDArray[np.float32],
    near: NDArray[np.float32],
    over: NDArray[np.float32],
    surprise: float,
    as_whole: bool,
    column: NDArray[np.int16],
    expected: NDArray[np.float32],
    share: NDArray[np.float32],
) -> None:
    """Name the TOP columns by their own surprise and their part in how far out the row is.

    part : of the row's square; smoothed, and the main thing, where the row surprises `as_whole`. near, over : what
    `judge` filled; used up.
    """
    d = len(x)
    n = 2 * d
    floor = np.float32(1.0 if as_whole else 0.1)
    for j in range(d):
        near[j] = max(near[j], near[d + j], near[n + j], near[n + d + j])
        over[j] = max(over[j], over[d + j], over[n + j], over[n + d + j])
        own_part = max(part[j], np.float32(0.1))
        near[d + j] = own_part if as_whole else np.sqrt(np.sqrt(own_part))
        near[j] = near[d + j] * (np.float32(BASE) * near[j] + floor)
    for j in range(d):
        weight = near[j]
        if over[j] > np.float32(0):
            weight = near[d + j] * (np.float32(tail_surprise(1.0, np.float64(over[j]), BASE)) + floor)
        at = TOP - 1
        if counts[j] == np.float32(0) or (column[at] >= 0 and share[at] >= weight):
            continue
        while at > 0 and (column[at - 1] < 0 or share[at - 1] < weight):
            column[at], expected[at], share[at] = column[at - 1], expected[at - 1], share[at - 1]
            at -= 1
        implied = wide[j] + wide[n + j] * np.float64(z[j] - r[j] / joint[j, j])
        column[at] = j
        expected[at] = np.float32(min(max(implied, -3e38), 3e38))
        share[at] = weight
    top = share[0]
    for at in range(TOP):
        if column[at] >= 0:
            share[at] = np.float32(surprise * np.float64(share[at] / top))


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def learn_tails(state: NDArray[np.float32], counts: NDArray[np.float32]) -> None:
    """Follow the value that a share TAIL of the smoothed residuals exceeds, and the mean excess above it."""
    n = len(counts)
    o_smooth, o_start, o_excess, _, o_scalar = offsets(n // 2)[8:13]
    told = np.float64(state[o_scalar + TOLD])
    gain = max(0.02 * TAIL_STEP, min(TAIL_STEP, 1.0 / (told * TAIL + 1.0)))
    gain_excess = np.float32(max(0.002, 1.0 / (told * TAIL + 10.0)))
    down, up = np.float32(1.0 - gain * TAIL), np.float32(gain * (1.0 - TAIL))
    for s in range(2):
        least = np.float32(math.sqrt(SMOOTHING[s] / (2.0 - SMOOTHING[s])))
        at, end = s * n, s * n + n
        smooth = state[o_smooth + at : o_smooth + end]
        start, excess = state[o_start + at : o_start + end], state[o_excess + at : o_excess + end]
        for j in range(n):
            begin, mean = start[j], excess[j]
            over = abs(smooth[j]) - begin
            above = over > np.float32(0)
            bound = np.float32(4) * mean
            grown = begin + begin * up * (min(over, bound) / (over if above else np.float32(1)))
            moved = max(grown if above else begin * down, least)
            start[j] = moved if counts[j] > np.float32(0) else begin
            larger = max(mean + gain_excess * (min(over, bound) - mean), np.float32(0.1) * moved)
            excess[j] = larger if above & (counts[j] > np.float32(0)) else mean


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def overall(scalar: NDArray[np.float32], statistic: float) -> float:
    """Surprise of the column statistic by its own tail."""
    if scalar[START] == np.float32(0):
        scalar[START], scalar[EXCESS] = np.float32(OVERALL_START), np.float32(OVERALL_EXCESS)
    start, excess = np.float64(scalar[START]), np.float64(scalar[EXCESS])
    return tail_surprise(statistic / start, (statistic - start) / excess, OVERALL_BASE)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def learn_overall(scalar: NDArray[np.float32], statistic: float) -> None:
    """Follow the value that a share OVERALL_TAIL of the column statistics exceeds, and the mean excess above it."""
    start, excess = float(scalar[START]), float(scalar[EXCESS])
    expected = np.float64(scalar[TOLD]) * OVERALL_TAIL
    gain = max(0.02 * TAIL_STEP, min(TAIL_STEP, 1.0 / (expected + 1.0)))
    if statistic > start:
        over, bound = statistic - start, 4.0 * excess
        excess += max(0.002, 1.0 / (expected + 10.0)) * (min(over, bound) - excess)
        start *= 1.0 + gain * (1.0 - OVERALL_TAIL) * min(1.0, bound / over)
    else:
        start *= 1.0 - gain * OVERALL_TAIL
    start = max(start, START_LEAST)
    scalar[START] = np.float32(start)
    scalar[EXCESS] = np.float32(max(excess, 0.02 * start))
