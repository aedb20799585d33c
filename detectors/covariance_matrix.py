"""What a slot of `detectors.covariance` holds, and its matrices: from a learnt covariance to what scores rows. The
rule: what is not learnt well enough stands alone, and no number that leaves here is NaN or infinite.

A device's features are its d values and, behind them, d logarithms of how much each value moved lately. A slot's
numbers: `wide` float64 [mean | unit] of the 2 d features; `state` float32, the packed lower triangle of their
covariance in those units, then the fields that `offsets` lists; the two precision matrices, which only a refresh
changes.

Units: a device's covariance is kept in units of its own standard deviations (float32 then holds any signal), and
each refresh moves the units along.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: Parameters of one detector, in the order of `prm`; P_TRIES: log10 of the statistics that are looked at.
P_ALPHA, P_WARM, P_SHRINK, P_HOLD, P_HOLD_ROWS, P_EXPLAIN, P_TRIES = range(7)
#: Scalars of a slot: rows learnt, rows at the next refresh, usual size of a row, length of the stretch of alarms,
#: smoothed log size of a row, rows scored; 1 = the matrices are there; rows of its own; start and mean excess
#: of the column statistic's tail; rows that wait to be learnt into the covariance; what its share is by then.
N, NEXT, USUAL, HELD, WHOLE, TOLD, READY, OWN, START, EXCESS, WAITING, KEPT = range(12)
SCALARS = 12
#: Rows that are learnt into the covariance at once: it is by far the most that a row touches.
BATCH = 8
SMOOTHING = (0.1, 0.03)  # of the residuals, over about ten and about thirty rows
GROWTH, EVERY = 1.2, 500.0  # a refresh when the rows grew so much, or so many came
#: Shrinkage of the second matrix, of the values alone, which weighs how far the row as a whole is out.
SHRINK_WHOLE = 0.5
#: A standard deviation is at least this share of the mean: what float32 can tell.
GRAIN = 1e-6
#: Pivots below this mean that the correlations contradict each other (learnt from different rows).
PIVOT = 1e-5
_HALVINGS = 20


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def offsets(d: int) -> tuple[int, int, int, int, int, int, int, int, int, int, int, int, int]:
    """Where the fields of `state` begin: fast and slow mean square of steps, last value, values seen, mean square,
    smoothed part in the row's square (d each); 1 = the feature counts, 1 / sqrt of its precision (2 d each);
    smoothed residuals, starts of their tails, mean excesses (2 scales of 2 d each); rows that wait (BATCH of 2 d);
    scalars. The covariance begins at 0."""
    n = 2 * d
    at = n * (n + 1) // 2
    return (
        at,
        at + d,
        at + 2 * d,
        at + 3 * d,
        at + 4 * d,
        at + 5 * d,
        at + 6 * d,
        at + 6 * d + n,
        at + 6 * d + 2 * n,
        at + 6 * d + 4 * n,
        at + 6 * d + 6 * n,
        at + 6 * d + 8 * n,
        at + 6 * d + (8 + BATCH) * n,
    )


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def invert(a: NDArray[np.float64], row: NDArray[np.float64]) -> bool:
    """Sweep a symmetric matrix in place: its lower triangle becomes that of minus the inverse. False = not positive
    definite.

    row : scratch, apart from the matrix so that the compiler sees that the two do not overlap.
    """
    n = len(a)
    for k in range(n):
        pivot = a[k, k]
        if not pivot > PIVOT:
            return False
        inverse = 1.0 / pivot
        for j in range(n):
            row[j] = a[k, j] if j < k else a[j, k]
        for i in range(n):
            f = row[i] * inverse
            own = a[i]
            if f != 0.0:
                for j in range(i + 1):
                    own[j] -= f * row[j]
        for j in range(k):
            a[k, j] = row[j] * inverse
        for i in range(k + 1, n):
            a[i, k] = row[i] * inverse
        a[k, k] = -inverse
    return True


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def precision(
    cov: NDArray[np.float32],
    live: NDArray[np.float32],
    n: int,
    shrink: float,
    work: NDArray[np.float64],
    row: NDArray[np.float64],
    out: NDArray[np.float32],
) -> None:
    """Fill `out` (n, n) with the inverse of the first n live features' shrunk covariance; the others stand alone.

    cov : packed lower triangle. work : (n, n), row : (n,) scratch. Should the matrix not be positive definite,
    which may be where signals were missing at different times, its covariances are halved until it is.
    """
    keep = 1.0 - shrink
    for _ in range(_HALVINGS):
        for j in range(n):
            at = j * (j + 1) // 2
            for k in range(j):
                both = live[j] > np.float32(0) and live[k] > np.float32(0)
                value = keep * np.float64(cov[at + k]) if both else 0.0
                work[j, k] = value
            work[j, j] = (1.0 - shrink) * np.float64(cov[at + j]) + shrink if live[j] > np.float32(0) else 1.0
        if invert(work[:n, :n], row):
            break
        keep *= 0.5
    for j in range(n):
        for k in range(j + 1):
            out[j, k] = np.float32(-work[j, k])
            out[k, j] = out[j, k]


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def rescale(
    cov: NDArray[np.float32],
    unit: NDArray[np.float64],
    mean: NDArray[np.float64],
    live: NDArray[np.float32],
    fast: NDArray[np.float32],
    slow: NDArray[np.float32],
    spread: NDArray[np.float32],
    factor: NDArray[np.float64],
) -> None:
    """Make the units of live features their standard deviations; fast, slow, spread : mean squares of the values.

    factor : scratch.
    """
    n, d = len(unit), len(fast)
    for j in range(n):
        factor[j] = 1.0
        if live[j] > np.float32(0):
            own = math.sqrt(np.float64(cov[j * (j + 1) // 2 + j]))
            factor[j] = max(own, GRAIN * abs(mean[j]) / unit[j]) if j < d else max(own, GRAIN)
    for j in range(n):
        at = j * (j + 1) // 2
        for k in range(j + 1):
            cov[at + k] = np.float32(np.float64(cov[at + k]) / (factor[j] * factor[k]))
        unit[j] *= factor[j]
        if j < d:
            square = factor[j] * factor[j]
            fast[j] = np.float32(np.float64(fast[j]) / square)
            slow[j] = np.float32(np.float64(slow[j]) / square)
            spread[j] = np.float32(np.float64(spread[j]) / square)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def fill(
    z: NDArray[np.float32],
    there: NDArray[np.float32],
    live: NDArray[np.float32],
    inverse: NDArray[np.float32],
    gone: NDArray[np.int64],
    factor: NDArray[np.float64],
    right: NDArray[np.float64],
) -> None:
    """Fill z where a live feature is missing with what the others imply (their residuals become 0).

    A Cholesky solution of the missing part of the precision matrix. gone, factor, right : scratch.
    """
    n, m = len(z), 0
    for j in range(n):
        if live[j] > np.float32(0) and there[j] == np.float32(0):
            gone[m] = j
            m += 1
    for a in range(m):
        j = gone[a]
        u = 0.0
        for k in range(n):  # z of what is missing is 0
            u -= np.float64(inverse[j, k]) * np.float64(z[k])
        right[a] = u
        for b in range(a + 1):
            u = np.float64(inverse[j, gone[b]])
            for c in range(b):
                u -= factor[a, c] * factor[b, c]
            factor[a, b] = u / factor[b, b] if b < a else math.sqrt(max(u, 1e-9))
        for c in range(a):
            right[a] -= factor[a, c] * right[c]
        right[a] /= factor[a, a]
    for a in range(m - 1, -1, -1):
        for c in range(a + 1, m):
            right[a] -= factor[c, a] * right[c]
        right[a] /= factor[a, a]
    for a in range(m):
        z[gone[a]] = np.float32(right[a])


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def settle(state: NDArray[np.float32], n: int) -> None:
    """Learn the rows that wait into the covariance."""
    o_wait, o_scalar = offsets(n // 2)[11:]
    scalar = state[o_scalar:]
    if scalar[WAITING] == np.float32(0):
        return
    kept = scalar[KEPT]
    a, b, c, e = state[o_wait:], state[o_wait + n :], state[o_wait + 2 * n :], state[o_wait + 3 * n :]
    s, t, u, v = state[o_wait + 4 * n :], state[o_wait + 5 * n :], state[o_wait + 6 * n :], state[o_wait + 7 * n :]
    at = 0
    for j in range(n):
        row = state[at : at + j + 1]
        a1, b1, c1, e1 = kept * a[j], kept * b[j], kept * c[j], kept * e[j]
        s1, t1, u1, v1 = kept * s[j], kept * t[j], kept * u[j], kept * v[j]
        for k in range(j + 1):
            one = (a1 * a[k] + b1 * b[k]) + (c1 * c[k] + e1 * e[k])
            two = (s1 * s[k] + t1 * t[k]) + (u1 * u[k] + v1 * v[k])
            row[k] = kept * row[k] + (one + two)
        at += j + 1
    for j in range(BATCH * n):
        state[o_wait + j] = np.float32(0)
    scalar[WAITING] = np.float32(0)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def refresh(
    state: NDArray[np.float32],
    wide: NDArray[np.float64],
    joint: NDArray[np.float32],
    whole: NDArray[np.float32],
    prm: NDArray[np.float64],
    work: NDArray[np.float64],
    row: NDArray[np.float64],
) -> None:
    """Derive both precision matrices of one slot from its covariance. work : (2 d, 2 d), row : (2 d,) scratch."""
    n = len(joint)
    d = n // 2
    o_fast, o_slow, o_last, o_seen, o_spread, o_part, o_live, o_rate, _, o_start, o_excess, _, o_scalar = offsets(d)
    settle(state, n)
    live = state[o_live:o_rate]
    known = False
    for j in range(n):
        enough = state[o_seen + j % d] >= prm[P_WARM] and state[j * (j + 1) // 2 + j] > np.float32(0)
        live[j] = np.float32(enough)
        known |= enough
    fast, slow, spread = state[o_fast:o_slow], state[o_slow:o_last], state[o_spread:o_part]
    rescale(state, wide[n:], wide[:n], live, fast, slow, spread, row)
    rows = np.float64(state[o_scalar + N])
    shrink = min(0.5, prm[P_SHRINK] + 0.25 * n / max(rows, 1.0))
    precision(state, live, n, shrink, work, row, joint)
    precision(state, live, d, SHRINK_WHOLE, work, row, whole)
    for j in range(n):
        state[o_rate + j] = np.float32(1.0 / math.sqrt(np.float64(joint[j, j])))
    for j in range(4 * d):
        if state[o_start + j] == np.float32(0):
            gain = SMOOTHING[j // n]
            white = np.float32(math.sqrt(gain / (2.0 - gain)))
            state[o_start + j], state[o_excess + j] = np.float32(2) * white, np.float32(0.5) * white
    state[o_scalar + READY] = np.float32(known)
    state[o_scalar + NEXT] = np.float32(min(rows + EVERY, math.floor(rows * GROWTH) + 1.0))
