"""How strange the residuals of a row are, and who is guilty. The rule: each residual is measured by its own past.

Part of `detectors.covariance_kernel`; `state` and the offsets are those of `detectors.covariance_matrix`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detectors.covariance_matrix import EXCESS, START, TOLD, offsets
from detectors.protocol import TOP

SMOOTHING = (0.1, 0.03)  # of the residuals, over about ten and about thirty rows
TAIL, TAIL_STEP, TAIL_SHAPE = 0.01, 0.01, 0.1  # share above a tail's start, how fast that is followed, Pareto shape
LOG_TENTH = 0.43429448
#: The same of the column statistic, and where its start and mean excess begin; it starts no lower than START_LEAST.
OVERALL_TAIL, OVERALL_START, OVERALL_EXCESS, START_LEAST = 0.002, 3.0, 0.1, 0.5


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def own_surprise(size: float, start: float, excess: float, tail: float) -> float:
    """-log10 p by a learnt tail: straight below its start, which a share `tail` exceeds, Pareto above."""
    base = -math.log10(tail)
    if size <= start:
        return base * size / start
    return base + LOG_TENTH * math.log1p(TAIL_SHAPE * (size - start) / excess) / TAIL_SHAPE


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def judge(
    state: NDArray[np.float32],
    there: NDArray[np.bool_],
    r: NDArray[np.float32],
    d: int,
) -> float:
    """Smooth the residuals r = (precision z); the largest surprise of any."""
    n = 2 * d
    o_live, o_rate, o_smooth, o_start, o_excess = offsets(d)[4:9]
    best = np.float32(0)
    above = -1.0
    base = np.float32(-math.log10(TAIL))
    for s in range(2):
        gain = np.float32(SMOOTHING[s])
        smooth = state[o_smooth + s * n : o_smooth + s * n + n]
        start = state[o_start + s * n : o_start + s * n + n]
        white = np.float32(math.sqrt(SMOOTHING[s] / (2.0 - SMOOTHING[s])))
        for j in range(n):
            if not (there[j] and state[o_live + j] > np.float32(0)):
                continue
            if start[j] == np.float32(0):
                start[j] = np.float32(2) * white
                state[o_excess + s * n + j] = np.float32(0.5) * white
            smooth[j] += gain * (r[j] * state[o_rate + j] - smooth[j])
            share = abs(smooth[j]) / start[j]
            best = max(best, share)
            if share > np.float32(1):
                excess = np.float64(state[o_excess + s * n + j])
                above = max(above, own_surprise(np.float64(abs(smooth[j])), np.float64(start[j]), excess, TAIL))
    return max(above, np.float64(base * best) if best <= np.float32(1) else above)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def name(
    x: NDArray[np.float32],
    state: NDArray[np.float32],
    wide: NDArray[np.float64],
    joint: NDArray[np.float32],
    z: NDArray[np.float32],
    r: NDArray[np.float32],
    far: NDArray[np.float32],
    u: NDArray[np.float32],
    there: NDArray[np.bool_],
    surprise: float,
    column: NDArray[np.int16],
    expected: NDArray[np.float32],
    share: NDArray[np.float32],
) -> None:
    """Name the TOP columns: by their own surprise, and by the root of their part in how far out the row is."""
    d = len(x)
    n = 2 * d
    o_live, _, o_smooth, o_start, o_excess = offsets(d)[4:9]
    for j in range(d):
        if not (there[j] and state[o_live + j] > np.float32(0)):
            continue
        own = 0.0
        for s in range(2):
            for k in range(j, n, d):
                at = s * n + k
                if there[k] and state[o_live + k] > np.float32(0):
                    size = np.float64(abs(state[o_smooth + at]))
                    own = max(
                        own,
                        own_surprise(size, np.float64(state[o_start + at]), np.float64(state[o_excess + at]), TAIL),
                    )
        part = np.float64(far[j] * u[j]) + np.float64(far[d + j] * far[d + j])
        weight = np.float32((own + 0.1) * math.sqrt(max(part, 0.1)))
        at = TOP - 1
        if column[at] >= 0 and share[at] >= weight:
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
def learn_tails(state: NDArray[np.float32], there: NDArray[np.bool_], d: int) -> None:
    """Follow the value that a share TAIL of the smoothed residuals exceeds, and the mean excess above it."""
    n = 2 * d
    o_live, _, o_smooth, o_start, o_excess, o_scalar = offsets(d)[4:10]
    told = np.float64(state[o_scalar + TOLD])
    gain = max(0.02 * TAIL_STEP, min(TAIL_STEP, 1.0 / (told * TAIL + 1.0)))
    gain_excess = np.float32(max(0.002, 1.0 / (told * TAIL + 10.0)))
    down, up = np.float32(1.0 - gain * TAIL), np.float32(gain * (1.0 - TAIL))
    for s in range(2):
        least = np.float32(math.sqrt(SMOOTHING[s] / (2.0 - SMOOTHING[s])))
        smooth = state[o_smooth + s * n : o_smooth + s * n + n]
        start = state[o_start + s * n : o_start + s * n + n]
        for j in range(n):
            counts = there[j] & (state[o_live + j] > np.float32(0))
            if counts & (abs(smooth[j]) > start[j]):
                excess = state[o_excess + s * n + j]
                over = abs(smooth[j]) - start[j]
                bound = np.float32(4) * excess
                start[j] = max(start[j] + start[j] * up * min(np.float32(1), bound / over), least)
                excess += gain_excess * (min(over, bound) - excess)
                state[o_excess + s * n + j] = max(excess, np.float32(0.1) * start[j])
            else:
                start[j] = max(start[j] * down, least) if counts else start[j]


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def overall(scalar: NDArray[np.float32], statistic: float) -> float:
    """Surprise of the column statistic by its own tail."""
    if scalar[START] == np.float32(0):
        scalar[START], scalar[EXCESS] = np.float32(OVERALL_START), np.float32(OVERALL_EXCESS)
    return own_surprise(statistic, np.float64(scalar[START]), np.float64(scalar[EXCESS]), OVERALL_TAIL)


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
