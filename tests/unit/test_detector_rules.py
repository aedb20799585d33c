"""What each rule counts, what it does not, and what is said of it."""

import math

import numpy as np
import pytest

from detectors.checks import run
from detectors.protocol import Block
from detectors.registry import make_detector
from detectors.rules import kind_of

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


# -- rate, stuck, flood -----------------------------------------------------------------------------------------

US = 1_000_000
WIDE = ("a", "b", "c", "d", "e")


def timed(values, ts_us=None, columns=WIDE, **params):
    """Of one device, a row a second unless told otherwise."""
    values = np.asarray(values, np.float32)
    detector = make_detector("rules", columns, {"period_us": US, **params})
    detector.reserve(1)
    ts_us = np.arange(len(values)) * US if ts_us is None else np.asarray(ts_us)
    scores = run(detector, Block(np.zeros(len(values), np.int32), ts_us.astype(np.int64), values))
    return detector, scores


def busy(rows=100, seed=0):
    """Five signals, all of which change in every row, by less than 1."""
    return np.random.default_rng(seed).uniform(50.0, 51.0, (rows, 5)).astype(np.float32)


def kinds(detector, scores, values, rows):
    told = []
    for i in rows:
        c = int(scores.column[i, 0])
        signal = (detector.spec.columns[c], float(values[i, c])) if c >= 0 else None
        told.append(kind_of(detector.spec, *signal, float(scores.expected[i, 0])) if signal else None)
    return told


RATES = (2.0, None, None, None, None)
STUCK = (10.0, None, None, None, None)
IMPOSSIBLE = 30.0 - math.log10(5)


def test_a_jump_is_told_with_what_was_allowed_until_it_is_over():
    values = busy()
    values[60, 0] = 90.0
    detector, scores = timed(values, rates=RATES)
    assert scores.surprise[60] == pytest.approx(IMPOSSIBLE)
    assert scores.column[60].tolist() == [0, -1, -1]
    assert scores.expected[60, 0] == pytest.approx(values[59, 0] + 2.0)
    assert np.nanmax(np.delete(scores.surprise, 60)) == 0.0, "the way back was held for a jump"
    assert kinds(detector, scores, values, [60]) == ["rate"]


def test_a_new_level_is_the_normal_one_after_ten_periods():
    values = busy()
    values[60:, 0] -= 45.0
    _, scores = timed(values, rates=RATES)
    assert np.flatnonzero(scores.surprise > 0).tolist() == list(range(60, 70))
    np.testing.assert_allclose(scores.expected[60:70, 0], values[59, 0] - 2.0 * np.arange(1, 11), rtol=1e-6)


def test_what_is_allowed_grows_with_the_time_that_a_signal_was_away():
    values = busy()
    values[60:64, 0], values[64:, 0] = np.nan, values[64:, 0] + 9.0
    _, scores = timed(values, rates=RATES)
    assert scores.surprise[64] == 0.0
    values[63, 0] = values[64, 0]
    _, scores = timed(values, rates=RATES)
    assert scores.surprise[63] == pytest.approx(IMPOSSIBLE)
    assert scores.expected[63, 0] == pytest.approx(values[59, 0] + 8.0)


def test_a_first_value_after_a_gap_is_no_evidence():
    values = busy()
    values[60:, 0] += 40.0
    ts_us = np.arange(100) * US
    ts_us[60:] += 11 * US
    _, scores = timed(values, ts_us, rates=RATES)
    assert np.nanmax(scores.surprise) == 0.0
    ts_us[60:] -= 2 * US
    assert timed(values, ts_us, rates=RATES)[1].surprise[60] > 29.0


def test_less_than_a_period_counts_as_one_so_that_time_stamps_may_jitter():
    values = busy()
    values[59:, 0] = [50.0, 51.9, *[51.0] * 39]
    ts_us = np.arange(100) * US
    ts_us[60] -= 900_000
    assert np.nanmax(timed(values, ts_us, rates=RATES)[1].surprise) == 0.0


@pytest.mark.parametrize("step_us", [0, -5 * US])
def test_no_time_or_time_that_went_back_is_no_evidence(step_us):
    values = busy()
    values[60:, 0] += 40.0
    ts_us = np.arange(100) * US
    ts_us[60:] += step_us - US
    _, scores = timed(values, ts_us, rates=RATES)
    assert np.nanmax(scores.surprise) == 0.0


def test_an_impossible_first_value_is_no_measure_of_the_next():
    values = busy()
    values[0, 0] = -1e6
    _, scores = timed(values, rates=RATES, limits=[(0.0, 100.0)] * 5, known_rows=1)
    assert scores.column[0, 0] == 0 and scores.expected[0, 0] == 0.0
    assert (scores.surprise[1:] == 0.0).all()


def test_a_value_out_of_range_is_told_as_such_and_is_no_measure_either():
    values = busy()
    values[60:63, 0] = 1e20
    detector, scores = timed(values, rates=RATES, limits=[(0.0, 100.0)] * 5)
    assert kinds(detector, scores, values, [60, 61, 62]) == ["range"] * 3
    assert scores.expected[60, 0] == 100.0
    assert np.nanmax(np.delete(scores.surprise, [60, 61, 62])) == 0.0


def test_a_repeated_value_is_surer_the_longer_it_lasts_and_below_what_is_impossible():
    values = busy(200)
    values[60:, 0] = values[60, 0]
    detector, scores = timed(values, stuck_after_s=STUCK)
    held = np.arange(140.0)
    own = np.where(held > 10.0, np.minimum(0.8 * held, 27.0), 0.0)
    np.testing.assert_allclose(scores.surprise[60:], np.maximum(own - math.log10(5), 0.0), rtol=1e-5)
    assert scores.column[71, 0] == 0
    assert (scores.expected[71:, 0] == values[60, 0]).all()
    assert set(kinds(detector, scores, values, range(71, 200))) == {"stuck"}


def test_another_value_ends_it():
    values = busy(200)
    values[60:120, 0] = values[60, 0]
    _, scores = timed(values, stuck_after_s=STUCK)
    assert scores.surprise[119] > 20.0
    assert (scores.surprise[120:] == 0.0).all()


def test_a_signal_that_never_changed_is_stuck_too():
    values = busy()
    values[:, 0] = 7.0
    _, scores = timed(values, stuck_after_s=STUCK)
    assert scores.surprise[-1] > 20.0
    assert scores.expected[-1, 0] == 7.0


def test_a_device_at_rest_holds_its_values():
    values = busy(400)
    values[60:300] = values[60]
    values[60:300, 4] = busy(400, seed=1)[60:300, 4]
    told = timed(values, stuck_after_s=STUCK)[1].surprise
    assert told[59:300].max() > 7.0, "one of four others moves: in use"
    values[60:300] = values[60]
    told = timed(values, stuck_after_s=STUCK)[1].surprise
    assert (told[29:] == 0.0).all()
    values[60:400, 0] = values[60, 0]
    told = timed(values, stuck_after_s=STUCK)[1].surprise
    assert (told[29:310] == 0.0).all() and told[-1] > 20.0, "time at rest counted"


def test_few_signals_cannot_be_told_from_a_device_at_rest():
    values = busy()[:, :2].copy()
    values[60:] = values[60]
    _, scores = timed(values, columns=WIDE[:2], stuck_after_s=STUCK[:2])
    assert scores.surprise[-1] > 20.0


def test_a_long_gap_counts_for_ten_periods_and_time_that_went_back_for_nothing():
    values = busy()
    values[60:, 0] = values[60, 0]
    ts_us = np.arange(100) * US
    ts_us[64:] += 3600 * US
    ts_us[67:] -= 7200 * US
    told = timed(values, ts_us, stuck_after_s=STUCK)[1].surprise
    assert (told[29:64] == 0.0).all()
    assert told[64] == pytest.approx(0.8 * 13 - math.log10(5), rel=1e-5)
    assert told[67] == pytest.approx(0.8 * 15 - math.log10(5), rel=1e-5)
    assert told[68] == pytest.approx(0.8 * 16 - math.log10(5), rel=1e-5)


@pytest.mark.parametrize("step_us", [0, 1, 199_999])
def test_a_flood_is_told_after_so_many_rows_and_names_no_signal(step_us):
    values = busy(300)
    ts_us = np.concatenate([np.arange(100) * US, 99 * US + np.arange(1, 201) * step_us])
    detector, scores = timed(values, ts_us)
    assert (scores.surprise[29:199] == 0.0).all()
    assert (scores.surprise[199:] == np.float32(IMPOSSIBLE)).all()
    assert (scores.column == -1).all()
    assert detector.state_nbytes == 5 * 8 + 24


def test_a_burst_and_a_fast_device_are_no_flood():
    values = busy(2000)
    steps = np.full(2000, 200_000)
    assert np.nanmax(timed(values, np.cumsum(steps))[1].surprise) == 0.0
    steps = np.full(2000, US)
    steps[np.arange(2000) % 100 < 50] = 0
    steps[::100] = 20 * US
    assert np.nanmax(timed(values, np.cumsum(steps))[1].surprise) == 0.0


def test_an_ordinary_step_now_and_then_does_not_hide_a_flood():
    steps = np.full(600, 1000)
    steps[::20] = US
    scores = timed(busy(600), np.cumsum(steps))[1]
    assert scores.surprise[-1] == pytest.approx(IMPOSSIBLE)


def test_a_flood_ends_with_the_next_pause():
    steps = np.full(400, 0)
    steps[300:] = US
    told = timed(busy(400), np.cumsum(steps))[1].surprise
    assert told[299] > 29.0
    assert (told[345:] == 0.0).all()


def test_an_impossible_value_in_a_flood_is_named():
    values = busy(300)
    values[250, 1] = -1.0
    detector, scores = timed(values, np.zeros(300), limits=[(0.0, 100.0)] * 5)
    assert kinds(detector, scores, values, [249, 250]) == [None, "range"]


def test_times_that_are_rubbish_break_nothing():
    values = busy(400)
    ts_us = np.random.default_rng(3).choice(np.array([0, -(2**63), 2**63 - 1, 5 * US]), 400)
    detector, scores = timed(values, ts_us, rates=RATES, stuck_after_s=STUCK)
    assert np.isfinite(scores.surprise[29:]).all()
    assert np.isfinite(detector._figures).all()


def test_what_is_not_declared_is_not_judged():
    values = busy(400)
    values[60:300, 0] = values[60, 0]
    values[350:, 1] += 1e9
    detector, scores = timed(values, np.zeros(400), period_us=0)
    assert (scores.surprise[29:] == 0.0).all()
    assert detector.state_nbytes == 5 * 8


def test_one_row_is_no_opinion():
    _, scores = timed(busy(1), rates=RATES, stuck_after_s=STUCK)
    assert np.isnan(scores.surprise).all()


def test_it_goes_on_from_a_snapshot_with_last_values_and_times():
    values = busy(200)
    values[60:, 0] = values[60, 0]
    values[150, 1] = 90.0
    params = {"rates": (2.0,) * 5, "stuck_after_s": STUCK, "period_us": US}
    whole = timed(values, **params)[1]
    one, two = (make_detector("rules", WIDE, params) for _ in range(2))
    one.reserve(1)
    two.reserve(4)
    assert one.state_nbytes == 5 * 24 + 24
    ts_us = np.arange(200) * US
    run(one, Block(np.zeros(150, np.int32), ts_us[:150], values[:150]))
    two.restore(np.array([3], np.int32), one.snapshot(np.zeros(1, np.int32)))
    after = run(two, Block(np.full(50, 3, np.int32), ts_us[150:], values[150:]))
    np.testing.assert_array_equal(after.surprise, whole.surprise[150:])
    assert after.column[0].tolist()[:2] == [1, 0]


def test_values_too_large_to_be_meant_are_told_as_missing():
    values = busy()
    values[60:, 0] = 1e35
    detector, scores = timed(values)
    assert kinds(detector, scores, values, [70]) == ["dropout"]


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
        {"stuck_surprise": -1.0},
        {"rates": [1.0]},
        {"rates": [1.0, 0.0, None]},
        {"rates": [1.0, math.inf, None]},
        {"stuck_after_s": [1.0, -1.0, None]},
        {"stuck_after_s": [1.0, math.nan, None]},
        {"period_us": -1},
        {"flood_share": 0.0},
        {"flood_share": 1.0},
        {"flood_rows": 1},
    ],
)
def test_wrong_parameters_are_refused_by_name(params):
    with pytest.raises(ValueError, match=next(iter(params))):
        make_detector("rules", COLUMNS, params)
