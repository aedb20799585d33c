"""The compiled inner loop of `detectors.rules`. The rule: no value is measured by an impossible one."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detectors.protocol import TOP
from detectors.surprise import CAP

#: Longest run of missing values, and of rows that crowd, that is counted; far beyond any threshold.
RUN_MAX = 10_000
#: No value that a sensor means is as large, nor an infinity.
HUGE = np.float32(1e30)
#: Seconds after which a value is no measure of the next one; also the longest time that is counted.
FAR = 1e6
#: Share by which a figure may pass what is declared: float32 rounds.
SLACK = 1e-6

# Counts of a column, int32.
SEEN, RUN, COUNTS = 0, 1, 2
# Figures of a column, float32: the last possible value, the last one that differed from it, seconds that it has
# repeated while the device was in use, seconds from it to the device's last row.
LAST, OTHER, HELD, AGE, FIGURES = 0, 1, 2, 3, 4
# Words of a slot, int64: event time of its last row, rows that crowd, whether it ever had a row.
W_TS, W_CROWD, W_STARTED, WORDS = 0, 1, 2, 3
# Parameters, float64. P_FLOOD_US : steps below it crowd; 0 = no flood is looked for.
(P_KNOWN, P_MISSING, P_IMPOSSIBLE, P_EXPLAIN, P_TRIES) = range(5)
(P_STUCK, P_PERIOD_S, P_GAP_S, P_FLOOD_US, P_FLOOD_ROWS) = range(5, 10)
# Rows of `declared`, float32 (4, d): infinite where nothing is.
D_LOW, D_HIGH, D_RATE, D_STUCK = range(4)
#: A repeated value is never as sure as an impossible one: its surprise stays below by this factor.
STUCK_MOST = 0.9


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _name(
    j: int,
    own: np.float32,
    target: float,
    column: NDArray[np.int16],
    expected: NDArray[np.float32],
    share: NDArray[np.float32],
) -> None:
    """Put a column among the guilty ones, guiltiest first."""
    at = TOP - 1
    if column[at] >= 0 and share[at] >= own:
        return
    while at > 0 and (column[at - 1] < 0 or share[at - 1] < own):
        column[at] = column[at - 1]
        expected[at] = expected[at - 1]
        share[at] = share[at - 1]
        at -= 1
    column[at] = j
    expected[at] = target
    share[at] = own


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _crowd(words: NDArray[np.int64], ts: int, prm: NDArray[np.float64]) -> tuple[float, bool]:
    """Seconds since the slot's last row, FAR where that says nothing, and whether rows come far too fast."""
    step_s = FAR
    if words[W_STARTED] > 0 and ts >= words[W_TS]:
        step_us = np.float64(ts) - np.float64(words[W_TS])
        step_s = min(FAR, step_us * 1e-6)
        fast = prm[P_FLOOD_US]
        if step_us < fast:
            words[W_CROWD] = min(words[W_CROWD] + 1, RUN_MAX)
        elif fast > 0.0:
            words[W_CROWD] = max(0, words[W_CROWD] - np.int64(min(step_us / fast, np.float64(RUN_MAX))))
    words[W_STARTED] = 1
    words[W_TS] = ts
    return step_s, prm[P_FLOOD_US] > 0.0 and words[W_CROWD] >= prm[P_FLOOD_ROWS]


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _any_there(row: NDArray[np.float32]) -> bool:
    """Whether a row has a value at all."""
    present = False
    for j in range(len(row)):
        present |= abs(row[j]) < HUGE
    return present


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _moves(row: NDArray[np.float32], counts: NDArray[np.int32], figures: NDArray[np.float32]) -> tuple[int, int]:
    """Columns present that ever changed, and those of them that change now."""
    known = 0
    moved = 0
    for j in range(len(row)):
        if abs(row[j]) < HUGE and counts[SEEN, j] > 0 and figures[OTHER, j] != figures[LAST, j]:
            known += 1
            moved += row[j] != figures[LAST, j]
    return known, moved


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _impossible(
    x: np.float32, j: int, gap_s: float, last: np.float32, declared: NDArray[np.float32], prm: NDArray[np.float64]
) -> tuple[bool, float]:
    """Whether a value is out of its range, or too far from the last; then also the nearest that is possible."""
    if x < declared[D_LOW, j]:
        return True, np.float64(declared[D_LOW, j])
    if x > declared[D_HIGH, j]:
        return True, np.float64(declared[D_HIGH, j])
    if not (gap_s > 0.0 and gap_s <= prm[P_GAP_S]):
        return False, 0.0
    allowed = np.float64(declared[D_RATE, j]) * max(gap_s, prm[P_PERIOD_S])
    moved = np.float64(x) - np.float64(last)
    slack = SLACK * (allowed + abs(np.float64(x)) + abs(np.float64(last)))
    if abs(moved) <= allowed + slack:
        return False, 0.0
    nearest = np.float64(last) + (allowed if moved > 0.0 else -allowed)
    return True, min(max(nearest, np.float64(declared[D_LOW, j])), np.float64(declared[D_HIGH, j]))


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _ordinary(
    x: np.float32, j: int, reach_s: float, declared: NDArray[np.float32], figures: NDArray[np.float32]
) -> bool:
    """Whether a value is new, possible, and comes right after the last, as nearly all do; then it is kept.

    Nothing else is done than `_follow` would do, only sooner. reach_s : time that a change may have taken.
    """
    last = figures[LAST, j]
    if x == last or figures[AGE, j] != 0.0 or x < declared[D_LOW, j] or x > declared[D_HIGH, j]:
        return False
    if abs(np.float64(x) - np.float64(last)) > np.float64(declared[D_RATE, j]) * reach_s:
        return False
    figures[OTHER, j] = last
    figures[LAST, j] = x
    figures[HELD, j] = 0.0
    return True


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _follow(
    x: np.float32,
    j: int,
    step_s: float,
    idle: bool,
    first: bool,
    declared: NDArray[np.float32],
    prm: NDArray[np.float64],
    figures: NDArray[np.float32],
) -> tuple[float, float]:
    """Own surprise of a present value, and what was expected; then keep it, unless it is impossible."""
    last = figures[LAST, j]
    gap_s = FAR if first else min(FAR, np.float64(figures[AGE, j]) + step_s)
    wrong, target = _impossible(x, j, gap_s, last, declared, prm)
    if first:
        figures[LAST, j] = np.float32(target) if wrong else x
        figures[OTHER, j] = figures[LAST, j]
        figures[HELD, j] = 0.0
        figures[AGE, j] = FAR if wrong else 0.0
        return (prm[P_IMPOSSIBLE] if wrong else 0.0), target
    if wrong:
        figures[AGE, j] = gap_s
        return prm[P_IMPOSSIBLE], target
    figures[AGE, j] = 0.0
    if x != last:
        figures[OTHER, j] = last
        figures[LAST, j] = x
        figures[HELD, j] = 0.0
        return 0.0, 0.0
    if idle:
        return 0.0, 0.0
    if step_s < FAR:
        figures[HELD, j] = min(FAR, np.float64(figures[HELD, j]) + min(step_s, prm[P_GAP_S]))
    if not figures[HELD, j] > declared[D_STUCK, j]:
        return 0.0, 0.0
    times = np.float64(figures[HELD, j]) / np.float64(declared[D_STUCK, j])
    return min(prm[P_STUCK] * times, STUCK_MOST * prm[P_IMPOSSIBLE]), np.float64(x)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def update_rows(
    slots: NDArray[np.int32],
    ts_us: NDArray[np.int64],
    values: NDArray[np.float32],
    declared: NDArray[np.float32],
    prm: NDArray[np.float64],
    counts: NDArray[np.int32],
    figures: NDArray[np.float32],
    words: NDArray[np.int64],
    surprise: NDArray[np.float32],
    column: NDArray[np.int16],
    expected: NDArray[np.float32],
    share: NDArray[np.float32],
) -> int:
    """Judge every row; the first row whose slot is out of range stops it. Returns that row, or -1.

    counts : (slots, COUNTS, d). figures : (slots, FIGURES, d), (slots, 0, d) where no rate nor stuck time is
    declared. words : (slots, WORDS), (slots, 0) where there is no use for a row's time.
    """
    d = values.shape[1]
    follows = figures.shape[1] > 0
    timed = words.shape[1] > 0
    known_rows = np.int32(prm[P_KNOWN])
    for i in range(len(slots)):
        slot = np.int64(slots[i])
        if slot < 0 or slot >= len(counts):
            return i
        if not _any_there(values[i]):
            continue
        count = counts[slot]
        figure = figures[slot]
        step_s, flood = _crowd(words[slot], ts_us[i], prm) if timed else (FAR, False)
        reach_s = max(step_s, prm[P_PERIOD_S]) if step_s > 0.0 and step_s <= prm[P_GAP_S] else np.inf
        known, moved = _moves(values[i], count, figure) if follows else (0, 0)
        best = -1.0
        for j in range(d):
            x = values[i, j]
            own = 0.0
            target = np.nan
            seen = count[SEEN, j]
            if abs(x) < HUGE:
                count[RUN, j] = 0
                count[SEEN, j] = min(seen + 1, known_rows)
                if follows and not (seen > 0 and _ordinary(x, j, reach_s, declared, figure)):
                    others = known - np.int64(figure[OTHER, j] != figure[LAST, j])
                    idle = others >= 3 and 4 * moved < others
                    own, target = _follow(x, j, step_s, idle, seen == 0, declared, prm, figure)
                elif not follows and (x < declared[D_LOW, j] or x > declared[D_HIGH, j]):
                    own = prm[P_IMPOSSIBLE]
                    target = np.float64(declared[D_LOW, j] if x < declared[D_LOW, j] else declared[D_HIGH, j])
            else:
                count[RUN, j] = min(count[RUN, j] + 1, RUN_MAX)
                if follows:
                    figure[AGE, j] = min(FAR, np.float64(figure[AGE, j]) + step_s)
                if seen >= known_rows:
                    own = min(count[RUN, j] * prm[P_MISSING], CAP)
            if count[SEEN, j] < known_rows:
                continue
            best = max(best, own)
            if own >= prm[P_EXPLAIN]:
                _name(j, np.float32(own), target, column[i], expected[i], share[i])
        if flood and best < prm[P_IMPOSSIBLE]:
            best = prm[P_IMPOSSIBLE]
            column[i, :] = -1
            expected[i, :] = np.nan
            share[i, :] = np.nan
        if best >= 0.0:
            surprise[i] = max(best - prm[P_TRIES], 0.0)
    return -1
