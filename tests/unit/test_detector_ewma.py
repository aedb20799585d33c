"""EWMA z: worked examples, missing values, edges."""

import numpy as np
import pytest

from detectors.checks import run
from detectors.ewma import EwmaZ
from detectors.protocol import Block


def rows(values, slot=0):
    values = np.asarray(values, np.float32)
    values = values.reshape(len(values), -1)
    return Block(np.full(len(values), slot, np.int32), np.arange(len(values), dtype=np.int64), values)


def detector(d=1, **params):
    made = EwmaZ(tuple(f"c{i}" for i in range(d)), **params)
    made.reserve(2)
    return made


def test_no_opinion_for_the_first_values_of_each_column():
    values = np.random.default_rng(0).normal(size=(40, 2))
    values[:10, 1] = np.nan
    told = run(detector(2), rows(values)).surprise
    assert np.isnan(told[:20]).all()
    assert np.isfinite(told[20:]).all()
    only = values.copy()
    only[:, 0] = np.nan
    told = run(detector(2), rows(only)).surprise
    assert np.isnan(told[:30]).all()
    assert np.isfinite(told[30:]).all()


def test_a_spike_is_named_with_what_was_expected():
    values = np.random.default_rng(1).normal([10.0, -5.0, 70.0, 0.0, 3.0], 1.0, (300, 5))
    values[299, [1, 3, 4, 0]] += [12.0, -30.0, 20.0, 9.0]
    one = detector(5)
    scores = run(one, rows(values))
    assert scores.column[299].tolist() == [3, 4, 1]
    np.testing.assert_allclose(scores.expected[299], [0.0, 3.0, -5.0], atol=1.5)
    assert (np.diff(scores.share[299]) < 0).all()
    assert scores.surprise[299] > one.surprise_at_z(15.0)
    assert (scores.column[scores.surprise < 3.0] == -1).all()
    assert (scores.column[scores.surprise >= 3.0, 0] >= 0).all()


def test_a_constant_has_no_opinion_also_on_its_first_change_but_learns_it():
    values = np.array([5.0] * 50 + [6.0, 5.0])
    told = run(detector(), rows(values)).surprise
    assert np.isnan(told[:51]).all()
    assert np.isfinite(told[51])


@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf])
def test_missing_values_neither_score_nor_learn(missing):
    values = np.random.default_rng(2).normal(size=(90, 1))
    gaps = np.insert(values, 45, missing, axis=0)
    whole, holed = run(detector(), rows(values)).surprise, run(detector(), rows(gaps)).surprise
    assert np.isnan(holed[45])
    np.testing.assert_array_equal(np.delete(holed, 45), whole)


def test_neither_mean_nor_variance_becomes_denormal():
    values = np.array([1.0, 2.0] + [0.0] * 40_000)
    one = detector()
    told = run(one, rows(values)).surprise
    assert one.snapshot(np.zeros(1, np.int32)).view(np.float64)[0, 1:3].tolist() == [0.0, 1e-290]
    assert np.isfinite(told[20:]).all()


def test_a_column_that_never_comes_does_not_keep_the_others_from_their_opinion():
    values = np.random.default_rng(3).normal(size=(200, 3))
    values[:, 1] = np.nan
    three = run(detector(3), rows(values))
    values[:, 1] = 4.0
    constant = run(detector(3), rows(values))
    np.testing.assert_array_equal(three.surprise, constant.surprise)


def test_at_its_largest_numbers_everything_stays_finite():
    values = np.random.default_rng(4).choice([3.4e38, -3.4e38, 0.0, 1e-45], (500, 2))
    scores = run(detector(2), rows(values))
    assert np.isfinite(scores.surprise[25:]).all()


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": 1.0}, "alpha"),
        ({"warm_rows": 1}, "warm_rows"),
        ({"explain_from": 0.0}, "explain_from"),
        ({"exact_z": 40.0}, "exact_z"),
    ],
)
def test_wrong_parameters_are_refused_by_name(params, name):
    with pytest.raises(ValueError, match=name):
        EwmaZ(("a",), **params)


def test_state_is_as_small_as_the_manual_says():
    assert [detector(d).state_nbytes for d in (1, 2, 10)] == [32, 48, 208]
