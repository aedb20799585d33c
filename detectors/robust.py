"""A robust look at each column on three time scales at once. The rule: what surprises teaches less."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.blocks import check_block, check_states, clear, grown, readonly
from detectors.protocol import Block, DetectorSpec, Scores
from detectors.robust_kernel import LANES, SCRATCH, WORDS, update_rows
from detectors.surprise import CAP


class RobustMultiscale:
    """Clipped location and mean absolute residual of each column on three scales, with learnt tails.

    Three kinds of evidence are weighed for each column and row; the largest counts, corrected for having
    looked 3*d times (Bonferroni):

    point : how far the value lies from its location, in mean absolute residuals, on the scale where that is
        most. Sees spikes, steps and noise bursts.
    level : how far the middle location lies from the slow one, in units of how far it usually does, and never
        in less than white noise would give: a control chart of the smoothed residual. Sees slow drifts (a
        tyre leak, a cell that drifts) that no single value gives away.
    stuck : the exact value repeats for much longer than it ever did, while the device moves (a quarter of
        its columns change) and away from the ends of the column's range, where signals rest by nature. A
        repeat r times as long as the longest weighs up to r - 1; the more changes were seen, the more.

    Locations move by at most `clip` residuals' worth of a value (Huber's psi), so that a fault is not learnt
    at once. Sizes and tails are learnt from rows that change the column's value only, so that a parked vehicle
    does not forget how its signals move. The law of the point and the level statistic is not assumed but
    learnt: the value that a share `tail` of them exceeds is tracked by small steps, the mean excess above it
    too, and beyond it a generalised Pareto tail of the fixed, heavy shape `shape` gives the surprise. On clean
    data, whatever its distribution, high surprises therefore stay rare; how rare, the calibration of the alert
    budget decides.

    It works where a signal has a level and a noise of its own, also with jumps, flags, heavy tails and several
    regimes. It does not see a fault that keeps each signal within its own habits (compare the signals with
    each other for that), nor one that was there from the start, nor a drift slower than the slow scale. What
    lasts longer than the slow scale becomes normal.

    Parameters
    ----------
    columns : names of the d value columns, at least one.
    fast_rows, mid_rows, slow_rows : the three memories, in rows of a device, rising.
    warm_rows : a column's first values without an opinion, at least 20.
    level_rows : values before its level is judged; 0 = four times mid_rows.
    clip : largest residual that is learnt, in mean absolute residuals (4 of them: 3.2 sigma if normal).
    tail : share of statistics above the tail's start.
    shape : of the Pareto tail, above 0; larger = heavier = slower to be surprised.
    explain_from : columns are named from this surprise on.

    Notes
    -----
    NaN, infinite values and those beyond 1e37 are missing. A column has no opinion until its value has changed
    ten times: the first flip of a flag is a matter for a rule. State: 704 bytes a slot and eight columns or part
    of eight.

    References
    ----------
    P. J. Huber, "Robust estimation of a location parameter", Ann. Math. Statist. 35 (1964): the clipping.
    S. W. Roberts, "Control chart tests based on geometric moving averages", Technometrics 1 (1959): the level.
    A. Siffer et al., "Anomaly detection in streams with extreme value theory", KDD 2017: the tail above a high
    quantile; here its start is tracked by stochastic approximation and its shape is fixed, so that the cost
    of a value is constant.
    """

    def __init__(
        self,
        columns: tuple[str, ...],
        *,
        fast_rows: int = 16,
        mid_rows: int = 256,
        slow_rows: int = 4096,
        warm_rows: int = 64,
        level_rows: int = 0,
        clip: float = 4.0,
        tail: float = 0.02,
        shape: float = 0.1,
        explain_from: float = 3.0,
    ) -> None:
        if not columns:
            raise ValueError("columns: at least one is needed")
        if not 2 <= fast_rows < mid_rows < slow_rows <= 1_000_000:
            raise ValueError(
                f"2 <= fast_rows < mid_rows < slow_rows <= 1000000 must hold, not "
                f"{fast_rows}, {mid_rows}, {slow_rows}"
            )
        if not 20 <= warm_rows <= 1_000_000:
            raise ValueError(f"warm_rows must lie in 20..1000000, not {warm_rows}")
        if not 0 <= level_rows <= 1_000_000:
            raise ValueError(f"level_rows must lie in 0..1000000, not {level_rows}")
        if not 1.5 <= clip <= 100.0:
            raise ValueError(f"clip must lie in 1.5..100, not {clip}")
        if not 0.001 <= tail <= 0.2:
            raise ValueError(f"tail must lie in 0.001..0.2, not {tail}")
        if not 0.0 < shape <= 1.0:
            raise ValueError(f"shape must lie above 0 and up to 1, not {shape}")
        if not 0.0 < explain_from <= CAP:
            raise ValueError(f"explain_from must lie in 0..{CAP}, not {explain_from}")
        params: dict[str, Any] = {
            "fast_rows": int(fast_rows),
            "mid_rows": int(mid_rows),
            "slow_rows": int(slow_rows),
            "warm_rows": int(warm_rows),
            "level_rows": int(level_rows),
            "clip": float(clip),
            "tail": float(tail),
            "shape": float(shape),
            "explain_from": float(explain_from),
        }
        self._spec = DetectorSpec("robust", 1, "sample", tuple(columns), params)
        self._d = d = len(columns)
        self._prm = np.array(
            [
                1.0 / fast_rows,
                1.0 / mid_rows,
                1.0 / slow_rows,
                warm_rows,
                level_rows or 4 * mid_rows,
                clip,
                tail,
                shape,
                explain_from,
                math.log10(3 * d),
                math.sqrt(0.5 / mid_rows),
            ],
            np.float32,
        )
        groups = -(-d // LANES)
        self._scratch = np.full((groups, SCRATCH * LANES), np.nan, np.float32)
        self._rows: NDArray[np.float64] = np.zeros((0, groups, WORDS))

    @property
    def spec(self) -> DetectorSpec:
        return self._spec

    @property
    def state_nbytes(self) -> int:
        return len(self._scratch) * WORDS * 8

    def reserve(self, n_slots: int) -> None:
        self._rows = grown(self._rows, n_slots)

    def update(self, block: Block, out: Scores) -> None:
        n = check_block(block, self._d, out)
        clear(out, n)
        bad = update_rows(
            readonly(block.slots),
            readonly(block.values),
            self._rows,
            self._rows.view(np.float32),
            self._prm,
            self._scratch,
            LANES,
            out.surprise,
            out.column,
            out.expected,
            out.share,
        )
        if bad >= 0:
            raise IndexError(f"row {bad}: slot {block.slots[bad]} of {len(self._rows)} reserved")

    def forget(self, slots: NDArray[np.int32]) -> None:
        self._rows[slots] = 0.0

    def snapshot(self, slots: NDArray[np.int32]) -> NDArray[np.uint8]:
        return self._rows[slots].view(np.uint8).reshape(len(slots), self.state_nbytes)

    def restore(self, slots: NDArray[np.int32], states: NDArray[np.uint8]) -> None:
        check_states(slots, states, self.state_nbytes)
        self._rows[slots] = np.ascontiguousarray(states).view(np.float64).reshape(len(slots), -1, WORDS)
