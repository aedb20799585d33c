"""A signal that stops, a value that its declaration rules out. The rule: nothing is learnt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detectors.blocks import check_block, check_states, clear, grown, limits_array, readonly
from detectors.protocol import TOP, Block, DetectorSpec, Scores
from detectors.surprise import CAP

#: Longest run of missing values that is counted; its surprise is far beyond any threshold.
RUN_MAX = 10_000


@njit(cache=True, nogil=True, error_model="numpy")
def _update(
    slots: NDArray[np.int32],
    values: NDArray[np.float32],
    limits: NDArray[np.float32],
    prm: NDArray[np.float64],
    seen: NDArray[np.int32],
    run: NDArray[np.int32],
    surprise: NDArray[np.float32],
    column: NDArray[np.int16],
    expected: NDArray[np.float32],
    share: NDArray[np.float32],
) -> int:
    """prm : present values before a gap counts, surprise of a missing value, of an impossible one, explain_from."""
    d = values.shape[1]
    known, per_missing, impossible, explain_from = np.int32(prm[0]), prm[1], prm[2], prm[3]
    for i in range(len(slots)):
        slot = np.int64(slots[i])
        if slot < 0 or slot >= len(seen):
            return i
        best = -1.0
        present = False
        for j in range(d):
            present |= abs(values[i, j]) < np.float32(1e30)
        if not present:
            continue
        for j in range(d):
            x = values[i, j]
            own = 0.0
            target = np.float32(np.nan)
            if abs(x) < np.float32(1e30):
                run[slot, j] = 0
                seen[slot, j] = min(seen[slot, j] + 1, known)
                if x < limits[0, j] or x > limits[1, j]:
                    own = impossible
                    target = limits[0, j] if x < limits[0, j] else limits[1, j]
            else:  # also an infinity: a value that no sensor means
                run[slot, j] = min(run[slot, j] + 1, RUN_MAX)
                if seen[slot, j] >= known:
                    own = min(run[slot, j] * per_missing, CAP)
            if seen[slot, j] < known:
                continue
            best = max(best, own)
            if own >= explain_from:
                at = TOP - 1
                if column[i, at] >= 0 and share[i, at] >= own:
                    continue
                while at > 0 and (column[i, at - 1] < 0 or share[i, at - 1] < own):
                    column[i, at] = column[i, at - 1]
                    expected[i, at] = expected[i, at - 1]
                    share[i, at] = share[i, at - 1]
                    at -= 1
                column[i, at] = j
                expected[i, at] = target
                share[i, at] = own
        if best >= 0.0:
            surprise[i] = max(best - prm[4], 0.0)
    return -1


class Rules:
    """A signal that stopped reporting, and values outside the declared range.

    A signal that was there and is missing k times running has surprise k times -log10 `missing_share`: as rare as k
    independent losses; what was expected of it is NaN. A value outside its declared range is impossible by
    declaration and gets `impossible_surprise`; the nearer limit is what was expected. The others get 0: no rule is
    broken.

    It works where the catalogue's ranges hold in health, and frames carry a signal always or never. It does not
    see a device that is silent altogether (no row, no opinion) nor a signal that never reported.

    Parameters
    ----------
    columns : names of the d value columns.
    limits : d pairs (min, max), None = not declared; empty = no ranges.
    missing_share : share of values that go missing one by one in health.
    known_rows : present values of a signal before its absence counts.
    impossible_surprise : see above.
    explain_from : columns are named from this surprise on.

    Notes
    -----
    State: 8 bytes a slot and column.
    """

    def __init__(
        self,
        columns: tuple[str, ...],
        *,
        limits: Sequence[Sequence[float | None]] = (),
        missing_share: float = 0.1,
        known_rows: int = 30,
        impossible_surprise: float = 30.0,
        explain_from: float = 3.0,
    ) -> None:
        d = len(columns)
        if d == 0:
            raise ValueError("there must be columns")
        if limits and len(limits) != d:
            raise ValueError(f"limits has {len(limits)} pairs for {d} columns")
        if not 0.0 < missing_share < 1.0:
            raise ValueError(f"missing_share must lie between 0 and 1, not {missing_share}")
        if not 1 <= known_rows <= 1_000_000:
            raise ValueError(f"known_rows must lie in 1..1000000, not {known_rows}")
        if not 0.0 <= impossible_surprise <= CAP:
            raise ValueError(f"impossible_surprise must lie in 0..{CAP:.0f}, not {impossible_surprise}")
        pairs = [[a, b] for a, b in limits] or [[None, None]] * d
        params: dict[str, Any] = {
            "limits": pairs,
            "missing_share": float(missing_share),
            "known_rows": int(known_rows),
            "impossible_surprise": float(impossible_surprise),
            "explain_from": float(explain_from),
        }
        self._spec = DetectorSpec("rules", 2, "sample", tuple(columns), params)
        self._d = d
        self._limits = limits_array(pairs)
        tries = math.log10(d)
        self._prm = np.array(
            [known_rows, -math.log10(missing_share), impossible_surprise, explain_from, tries], np.float64
        )
        self._seen: NDArray[np.int32] = np.zeros((0, d), np.int32)
        self._run: NDArray[np.int32] = np.zeros((0, d), np.int32)

    @property
    def spec(self) -> DetectorSpec:
        return self._spec

    @property
    def state_nbytes(self) -> int:
        return 8 * self._d

    def reserve(self, n_slots: int) -> None:
        self._seen, self._run = grown(self._seen, n_slots), grown(self._run, n_slots)

    def update(self, block: Block, out: Scores) -> None:
        n = check_block(block, self._d, out)
        clear(out, n)
        bad = _update(
            readonly(block.slots),
            readonly(block.values),
            self._limits,
            self._prm,
            self._seen,
            self._run,
            out.surprise,
            out.column,
            out.expected,
            out.share,
        )
        if bad >= 0:
            raise IndexError(f"row {bad}: slot {block.slots[bad]} of {len(self._seen)} reserved")

    def forget(self, slots: NDArray[np.int32]) -> None:
        self._seen[slots], self._run[slots] = 0, 0

    def snapshot(self, slots: NDArray[np.int32]) -> NDArray[np.uint8]:
        return np.hstack([self._seen[slots].view(np.uint8), self._run[slots].view(np.uint8)])

    def restore(self, slots: NDArray[np.int32], states: NDArray[np.uint8]) -> None:
        check_states(slots, states, self.state_nbytes)
        cut = 4 * self._d
        self._seen[slots] = np.ascontiguousarray(states[:, :cut]).view(np.int32)
        self._run[slots] = np.ascontiguousarray(states[:, cut:]).view(np.int32)
