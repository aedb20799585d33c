"""Several detectors as one, on one scale. The rule: what alarms one, those asked later do not learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.blocks import check_states, clear
from detectors.calibration import TailCalibration
from detectors.protocol import TOP, Block, Detector, DetectorSpec, Scores


@dataclass(frozen=True, slots=True)
class Member:
    """One detector and how its surprises are calibrated; None = they are taken as they are."""

    detector: Detector
    calibration: TailCalibration | None = None


@dataclass(slots=True)
class Opinions:
    """What q members say of the same n rows: `Scores` with a first axis. See there for the last ones."""

    surprise: NDArray[np.float32]
    column: NDArray[np.int16]
    expected: NDArray[np.float32]
    share: NDArray[np.float32]

    @classmethod
    def empty(cls, q: int, n: int) -> Opinions:
        """Room for n opinions of q members, all "none"."""
        return cls(
            np.full((q, n), np.nan, np.float32),
            np.full((q, n, TOP), -1, np.int16),
            np.full((q, n, TOP), np.nan, np.float32),
            np.full((q, n, TOP), np.nan, np.float32),
        )

    def head(self, n: int) -> Opinions:
        """A view of the first n."""
        return Opinions(self.surprise[:, :n], self.column[:, :n], self.expected[:, :n], self.share[:, :n])

    def of(self, member: int) -> Scores:
        """A view of one member's."""
        return Scores(self.surprise[member], self.column[member], self.expected[member], self.share[member])


class Ensemble:
    """Members asked in turn, each calibrated, the largest surprise of all is the ensemble's.

    Each member scores and learns the whole block, then its surprises are calibrated on the device's own tail
    (`detectors.calibration`), so that they mean the same whatever the member; the calibrated surprise goes to the
    later members as `Block.alarm`. So put first what needs no learning (rules), last what learns most. The columns
    are named by the member whose surprise is the largest.

    It works as well as its best member, less what the others' false alarms cost of the budget: asking q members
    takes log10(q) off each one's surprise (Bonferroni, `tries` of each calibration). Members that always agree
    waste that; members that see different faults earn it.

    Parameters
    ----------
    members : over the same columns, at sample rate; at least one.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        columns = {m.detector.spec.columns for m in members}
        if len(columns) != 1:
            raise ValueError("an ensemble needs members, all over the same columns")
        self.members = tuple(members)
        parts: list[Any] = []
        for member in members:
            tail = member.calibration.meaning if member.calibration else None
            parts.append([member.detector.spec.state_id, tail])
        self._spec = DetectorSpec("ensemble", 1, "sample", columns.pop(), {"members": parts})
        self._opinions = Opinions.empty(len(self.members), 0)

    @property
    def spec(self) -> DetectorSpec:
        return self._spec

    def _stages(self) -> list[Detector | TailCalibration]:
        return [s for m in self.members for s in (m.detector, m.calibration) if s is not None]

    @property
    def state_nbytes(self) -> int:
        return sum(stage.state_nbytes for stage in self._stages())

    def reserve(self, n_slots: int) -> None:
        for stage in self._stages():
            stage.reserve(n_slots)

    def ask(self, block: Block, opinions: Opinions) -> None:
        """Every member scores and learns the block; what each says goes to the first len(block) places."""
        n = len(block)
        alarm = np.zeros(n, np.float32) if block.alarm is None else block.alarm.copy()
        for q, (detector, calibration) in enumerate((m.detector, m.calibration) for m in self.members):
            mine = opinions.of(q).head(n)
            detector.update(Block(block.slots, block.ts_us, block.values, alarm), mine)
            if calibration is not None:
                nominal = mine.surprise.copy()
                calibration.update(block.slots, mine.surprise)
                _rescale(mine, nominal)
            np.fmax(alarm, mine.surprise, out=alarm)

    def update(self, block: Block, out: Scores) -> None:
        n = len(block)
        if self._opinions.surprise.shape[1] < n:
            self._opinions = Opinions.empty(len(self.members), n)
        opinions = self._opinions.head(n)
        self.ask(block, opinions)
        clear(out, n)
        strangest(opinions, out)

    def forget(self, slots: NDArray[np.int32]) -> None:
        for stage in self._stages():
            stage.forget(slots)

    def snapshot(self, slots: NDArray[np.int32]) -> NDArray[np.uint8]:
        return np.hstack([stage.snapshot(slots) for stage in self._stages()])

    def restore(self, slots: NDArray[np.int32], states: NDArray[np.uint8]) -> None:
        check_states(slots, states, self.state_nbytes)
        at = 0
        for stage in self._stages():
            stage.restore(slots, np.ascontiguousarray(states[:, at : at + stage.state_nbytes]))
            at += stage.state_nbytes


def _rescale(scores: Scores, nominal: NDArray[np.float32]) -> None:
    """Put the columns' own surprises on the scale of the row's: by the same factor, in place."""
    named = np.flatnonzero(scores.column[:, 0] >= 0)
    if len(named):
        factor = scores.surprise[named] / np.maximum(nominal[named], np.float32(1e-6))
        scores.share[named] *= factor[:, None]


def strangest(opinions: Opinions, out: Scores) -> NDArray[np.int64]:
    """Write the most surprised member's opinion of each row to `out`; returns its number, int64 (n,)."""
    n = opinions.surprise.shape[1]
    best = np.argmax(np.where(np.isnan(opinions.surprise), np.float32(-1), opinions.surprise), axis=0)
    rows = np.arange(n)
    out.surprise[:n] = opinions.surprise[best, rows]
    out.column[:n] = opinions.column[best, rows]
    out.expected[:n] = opinions.expected[best, rows]
    out.share[:n] = opinions.share[best, rows]
    return best
