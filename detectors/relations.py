"""How the signals of a device class hang together, learnt beforehand. The rule: the relation is the class's, the
offset the device's.

Source of the conditional residual: A. P. Dempster, "Covariance selection", Biometrics 28 (1972): with precision
matrix P of standardised signals z, (P z)_j / P_jj is z_j less its regression on all the others. Tails: J. Pickands,
"Statistical inference using extreme order statistics", Annals of Statistics 3 (1975).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detectors.blocks import alarms, check_block, check_states, clear, grown, limits_array, readonly
from detectors.protocol import TOP, Block, DetectorSpec, Scores
from detectors.surprise import CAP

#: Weights of the two smoothings of a residual: nearly the moment, and about twenty rows.
SMOOTHING = (0.5, 0.05)
#: What counts of a column's surprise, for its place among the guilty, if it cannot be the one that is wrong.
IMPOSSIBLE = 0.1
_LIMIT = 1e4  # largest residual, in conditional standard deviations
_FAR = 1e9  # largest distance from the mean, in standard deviations: sums of it stay finite
# Rows of the tail table, for each smoothing: threshold, surprise there, 1 / scale, shape.
T_FROM, T_SURPRISE, T_RATE, T_SHAPE = range(4)


@njit(cache=True, nogil=True, error_model="numpy")
def _tail(value: float, row: NDArray[np.float32], c: int) -> float:
    """-log10 of the share of healthy rows with a smoothed residual of at least `value`, by column c's tail."""
    start = row[T_FROM, c]
    if value <= start:
        return row[T_SURPRISE, c] * value / start
    over = (value - start) * row[T_RATE, c]
    shape = row[T_SHAPE, c]
    if shape < 1e-3:
        return row[T_SURPRISE, c] + over * 0.4342944819
    return row[T_SURPRISE, c] + math.log10(1.0 + shape * over) / shape


@njit(cache=True, nogil=True, error_model="numpy")
def _update(
    slots: NDArray[np.int32],
    values: NDArray[np.float32],
    alarm: NDArray[np.float32],
    means: NDArray[np.float64],
    scales: NDArray[np.float64],
    precisions: NDArray[np.float64],
    weights: NDArray[np.float32],
    units: NDArray[np.float32],
    tails: NDArray[np.float32],
    limits: NDArray[np.float32],
    prm: NDArray[np.float64],
    state: NDArray[np.float32],
    surprise: NDArray[np.float32],
    column: NDArray[np.int16],
    expected: NDArray[np.float32],
    share: NDArray[np.float32],
) -> int:
    """Score and learn each row. Returns a row whose slot is out of range, or -1.

    means and those below it : one for each cohort, the class's own first. weights : (cohorts, d, d), transposed, so
    that a residual is a sum over its rows. state : (slots, 4 d + 2): for each column 1 + the rows that taught its
    offset, at most 1 + warm rows (0 = never seen), the device's offsets, and the residual smoothed twice; then the
    cohort's number and the rows for which the offsets have been held. prm : warm rows, learning rate, tries,
    explain_from, surprise from which the offsets are held, rows for which they are held at most.
    """
    d = values.shape[1]
    warm, rate, tries, explain_from, hold, most = prm[0], np.float32(prm[1]), prm[2], prm[3], prm[4], prm[5]
    z = np.zeros(d, np.float32)
    r = np.zeros(d, np.float32)
    gone = np.zeros(d, np.int64)
    factor = np.zeros((d, d), np.float64)
    for i in range(len(slots)):
        slot = np.int64(slots[i])
        if slot < 0 or slot >= len(state):
            return i
        c = np.int64(state[slot, 4 * d])
        mean, scale = means[c], scales[c]
        missing = np.int64(0)
        joined = np.int64(0)
        for j in range(d):
            x = np.float64(values[i, j])
            ok = abs(x) < 1e30
            missing += np.int64(not ok)
            joined += np.int64(ok and state[slot, j] == np.float32(0))
            z[j] = np.float32(min(max((x - mean[j]) * scale[j], -_FAR), _FAR)) if ok else np.float32(0)
        if missing == d:
            continue
        if joined > 0:
            _begin(values[i], state[slot])
        if missing > 0:
            _fill(values[i], precisions[c], weights[c], state[slot], gone, factor, z)
        r[:] = np.float32(0)
        for k in range(d):
            f = z[k]
            for j in range(d):
                r[j] += weights[c, k, j] * f
        best = -1.0
        for j in range(d):
            if not abs(values[i, j]) < np.float32(1e30):
                r[j] = np.float32(0)
                continue
            v = min(max(r[j], np.float32(-_LIMIT)), np.float32(_LIMIT)) - state[slot, d + j]
            r[j] -= state[slot, d + j]
            if state[slot, j] <= warm:
                state[slot, d + j] += v / state[slot, j]
                state[slot, j] += np.float32(1)
                r[j] = np.float32(0)
                continue
            for s in range(2):
                at = (2 + s) * d + j
                e = state[slot, at] + np.float32(SMOOTHING[s]) * (v - state[slot, at])
                state[slot, at] = e
                own = _tail(abs(e), tails[c, s], j)
                best = max(best, own)
        if best < 0.0:
            continue
        score = min(max(best - tries, 0.0), CAP)
        surprise[i] = score
        if score >= explain_from:
            _name(
                values[i],
                r,
                units[c],
                tails[c],
                limits,
                state[slot],
                explain_from,
                column[i],
                expected[i],
                share[i],
            )
        calm = score < hold and not (len(alarm) > 0 and alarm[i] >= hold)
        if calm:
            state[slot, 4 * d + 1] = np.float32(0)
        elif state[slot, 4 * d + 1] < most:
            state[slot, 4 * d + 1] += np.float32(1)
        if calm or state[slot, 4 * d + 1] >= most:
            for j in range(d):
                state[slot, d + j] += rate * r[j]
    return -1


@njit(cache=True, nogil=True, error_model="numpy")
def _fill(
    x: NDArray[np.float32],
    precision: NDArray[np.float64],
    weights: NDArray[np.float32],
    state: NDArray[np.float32],
    gone: NDArray[np.int64],
    factor: NDArray[np.float64],
    z: NDArray[np.float32],
) -> None:
    """Fill z where x is missing with what the others and the offset imply: the residual becomes the offset.

    A Cholesky solution of the missing part of the precision matrix: sweeps would hardly converge where several
    signals that are nearly one are missing together. gone, factor : scratch.
    """
    d, m = len(x), np.int64(0)
    for j in range(d):
        if not abs(x[j]) < np.float32(1e30):
            gone[m] = j
            m += 1
    right = np.zeros(m, np.float64)
    for a in range(m):
        j = gone[a]
        right[a] = np.float64(state[d + j]) * np.float64(weights[j, j])
        for k in range(d):  # z of what is missing is 0
            right[a] -= precision[j, k] * np.float64(z[k])
        for b in range(a + 1):
            u = precision[j, gone[b]]
            for c in range(b):
                u -= factor[a, c] * factor[b, c]
            factor[a, b] = u / factor[b, b] if b < a else math.sqrt(max(u, 1e-12))
        for c in range(a):
            right[a] -= factor[a, c] * right[c]
        right[a] /= factor[a, a]
    for a in range(m - 1, -1, -1):
        for c in range(a + 1, m):
            right[a] -= factor[c, a] * right[c]
        right[a] /= factor[a, a]
        z[gone[a]] = np.float32(right[a])


@njit(cache=True, nogil=True, error_model="numpy")
def _begin(x: NDArray[np.float32], state: NDArray[np.float32]) -> None:
    """A signal joined: what its absence taught of the others does not hold, so the device is met anew."""
    d = len(x)
    for j in range(d):
        if state[j] > np.float32(0) or abs(x[j]) < np.float32(1e30):
            state[j] = np.float32(1)
        for s in range(1, 4):
            state[s * d + j] = np.float32(0)


@njit(cache=True, nogil=True, error_model="numpy")
def _name(
    x: NDArray[np.float32],
    r: NDArray[np.float32],
    unit: NDArray[np.float32],
    tails: NDArray[np.float32],
    limits: NDArray[np.float32],
    state: NDArray[np.float32],
    least: float,
    column: NDArray[np.int16],
    expected: NDArray[np.float32],
    share: NDArray[np.float32],
) -> None:
    """Name the columns whose own surprise is at least `least`, guiltiest first, at most TOP."""
    d = len(x)
    for j in range(d):
        if not abs(x[j]) < np.float32(1e30):
            continue
        fast = _tail(abs(state[2 * d + j]), tails[0], j)
        own = min(max(fast, _tail(abs(state[3 * d + j]), tails[1], j)), CAP)
        if own < least:
            continue
        implied = x[j] - r[j] * unit[j]
        if implied < limits[0, j] or implied > limits[1, j]:
            implied = min(max(implied, limits[0, j]), limits[1, j])
            own = max(IMPOSSIBLE * own, least)
        at = TOP - 1
        if column[at] >= 0 and share[at] >= own:
            continue
        while at > 0 and (column[at - 1] < 0 or share[at - 1] < own):
            column[at], expected[at], share[at] = column[at - 1], expected[at - 1], share[at - 1]
            at -= 1
        column[at] = j
        expected[at] = implied
        share[at] = own


def _check_model(columns: tuple[str, ...], model: Mapping[str, Any]) -> None:
    """Raises
    ------
    ValueError : the model is not one that `fit` makes, or is one for other columns.
    """
    d = len(columns)
    if d == 0 or list(columns) != list(model.get("columns", ())):
        raise ValueError("the model was fitted to other columns")
    for part, size in (("mean", d), ("scale", d), ("precision", d * d), ("tails", 8 * d)):
        try:
            numbers = np.array(model.get(part, ()), np.float64)
        except (TypeError, ValueError) as exc:
            raise ValueError(f"the model's {part} are not numbers: {exc}") from exc
        if numbers.shape != (size,) or not np.isfinite(numbers).all():
            raise ValueError(f"the model's {part} must be {size} finite numbers")
    positive = [*model["scale"], *model["precision"][:: d + 1], *model["tails"][:d], *model["tails"][4 * d : 5 * d]]
    if min(positive) <= 0.0:
        raise ValueError("the model's scales, precisions and tail starts must be above 0")


class Relations:
    """Each signal against what all the others imply, by relations learnt from healthy devices of the class.

    The model (`detectors.relations_fit.fit`) holds the class's means, scales, precision matrix and, for each
    signal, the tail of its residuals in health. A device adds its offsets, each learnt in `warm_rows` rows with
    that signal and followed slowly afterwards: a tyre filled a little higher, a sensor a little off. When a
    signal reports for the first time, all offsets are learnt anew. A row's residuals, less the offsets, are
    smoothed over about two and about twenty rows; the surprise of each is read off the healthy tail; the largest
    counts, corrected for having looked 2 d times (Bonferroni).

    It works from a device's first minutes, for whatever breaks a relation: a wheel speed that stands still, a tyre
    that loses gas, a cell that drifts from its battery, heat without load. The guilty signal is the one that the
    others contradict; `expected` is what they imply. While rows are surprising, here or to the detectors asked
    before, the offsets are held, so that a fault is not learnt; what lasts longer than `hold_rows` is followed
    again. It does not see what all signals share, nor relations far from linear that the training
    did not show as spread, and it is as good as its training is like the fleet.

    Parameters
    ----------
    columns : names of the d value columns, equal to the model's.
    model : see `detectors.relations_fit.fit`. Its key "cohorts" may list models of parts of the class, each with
        what their devices declare under "match": a device that is enrolled in one is judged by that.
    limits : d pairs (min, max), None = not declared; empty = none. A column for which the others imply a value
        outside cannot alone be what is wrong: it is named after those that can, with the nearer limit as expected.
    warm_rows : rows with a signal that only teach its offset.
    rate : of following the offsets afterwards, a row.
    hold : the offsets stay from this surprise on.
    hold_rows : ... for so many rows running at most.
    explain_from : columns are named from this surprise on.

    Notes
    -----
    NaN = missing: such a signal is filled with what the others and its offset imply, and has no opinion itself.
    State: 16 d + 8 bytes a slot. Cost: d^2 multiplications a row, and m^3 / 6 where m values are missing.
    """

    def __init__(
        self,
        columns: tuple[str, ...],
        *,
        model: Mapping[str, Any],
        limits: Sequence[Sequence[float | None]] = (),
        warm_rows: int = 120,
        rate: float = 2e-4,
        hold: float = 3.0,
        hold_rows: int = 20_000,
        explain_from: float = 3.0,
    ) -> None:
        models = [model, *model.get("cohorts", ())]
        for one in models:
            _check_model(columns, one)
        if limits and len(limits) != len(columns):
            raise ValueError(f"limits has {len(limits)} pairs for {len(columns)} columns")
        if not 1 <= warm_rows <= 1_000_000:
            raise ValueError(f"warm_rows must lie in 1..1000000, not {warm_rows}")
        if not 0.0 <= rate <= 0.1:
            raise ValueError(f"rate must lie in 0..0.1, not {rate}")
        if not 1 <= hold_rows <= 10_000_000:
            raise ValueError(f"hold_rows must lie in 1..10000000, not {hold_rows}")
        d = len(columns)
        pairs = [[low, high] for low, high in limits] or [[None, None]] * d
        params: dict[str, Any] = {
            "model": dict(model),
            "limits": pairs,
            "warm_rows": int(warm_rows),
            "rate": float(rate),
            "hold": float(hold),
            "hold_rows": int(hold_rows),
            "explain_from": float(explain_from),
        }
        self._spec = DetectorSpec("relations", 4, "sample", tuple(columns), params)
        self._d = d
        self.cohorts = tuple({str(k): str(v) for k, v in m.get("match", {}).items()} for m in models[1:])
        self._precision = np.array([m["precision"] for m in models], np.float64).reshape(-1, d, d)
        inverse_sd = 1.0 / np.sqrt(np.diagonal(self._precision, axis1=1, axis2=2))
        scale = np.array([m["scale"] for m in models], np.float64)
        self._mean = np.array([m["mean"] for m in models], np.float64)
        self._scale = 1.0 / scale
        transposed = (self._precision * inverse_sd[:, :, None]).swapaxes(1, 2)
        self._weights = np.ascontiguousarray(transposed.astype(np.float32))
        self._unit = (inverse_sd * scale).astype(np.float32)
        self._tails = np.array([m["tails"] for m in models], np.float32).reshape(-1, 2, 4, d)
        self._limits = limits_array(pairs)
        tries = math.log10(2 * d)
        self._prm = np.array([warm_rows, rate, tries, explain_from, hold, hold_rows], np.float64)
        self._state: NDArray[np.float32] = np.zeros((0, 4 * d + 2), np.float32)

    @property
    def spec(self) -> DetectorSpec:
        return self._spec

    @property
    def state_nbytes(self) -> int:
        return 16 * self._d + 8

    def reserve(self, n_slots: int) -> None:
        self._state = grown(self._state, n_slots)

    def update(self, block: Block, out: Scores) -> None:
        n = check_block(block, self._d, out)
        clear(out, n)
        bad = _update(
            readonly(block.slots),
            readonly(block.values),
            alarms(block),
            self._mean,
            self._scale,
            self._precision,
            self._weights,
            self._unit,
            self._tails,
            self._limits,
            self._prm,
            self._state,
            out.surprise,
            out.column,
            out.expected,
            out.share,
        )
        if bad >= 0:
            raise IndexError(f"row {bad}: slot {block.slots[bad]} of {len(self._state)} reserved")

    def enrol(self, slots: NDArray[np.int32], cohorts: NDArray[np.int16]) -> None:
        """See `detectors.cohorts`."""
        self._state[slots, 4 * self._d] = cohorts + 1

    def forget(self, slots: NDArray[np.int32]) -> None:
        self._state[slots] = 0

    def snapshot(self, slots: NDArray[np.int32]) -> NDArray[np.uint8]:
        return self._state[slots].view(np.uint8)

    def restore(self, slots: NDArray[np.int32], states: NDArray[np.uint8]) -> None:
        check_states(slots, states, self.state_nbytes)
        self._state[slots] = np.ascontiguousarray(states).view(np.float32)
