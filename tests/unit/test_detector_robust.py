"""What the robust detector sees, and what it must not cry about."""

import numpy as np
import pytest

from detectors.checks import run
from detectors.protocol import Block
from detectors.robust import RobustMultiscale

N = 30_000
ALARM = 4.5


def score(values, **params):
    values = np.asarray(values, np.float32).reshape(len(values), -1)
    detector = RobustMultiscale(tuple(f"c{i}" for i in range(values.shape[1])), **params)
    detector.reserve(1)
    n = len(values)
    return run(detector, Block(np.zeros(n, np.int32), np.arange(n, dtype=np.int64) * 100_000, values))


def clean(kind, rng):
    if kind == "normal":
        return rng.normal(20, 3, (N, 5))
    if kind == "laplace":
        return rng.laplace(0, 1, (N, 5))
    if kind == "flags":
        return (rng.random((N, 5)) < 0.01) * 1.0
    if kind == "walk":
        return np.cumsum(rng.normal(0, 0.01, (N, 5)), axis=0)
    if kind == "regimes":
        return np.repeat(rng.choice([0, 30, 60, 90], N // 300), 300)[:, None] + rng.normal(0, 1, (N, 5))
    return np.sin(np.arange(N) / 300)[:, None] * 10 + rng.normal(0, 0.3, (N, 5))


@pytest.mark.parametrize("kind", ["normal", "laplace", "flags", "walk", "regimes", "sine"])
def test_clean_data_of_any_law_is_seldom_surprising(kind):
    told = score(clean(kind, np.random.default_rng(0))).surprise
    settled = told[1000:]
    assert np.isfinite(settled[settled == settled]).all()
    assert np.isfinite(settled).mean() > 0.99
    assert np.mean(settled > 3.0) < 2e-3
    assert settled.max() < 6.0
    assert np.sum(settled > ALARM) <= 3


def test_a_spike_is_seen_and_named_with_what_was_expected():
    values = clean("normal", np.random.default_rng(1))
    values[20_000, 3] += 45.0
    scores = score(values)
    assert scores.surprise[20_000] > ALARM
    assert scores.column[20_000].tolist() == [3, -1, -1]
    assert scores.expected[20_000, 0] == pytest.approx(20.0, abs=3.0)


def test_a_slow_drift_that_no_value_gives_away_is_seen_and_named():
    values = clean("normal", np.random.default_rng(2))
    values[24_000:, 1] += 3.0 * 0.001 * np.arange(N - 24_000)
    scores = score(values)
    seen = np.flatnonzero(scores.surprise[24_000:] > ALARM)
    assert len(seen) > 0
    assert seen[0] < 2500
    assert 3.0 * 0.001 * seen[0] < 3 * 3.0
    assert (scores.column[24_000 + seen, 0] == 1).all()
    assert scores.surprise[2000:24_000].max() < ALARM


def test_a_stuck_value_is_seen_only_where_the_others_move_and_only_inside_the_range():
    rng = np.random.default_rng(3)
    values = clean("normal", rng)
    values[25_000:25_300, 2] = values[25_000, 2]
    scores = score(values)
    seen = np.flatnonzero(scores.surprise[25_000:25_300] > ALARM)
    assert len(seen)
    assert seen[0] < 120
    assert (scores.column[25_000 + seen, 0] == 2).all()
    parked = clean("normal", rng)
    parked[20_000:29_000] = 20.0
    assert score(parked).surprise[20_000:].max() < ALARM


def test_a_value_that_rests_at_an_end_of_its_range_is_not_stuck():
    values = np.abs(clean("normal", np.random.default_rng(3)) - 20.0)
    values[25_000:25_300, 2] = 0.0
    inside = values.copy()
    inside[25_000:25_300, 2] = 2.0
    at_rest, stuck = (score(v, level_rows=1_000_000).surprise[25_100:25_300] for v in (values, inside))
    assert at_rest.max() < ALARM
    assert stuck.min() > ALARM


def test_a_fault_teaches_less_than_a_normal_row():
    values = clean("normal", np.random.default_rng(4))[:, :1]
    values[20_000:20_040] += 60.0
    scores = score(values)
    assert (scores.surprise[20_000:20_002] > ALARM).all()
    assert scores.surprise[20_400:].max() < ALARM
    assert np.isfinite(scores.surprise[20_000:]).all()


def test_a_constant_has_no_opinion_until_it_changed_ten_times():
    values = np.full(500, 7.0)
    values[300:310:2] = 8.0
    told = score(values).surprise
    assert np.isnan(told[:310]).all()
    assert np.isfinite(told[310:]).all()


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"fast_rows": 300}, "fast_rows"),
        ({"slow_rows": 2_000_000}, "slow_rows"),
        ({"warm_rows": 3}, "warm_rows"),
        ({"level_rows": -1}, "level_rows"),
        ({"clip": 1.0}, "clip"),
        ({"tail": 0.5}, "tail"),
        ({"shape": 0.0}, "shape"),
        ({"explain_from": 301.0}, "explain_from"),
    ],
)
def test_wrong_parameters_are_refused_by_name(params, name):
    with pytest.raises(ValueError, match=name):
        RobustMultiscale(("a",), **params)
