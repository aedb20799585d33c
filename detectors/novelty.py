"""What one signal never did before, or never at this hour. The rule: the first time is news, the tenth is not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.blocks import alarms, check_block, check_states, clear, grown, readonly
from detectors.novelty_kernel import WORDS, update_rows
from detectors.protocol import Block, DetectorSpec, Scores
from detectors.surprise import CAP


class Novelty:
    """Symbolic novelty of each signal on three time scales, by value, by transition and by hour of the day.

    Each signal is followed by three moving averages (gains 1, 0.3 and 0.1). The range of each is divided into at
    most 24 bins, laid over what the first values covered; when the range outgrows them, two bins become one and
    what was seen is forgotten. A bin is news in a context that it was never seen in, and the more so the better
    the context is known: after c visits that showed D different bins, ln(1 + c / (1 + D)) nats, which is Laplace's
    rule of succession with the escape estimate of text compression. Contexts are the signal as a whole, the bin
    before (the larger of the two counts), and the hour of the day (UTC, of the event time; visits of an hour are
    counted, not values, over the root of 1 + D; its bins lie half a bin aside, so that crossing one edge does not
    count twice). The mean over the scales of both is the novelty of a point: a
    logarithmic opinion pool. Beside that, a change from the value before that breaks the record of changes is
    news by 1 + 3 ln(change / record) nats; the larger of the two counts. The record fades by half in 1,000 values
    and grows at most fourfold at once.

    Then habituation: for `quiet_rows` after a novelty only a larger one is told; and a novelty that was told k
    times at this size or above is taken as k + 1 times likelier (its nats fall by ln(1 + k)), so that a signal
    that is always odd has to be odder. What remains, x nats, is told as a surprise of 2.86 + 0.2 x: on 31 public
    series about 10^-2.86 of the points outside labelled anomalies had any x > 0, and the share fell by 10^-0.2 a
    nat. All others are told as 0: as usual, or already told. Thresholds from 3.05 to 3.15 were equally good on
    those series by NAB's standard profile, 3.15 where false alarms cost twice as much.

    It works for one signal or many whose noise is small against their range: loads, rates, counts, temperatures,
    prices, also bursty, heavy-tailed and daily ones, from minutes to hours between values. It says a thing once:
    it marks the begin of something new, not its duration. It does not see a fault whose values are all usual (a
    repeated day, a stuck value inside the range), drifts inside a bin, relations between signals, weekly or yearly
    patterns. The hour of the day is judged after several days only. A signal that walks without bounds is news
    whenever its range grows.

    Parameters
    ----------
    columns : names of the d value columns, at least one; each is judged by itself, the row by the largest
        surprise, corrected for d looks (Bonferroni).
    warm_rows : a column's first values without an opinion, at least 20.
    settle_rows : values after which the bins are laid once more, and from which on a record grows by steps.
    quiet_rows : values after a novelty in which only a larger one is told.
    memory : visits; what a context has shown is forgotten after `memory` to twice as many without a repeat.
    hold : rows that are at least this surprising to others (`Block.alarm`) are scored but teach nothing: no
        bin, no range, no record, no count.
    hold_rows : that many held values in a row; then learning resumes until the alarm has ended.
    explain_from : columns are named from this surprise on.

    Notes
    -----
    NaN, infinite values and those beyond 1e30 are missing. `share` is the column's own surprise, `expected` the
    slowest moving average before the value. A time stamp that goes back within the hour before, or repeats,
    begins no visit of an hour. State: 2,368 bytes a slot and column, whatever was seen.

    References
    ----------
    A. Lavin, S. Ahmad, "Evaluating real-time anomaly detection algorithms: the Numenta Anomaly Benchmark", ICMLA
    2015: the kind of series and the price of false alarms. M. Smirnov, "Contextual Anomaly Detector", 2016:
    news in a context as evidence; here contexts are fixed and O(1). I. Witten, T. Bell, "The zero-frequency
    problem", IEEE Trans. Inf. Theory 37 (1991): the escape estimate. C. Genest, J. Zidek, "Combining probability
    distributions", Statist. Sci. 1 (1986): the pool.
    """

    def __init__(
        self,
        columns: tuple[str, ...],
        *,
        warm_rows: int = 100,
        settle_rows: int = 200,
        quiet_rows: int = 110,
        memory: int = 25_000,
        hold: float = 6.0,
        hold_rows: int = 2000,
        explain_from: float = 3.0,
    ) -> None:
        if not columns:
            raise ValueError("columns: at least one is needed")
        if not 20 <= warm_rows <= 1_000_000:
            raise ValueError(f"warm_rows must lie in 20..1000000, not {warm_rows}")
        if not warm_rows <= settle_rows <= 1_000_000:
            raise ValueError(f"settle_rows must lie in warm_rows..1000000, not {settle_rows}")
        if not 1 <= quiet_rows <= 1_000_000:
            raise ValueError(f"quiet_rows must lie in 1..1000000, not {quiet_rows}")
        if not 100 <= memory <= 1_000_000_000:
            raise ValueError(f"memory must lie in 100..1000000000, not {memory}")
        if not 0.0 < hold <= CAP:
            raise ValueError(f"hold must lie above 0 and up to {CAP}, not {hold}")
        if not 0 <= hold_rows <= 1_000_000:
            raise ValueError(f"hold_rows must lie in 0..1000000, not {hold_rows}")
        if not 0.0 < explain_from <= CAP:
            raise ValueError(f"explain_from must lie above 0 and up to {CAP}, not {explain_from}")
        params: dict[str, Any] = {
            "warm_rows": int(warm_rows),
            "settle_rows": int(settle_rows),
            "quiet_rows": int(quiet_rows),
            "memory": int(memory),
            "hold": float(hold),
            "hold_rows": int(hold_rows),
            "explain_from": float(explain_from),
        }
        self._spec = DetectorSpec("novelty", 1, "sample", tuple(columns), params)
        self._d = d = len(columns)
        self._prm = np.array([*params.values(), math.log10(d)], np.float64)
        self._rows: NDArray[np.float64] = np.zeros((0, d, WORDS))

    @property
    def spec(self) -> DetectorSpec:
        return self._spec

    @property
    def state_nbytes(self) -> int:
        return self._d * WORDS * 8

    def reserve(self, n_slots: int) -> None:
        self._rows = grown(self._rows, n_slots)

    def update(self, block: Block, out: Scores) -> None:
        n = check_block(block, self._d, out)
        alarm = alarms(block)
        clear(out, n)
        rows = self._rows.reshape(-1, WORDS)
        bad = update_rows(
            readonly(block.slots),
            readonly(np.ascontiguousarray(block.ts_us)),
            readonly(block.values),
            alarm,
            rows,
            rows.view(np.uint32),
            self._prm,
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
        self._rows[slots] = np.ascontiguousarray(states).view(np.float64).reshape(len(slots), self._d, WORDS)
