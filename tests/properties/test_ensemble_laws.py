"""The ensemble is a detector like any other, whatever its members; what one sees the next ones are told."""

import numpy as np
import pytest
from detector_models import needed

from detectors.calibration import TailCalibration
from detectors.checks import LAWS, make_trial, run
from detectors.ensemble import Ensemble, Member, Opinions, strangest
from detectors.ewma import EwmaZ
from detectors.protocol import TOP, Block, Scores
from detectors.registry import make_detector

COLUMNS = ("a", "b", "c", "d", "e")


def whole(*names, window_rows=8, windows=2):
    tails = [TailCalibration(window_rows=window_rows, windows=windows, tries=len(names)) for _ in names]
    made = [make_detector(name, COLUMNS, needed(name, COLUMNS)) for name in names]
    return Ensemble([Member(d, t) for d, t in zip(made, tails, strict=True)])


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("names", [("rules", "relations"), ("rules", "novelty", "ewma"), ("robust",)])
def test_law_holds(names, law):
    LAWS[law](make_trial(lambda: whole(*names), seed=5))


def test_members_without_a_tail_say_what_they_say_alone():
    trial = make_trial(lambda: EwmaZ(COLUMNS))
    alone = run(trial.fresh(), trial.block)
    ensemble = Ensemble([Member(EwmaZ(COLUMNS))])
    ensemble.reserve(trial.devices)
    told = run(ensemble, trial.block)
    np.testing.assert_array_equal(told.surprise, alone.surprise)
    np.testing.assert_array_equal(told.column, alone.column)
    np.testing.assert_array_equal(told.share, alone.share)


class Listener(EwmaZ):
    """Keeps what it was told of each block."""

    def update(self, block, out):
        self.heard = block.alarm.copy()
        super().update(block, out)


class Says(EwmaZ):
    """Says the first column as its surprise."""

    def update(self, block, out):
        out.surprise[: len(block)] = block.values[:, 0]
        out.column[: len(block)] = -1
        out.column[: len(block), 0] = 1
        out.share[: len(block), 0] = block.values[:, 0]


def test_later_members_hear_the_largest_calibrated_surprise_so_far():
    columns = ("a", "b")
    last = Listener(columns)
    ensemble = Ensemble([Member(Says(columns)), Member(Says(columns), TailCalibration(tries=10)), Member(last)])
    ensemble.reserve(1)
    values = np.array([[0.0, 1], [9.0, 1], [np.nan, 1], [4.0, 1]], np.float32)
    block = Block(np.zeros(4, np.int32), np.arange(4), values, np.array([0, 0, 2, 0], np.float32))
    ensemble.update(block, Scores.empty(4))
    np.testing.assert_array_equal(last.heard, np.array([0, 9, 2, 4], np.float32))
    assert block.alarm[1] == 0, "the caller's own is not written to"


def test_columns_are_on_the_scale_of_the_row():
    columns = ("a", "b")
    ensemble = Ensemble([Member(Says(columns), TailCalibration(tries=10))])
    ensemble.reserve(1)
    opinions = Opinions.empty(1, 1)
    ensemble.ask(Block(np.zeros(1, np.int32), np.zeros(1, np.int64), np.array([[6.0, 0]], np.float32)), opinions)
    assert 0 < opinions.surprise[0, 0] < 6.0
    assert opinions.share[0, 0, 0] == opinions.surprise[0, 0]


def test_the_strangest_opinion_is_taken_whole_and_none_is_none():
    opinions = Opinions.empty(3, 2)
    opinions.surprise[:] = [[1.0, np.nan], [5.0, np.nan], [np.nan, np.nan]]
    opinions.column[1, 0], opinions.expected[1, 0], opinions.share[1, 0] = (
        [2, 1, -1],
        [7, 8, np.nan],
        [5, 4, np.nan],
    )
    out = Scores.empty(2)
    assert strangest(opinions, out).tolist() == [1, 0]
    assert out.surprise[0] == 5.0
    assert np.isnan(out.surprise[1])
    assert out.column.tolist() == [[2, 1, -1], [-1] * TOP]
    assert out.expected[0, 1] == 8.0


def test_members_over_other_columns_or_none_are_refused():
    with pytest.raises(ValueError, match="same columns"):
        Ensemble([])
    with pytest.raises(ValueError, match="same columns"):
        Ensemble([Member(EwmaZ(("a",))), Member(EwmaZ(("b",)))])


def test_state_is_its_members_in_turn():
    ensemble = whole("rules", "ewma")
    ensemble.reserve(3)
    sizes = [part.state_nbytes for m in ensemble.members for part in (m.detector, m.calibration)]
    assert ensemble.snapshot(np.array([1], np.int32)).shape == (1, sum(sizes))
    assert whole("rules", "ewma").spec.state_id == ensemble.spec.state_id
    assert whole("rules", "ewma", windows=3).spec.state_id != ensemble.spec.state_id
