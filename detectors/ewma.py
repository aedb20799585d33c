"""EWMA z-score of every column: the cheap first look at each sample. The rule: one pass, score before learn.

Source: exponentially weighted mean and variance after Finch, "Incremental calculation of weighted mean and
variance" (2009), section 9, equations 124 and 143 (with alpha = 1 - decay).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detectors.blocks import check_block, check_states, clear, grown, readonly
from detectors.protocol import TOP, Block, DetectorSpec, Scores
from detectors.surprise import CAP, NORMAL_TABLE, tail_of_z2

# A slot's row, in words of 8 bytes: [0] two int32, the first of them the number of warm columns;
# [1 .. d] means; [1+d .. 2d] variances; then d int32, the samples a column has had, counted up to warm_rows.
# Denormal numbers cost a hundred cycles each: a variance that has once been positive stays above this, and a mean
# that has come closer to 0 is 0.
_FLOOR = 1e-290


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _learn_cold(
    state: NDArray[np.float64],
    counts: NDArray[np.int32],
    slot: int,
    x: NDArray[np.float32],
    d: int,
    alpha: float,
    keep: float,
    warm: int,
) -> None:
    """Learn one row of a slot that has a column still warming."""
    for s in range(d):
        e = np.float64(x[s]) - state[slot, 1 + s]
        if not abs(e) < np.inf:
            continue
        at = 2 + 4 * d + s
        seen = counts[slot, at]
        if seen == 0:
            state[slot, 1 + s] = x[s]
            state[slot, 1 + d + s] = 0.0
        else:
            inc = alpha * e
            var = keep * (state[slot, 1 + d + s] + e * inc)
            mean = state[slot, 1 + s] + inc
            state[slot, 1 + s] = mean if abs(mean) > _FLOOR else 0.0
            state[slot, 1 + d + s] = _FLOOR if 0.0 < var < _FLOOR else var
        if seen < warm:
            counts[slot, at] = seen + 1
            if seen + 1 == warm:
                counts[slot, 0] += 1


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _largest_cold(
    state: NDArray[np.float64], counts: NDArray[np.int32], slot: int, x: NDArray[np.float32], d: int, warm: int
) -> float:
    """The largest z^2 of the warm columns, -1 if none has an opinion."""
    best = -1.0
    for s in range(d):
        e = np.float64(x[s]) - state[slot, 1 + s]
        var = state[slot, 1 + d + s]
        if counts[slot, 2 + 4 * d + s] >= warm and abs(e) < np.inf and var > 0.0:
            best = max(best, e * e / var)
    return best


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _explain(
    state: NDArray[np.float64],
    counts: NDArray[np.int32],
    slot: int,
    x: NDArray[np.float32],
    d: int,
    warm: int,
    least: float,
    table: NDArray[np.float64],
    column: NDArray[np.int16],
    expected: NDArray[np.float32],
    share: NDArray[np.float32],
) -> None:
    """Name the columns whose own surprise is at least `least`, the most surprised first, at most TOP."""
    all_warm = counts[slot, 0] == d
    found = 0
    for s in range(d):
        e = np.float64(x[s]) - state[slot, 1 + s]
        var = state[slot, 1 + d + s]
        if not (abs(e) < np.inf and var > 0.0 and (all_warm or counts[slot, 2 + 4 * d + s] >= warm)):
            continue
        own = np.float32(tail_of_z2(e * e / var, table))
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
        expected[at] = state[slot, 1 + s]
        share[at] = own
        found = min(found + 1, TOP)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _update(
    slots: NDArray[np.int32],
    values: NDArray[np.float32],
    state: NDArray[np.float64],
    counts: NDArray[np.int32],
    table: NDArray[np.float64],
    prm: NDArray[np.float64],
    d: int,
    surprise: NDArray[np.float32],
    column: NDArray[np.int16],
    expected: NDArray[np.float32],
    share: NDArray[np.float32],
) -> int:
    """Score and learn every row; the first row whose slot is out of range stops it. Returns that row, or -1.

    `prm` holds alpha, warm rows, log10 of the number of columns, explain_from, exact z^2, its surprise.
    """
    alpha = prm[0]
    warm = np.int64(prm[1])
    tries = prm[2]
    explain_from = np.float32(prm[3])
    exact_z2 = prm[4]
    exact = np.float32(prm[5])
    keep = 1.0 - alpha
    n_slots = len(state)
    none = np.float64(-1.0).view(np.int64)
    for i in range(len(slots)):
        slot = np.int64(slots[i])
        if slot < 0 or slot >= n_slots:
            return i
        is_warm = counts[slot, 0] == d
        if is_warm:
            # Squares are not negative, so their bits compare as they do, and an integer maximum vectorises.
            top = none
            for s in range(d):
                e = np.float64(values[i, s]) - state[slot, 1 + s]
                var = state[slot, 1 + d + s]
                bits = np.float64(e * e / var).view(np.int64)
                known = (abs(e) < np.inf) & (var > 0.0)
                top = max(top, bits if known else none)
            best = np.int64(top).view(np.float64)
        else:
            best = _largest_cold(state, counts, slot, values[i], d, warm)
        if best >= 0.0:
            score = np.float32(max(0.0, tail_of_z2(best, table) - tries))
            if score == exact and best > exact_z2:
                score = np.nextafter(score, np.float32(np.inf))
            surprise[i] = score
            if score >= explain_from:
                _explain(
                    state, counts, slot, values[i], d, warm, explain_from, table, column[i], expected[i], share[i]
                )
        if is_warm:
            for s in range(d):
                mean = state[slot, 1 + s]
                var = state[slot, 1 + d + s]
                e = np.float64(values[i, s]) - mean
                inc = alpha * e
                new = keep * (var + e * inc)
                new = _FLOOR if (new > 0.0) & (new < _FLOOR) else new
                moved = mean + inc
                moved = moved if abs(moved) > _FLOOR else 0.0
                known = abs(e) < np.inf
                state[slot, 1 + s] = moved if known else mean
                state[slot, 1 + d + s] = new if known else var
        else:
            _learn_cold(state, counts, slot, values[i], d, alpha, keep, warm)
    return -1


class EwmaZ:
    """Exponentially weighted mean and variance of each column; strange = many standard deviations away.

    For a finite value x of a column: d = x - mean, z = d / sqrt(var), both as learnt from the values *before*
    x; then mean += alpha*d and var = (1 - alpha)*(var + alpha*d*d). The first value of a column sets its mean.
    A row's surprise is that of its largest z^2 under the normal law, times the number of columns (Bonferroni,
    over all d, also those without an opinion: a constant, so that a z has one surprise, see `surprise_at_z`).

    It is the cheapest detector there is, it sees spikes and steps in signals that are roughly stationary over
    1/alpha samples, and it forgets a step within as many. It is blind to slow drifts, which it learns, and it
    cries wolf where the normal law does not hold: a signal with rare jumps has a variance that decays between
    them. For those, use `robust`.

    Parameters
    ----------
    columns : names of the d value columns, at least one.
    alpha : weight of a new value, 0 < alpha < 1; it remembers about 1/alpha samples.
    warm_rows : a column has no opinion on its first `warm_rows` values, at least 2.
    explain_from : columns are named from this surprise on.
    exact_z : the |z| at which rounding to float32 must not matter: `surprise > surprise_at_z(exact_z)` holds
        if and only if some z^2 > exact_z^2 in float64. At any other z the comparison is good to 1e-7.

    Notes
    -----
    NaN and infinite values are missing: that column neither scores nor learns. A column whose variance is
    exactly zero (constant since its first value) has no opinion. A positive variance is kept above 1e-290, a mean
    below that is 0 (denormal numbers are slow).
    State: 8 + 20*d bytes a slot, rounded up to 8.
    """

    def __init__(
        self,
        columns: tuple[str, ...],
        *,
        alpha: float = 0.02,
        warm_rows: int = 20,
        explain_from: float = 3.0,
        exact_z: float = 6.0,
    ) -> None:
        if not columns:
            raise ValueError("columns: at least one is needed")
        if not 0.0 < alpha < 1.0:
            raise ValueError(f"alpha must lie between 0 and 1, not {alpha}")
        if not 2 <= warm_rows < 1 << 30:
            raise ValueError(f"warm_rows must be at least 2, not {warm_rows}")
        if not 0.0 < explain_from <= CAP:
            raise ValueError(f"explain_from must lie in 0..{CAP}, not {explain_from}")
        if not 0.0 < exact_z < 36.0:
            raise ValueError(f"exact_z must lie between 0 and 36, not {exact_z}")
        params: dict[str, Any] = {
            "alpha": float(alpha),
            "warm_rows": int(warm_rows),
            "explain_from": float(explain_from),
            "exact_z": float(exact_z),
        }
        self._spec = DetectorSpec("ewma", 1, "sample", tuple(columns), params)
        d = len(columns)
        self._d = d
        self._words = 1 + 2 * d + (d + 1) // 2
        self._state: NDArray[np.float64] = np.zeros((0, self._words))
        self._tries = math.log10(d)
        z2 = exact_z * exact_z
        self._prm = np.array([alpha, warm_rows, self._tries, explain_from, z2, self.surprise_at_z(exact_z)])

    @property
    def spec(self) -> DetectorSpec:
        return self._spec

    @property
    def state_nbytes(self) -> int:
        return 8 * self._words

    def surprise_at_z(self, z: float) -> float:
        """The surprise of a row whose largest |z| is this one, rounded to float32 as scores are."""
        own: float = tail_of_z2(float(z) * float(z), NORMAL_TABLE)
        return float(np.float32(max(0.0, own - self._tries)))

    def reserve(self, n_slots: int) -> None:
        self._state = grown(self._state, n_slots)

    def update(self, block: Block, out: Scores) -> None:
        n = check_block(block, self._d, out)
        clear(out, n)
        bad = _update(
            readonly(block.slots),
            readonly(block.values),
            self._state,
            self._state.view(np.int32),
            NORMAL_TABLE,
            self._prm,
            self._d,
            out.surprise,
            out.column,
            out.expected,
            out.share,
        )
        if bad >= 0:
            raise IndexError(f"row {bad}: slot {block.slots[bad]} of {len(self._state)} reserved")

    def forget(self, slots: NDArray[np.int32]) -> None:
        self._state[slots] = 0.0

    def snapshot(self, slots: NDArray[np.int32]) -> NDArray[np.uint8]:
        return self._state[slots].view(np.uint8)

    def restore(self, slots: NDArray[np.int32], states: NDArray[np.uint8]) -> None:
        check_states(slots, states, self.state_nbytes)
        self._state[slots] = np.ascontiguousarray(states).view(np.float64)
