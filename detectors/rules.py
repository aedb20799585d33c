"""What a declaration rules out: a signal that stops, jumps or stands still, an impossible value, a flood of rows.
The rule: nothing is learnt, and nothing is judged that is not declared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.blocks import check_block, check_states, clear, grown, limits_array, readonly
from detectors.protocol import Block, DetectorSpec, Scores
from detectors.rules_kernel import COUNTS, FIGURES, HUGE, RUN_MAX, WORDS, update_rows
from detectors.surprise import CAP

#: The rules, as alerts call them; of a flood no signal is named.
DROPOUT, RANGE, RATE, STUCK, FLOOD = "dropout", "range", "rate", "stuck", "flood"
#: A value older than so many periods is no measure of the next one.
GAP_PERIODS = 10
#: The same where no period is declared, seconds.
GAP_S = 10.0


def kind_of(spec: DetectorSpec, signal: str, observed: float, expected: float) -> str:
    """Which rule was broken, in a word.

    spec : of the `Rules` that spoke. observed, expected : of the guiltiest signal, as it said.
    """
    if not abs(observed) < HUGE:
        return DROPOUT
    if observed == expected:
        return STUCK
    low, high = spec.params["limits"][spec.columns.index(signal)]
    below = low is not None and np.float32(observed) < np.float32(low)
    above = high is not None and np.float32(observed) > np.float32(high)
    return RANGE if below or above else RATE


class Rules:
    """A signal that stops, jumps or stands still, a value that cannot be, a device that sends too much.

    - *dropout*: a signal that was there and is missing k times running has surprise k times -log10
      `missing_share`: as rare as k independent losses; what was expected of it is NaN.
    - *range*: a value outside its declared range is impossible and gets `impossible_surprise`; the nearer limit is
      what was expected.
    - *rate*: so is a value that is further from the signal's last possible value than `rates` allow in the time
      between. Expected is that value, moved by what is allowed. What counts is event time, at least a period (time
      stamps jitter) and at most 10 (later the last value says nothing). As no value is measured by an impossible
      one, a jump is told until it is over, or for 10 periods; then the new level is the normal one.
    - *stuck*: a value that repeats exactly for longer than `stuck_after_s` gets `stuck_surprise` for each such
      time, at most 0.9 of `impossible_surprise`. Expected was any other value; the value itself is given, as by no
      other rule. Only the time is counted in which the device is in use: of the other columns that ever changed, a
      quarter changes in the same row. Fewer than three such columns cannot be told from a device at rest, which
      then counts as in use. A row counts for at most 10 periods.
    - *flood*: `flood_rows` rows that each come less than `flood_share` of a period after the one before, in event
      time (the same time also counts, earlier does not): `impossible_surprise`, and no column is named. A longer
      step takes back as many rows as there is time for.

    The others get 0: no rule is broken. `kind_of` tells which it was.

    It works where the declarations hold in health, and frames carry a signal always or never. It does not see a
    device that is silent altogether (no row, no opinion), a signal that never reported, or one that stands still
    with all the others.

    Parameters
    ----------
    columns : names of the d value columns.
    limits : d pairs (min, max), None = not declared; empty = no ranges.
    rates : d largest possible rates of change, units a second, None = not declared; empty = none is.
    stuck_after_s : d times within which a value changes in use, seconds, None = not declared; empty = none is.
    period_us : usual event time from one row of a device to the next, microseconds; 0 = not declared.
    missing_share : share of values that go missing one by one in health.
    known_rows : present values of a signal before it is judged.
    impossible_surprise, stuck_surprise, flood_share, flood_rows : see above.
    explain_from : columns are named from this surprise on.

    Notes
    -----
    State: 8 bytes a slot and column; 16 more where a rate or a stuck time is declared, and 24 a slot where one of
    these or a period is. Cost: 6 ns a value with all declared, 3 with ranges alone (37 columns, CPU time).
    """

    def __init__(
        self,
        columns: tuple[str, ...],
        *,
        limits: Sequence[Sequence[float | None]] = (),
        rates: Sequence[float | None] = (),
        stuck_after_s: Sequence[float | None] = (),
        period_us: int = 0,
        missing_share: float = 0.1,
        known_rows: int = 30,
        impossible_surprise: float = 30.0,
        stuck_surprise: float = 8.0,
        flood_share: float = 0.2,
        flood_rows: int = 100,
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
        for name, surprise in (("impossible_surprise", impossible_surprise), ("stuck_surprise", stuck_surprise)):
            if not 0.0 <= surprise <= CAP:
                raise ValueError(f"{name} must lie in 0..{CAP:.0f}, not {surprise}")
        if not 0 <= period_us <= 10**15:
            raise ValueError(f"period_us must lie in 0..10**15, not {period_us}")
        if not 0.0 < flood_share < 1.0:
            raise ValueError(f"flood_share must lie between 0 and 1, not {flood_share}")
        if not 2 <= flood_rows <= RUN_MAX:
            raise ValueError(f"flood_rows must lie in 2..{RUN_MAX}, not {flood_rows}")
        pairs = [[a, b] for a, b in limits] or [[None, None]] * d
        rates, stuck = _declared("rates", rates, d), _declared("stuck_after_s", stuck_after_s, d)
        params: dict[str, Any] = {
            "limits": pairs,
            "rates": rates,
            "stuck_after_s": stuck,
            "period_us": int(period_us),
            "missing_share": float(missing_share),
            "known_rows": int(known_rows),
            "impossible_surprise": float(impossible_surprise),
            "stuck_surprise": float(stuck_surprise),
            "flood_share": float(flood_share),
            "flood_rows": int(flood_rows),
            "explain_from": float(explain_from),
        }
        self._spec = DetectorSpec("rules", 3, "sample", tuple(columns), params)
        self._d = d
        more = [[np.inf if x is None else x for x in row] for row in (rates, stuck)]
        self._declared = np.vstack([limits_array(pairs), np.array(more, np.float32)])
        period_s = period_us * 1e-6
        self._prm = np.array(
            [
                known_rows, -math.log10(missing_share), impossible_surprise, explain_from, math.log10(d),
                stuck_surprise, period_s, GAP_PERIODS * period_s or GAP_S, int(flood_share * period_us), flood_rows,
            ],
            np.float64,
        )  # fmt: skip
        follows = any(x is not None for x in (*rates, *stuck))
        self._counts: NDArray[np.int32] = np.zeros((0, COUNTS, d), np.int32)
        self._figures: NDArray[np.float32] = np.zeros((0, FIGURES if follows else 0, d), np.float32)
        self._words: NDArray[np.int64] = np.zeros((0, WORDS if follows or period_us else 0), np.int64)

    @property
    def spec(self) -> DetectorSpec:
        return self._spec

    def _pieces(self) -> tuple[NDArray[Any], ...]:
        return self._counts, self._figures, self._words

    @property
    def state_nbytes(self) -> int:
        return sum(piece.itemsize * math.prod(piece.shape[1:]) for piece in self._pieces())

    def reserve(self, n_slots: int) -> None:
        self._counts, self._figures, self._words = (grown(piece, n_slots) for piece in self._pieces())

    def update(self, block: Block, out: Scores) -> None:
        n = check_block(block, self._d, out)
        clear(out, n)
        bad = update_rows(
            readonly(block.slots),
            readonly(block.ts_us),
            readonly(block.values),
            self._declared,
            self._prm,
            self._counts,
            self._figures,
            self._words,
            out.surprise,
            out.column,
            out.expected,
            out.share,
        )
        if bad >= 0:
            raise IndexError(f"row {bad}: slot {block.slots[bad]} of {len(self._counts)} reserved")

    def forget(self, slots: NDArray[np.int32]) -> None:
        for piece in self._pieces():
            piece[slots] = 0

    def snapshot(self, slots: NDArray[np.int32]) -> NDArray[np.uint8]:
        n = len(slots)
        rows = [piece[slots].reshape(n, math.prod(piece.shape[1:])) for piece in self._pieces() if piece.shape[1]]
        return np.hstack([row.view(np.uint8) for row in rows])

    def restore(self, slots: NDArray[np.int32], states: NDArray[np.uint8]) -> None:
        check_states(slots, states, self.state_nbytes)
        at = 0
        for piece in self._pieces():
            size = piece.itemsize * math.prod(piece.shape[1:])
            if size:
                rows = np.ascontiguousarray(states[:, at : at + size]).view(piece.dtype)
                piece[slots] = rows.reshape(len(slots), *piece.shape[1:])
                at += size


def _declared(name: str, given: Sequence[float | None], d: int) -> list[float | None]:
    """One positive figure a column, or None.

    Raises
    ------
    ValueError : another number of them, or one that is not positive and finite.
    """
    if given and len(given) != d:
        raise ValueError(f"{name} has {len(given)} figures for {d} columns")
    figures = [None if x is None else float(x) for x in given] or [None] * d
    for x in figures:
        if x is not None and not 0.0 < x < math.inf:
            raise ValueError(f"{name} must be positive and finite, not {x}")
    return figures
