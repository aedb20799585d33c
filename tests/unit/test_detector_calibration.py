"""Calibrated surprises: the tail that is fitted, what a fault does to it, and how often health reaches a level."""

import math

import numpy as np
import pytest
from oracles_calibration import Tail

from detectors.calibration import NOMINAL_SCALE, PEAKS, STRETCHES_MAX, TailCalibration


def calibrated(surprise, slots=None, **params):
    surprise = np.array(surprise, np.float32)
    slots = np.zeros(len(surprise), np.int32) if slots is None else slots
    tail = TailCalibration(**params)
    tail.reserve(int(slots.max(initial=0)) + 1)
    tail.update(slots, surprise)
    return surprise, tail


def honest(rng, rows):
    """Surprises whose p-values are right: exponential."""
    return rng.exponential(NOMINAL_SCALE, rows)


def heavy(rng, rows):
    """Surprises of a detector that takes heavy tails for normal ones: p-values far too small."""
    return np.minimum(3.0 * rng.exponential(NOMINAL_SCALE, rows), 300.0)


def timid(rng, rows):
    """Surprises of a detector whose p-values are far too large."""
    return 0.5 * rng.exponential(NOMINAL_SCALE, rows)


@pytest.mark.parametrize("source", [honest, heavy, timid])
@pytest.mark.parametrize(("confirm", "window", "windows"), [(1, 16, 1), (3, 10, 4)])
def test_equal_to_the_slow_way(source, confirm, window, windows):
    rng = np.random.default_rng(4)
    told = source(rng, 12_000).astype(np.float32)
    told[5000:5600] += 20.0  # a fault
    told[9000:] *= 2.0  # another state of things
    got, _ = calibrated(told, confirm_rows=confirm, window_rows=window, windows=windows)
    slow = Tail(confirm, window, windows)
    want = [slow.ask(float(s)) for s in told]
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("source", [honest, heavy, timid])
@pytest.mark.parametrize("level", [3.0, 4.0, 5.0])
def test_health_reaches_a_level_as_often_as_it_says(source, level):
    """The threshold for risk q of the paper: after learning, the share of stretches above it is q."""
    rng = np.random.default_rng(int(10 * level))
    devices, rows, stretch = 100, 64_000, 32
    passed = 0
    for _ in range(devices):
        got, _ = calibrated(source(rng, rows), window_rows=stretch)
        later = got[rows // 2 :].reshape(-1, stretch)
        passed += int((later.max(axis=1) >= level).sum())
    expected = devices * rows / 2 * 10.0**-level
    # 5.0: some 30 of 3 million rows, by tails that were learnt from 1,000 stretches each
    assert expected / 2.0 <= passed <= 2.0 * expected, (passed, expected)


def test_the_fitted_tail_is_that_of_the_data():
    """As in the paper's experiments: the quantile for a risk beyond what was seen comes out near the true one."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(60):
        _, tail = calibrated(3.0 * rng.exponential(NOMINAL_SCALE, 64 * 2000))
        probe = np.linspace(0, 60, 6001, dtype=np.float32)
        asked = probe.copy()
        copies = TailCalibration()
        copies.reserve(1)
        copies.restore(np.zeros(1, np.int32), tail.snapshot(np.zeros(1, np.int32)))
        for i in range(0, 6001, 60):  # a window is never completed
            copies.restore(np.zeros(1, np.int32), tail.snapshot(np.zeros(1, np.int32)))
            copies.update(np.zeros(len(asked[i : i + 60]), np.int32), asked[i : i + 60])
        found.append(probe[np.searchsorted(asked, 7.0)])
    assert np.median(found) == pytest.approx(3.0 * 7.0, rel=0.1)


def test_a_new_device_is_judged_by_the_detectors_own_law():
    asked = np.array([0.0, 1.0, 3.0, 6.0, 30.0], np.float32)
    got, _ = calibrated(asked)
    assert (np.diff(got) > 0).all()
    assert got[0] == 0.0
    assert 4.0 < got[3] < 6.0, "what a detector says by itself counts for less"
    assert 10.0 < got[4] < 20.0, "the more so, the further it lies beyond what is likely to be seen"
    trusted, _ = calibrated(asked, trust=100.0)
    np.testing.assert_allclose(trusted, asked, rtol=1e-6, err_msg="nothing was seen that says otherwise")


def test_several_detectors_share_the_budget():
    one, _ = calibrated(np.full(10, 8.0))
    three, _ = calibrated(np.full(10, 8.0), tries=3)
    np.testing.assert_allclose(one - three, math.log10(3), rtol=1e-5)
    np.testing.assert_array_equal(calibrated(np.zeros(5), tries=3)[0], 0.0)


def test_no_opinion_stays_none_and_counts_for_nothing():
    rng = np.random.default_rng(2)
    told = honest(rng, 5000).astype(np.float32)
    holes = rng.random(7000) < 2 / 7
    spread = np.full(7000, np.nan, np.float32)
    there = np.flatnonzero(~holes)[:5000]
    spread[there] = told[: len(there)]
    with_holes, _ = calibrated(spread)
    without, _ = calibrated(told[: len(there)])
    np.testing.assert_array_equal(with_holes[there], without)
    assert np.isnan(with_holes[np.isnan(spread)]).all()


def test_a_fault_is_not_learnt_for_a_while_and_then_it_is():
    rng = np.random.default_rng(3)
    health = honest(rng, 64 * 1000)
    fault = 12.0 + honest(rng, 64 * 300)
    got, _ = calibrated(np.concatenate([health, fault]))
    during = got[len(health) :].reshape(-1, 64).max(axis=1)
    assert (during[:28] > 6.0).all(), "held while the fault lasts"
    assert np.median(during[-50:]) < 3.5, "what lasts becomes the state of things"


def test_a_short_fault_leaves_the_next_one_as_strange():
    rng = np.random.default_rng(5)
    health = honest(rng, 64 * 1000)
    fault = np.full(64 * 5, 15.0)
    got, _ = calibrated(np.concatenate([health, fault, honest(rng, 64 * 20), fault]))
    first, second = got[len(health)], got[-64 * 5]
    assert first > 7.0
    assert second > 8.0, "less than before: a tail that was seen once is no longer impossible"


def test_it_follows_a_device_that_becomes_noisier():
    rng = np.random.default_rng(6)
    got, _ = calibrated(np.concatenate([honest(rng, 64 * 3000), 2.0 * honest(rng, 64 * 6000)]))
    late = got[-64 * 2000 :].reshape(-1, 64).max(axis=1)
    share = (late >= math.log10(64 * 50)).mean()
    assert 0.01 <= share <= 0.04, "one stretch in 50"


@pytest.mark.parametrize("told", [np.zeros(9000), np.full(9000, 2.5), np.full(9000, 300.0), np.full(9000, 1e-40)])
def test_constant_surprises_break_nothing(told):
    got, tail = calibrated(told, window_rows=4)
    assert np.isfinite(got).all()
    assert (got >= 0).all()
    assert np.isfinite(tail.snapshot(np.zeros(1, np.int32)).view(np.float32)).all()


def test_rules_that_are_never_broken_in_health_alarm_at_once():
    told = np.zeros(64 * 2000)
    told[-1] = 30.0
    got, _ = calibrated(told, trust=1e6)
    assert got[-1] > 29.0


def test_devices_do_not_know_each_other_and_batches_do_not_matter():
    rng = np.random.default_rng(7)
    slots = rng.integers(0, 5, 30_000).astype(np.int32)
    told = (honest(rng, 30_000) * (1.0 + slots)).astype(np.float32)
    whole, _ = calibrated(told, slots, window_rows=8, confirm_rows=2)
    pieces = TailCalibration(window_rows=8, confirm_rows=2)
    pieces.reserve(1)
    cut = told.copy()
    for at in np.array_split(np.arange(30_000), 97):
        pieces.reserve(5)
        pieces.update(slots[at], part := cut[at])
        cut[at] = part
    np.testing.assert_array_equal(cut, whole)
    for slot in range(5):
        alone, _ = calibrated(told[slots == slot], window_rows=8, confirm_rows=2)
        np.testing.assert_array_equal(alone, whole[slots == slot])


def test_it_goes_on_from_a_snapshot_bit_for_bit_and_forgets():
    rng = np.random.default_rng(8)
    told = heavy(rng, 2 * STRETCHES_MAX * 4).astype(np.float32)
    whole, _ = calibrated(told, window_rows=4)
    half, tail = calibrated(told[: len(told) // 3], window_rows=4)
    other = TailCalibration(window_rows=4)
    other.reserve(3)
    state = tail.snapshot(np.zeros(1, np.int32))
    assert state.shape == (1, other.state_nbytes)
    other.restore(np.array([2], np.int32), state)
    rest = told[len(half) :].copy()
    other.update(np.full(len(rest), 2, np.int32), rest)
    np.testing.assert_array_equal(np.concatenate([half, rest]), whole)
    other.forget(np.array([2], np.int32))
    assert not other.snapshot(np.array([2], np.int32)).any()
    with pytest.raises(ValueError, match="states must be"):
        other.restore(np.zeros(1, np.int32), state[:, :-1])
    with pytest.raises(IndexError, match="slot 9 of"):
        other.update(np.array([9], np.int32), np.zeros(1, np.float32))


def test_the_detectors_own_law_fades_as_stretches_are_seen():
    rng = np.random.default_rng(9)
    history = heavy(rng, 64 * 2000)
    probe = np.full(1, 12.0)
    told = [calibrated(np.concatenate([history[: 64 * n], probe]), trust=200.0)[0][-1] for n in (0, 100, 2000)]
    assert told[0] == pytest.approx(12.0)
    assert 12.0 > told[1] > told[2] > 3.0
    assert told[2] < 6.5, "3 x 3.4: seen once in some 2,500 rows"


@pytest.mark.parametrize(
    "wrong",
    [
        {"confirm_rows": 0},
        {"confirm_rows": 65},
        {"window_rows": 0},
        {"windows": 0},
        {"hold": 0},
        {"tries": 0},
        {"trust": -1.0},
    ],
)
def test_wrong_parameters_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TailCalibration(**wrong)


def test_memory_is_bounded_and_documented():
    assert TailCalibration(confirm_rows=5).state_nbytes == 4 * (PEAKS + 10 + 5)
