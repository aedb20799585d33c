"""A signal that stops and a value that cannot be: what counts, what does not, and what is said of it."""

import math

import numpy as np
import pytest

from detectors.checks import run
from detectors.protocol import Block
from detectors.registry import make_detector

COLUMNS = ("speed", "heat", "flag")
LIMITS = ((0.0, 250.0), (None, 100.0), (None, None))


def score(values, **params):
    detector = make_detector("rules", COLUMNS, {"limits": LIMITS, **params})
    detector.reserve(1)
    values = np.asarray(values, np.float32)
    return run(detector, Block(np.zeros(len(values), np.int32), np.arange(len(values)), values))


def steady(rows=100):
    return np.tile(np.array([50.0, 20.0, 1.0], np.float32), (rows, 1))


def test_healthy_rows_break_no_rule():
    told = score(steady()).surprise
    assert np.isnan(told[:29]).all()
    assert (told[29:] == 0.0).all()


def test_a_signal_that_stops_is_surer_with_every_row_and_named_without_an_expectation():
    values = steady()
    values[60:, 1] = np.nan
    scores = score(values)
    runs = np.arange(1, 41)
    np.testing.assert_allclose(scores.surprise[60:], runs - math.log10(3), rtol=1e-5)
    assert (scores.column[62:, 0] == 1).all() and (scores.column[:62] == -1).all()
    assert np.isnan(scores.expected).all()
    np.testing.assert_allclose(scores.share[62:, 0], runs[2:], rtol=1e-6)


def test_one_value_ends_the_run():
    values = steady()
    values[60:70, 1] = np.nan
    told = score(values).surprise
    assert told[69] > 9.0
    assert (told[70:] == 0.0).all()


def test_single_losses_are_health():
    rng = np.random.default_rng(0)
    values = steady(20_000)
    values[rng.random(values.shape) < 0.05] = np.nan
    told = score(values).surprise
    assert np.nanmean(told > 4.0) < 1e-3


def test_a_signal_that_never_reported_and_a_silent_device_are_no_opinion_of_it():
    values = steady()
    values[:, 1] = np.nan
    assert (score(values).surprise[29:] == 0.0).all()
    values = steady()
    values[60:] = np.nan
    scores = score(values)
    assert np.isnan(scores.surprise[60:]).all() and (scores.column == -1).all()


@pytest.mark.parametrize(
    ("column", "value", "limit"), [(0, -0.5, 0.0), (0, 251.0, 250.0), (1, 100.1, 100.0), (1, 1e29, 100.0)]
)
def test_an_impossible_value_is_named_with_the_nearer_limit(column, value, limit):
    values = steady()
    values[60, column] = value
    scores = score(values)
    assert scores.surprise[60] == pytest.approx(30.0 - math.log10(3))
    assert scores.column[60].tolist() == [column, -1, -1]
    assert scores.expected[60, 0] == limit
    assert np.nanmax(np.delete(scores.surprise, 60)) == 0.0


def test_a_value_at_its_limit_and_one_without_limits_are_possible():
    values = steady()
    values[60] = [0.0, 100.0, 1e20]
    values[61] = [250.0, -1e20, -1e20]
    assert (score(values).surprise[29:] == 0.0).all()


def test_an_infinite_value_is_missing():
    values = steady()
    values[60:, 0] = np.inf
    assert score(values).surprise[70] == pytest.approx(11 - math.log10(3))


def test_a_long_silence_ends_at_the_largest_surprise():
    values = steady(12_000)
    values[60:, 1] = np.nan
    scores = score(values)
    assert scores.surprise[-1] == pytest.approx(300.0 - math.log10(3))
    assert scores.share[-1, 0] == 300.0
    assert (np.diff(scores.surprise[60:]) >= 0.0).all()


def test_nothing_is_learnt_so_nothing_is_excused():
    values = steady(5000)
    values[60:, 0] = 251.0
    assert (score(values).surprise[60:] == np.float32(30.0 - math.log10(3))).all()


@pytest.mark.parametrize(
    "params",
    [
        {"limits": [(0, 1)]},
        {"missing_share": 0.0},
        {"missing_share": 1.0},
        {"known_rows": 0},
        {"impossible_surprise": -1.0},
        {"impossible_surprise": 301.0},
        {"impossible_surprise": math.nan},
    ],
)
def test_wrong_parameters_are_refused_by_name(params):
    with pytest.raises(ValueError, match=next(iter(params))):
        make_detector("rules", COLUMNS, params)
