"""The laws over every registered detector, and for every law a broken detector that it catches."""

import numpy as np
import pytest
from detector_models import needed

from detectors.checks import LAWS, check_detector, cut, make_trial
from detectors.ewma import EwmaZ
from detectors.protocol import Block, Detector
from detectors.registry import DETECTORS, make_detector

COLUMNS = ("a", "b", "c", "d", "e")


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", DETECTORS)
def test_law_holds(name, law):
    LAWS[law](make_trial(lambda: make_detector(name, COLUMNS, needed(name, COLUMNS)), seed=3))


@pytest.mark.parametrize("d", [1, 8, 17])
@pytest.mark.parametrize("name", ["ewma", "relations", "robust", "rules"])
def test_check_detector_at_other_widths(name, d):
    columns = tuple(map(str, range(d)))
    check_detector(lambda: make_detector(name, columns, needed(name, columns)), seed=d)


@pytest.mark.parametrize("name", DETECTORS)
def test_is_a_detector_whose_spec_makes_it_again(name):
    detector = make_detector(name, COLUMNS, needed(name, COLUMNS))
    assert isinstance(detector, Detector)
    again = make_detector(detector.spec.name, detector.spec.columns, detector.spec.params)
    assert again.spec.state_id == detector.spec.state_id
    assert detector.spec.name == name


class Silent(EwmaZ):
    def update(self, block, out):
        super().update(block, out)
        out.surprise[: len(block)] = np.nan
        out.column[: len(block)] = -1


class CountsCalls(EwmaZ):
    def update(self, block, out):
        super().update(block, out)
        out.surprise[0] += 1.0


class SharesState(EwmaZ):
    def update(self, block, out):
        super().update(Block(np.zeros_like(block.slots), block.ts_us, block.values), out)


class LosesState(EwmaZ):
    def restore(self, slots, states):
        super().restore(slots, states)
        self._state[slots, -1] = 0.0


class AddsToState(EwmaZ):
    def restore(self, slots, states):
        super().restore(slots, states)
        self._state[slots, 1] += 1e-9


class AliasesState(EwmaZ):
    def snapshot(self, slots):
        return self._state[: len(slots)].view(np.uint8)


class TakesAnyState(EwmaZ):
    def restore(self, slots, states):
        if states.shape[1] == self.state_nbytes:
            super().restore(slots, states)


class NeverForgets(EwmaZ):
    def forget(self, slots):
        pass


class ForgetsAll(EwmaZ):
    def forget(self, slots):
        self._state[:] = 0.0


class FillsGaps(EwmaZ):
    def update(self, block, out):
        super().update(block, out)
        block.values[np.isnan(block.values)] = 0.0


class GapsAreZero(EwmaZ):
    def update(self, block, out):
        super().update(Block(block.slots, block.ts_us, np.nan_to_num(block.values)), out)


class SaysZeroWhenWarming(EwmaZ):
    def update(self, block, out):
        super().update(block, out)
        np.nan_to_num(out.surprise[: len(block)], copy=False)


class LooksAhead(EwmaZ):
    def update(self, block, out):
        super().update(block, out)
        out.surprise[: len(block)] += np.float32(np.nan_to_num(block.values).max()) * np.float32(1e-3)


class ExcusesTheAbsurd(EwmaZ):
    def update(self, block, out):
        super().update(block, out)
        out.surprise[: len(block)][out.surprise[: len(block)] > 200.0] = 0.0


class BelowZero(EwmaZ):
    def update(self, block, out):
        super().update(block, out)
        out.surprise[: len(block)] -= 0.5


class Infinite(EwmaZ):
    def update(self, block, out):
        super().update(block, out)
        out.surprise[: len(block)][out.surprise[: len(block)] > 299.0] = np.inf


class NamesNoColumn(EwmaZ):
    def update(self, block, out):
        super().update(block, out)
        out.column[: len(block), 0][out.column[: len(block), 0] >= 0] = len(COLUMNS)


class WorstLast(EwmaZ):
    def update(self, block, out):
        super().update(block, out)
        two = out.column[: len(block), 1] >= 0
        for field in (out.column, out.share, out.expected):
            field[: len(block)][two, :2] = field[: len(block)][two, :2][:, ::-1]


class LeavesRubbish(EwmaZ):
    def update(self, block, out):
        expected = out.expected.copy()
        super().update(block, out)
        out.expected[: len(block)] = expected[: len(block)]


class ExpectsNothing(EwmaZ):
    def update(self, block, out):
        super().update(block, out)
        out.expected[: len(block)] = np.nan


class NamesTheAbsent(EwmaZ):
    def update(self, block, out):
        super().update(block, out)
        told = np.argwhere(np.isnan(block.values) & ~np.isnan(out.surprise[: len(block), None]))
        if not len(told):
            return
        row, column = told[0]
        out.column[row, 0], out.expected[row, 0], out.share[row, 0] = column, 20.0, 9.0
        out.column[row, 1:], out.expected[row, 1:], out.share[row, 1:] = -1, np.nan, np.nan


class GrowsFromNothing(EwmaZ):
    def reserve(self, n_slots):
        if n_slots > len(self._state):
            self._state = np.zeros((n_slots, self._state.shape[1]))


class Shrinks(EwmaZ):
    def reserve(self, n_slots):
        super().reserve(n_slots)
        self._state[n_slots:] = 0.0


MUTANTS = {
    "speaks": [Silent],
    "batch_invariance": [CountsCalls, LooksAhead],
    "device_isolation": [SharesState],
    "snapshot_restore": [LosesState, AddsToState, AliasesState, TakesAnyState],
    "forget": [NeverForgets, ForgetsAll],
    "input_unwritten": [FillsGaps],
    "nan_is_missing": [GapsAreZero],
    "warming_is_nan": [SaysZeroWhenWarming],
    "score_before_learn": [LooksAhead, ExcusesTheAbsurd],
    "surprise_in_range": [BelowZero, Infinite],
    "columns_in_range": [NamesNoColumn, WorstLast, LeavesRubbish, ExpectsNothing, NamesTheAbsent],
    "reserve_keeps": [GrowsFromNothing, Shrinks],
}


def test_every_law_has_a_mutant():
    assert set(MUTANTS) == set(LAWS)


@pytest.mark.parametrize(("law", "mutant"), [(law, m) for law, them in MUTANTS.items() for m in them])
def test_law_catches(law, mutant):
    with pytest.raises(AssertionError, match=f"^{law}: "):
        LAWS[law](make_trial(lambda: mutant(COLUMNS)))
    with pytest.raises(AssertionError):
        check_detector(lambda: mutant(COLUMNS))


def test_a_factory_must_always_make_the_same():
    made = iter((0.02, 0.03))
    with pytest.raises(AssertionError, match=r"^spec: "):
        check_detector(lambda: EwmaZ(COLUMNS, alpha=next(made)))


def test_a_trial_is_seeded_and_has_what_laws_need():
    one, two = (make_trial(lambda: EwmaZ(COLUMNS), seed=7) for _ in range(2))
    assert one.block.values.tobytes() == two.block.values.tobytes()
    empty = np.isnan(one.block.values).all(axis=1)
    assert set(one.block.slots[empty]) == {0, 1, 2, 3}
    part = cut(one.block, slice(3, 5))
    part.values[:] = 0.0
    assert not (one.block.values[3:5] == 0.0).any()
