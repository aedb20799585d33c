"""Drift of a detector's scores: what is told, of whom, and what it never depends on."""

import numpy as np
import pytest

from detectors.drift import HIGHEST, DriftWatch

WINDOW_US = 10_000_000


def peaks(rows, mean=1.7, seed=0, detectors=1):
    """Peaks of healthy windows, as the largest of some rows' surprises are."""
    rng = np.random.default_rng(seed)
    return (mean - 0.43 + rng.exponential(0.43, (rows, detectors))).astype(np.float32)


def see(watch, values, slots=None, start=0):
    n = len(values)
    slots = np.zeros(n, np.int32) if slots is None else np.asarray(slots, np.int32)
    return watch.update(slots, (start + np.arange(n)) * WINDOW_US, values)


@pytest.mark.parametrize("seed", range(5))
def test_a_new_mean_is_told_once_with_both_means(seed):
    values = np.concatenate([peaks(400, seed=seed), peaks(600, mean=3.7, seed=seed + 99)])
    found = see(DriftWatch(1), values)
    assert len(found) == 1
    assert (found[0].detector, 400 < found[0].row < 520) == (0, True)
    assert found[0].before == pytest.approx(1.7, abs=0.5)
    assert found[0].after == pytest.approx(3.7, abs=0.8)


def test_scores_that_fall_are_told_too():
    values = np.concatenate([peaks(400, mean=3.7), peaks(600)])
    found = see(DriftWatch(1), values)
    assert len(found) == 1 and found[0].after < found[0].before


def test_health_is_quiet():
    told = [see(DriftWatch(1), peaks(3000, seed=seed)) for seed in range(10)]
    assert sum(map(len, told)) == 0


def test_each_detector_is_watched_by_itself():
    values = peaks(1000, detectors=3)
    values[400:, 1] += 2.0
    assert {drift.detector for drift in see(DriftWatch(3), values)} == {1}


def test_single_alarms_and_whatever_is_beyond_the_scale_are_no_drift():
    values = peaks(2000)
    values[::200] = 300.0
    assert see(DriftWatch(1), values) == []
    values = np.full((500, 1), 30.0, np.float32)
    values[250:] = 300.0
    assert see(DriftWatch(1), values) == []
    assert HIGHEST == 10.0


def test_no_opinion_is_no_score_and_takes_no_place():
    values = np.concatenate([peaks(400), peaks(600, mean=3.7)])
    gaps = np.full((2000, 1), np.nan, np.float32)
    gaps[::2] = values
    plain, gappy = see(DriftWatch(1), values), see(DriftWatch(1), gaps)
    assert [(2 * d.row, d.before, d.after) for d in plain] == [(d.row, d.before, d.after) for d in gappy]
    watch = DriftWatch(2)
    see(watch, np.full((10, 2), np.nan, np.float32), slots=range(10))
    assert watch.held == 0


def fleet(rows=4000, devices=5, seed=3):
    """Windows of several devices, two of which drift."""
    rng = np.random.default_rng(seed)
    slots = rng.integers(0, devices, rows).astype(np.int32)
    values = peaks(rows, seed=seed, detectors=2)
    values[rows // 2 :, 0] += np.where(slots[rows // 2 :] == 1, 3.0, 0.0)
    values[rows // 3 :, 1] += np.where(slots[rows // 3 :] == 4, 2.0, 0.0)
    values[rng.random(values.shape) < 0.05] = np.nan
    return slots, np.arange(rows) * WINDOW_US, values


def test_where_a_batch_was_cut_changes_nothing():
    slots, ts_us, values = fleet()
    whole = DriftWatch(2).update(slots, ts_us, values)
    assert {(slots[d.row], d.detector) for d in whole} == {(1, 0), (4, 1)}
    for size in (1, 7, 1000):
        watch, parts = DriftWatch(2), []
        for at in range(0, len(slots), size):
            cut = slice(at, at + size)
            parts += [d._replace(row=d.row + at) for d in watch.update(slots[cut], ts_us[cut], values[cut])]
        assert parts == whole


def test_other_devices_change_nothing():
    slots, ts_us, values = fleet()
    whole = DriftWatch(2).update(slots, ts_us, values)
    for slot in range(5):
        mine = np.flatnonzero(slots == slot)
        alone = DriftWatch(2).update(slots[mine], ts_us[mine], values[mine])
        assert [d._replace(row=int(mine[d.row])) for d in alone] == [d for d in whole if slots[d.row] == slot]


def test_the_input_may_be_read_only():
    arrays = fleet(200)
    for array in arrays:
        array.flags.writeable = False
    DriftWatch(2).update(*arrays)


def test_places_are_bounded_and_a_forgotten_device_begins_anew():
    watch = DriftWatch(1, devices_max=3, idle_us=5 * WINDOW_US)
    see(watch, peaks(10), slots=range(10))
    assert watch.held == 3 or watch.held < 4
    watch = DriftWatch(1)
    see(watch, peaks(400))
    watch.forget([0])
    assert watch.held == 0
    assert see(watch, peaks(600, mean=3.7)) == []


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"detectors": 0}, "detectors"),
        ({"detectors": 1, "delta": 0.0}, "delta"),
        ({"detectors": 1, "delta": 1.0}, "delta"),
        ({"detectors": 1, "devices_max": 0}, "devices_max"),
        ({"detectors": 1, "idle_us": -1}, "idle_us"),
    ],
)
def test_wrong_parameters_are_refused_by_name(params, name):
    with pytest.raises(ValueError, match=name):
        DriftWatch(**params)


def test_a_matrix_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"peaks must be \(4, 2\)"):
        see(DriftWatch(2), peaks(4))
