"""Each signal of a device against what its others imply, by a covariance that the device itself teaches. The rule:
a fault is scored by what was normal before it, and hardly learnt while it lasts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.blocks import alarms, check_block, check_states, clear, grown, readonly
from detectors.covariance_kernel import update_rows
from detectors.covariance_matrix import EXCESS, NEXT, SCALARS, START, TOLD, WAITING, N, offsets, refresh
from detectors.protocol import Block, DetectorSpec, Scores
from detectors.surprise import CAP

#: What a prior holds, and how many numbers for d columns.
PRIOR = {"mean": 2, "unit": 2, "movement": 1, "start": 4, "excess": 4}


def _check_prior(prior: Mapping[str, Any], d: int) -> dict[str, Any]:
    """A copy of plain lists.

    Raises
    ------
    ValueError : the prior is not one that `detectors.covariance_fit.fit_prior` makes, or is for other columns.
    """
    sizes = {part: per * d for part, per in PRIOR.items()} | {"covariance": d * (2 * d + 1), "tail": 2}
    out: dict[str, Any] = {}
    for part, size in sizes.items():
        try:
            numbers = np.array(prior.get(part, ()), np.float64)
        except (TypeError, ValueError) as exc:
            raise ValueError(f"the prior's {part} are not numbers: {exc}") from exc
        if numbers.shape != (size,) or not (np.abs(numbers) < 1e35).all():
            raise ValueError(f"the prior's {part} must be {size} finite numbers")
        if part != "mean" and part != "covariance" and numbers.min() < 0.0:
            raise ValueError(f"the prior's {part} cannot be below 0")
        out[part] = numbers.tolist()
    rows = prior.get("rows", 0)
    if not isinstance(rows, int | float) or not 1 <= rows <= 1e9:
        raise ValueError(f"the prior's rows must lie in 1..1e9, not {rows}")
    match = {str(key): str(value) for key, value in dict(prior.get("match", {})).items()}
    return out | {"rows": int(rows), "match": match}


class Covariance:
    """A streaming robust covariance of each device; the conditional residuals are score and explanation in one.

    A device's features are its d values and, for each, the logarithm of how much it moved in the last few rows (so
    that a signal that freezes or becomes noisy is as visible as one that is off). Their mean and covariance are
    learnt from the device's first row on with gain 1 / n, never below `alpha`: in effect a memory of everything,
    for slow forgetting mattered more than anything else on the development data. A precision matrix, derived anew
    when the rows have grown by a fifth or by 500, gives two kinds of evidence:

    column by column : the residual of each feature given all the others, smoothed over about ten and about thirty
        rows, and read off a tail that is learnt for each (its start by small steps, its mean excess, a generalised
        Pareto shape). The largest counts, less for having looked 4 d times, and is read off such a tail in turn: so
        often do two in a thousand rows go. Sees what breaks a relation.
    the row as a whole : the logarithm of the squared distance from the mean, of the values by their (much shrunk)
        precision, of the movements one by one, smoothed over about three rows, by one nominal law for all devices.
        Sees what moves many signals at once without breaking their relations, as an overloaded server does.

    The larger is the surprise. A column's `share` of it goes by its own residual and by its part in the distance,
    more by the one or the other as the surprise does; `expected` is what the other columns imply. A value counts at
    most 5 standard deviations (10 as a whole), so one wild value surprises little unless it is absurd (3 for each
    power of ten beyond a hundred standard deviations), and a lasting deviation soon does: a spike is a matter for a
    detector of single signals.

    A row far out teaches less, and a tenth from surprise `hold` on, whoever is surprised: this detector or one
    asked before it (`Block.alarm`; then it teaches the tails nothing). After `hold_rows` rows of one such stretch
    (calm rows shorten it) learning resumes in full, and as fast as if only `hold_rows` rows had been learnt: a
    lasting change becomes the new normal. Learning nothing at all was far worse: a device whose habits change then
    stays surprising for the whole stretch.

    It works for devices whose signals hang together, from about a hundred rows on; with a prior of its cohort
    (`enrol`) from its first twenty. It does not see a fault that was there from the start, nor one that all signals
    follow slowly, nor relations that only hold in one regime. A signal that is missing is filled with what the
    others imply and has no opinion: its absence is a matter for the rules.

    Parameters
    ----------
    columns : names of the d value columns.
    alpha : lowest gain, a row. Plateau: 1e-5 to 5e-5.
    warm_rows : a device's first rows without an opinion.
    shrink : of the covariance towards independence. Plateau: 0.003 to 0.05. A quarter of the number of features
        over the rows learnt is added.
    hold : surprise from which a row is hardly learnt.
    hold_rows : longest stretch that is hardly learnt.
    priors : what cohorts look like; see `detectors.covariance_fit.fit_prior`. "match" is what their devices
        declare; absent = that of a device which no other prior fits better.
    prior_rows : rows that a prior counts for, at most.
    explain_from : columns are named from this surprise on.

    Notes
    -----
    NaN, infinities and values of 1e30 and beyond are missing. State: 18 d^2 + 194 d + 48 bytes a slot when saved,
    28 d^2 + 188 d + 48 in memory. Cost: 7 d^2 multiplications a row, 9 d^3 at a refresh, m^3 / 6 where m features
    are missing.

    References
    ----------
    A. P. Dempster, "Covariance selection", Biometrics 28 (1972): with precision matrix P, (P z)_j / P_jj is z_j
    less its regression on the others. O. Ledoit, M. Wolf, "A well-conditioned estimator for large-dimensional
    covariance matrices", J. Multivariate Analysis 88 (2004): shrinkage. P. J. Huber, "Robust estimation of a
    location parameter", Ann. Math. Statist. 35 (1964): what is far counts as if nearer. A. Siffer et al., "Anomaly
    detection in streams with extreme value theory", KDD 2017: a tail beyond a tracked quantile, of fixed shape.
    """

    def __init__(
        self,
        columns: tuple[str, ...],
        *,
        alpha: float = 2e-5,
        warm_rows: int = 60,
        shrink: float = 0.03,
        hold: float = 6.0,
        hold_rows: int = 2000,
        priors: Sequence[Mapping[str, Any]] = (),
        prior_rows: int = 500,
        explain_from: float = 1.0,
    ) -> None:
        if not columns:
            raise ValueError("columns: at least one is needed")
        if not 0.0 < alpha <= 0.1:
            raise ValueError(f"alpha must lie above 0 and up to 0.1, not {alpha}")
        if not 20 <= warm_rows <= 1_000_000:
            raise ValueError(f"warm_rows must lie in 20..1000000, not {warm_rows}")
        if not 1e-4 <= shrink <= 0.5:
            raise ValueError(f"shrink must lie in 1e-4..0.5, not {shrink}")
        if not 0.0 < hold <= CAP:
            raise ValueError(f"hold must lie above 0 and up to {CAP:.0f}, not {hold}")
        if not warm_rows <= hold_rows <= 1_000_000:
            raise ValueError(f"hold_rows must lie in warm_rows..1000000, not {hold_rows}")
        if not 1 <= prior_rows <= 1_000_000:
            raise ValueError(f"prior_rows must lie in 1..1000000, not {prior_rows}")
        if not 0.0 < explain_from <= CAP:
            raise ValueError(f"explain_from must lie above 0 and up to {CAP:.0f}, not {explain_from}")
        d = len(columns)
        params: dict[str, Any] = {
            "alpha": float(alpha),
            "warm_rows": int(warm_rows),
            "shrink": float(shrink),
            "hold": float(hold),
            "hold_rows": int(hold_rows),
            "priors": [_check_prior(prior, d) for prior in priors],
            "prior_rows": int(prior_rows),
            "explain_from": float(explain_from),
        }
        self._spec = DetectorSpec("covariance", 2, "sample", tuple(columns), params)
        #: See `detectors.cohorts`; {} = of every device, unless another prior asks more of it and is right.
        self.cohorts = tuple(prior["match"] for prior in params["priors"])
        self._d = d
        self._prm = np.array(
            [alpha, warm_rows, shrink, hold, hold_rows, explain_from, math.log10(4 * d)], np.float64
        )
        self._packed = np.tril_indices(2 * d), np.tril_indices(d)
        self._state: NDArray[np.float32] = np.zeros((0, offsets(d)[12] + SCALARS), np.float32)
        self._wide: NDArray[np.float64] = np.zeros((0, 4 * d))
        self._joint: NDArray[np.float32] = np.zeros((0, 2 * d, 2 * d), np.float32)
        self._whole: NDArray[np.float32] = np.zeros((0, d, d), np.float32)

    @property
    def spec(self) -> DetectorSpec:
        return self._spec

    @property
    def state_nbytes(self) -> int:
        matrices = sum(len(rows) for rows, _ in self._packed)
        return 4 * (self._state.shape[1] + matrices) + 8 * self._wide.shape[1]

    def reserve(self, n_slots: int) -> None:
        self._state, self._wide = grown(self._state, n_slots), grown(self._wide, n_slots)
        self._joint, self._whole = grown(self._joint, n_slots), grown(self._whole, n_slots)

    def enrol(self, slots: NDArray[np.int32], cohorts: NDArray[np.int16]) -> None:
        """Let slots start from what is known of their cohorts. Called before a slot's first row.

        Parameters
        ----------
        slots : int32 (n,).
        cohorts : int16 (n,), each slot's index into `priors`, -1 = none.

        Raises
        ------
        ValueError : the arrays differ in length, or there is no such prior.
        """
        priors = self._spec.params["priors"]
        if slots.shape != cohorts.shape or ((cohorts < -1) | (cohorts >= len(priors))).any():
            raise ValueError(f"cohorts must be {len(slots)} indices below {len(priors)}, or -1")
        self.forget(slots)
        for cohort in np.unique(cohorts[cohorts >= 0]).tolist():
            mine = slots[cohorts == cohort]
            self._begin(int(mine[0]), priors[cohort])
            for rows in (self._state, self._wide, self._joint, self._whole):
                rows[mine] = rows[mine[0]]

    def _begin(self, slot: int, prior: Mapping[str, Any]) -> None:
        d, state = self._d, self._state[slot]
        fast, slow, last, seen, spread, part, _, _, smooth, start, excess, wait, scalar = offsets(d)
        work = np.zeros((2 * d, 2 * d))
        rows = min(prior["rows"], self._spec.params["prior_rows"])
        self._wide[slot] = prior["mean"] + prior["unit"]
        state[:fast] = prior["covariance"]
        state[fast:slow] = state[slow:last] = prior["movement"]
        state[last:seen] = prior["mean"][:d]
        state[seen:spread] = np.where(np.array(prior["unit"][:d]) > 0.0, max(rows, self._prm[1]), 0.0)
        state[spread:part] = state[np.cumsum(np.arange(1, d + 1)) - 1]
        state[start:excess], state[excess:wait] = prior["start"], prior["excess"]
        state[smooth:start] = state[wait:scalar] = state[scalar + WAITING] = 0.0
        state[scalar + START], state[scalar + EXCESS] = prior["tail"]
        state[scalar + N] = state[scalar + TOLD] = rows
        state[scalar + NEXT] = 0.0
        refresh(state, self._wide[slot], self._joint[slot], self._whole[slot], self._prm, work, work[0].copy())

    def update(self, block: Block, out: Scores) -> None:
        n = check_block(block, self._d, out)
        clear(out, n)
        wrong = np.flatnonzero((block.slots < 0) | (block.slots >= len(self._state)))
        if len(wrong):
            raise IndexError(f"row {wrong[0]}: slot {block.slots[wrong[0]]} of {len(self._state)} reserved")
        update_rows(
            np.argsort(block.slots, kind="stable"),  # device by device: its state stays in the cache
            readonly(block.slots),
            readonly(block.values),
            alarms(block),
            self._state,
            self._wide,
            self._joint,
            self._whole,
            self._prm,
            out.surprise,
            out.column,
            out.expected,
            out.share,
        )

    def forget(self, slots: NDArray[np.int32]) -> None:
        for rows in (self._state, self._wide, self._joint, self._whole):
            rows[slots] = 0

    def snapshot(self, slots: NDArray[np.int32]) -> NDArray[np.uint8]:
        (row, column), (row_whole, column_whole) = self._packed
        parts = (
            self._wide[slots],
            self._state[slots],
            self._joint[slots][:, row, column],
            self._whole[slots][:, row_whole, column_whole],
        )
        return np.hstack([np.ascontiguousarray(part).view(np.uint8).reshape(len(slots), -1) for part in parts])

    def restore(self, slots: NDArray[np.int32], states: NDArray[np.uint8]) -> None:
        check_states(slots, states, self.state_nbytes)
        cut = 8 * self._wide.shape[1]
        self._wide[slots] = np.ascontiguousarray(states[:, :cut]).view(np.float64)
        rest = np.ascontiguousarray(states[:, cut:]).view(np.float32)
        cut = self._state.shape[1]
        self._state[slots] = rest[:, :cut]
        for matrix, (row, column) in ((self._joint, self._packed[0]), (self._whole, self._packed[1])):
            part = rest[:, cut : cut + len(row)]
            cut += len(row)
            matrix[slots[:, None], row, column] = part
            matrix[slots[:, None], column, row] = part
