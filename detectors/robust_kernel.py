"""The compiled half of `detectors.robust`: score a row, then learn it. The rule: a pass is a plain loop over a
group of columns, float32, every load unconditional, NaN handled by selection: so it vectorises.

A slot's row is one group after the other, LANES columns each (the last one padded): float64 locations
[SCALES][LANES], then float32 fields [FIELDS][LANES], as listed below. The constant distances between fields are
what lets the compiler prove that a loop may be vectorised; with [FIELDS][d] it cannot. `_nrt=False`: nothing is
allocated here, so the slices need no reference counts, which cost as much as all the rest.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detectors.protocol import TOP
from detectors.surprise import tail_of_excess

LANES = 8  # columns of a group
SCALES = 3
# float32 fields of a column, numbered behind the locations. S_*: mean absolute residuals; Q_*, B_*: start and
# mean excess of the two tails.
S_FAST, S_MID, S_SLOW, S_LEVEL, Q_POINT, B_POINT, Q_LEVEL, B_LEVEL = range(6, 14)
# The value before and its extremes; half the smallest change seen (0 = has never changed); how often the value
# repeated since it changed, at most ever, and how often it changed; values seen.
LAST, LOW, HIGH, GRAIN, RUN, LONGEST, CHANGES, SEEN = range(14, 22)
FIELDS = 16
WORDS = (SCALES + FIELDS // 2) * LANES  # float64 words of a group
# Parameters of one detector, in the order of `prm`; P_WHITE: mean absolute level of white noise of size 1.
P_GAIN_FAST, P_GAIN_MID, P_GAIN_SLOW, P_WARM, P_LEVEL, P_CLIP = range(6)
P_TAIL, P_SHAPE, P_EXPLAIN, P_TRIES, P_WHITE = range(6, 11)
# Scratch of one row: the values; residuals on each scale, and how far the middle location is from the slow one;
# the two statistics, their larger excess, evidence of being stuck; 1 where the value changed.
X_VALUE, X_OFF, X_APART, X_POINT, X_LEVEL, X_EXCESS, X_STUCK, X_CHANGED = 0, 1, 4, 5, 6, 7, 8, 9
SCRATCH = 10

F = np.float32
ZERO, HALF, ONE, NO_OPINION = F(0.0), F(0.5), F(1.0), F(-2.0)
Q_START, B_START, Q_LEAST, B_LEAST = F(3.0), F(1.0), F(0.5), F(0.1)
STEP_POINT, STEP_LEVEL = F(0.01), F(0.0002)  # how fast the start of a tail is tracked
STEP_B_POINT, STEP_B_LEVEL = F(0.05), F(0.0002)  # how fast its mean excess is
CALM = F(4.0)  # excess from which learning a tail slows down
LEVEL_SLOWER = F(0.125)  # how far apart the locations usually are is learnt slower than the slow one itself
MIN_CHANGES = F(10.0)  # of a value, before it has an opinion
MIN_RUN = F(10.0)  # repeats that are never strange
STUCK_CAP = 30.0
HUGE = F(1e37)  # a larger value is missing
FAR, TINY = F(1e30), F(1e-30)
TINY_SHARE = F(1e-5)  # so that rounding cannot leave a surprising row without its column
MOST = F(16_000_000.0)  # counts stop here: float32 counts no further


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _alive(f: NDArray[np.float32], slot: int, scratch: NDArray[np.float32]) -> bool:
    """Whether the device moves: of the columns that ever changed, a quarter did so now. Fewer than three such
    columns cannot be told from a device at rest, which then counts as moving."""
    known = np.int64(0)
    moved = np.int64(0)
    for c in range(len(scratch)):
        g = f[slot, c]
        for s in range(LANES):
            v = scratch[c, X_VALUE * LANES + s]
            there = (abs(v) <= HUGE) & (g[GRAIN * LANES + s] > ZERO)
            known += np.int64(there)
            moved += np.int64(there & (v != g[LAST * LANES + s]))
    return bool(known < 3 or 4 * moved >= known)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _score(
    where: NDArray[np.float64],
    g: NDArray[np.float32],
    x: NDArray[np.float32],
    step: np.float32,
    prm: NDArray[np.float32],
    lanes: int,
) -> None:
    """Fill the scratch of one group."""
    warm = prm[P_WARM]
    level_from = prm[P_LEVEL]
    white = prm[P_WHITE]
    for s in range(lanes):
        v = np.float64(x[X_VALUE * LANES + s])
        x[X_OFF * LANES + s] = v - where[s]
        x[(X_OFF + 1) * LANES + s] = v - where[LANES + s]
        x[(X_OFF + 2) * LANES + s] = v - where[2 * LANES + s]
        x[X_APART * LANES + s] = where[LANES + s] - where[2 * LANES + s]
    for s in range(lanes):
        v = x[X_VALUE * LANES + s]
        changes = g[CHANGES * LANES + s]
        seen = g[SEEN * LANES + s]
        s0 = g[S_FAST * LANES + s]
        s1 = g[S_MID * LANES + s]
        s2 = g[S_SLOW * LANES + s]
        s3 = g[S_LEVEL * LANES + s]
        q = g[Q_POINT * LANES + s]
        r = g[Q_LEVEL * LANES + s]
        last = g[LAST * LANES + s]
        low = g[LOW * LANES + s]
        high = g[HIGH * LANES + s]
        longest = g[LONGEST * LANES + s]
        u0 = abs(x[X_OFF * LANES + s]) / s0
        u1 = abs(x[(X_OFF + 1) * LANES + s]) / s1
        u2 = abs(x[(X_OFF + 2) * LANES + s]) / s2
        point = u0 if u0 > u1 else u1
        point = point if point > u2 else u2
        point = point if point < FAR else FAR
        least = white * s2
        least = s3 if s3 > least else least
        level = abs(x[X_APART * LANES + s]) / least
        level = level if level < FAR else FAR
        above = (point - q) / g[B_POINT * LANES + s]
        below = point / q - ONE
        e = above if above > ZERO else below
        above = (level - r) / g[B_LEVEL * LANES + s]
        below = level / r - ONE
        drift = above if above > ZERO else below
        drift = drift if seen >= level_from else below
        e = e if (e > drift) | (seen < level_from) else drift
        there = abs(v) <= HUGE
        known = there & (changes >= MIN_CHANGES) & (seen >= warm)
        ratio = (g[RUN * LANES + s] + step) / (longest if longest > MIN_RUN else MIN_RUN) - ONE
        held = known & (v == last) & (last > low) & (last < high) & (ratio > ZERO)
        x[X_POINT * LANES + s] = point
        x[X_LEVEL * LANES + s] = level
        x[X_EXCESS * LANES + s] = e if known else NO_OPINION
        x[X_STUCK * LANES + s] = ratio if held else ZERO
        x[X_CHANGED * LANES + s] = ONE if (there & (v != last) & (seen > ZERO)) else ZERO


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _learn_repeats(g: NDArray[np.float32], x: NDArray[np.float32], step: np.float32, lanes: int) -> None:
    """The fields from LAST to CHANGES of one group."""
    for s in range(lanes):
        v = x[X_VALUE * LANES + s]
        last = g[LAST * LANES + s]
        grain = g[GRAIN * LANES + s]
        run = g[RUN * LANES + s]
        longest = g[LONGEST * LANES + s]
        changes = g[CHANGES * LANES + s]
        low = g[LOW * LANES + s]
        high = g[HIGH * LANES + s]
        first = g[SEEN * LANES + s] == ZERO
        ok = abs(v) <= HUGE
        starts = first & ok
        changed = x[X_CHANGED * LANES + s] > ZERO
        change = HALF * abs(v - last)
        change = change if change > TINY else TINY
        finer = changed & ((grain == ZERO) | (change < grain))
        longer = changed & (run > longest)
        more = run + step
        more = more if more < MOST else MOST
        more = ZERO if (changed | first) else more
        counted = changes + ONE if changes < MOST else changes
        g[LAST * LANES + s] = v if ok else last
        g[GRAIN * LANES + s] = change if finer else grain
        g[RUN * LANES + s] = more if ok else run
        g[LONGEST * LANES + s] = run if longer else longest
        g[CHANGES * LANES + s] = counted if changed else changes
        g[LOW * LANES + s] = v if (starts | (ok & (v < low))) else low
        g[HIGH * LANES + s] = v if (starts | (ok & (v > high))) else high


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _learn_sizes(g: NDArray[np.float32], x: NDArray[np.float32], prm: NDArray[np.float32], lanes: int) -> None:
    """The mean absolute residuals, of rows that changed the value; leaves in the scratch each location's move."""
    warm = prm[P_WARM]
    clip = prm[P_CLIP]
    white = prm[P_WHITE]
    slowest = prm[P_GAIN_SLOW] * LEVEL_SLOWER
    level_from = prm[P_LEVEL]
    for k in range(SCALES):
        least_gain = prm[P_GAIN_FAST + k]
        for s in range(lanes):
            seen = g[SEEN * LANES + s]
            grain = g[GRAIN * LANES + s]
            size = g[(S_FAST + k) * LANES + s]
            off = x[(X_OFF + k) * LANES + s]
            changes = g[CHANGES * LANES + s]
            early = (seen < warm) | (changes < warm)
            bound = (size if size > grain else grain) * (FAR if early else clip)
            off = off if off > -bound else -bound
            off = off if off < bound else bound
            gain = ONE / (seen + ONE)
            gain = gain if gain > least_gain else least_gain
            ok = abs(x[X_VALUE * LANES + s]) <= HUGE
            x[(X_OFF + k) * LANES + s] = gain * off if ok else ZERO
            gain = ONE / changes
            gain = gain if gain > least_gain else least_gain
            grown = size + gain * (abs(off) - size)
            grown = grown if grown > grain else grain
            g[(S_FAST + k) * LANES + s] = grown if x[X_CHANGED * LANES + s] > ZERO else size
    for s in range(lanes):
        seen = g[SEEN * LANES + s]
        size = g[S_LEVEL * LANES + s]
        least = white * g[S_SLOW * LANES + s]
        apart = abs(x[X_APART * LANES + s])
        gain = ONE / g[CHANGES * LANES + s]
        gain = gain if gain > slowest else slowest
        bound = (size if size > least else least) * (FAR if seen < level_from else clip)
        apart = apart if apart < bound else bound
        grown = size + gain * (apart - size)
        grown = grown if grown > least else least
        g[S_LEVEL * LANES + s] = grown if x[X_CHANGED * LANES + s] > ZERO else size


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _learn_places(where: NDArray[np.float64], g: NDArray[np.float32], x: NDArray[np.float32], lanes: int) -> None:
    """Move the locations and count the value; a column's first value sets all that needs a start."""
    for k in range(SCALES):
        for s in range(lanes):
            v = x[X_VALUE * LANES + s]
            starts = (g[SEEN * LANES + s] == ZERO) & (abs(v) <= HUGE)
            moved = where[k * LANES + s] + np.float64(x[(X_OFF + k) * LANES + s])
            where[k * LANES + s] = np.float64(v) if starts else moved
    for s in range(lanes):
        seen = g[SEEN * LANES + s]
        ok = abs(x[X_VALUE * LANES + s]) <= HUGE
        starts = (seen == ZERO) & ok
        counted = seen + ONE if seen < MOST else seen
        q = g[Q_POINT * LANES + s]
        e = g[B_POINT * LANES + s]
        r = g[Q_LEVEL * LANES + s]
        h = g[B_LEVEL * LANES + s]
        g[SEEN * LANES + s] = counted if ok else seen
        g[Q_POINT * LANES + s] = Q_START if starts else q
        g[B_POINT * LANES + s] = B_START if starts else e
        g[Q_LEVEL * LANES + s] = Q_START if starts else r
        g[B_LEVEL * LANES + s] = B_START if starts else h


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _learn_tail(
    g: NDArray[np.float32],
    x: NDArray[np.float32],
    k: int,
    tail: np.float32,
    step_q: np.float32,
    step_b: np.float32,
    lanes: int,
) -> None:
    """Move a tail's start so that a share `tail` of the statistic lies above it, and its mean excess; only where
    the column has an opinion, and the less the more surprising the row is."""
    up = step_q * (ONE - tail)
    down = step_q * tail
    for s in range(lanes):
        known = (x[X_EXCESS * LANES + s] > NO_OPINION) & (x[X_CHANGED * LANES + s] > ZERO)
        m = x[(X_POINT + k) * LANES + s]
        q = g[(Q_POINT + 2 * k) * LANES + s]
        e = g[(B_POINT + 2 * k) * LANES + s]
        over = m - q
        above = over > ZERO
        most = CALM * e
        weight = most / over
        weight = weight if weight < ONE else ONE
        moved = q + q * (weight * up if above else -down)
        moved = moved if moved > Q_LEAST else Q_LEAST
        moved = moved if moved < FAR else FAR
        grown = e + weight * step_b * ((over if over < most else most) - e)
        grown = grown if above else e
        least = B_LEAST * moved
        grown = grown if grown > least else least
        g[(Q_POINT + 2 * k) * LANES + s] = moved if known else q
        g[(B_POINT + 2 * k) * LANES + s] = grown if known else e


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _own(g: NDArray[np.float32], x: NDArray[np.float32], s: int, prm: NDArray[np.float32]) -> float:
    """A column's own surprise: the largest of its three kinds of evidence, before any correction."""
    stuck = 0.0
    if x[X_STUCK * LANES + s] > ZERO:
        rate = min(1.0, 0.5 * np.log10(1.0 + np.float64(g[CHANGES * LANES + s])))
        stuck = min(STUCK_CAP, rate * np.float64(x[X_STUCK * LANES + s]))
    excess = np.float64(x[X_EXCESS * LANES + s])
    return max(stuck, tail_of_excess(excess, np.float64(prm[P_TAIL]), np.float64(prm[P_SHAPE])))


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _expected(where: NDArray[np.float64], g: NDArray[np.float32], x: NDArray[np.float32], s: int) -> float:
    """The location that the value is furthest from, or the slow one where the level is the stranger of the two."""
    point = x[X_POINT * LANES + s] / g[Q_POINT * LANES + s]
    if x[X_LEVEL * LANES + s] / g[Q_LEVEL * LANES + s] > point:
        return where[2 * LANES + s]
    best = 0
    most = NO_OPINION
    for k in range(SCALES):
        far = abs(x[(X_OFF + k) * LANES + s]) / g[(S_FAST + k) * LANES + s]
        if far > most:
            most = far
            best = k
    return where[best * LANES + s]


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _explain(
    loc: NDArray[np.float64],
    f: NDArray[np.float32],
    slot: int,
    scratch: NDArray[np.float32],
    prm: NDArray[np.float32],
    column: NDArray[np.int16],
    expected: NDArray[np.float32],
    share: NDArray[np.float32],
) -> None:
    """Name the columns whose own surprise reaches explain_from, the most surprised first, at most TOP."""
    kinds = np.log10(3.0)
    least = prm[P_EXPLAIN] - TINY_SHARE
    found = 0
    for s in range(len(scratch) * LANES):
        c = s // LANES
        x = scratch[c]
        if x[X_EXCESS * LANES + s % LANES] <= NO_OPINION:
            continue
        g = f[slot, c]
        own = np.float32(max(0.0, _own(g, x, s % LANES, prm) - kinds))
        if own < least:
            continue
        at = found
        while at > 0 and share[at - 1] < own:
            at -= 1
        if at >= TOP:
            continue
        for j in range(min(found, TOP - 1), at, -1):
            column[j] = column[j - 1]
            expected[j] = expected[j - 1]
            share[j] = share[j - 1]
        column[at] = s
        expected[at] = _expected(loc[slot, c], g, x, s % LANES)
        share[at] = own
        found = min(found + 1, TOP)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _opinion(f: NDArray[np.float32], slot: int, scratch: NDArray[np.float32], prm: NDArray[np.float32]) -> float:
    """The row's surprise before the correction for the number of columns; NaN = no opinion."""
    excess = NO_OPINION
    stuck = ZERO
    for c in range(len(scratch)):
        for s in range(LANES):
            e = scratch[c, X_EXCESS * LANES + s]
            h = scratch[c, X_STUCK * LANES + s]
            excess = e if e > excess else excess
            stuck = h if h > stuck else stuck
    if excess <= NO_OPINION:
        return np.nan
    best = tail_of_excess(np.float64(excess), np.float64(prm[P_TAIL]), np.float64(prm[P_SHAPE]))
    if stuck > ZERO:
        for c in range(len(scratch)):
            for s in range(LANES):
                if scratch[c, X_STUCK * LANES + s] > ZERO:
                    best = max(best, _own(f[slot, c], scratch[c], s, prm))
    return best


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def update_rows(
    slots: NDArray[np.int32],
    values: NDArray[np.float32],
    loc: NDArray[np.float64],
    f: NDArray[np.float32],
    prm: NDArray[np.float32],
    scratch: NDArray[np.float32],
    lanes: int,
    surprise: NDArray[np.float32],
    column: NDArray[np.int16],
    expected: NDArray[np.float32],
    share: NDArray[np.float32],
) -> int:
    """Score and learn every row; the first row whose slot is out of range stops it. Returns that row, or -1.

    `loc` and `f` are two views of the same rows; `scratch` is (groups, SCRATCH * LANES), NaN where a group has
    no column. `lanes` is LANES, as a value that the compiler does not know:
    knowing that a loop is short, it would unroll rather than vectorise it.
    """
    for i in range(len(slots)):
        slot = np.int64(slots[i])
        if slot < 0 or slot >= len(loc):
            return i
        for s in range(values.shape[1]):
            scratch[s // LANES, X_VALUE * LANES + s % LANES] = values[i, s]
        step = ONE if _alive(f, slot, scratch) else ZERO
        for c in range(len(scratch)):
            _score(loc[slot, c], f[slot, c], scratch[c], step, prm, lanes)
        best = _opinion(f, slot, scratch, prm)
        if best >= 0.0:
            score = np.float32(max(0.0, best - np.float64(prm[P_TRIES])))
            surprise[i] = score
            if score >= prm[P_EXPLAIN]:
                _explain(loc, f, slot, scratch, prm, column[i], expected[i], share[i])
        for c in range(len(scratch)):
            where = loc[slot, c]
            g = f[slot, c]
            x = scratch[c]
            if best >= 0.0:
                _learn_tail(g, x, 0, prm[P_TAIL], STEP_POINT, STEP_B_POINT, lanes)
                _learn_tail(g, x, 1, prm[P_TAIL], STEP_LEVEL, STEP_B_LEVEL, lanes)
            _learn_repeats(g, x, step, lanes)
            _learn_sizes(g, x, prm, lanes)
            _learn_places(where, g, x, lanes)
    return -1
