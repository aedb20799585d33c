"""What the novelty detector tells, how often it tells it, and what it survives; and that it is its naive twin."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from detectors.checks import check_detector, run
from detectors.novelty import Novelty
from detectors.protocol import Block

_PATH = Path(__file__).parents[1] / "oracles_novelty.py"
_SPEC = importlib.util.spec_from_file_location("oracles_novelty", _PATH)
oracles = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(oracles)

MINUTE = 60_000_000
DAY = 288  # rows of five minutes
TOLD = 3.0


def block(values, step_us=5 * MINUTE, ts_us=None, alarm=None):
    values = np.asarray(values, np.float32)
    n = len(values)
    values = values if values.ndim == 2 else values[:, None]
    if ts_us is None:
        ts_us = 1_700_006_400_000_000 + np.arange(n, dtype=np.int64) * step_us  # a midnight
    return Block(np.zeros(n, np.int32), np.asarray(ts_us, np.int64), values, alarm)


def score(values, *, step_us=5 * MINUTE, ts_us=None, alarm=None, **params):
    b = block(values, step_us, ts_us, alarm)
    detector = Novelty(tuple(f"c{i}" for i in range(b.values.shape[1])), **params)
    detector.reserve(1)
    return run(detector, b)


def days(n, seed=0, noise=1.0):
    """Load of a service: low at night, high by day."""
    phase = 2 * np.pi * np.arange(n * DAY) / DAY
    return 50 - 30 * np.cos(phase) + np.random.default_rng(seed).uniform(-noise, noise, n * DAY)


def test_a_new_level_is_told_at_once_and_once():
    values = days(14)
    at = 10 * DAY + 100
    values[at:] += 120.0
    scores = score(values)
    assert scores.surprise[at] > TOLD
    assert scores.column[at].tolist() == [0, -1, -1]
    assert scores.expected[at, 0] == pytest.approx(values[at - 1], abs=8.0)
    assert scores.share[at, 0] == scores.surprise[at]
    assert np.count_nonzero(scores.surprise[at + 20 : at + 2 * DAY] > TOLD) <= 3
    assert np.count_nonzero(scores.surprise[3 * DAY : at] > TOLD) <= 3


@pytest.mark.parametrize("height", [60.0, -60.0, 1e4, 1e20])
def test_a_spike_is_told_and_its_end_is_not_told_again(height):
    values = days(10)
    values[2000] += height
    told = score(values).surprise
    assert told[2000] > TOLD
    assert (told[2001:2100] == 0.0).mean() > 0.95


def test_a_usual_value_at_an_unusual_hour_is_told():
    values = days(20)
    at = 15 * DAY
    plain = score(values).surprise
    noon = values.copy()
    noon[at - 60 : at + 60] = 80.0  # the level of midday, around midnight
    told = score(noon).surprise
    assert told[at - 60 : at + 60].max() > TOLD
    assert plain[at - 60 : at + 60].max() == 0.0


def test_the_hour_is_that_of_the_event_time_and_not_the_row():
    values = days(20)
    ts_us = 1_700_006_400_000_000 + np.arange(len(values), dtype=np.int64) * 5 * MINUTE
    at = 15 * DAY
    ts_us[at:] += 12 * 60 * MINUTE  # the device's clock is wrong by half a day: the same values at other hours
    assert score(values, ts_us=ts_us).surprise[at : at + DAY].max() > TOLD
    assert score(values).surprise[at : at + DAY].max() < TOLD


def test_what_happens_again_and_again_is_told_less_each_time():
    values = days(60, noise=0.1)
    spikes = np.arange(5 * DAY + 77, 60 * DAY, 3 * DAY)
    values[spikes] = 200.0 + 10.0 * np.arange(len(spikes))
    higher = score(values).surprise[spikes]
    values[spikes] = 200.0
    same = score(values).surprise[spikes]
    assert same[0] == higher[0] > 5.0
    assert higher[-1] < higher[0] - 2.0
    assert (np.diff(same) <= 0.0).all()
    assert (same[-3:] == 0.0).all()


def test_within_the_quiet_time_only_a_larger_novelty_is_told():
    values = days(12)
    values[[2000, 2020, 2040]] += np.array([15.0, -12.0, 900.0])
    told = score(values).surprise
    assert told[2000] > TOLD
    assert told[2020] == 0.0
    assert told[2040] > told[2000]
    assert score(values, quiet_rows=1).surprise[2020] > 0.0


def test_a_suppressed_row_is_0_and_a_warming_one_has_no_opinion():
    told = score(np.random.default_rng(0).normal(size=400), warm_rows=60, settle_rows=90).surprise
    assert np.isnan(told[:60]).all()
    assert np.isfinite(told[60:]).all()
    assert (told[60:] == 0.0).mean() > 0.8


def test_it_stays_calm_on_days_that_repeat_and_on_noise():
    assert np.count_nonzero(score(days(60)).surprise[4 * DAY :] > TOLD) <= 8
    noise = np.random.default_rng(1).normal(size=20_000)
    assert np.mean(score(noise).surprise[1000:] > TOLD) < 2e-3


def test_what_alarms_others_is_not_learnt_until_the_bound():
    values = days(30)
    fault = slice(10 * DAY, 12 * DAY)
    values[fault] += 90.0
    values[20 * DAY : 20 * DAY + 50] += 90.0  # again
    alarm = np.zeros(len(values), np.float32)
    alarm[fault] = 9.0
    learnt = score(values).surprise
    held = score(values, alarm=alarm).surprise
    bounded = score(values, alarm=alarm, hold_rows=100).surprise
    again = slice(20 * DAY, 20 * DAY + 50)
    assert held[again].max() > learnt[again].max()
    assert held[12 * DAY] > learnt[12 * DAY]
    assert np.count_nonzero(held[fault] > 4.0) > np.count_nonzero(bounded[fault] > 4.0) == 1
    assert np.isfinite(held[fault]).all()
    assert held[10 * DAY] == learnt[10 * DAY]
    below = score(values, alarm=np.minimum(alarm, np.float32(5.9))).surprise
    assert below.tobytes() == learnt.tobytes()


def test_hold_rows_count_from_the_alarms_begin_and_learning_goes_on_after_it():
    n = 6 * DAY
    values = days(6)
    alarm = np.zeros(n, np.float32)
    alarm[900:1100] = 7.0
    states = []
    for rows in (0, 50, 10_000):
        detector = Novelty(("a",), hold_rows=rows)
        detector.reserve(1)
        run(detector, block(values, alarm=alarm))
        states.append(detector.snapshot(np.zeros(1, np.int32)).tobytes())
    assert len(set(states)) == 3
    held = score(values, alarm=np.full(n, 9.0, np.float32), hold_rows=10_000).surprise
    assert np.isnan(held[:100]).all()
    assert np.isfinite(held[100:]).all()


def test_the_row_is_the_largest_column_corrected_for_its_looks():
    one = days(12, seed=1)
    spiked = days(12, seed=2)
    spiked[2500] += 300.0
    both = score(np.stack([one, spiked, one], axis=1))
    alone = score(spiked)
    assert both.share[2500, 0] == alone.surprise[2500]
    assert both.surprise[2500] == pytest.approx(alone.surprise[2500] - np.log10(3), abs=1e-5)
    assert both.column[2500].tolist() == [1, -1, -1] or both.surprise[2500] < TOLD
    named = score(np.stack([one, spiked, one], axis=1), explain_from=1.0)
    assert named.column[2500].tolist() == [1, -1, -1]


def test_a_constant_is_calm_and_its_first_change_is_told():
    values = np.full(1500, 7.0)
    assert (score(values).surprise[100:] == 0.0).all()
    values[1200:] = 7.5
    told = score(values).surprise
    assert told[1200] > TOLD
    assert (told[1201:] == 0.0).all()
    zero = np.zeros(1500)
    zero[1200:] = 1e-45
    assert np.isfinite(score(zero).surprise[100:]).all()


ODD = {
    "nan": np.nan,
    "inf": np.inf,
    "-inf": -np.inf,
    "too large": 1e30,
    "largest": 3.4e38,
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_missing_teaches_nothing(kind):
    values = days(8)
    gaps = np.random.default_rng(4).random(len(values)) < 0.1
    holed = values.copy()
    holed[gaps] = ODD[kind]
    scores = score(holed)
    ts_us = block(values).ts_us
    without = score(values[~gaps], ts_us=ts_us[~gaps])
    assert np.isnan(scores.surprise[gaps]).all()
    assert scores.surprise[~gaps].tobytes() == without.surprise.tobytes()


@pytest.mark.parametrize("unit", [1e-44, 1e-30, 1e-6, 1e6, 1e28])
def test_values_of_any_size_are_scored_and_leave_finite_state(unit):
    values = np.float32(unit) * np.round(days(8)).astype(np.float32)
    values[1000] = values[1700] = 9.9e29
    values[1300] = -9.9e29
    detector = Novelty(("a",))
    detector.reserve(1)
    told = run(detector, block(values)).surprise[100:]
    assert np.isfinite(told).all()
    assert (told >= 0.0).all()
    assert np.isfinite(detector._rows[0, 0, [*range(17), *range(287, 293)]]).all()
    assert told[900] > TOLD or unit > 1e28


@pytest.mark.parametrize("kind", ["repeat", "back", "wild", "gap"])
def test_any_time_stamp_is_survived(kind):
    values = days(10)
    ts_us = block(values).ts_us.copy()
    rng = np.random.default_rng(5)
    if kind == "repeat":
        ts_us[:] = ts_us[0]
    elif kind == "back":
        ts_us -= rng.integers(0, 20, len(ts_us)) * MINUTE
    elif kind == "wild":
        ts_us[rng.random(len(ts_us)) < 0.1] = rng.choice([0, -1, 2**63 - 1, -(2**63)])
    else:
        ts_us[1500:] += 40 * DAY * 5 * MINUTE
    told = score(values, ts_us=ts_us).surprise[100:]
    assert np.isfinite(told).all()
    assert np.count_nonzero(told > TOLD) < 60


def test_late_rows_around_the_full_hour_begin_no_visits():
    values = np.full(4000, 1.0)
    values[::2] = 2.0
    steady = 1_700_006_400_000_000 + np.arange(4000, dtype=np.int64) * 5 * MINUTE
    late = steady.copy()
    late[1::2] -= 6 * MINUTE
    detectors = []
    for ts_us in (steady, late):
        detector = Novelty(("a",))
        detector.reserve(1)
        run(detector, block(values, ts_us=ts_us))
        detectors.append(detector._rows.view(np.uint32)[0, 0, 49 : 49 + 216].reshape(24, 3, 3)[:, 0, 2].astype(int))
    assert np.abs(detectors[0] - detectors[1]).max() <= 1


def test_one_row_and_no_row():
    assert np.isnan(score([5.0]).surprise).all()
    assert len(score(np.zeros((0, 2))).surprise) == 0


def test_what_was_not_seen_for_long_is_new_again():
    rng = np.random.default_rng(6)
    values = rng.integers(0, 8, 6000).astype(float)
    values[:300] = rng.integers(0, 12, 300)
    values[5000] = 11.0
    short, long = (score(values, memory=m, step_us=1000).surprise[5000] for m in (1000, 100_000))
    assert short > long


def test_a_wrong_alarm_array_is_refused():
    detector = Novelty(("a",))
    detector.reserve(1)
    for alarm in (np.zeros(3, np.float32), np.zeros(10)):
        with pytest.raises(ValueError, match="alarm"):
            run(detector, block(np.zeros(10), alarm=alarm))


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"warm_rows": 3}, "warm_rows"),
        ({"settle_rows": 50}, "settle_rows"),
        ({"quiet_rows": 0}, "quiet_rows"),
        ({"memory": 5}, "memory"),
        ({"hold": 0.0}, "hold"),
        ({"hold_rows": -1}, "hold_rows"),
        ({"explain_from": 301.0}, "explain_from"),
    ],
)
def test_wrong_parameters_are_refused_by_name(params, name):
    with pytest.raises(ValueError, match=name):
        Novelty(("a",), **params)
    with pytest.raises(ValueError, match="columns"):
        Novelty(())


@pytest.mark.parametrize("d", [1, 6])
def test_it_obeys_the_laws_at_any_width(d):
    check_detector(lambda: Novelty(tuple(map(str, range(d)))), seed=d)


def anything(seed, rows, d):
    """Three devices in which anything happens, with alarms of others and time stamps that jump."""
    rng = np.random.default_rng(seed)
    unit = 10.0 ** rng.integers(-9, 10, d)
    values = rng.normal(rng.normal(0, 5, d), 1.0, (rows, d)) * unit
    values += unit * 5 * np.sin(np.arange(rows) / 20)[:, None]
    if seed % 2:
        values = np.cumsum(values, axis=0)
    values[rng.random((rows, d)) < 0.005] *= 10.0 ** rng.integers(1, 9 if seed < 4 else 22)
    values[rng.random((rows, d)) < 0.03] = np.nan
    values[rng.random((rows, d)) < 0.002] = -np.inf
    values[: rows // 2, 0] = 7.0
    hold = int(rng.integers(0, rows))
    values[hold : hold + 90, d - 1] = values[hold, d - 1]
    ts_us = np.cumsum(rng.integers(-2, 12, rows)) * MINUTE + rng.integers(-(10**15), 10**15)
    alarm = np.where(rng.random(rows) < 0.01, 8.0, 0.0).astype(np.float32)
    alarm[rows // 3 : rows // 3 + 100] = 7.0
    slots = rng.integers(0, 3, rows).astype(np.int32)
    return Block(slots, ts_us, values.astype(np.float32), alarm)


@pytest.mark.parametrize("seed", range(8))
def test_it_is_its_oracle(seed):
    d = 1 + seed % 4
    b = anything(seed, 2500, d)
    settings = {"warm_rows": 60, "settle_rows": 130, "memory": 150, "hold_rows": 20, "quiet_rows": 30}
    detector = Novelty(tuple(map(str, range(d))), explain_from=0.5, **settings)
    detector.reserve(3)
    scores = run(detector, b)
    settings = {"warm": 60, "settle": 130, "memory": 150, "hold_rows": 20, "quiet": 30}
    told = oracles.novelty(b.slots, b.ts_us, b.values, b.alarm, **settings)
    want = np.array([np.nan if s is None else s for s, _ in told])
    np.testing.assert_allclose(scores.surprise, want, rtol=1e-6, atol=1e-6)
    assert np.count_nonzero(want > 0) > 10
    for i, (surprise, new) in enumerate(told):
        if surprise is None or surprise < 0.5:
            assert scores.column[i, 0] == -1
            continue
        guilty = sorted(new, key=lambda c: (-new[c][0], c))[:3]
        assert scores.column[i, : len(guilty)].tolist() == guilty
        np.testing.assert_allclose(scores.share[i, : len(guilty)], [new[c][0] for c in guilty], rtol=1e-6)
        np.testing.assert_allclose(scores.expected[i, : len(guilty)], [new[c][1] for c in guilty], rtol=1e-6)


def test_it_is_its_oracle_without_compilation_too():
    if os.environ.get("NUMBA_DISABLE_JIT") == "1":
        pytest.skip("this run is without compilation")
    env = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    ask = ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__)), "-k", "test_it_is_its_oracle and 3"]
    done = subprocess.run([sys.executable, *ask], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
