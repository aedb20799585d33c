"""What relations see in data of the law that they were fitted to, what they must not cry about, and fit itself."""

import json
import math

import numpy as np
import pytest
from detector_models import MEAN, SD, correlated, fitted

from detectors.checks import run
from detectors.protocol import Block, Scores
from detectors.registry import make_detector
from detectors.relations import Relations
from detectors.relations_fit import fit

COLUMNS = tuple(f"c{i}" for i in range(6))
NOISE = 0.3
WARM = 120


def rows_of(seed, rows=1500, devices=1):
    rng = np.random.default_rng(seed)
    return np.stack([correlated(rng, rows, len(COLUMNS), NOISE) for _ in range(devices)])


def score(values, model=None, **params):
    """What `relations` says of values (devices, rows, d), device after device."""
    values = np.ascontiguousarray(values, np.float32).reshape(-1, *np.shape(values)[-2:])
    devices, rows, d = values.shape
    detector = make_detector("relations", COLUMNS, {"model": model or fitted(COLUMNS), **params})
    detector.reserve(devices)
    slots = np.repeat(np.arange(devices, dtype=np.int32), rows)
    return run(detector, Block(slots, np.arange(len(slots), dtype=np.int64), values.reshape(-1, d)))


def implied_sd():
    """The standard deviation of one column given all the others, from the law itself, not from the model."""
    d = len(COLUMNS)
    covariance = SD * SD * (np.ones((d, d)) + NOISE * NOISE * np.eye(d))
    return 1.0 / math.sqrt(np.linalg.inv(covariance)[0, 0])


def implied(row, column):
    """What the law says that the other columns of a row imply."""
    others = np.delete(row, column) - MEAN
    return MEAN + others.sum() / (len(others) + NOISE * NOISE)


def test_healthy_devices_of_the_fitted_law_are_seldom_surprising():
    told = score(rows_of(7, devices=30)).surprise
    known = told[~np.isnan(told)]
    assert len(known) == 30 * (1500 - WARM)
    assert np.mean(known > 4.0) < 1e-3
    assert np.mean(known > 2.0) < 2e-2
    assert np.mean(known > 0.1) > 1e-3, "the surprise says nothing at all"
    assert known.max() < 8.0


@pytest.mark.parametrize("column", range(6))
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_broken_relation_is_named_first_with_what_the_others_imply(column, sign):
    values = rows_of(11)[0]
    values[900:, column] += sign * 10.0 * implied_sd()
    scores = score(values)
    assert np.nanmax(scores.surprise[:900]) < 5.0
    assert (scores.surprise[902:] > 8.0).all()
    assert (scores.column[902:, 0] == column).all()
    want = [implied(row, column) for row in values[902:]]
    # the law's constants are known to the model up to its training, and the device's offset up to 120 rows
    np.testing.assert_allclose(scores.expected[902:, 0], want, atol=0.5 * implied_sd())


def test_a_standing_offset_of_a_device_is_its_own_and_no_surprise():
    values = rows_of(12, devices=5)
    values += np.random.default_rng(1).normal(0.0, 3.0 * SD, (5, 1, 6))
    told = score(values).surprise
    assert np.nanmean(told > 4.0) < 1e-3


def test_a_fault_is_not_learnt_and_a_slow_change_is():
    values = rows_of(13, rows=6000)[0]
    broken, slow = values.copy(), values.copy()
    broken[1000:, 2] += 10.0 * implied_sd()
    slow[:, 2] += np.linspace(0.0, 0.5 * implied_sd(), 6000)
    assert (score(broken).surprise[1002:] > 8.0).all()
    assert np.nanmax(score(slow, rate=2e-3).surprise) < 5.0


def test_a_signal_that_joins_late_is_met_first_and_judged_then():
    values = rows_of(14)[0]
    values[:, 3] += 6.0 * SD
    values[:500, 3] = np.nan
    scores = score(values)
    told = ~np.isnan(scores.surprise)
    assert told[WARM:500].all() and not told[500 : 500 + WARM].any() and told[500 + WARM :].all()
    assert np.nanmax(scores.surprise) < 5.0
    values[900:, 3] += 10.0 * implied_sd()
    later = score(values)
    assert (later.surprise[902:] > 8.0).all()
    assert (later.column[902:, 0] == 3).all()


@pytest.mark.parametrize("gone", [[3], [0, 3], [0, 1, 2, 3, 4]])
def test_signals_that_leave_do_not_make_the_others_guilty(gone):
    values = rows_of(15)[0]
    values += np.random.default_rng(2).normal(0.0, 2.0 * SD, 6).astype(np.float32)
    values[800:, gone] = np.nan
    scores = score(values)
    assert not np.isnan(scores.surprise[800:]).any()
    assert np.nanmax(scores.surprise) < 5.0


def test_of_signals_that_are_nearly_one_most_may_leave_together():
    rng = np.random.default_rng(18)
    model = fit(COLUMNS, [correlated(rng, 900, 6, noise=0.003) for _ in range(8)])
    values = correlated(rng, 1500, 6, noise=0.003)
    values[800:, 1:5] = np.nan
    scores = score(values, model)
    assert np.nanmax(scores.surprise) < 5.0
    values[1000:, 0] += 20.0 * 0.003 * SD
    scores = score(values, model)
    assert (scores.surprise[1010:] > 8.0).all()


def test_an_absurd_row_leaves_a_finite_state_and_the_device_recovers():
    values = rows_of(16, rows=1200)[0]
    values[400:410] = np.array([1e29, -1e29, 9e29, -9e29, 1e29, -1e29], np.float32)
    told = score(values).surprise
    assert (told[400:410] == 300.0).all()
    assert np.isfinite(told[WARM:]).all()
    assert told[700:].max() < 5.0
    tiny = fitted(COLUMNS) | {"scale": [1e-12] * 6}
    assert np.isfinite(score(values, tiny).surprise[WARM:]).all()


def test_a_relation_that_holds_is_no_surprise_however_far_all_go_together():
    values = rows_of(17)[0]
    values[800:] += 4.0 * SD
    assert np.nanmax(score(values).surprise) < 6.0


# -- the model --------------------------------------------------------------------------------------------------


def healthy(n=8, rows=900, seed=3):
    return list(rows_of(seed, rows, n))


def test_a_model_is_plain_json_and_the_same_each_time():
    one, two = fit(COLUMNS, healthy()), fit(COLUMNS, healthy())
    assert one == two
    again = json.loads(json.dumps(one))
    assert again == one
    assert (again["columns"], again["devices"], again["rows"]) == (list(COLUMNS), 8, 8 * 900)
    values = rows_of(20)
    np.testing.assert_array_equal(score(values, one).surprise, score(values, again).surprise)


def test_a_model_finds_the_laws_conditional_spread():
    model = fitted(COLUMNS)
    found = np.array(model["scale"]) / np.sqrt(np.array(model["precision"]).reshape(6, 6).diagonal())
    np.testing.assert_allclose(found, implied_sd(), rtol=0.05)


def test_missing_values_in_the_training_do_not_blunt_the_model():
    whole = healthy(12)
    holes = [x.copy() for x in whole]
    rng = np.random.default_rng(0)
    for x in holes:
        x[rng.random(x.shape) < 0.1] = np.nan
    full, gappy = fit(COLUMNS, whole), fit(COLUMNS, holes)
    precision = [np.array(m["precision"]).reshape(6, 6).diagonal() for m in (full, gappy)]
    np.testing.assert_allclose(precision[1], precision[0], rtol=0.1)
    starts = [np.array(m["tails"]).reshape(2, 4, 6)[0, 0] for m in (full, gappy)]
    np.testing.assert_allclose(starts[1], starts[0], rtol=0.15)


def test_a_constant_signal_and_a_first_row_of_nothing_are_fitted():
    devices = healthy()
    for x in devices:
        x[:, 5] = 7.0
        x[0] = np.nan
    model = fit(COLUMNS, devices)
    values = rows_of(21)[0]
    values[:, 5] = 7.0
    assert np.nanmax(score(values, model).surprise) < 5.0
    values[900:, 5] = 8.0
    scores = score(values, model)
    assert (scores.surprise[905:] > 8.0).all() and (scores.column[905:, 0] == 5).all()
    values[900:, 5] = 900.0
    np.testing.assert_allclose(score(values, model).expected[905:, 0], 7.0, atol=0.01)


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (healthy(4), r"at least 5 devices with 360 rows are needed, not 4"),
        ([*healthy(4), *healthy(3, 359)], r"at least 5 devices with 360 rows are needed, not 4"),
        ([], r"not 0"),
        ([x[:, :5] for x in healthy(5)], r"6 wide"),
        ([np.where(np.arange(6) == 2, np.nan, x) for x in healthy(5)], r"no device has 240 values of c2"),
    ],
)
def test_fit_refuses_what_teaches_too_little(devices, message):
    with pytest.raises(ValueError, match=message):
        fit(COLUMNS, devices)


def test_fit_needs_no_more_than_it_says():
    assert fit(COLUMNS, healthy(5, 360))["devices"] == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": ["x", *COLUMNS[1:]]}, "fitted to other columns"),
        ({"columns": list(COLUMNS[::-1])}, "fitted to other columns"),
        ({"mean": [0.0] * 5}, "mean must be 6 finite numbers"),
        ({"scale": [1.0] * 5 + [math.nan]}, "scale must be 6 finite numbers"),
        ({"scale": [1.0] * 5 + [0.0]}, "above 0"),
        ({"precision": [0.0] * 36}, "above 0"),
        ({"precision": "high"}, "precision are not numbers"),
        ({"tails": []}, "tails must be 48 finite numbers"),
        ({"tails": [0.0] * 48}, "above 0"),
    ],
)
def test_a_model_that_is_none_is_refused_by_the_part(change, message):
    with pytest.raises(ValueError, match=message):
        make_detector("relations", COLUMNS, {"model": fitted(COLUMNS) | change})


@pytest.mark.parametrize("part", ["columns", "mean", "scale", "precision", "tails"])
def test_a_model_without_a_part_is_refused(part):
    model = {k: v for k, v in fitted(COLUMNS).items() if k != part}
    with pytest.raises(ValueError, match="model"):
        make_detector("relations", COLUMNS, {"model": model})


@pytest.mark.parametrize("params", [{"warm_rows": 0}, {"warm_rows": 1_000_001}, {"rate": -0.1}, {"rate": 0.2}])
def test_wrong_parameters_are_refused_by_name(params):
    with pytest.raises(ValueError, match=next(iter(params))):
        make_detector("relations", COLUMNS, {"model": fitted(COLUMNS), **params})


def test_another_model_is_another_state():
    one, two = (make_detector("relations", COLUMNS, {"model": fitted(COLUMNS, s)}) for s in (1, 2))
    assert one.spec.state_id != two.spec.state_id
    assert one.state_nbytes == 16 * 6 + 8


def test_a_column_that_cannot_alone_be_wrong_is_named_last():
    """Where the others imply a z that its declared range rules out, z is not the first suspect."""
    rng = np.random.default_rng(5)
    columns = ("x", "y", "z")

    def rows(n):
        x = rng.normal(0, 1, n)
        return np.stack([x, x + rng.normal(0, 0.02, n), x + rng.normal(0, 0.1, n)], axis=1).astype(np.float32)

    model = fit(columns, [rows(1000) for _ in range(6)])
    first = {}
    for limits in ((), ((None, None), (None, None), (-0.5, 0.5))):
        detector = Relations(columns, model=model, limits=limits)
        detector.reserve(1)
        values = rows(400)
        values[300:] = rng.normal(0, 0.005, (100, 3))
        values[300:, :2] += 0.7  # x and y say that z should be 0.7
        block = Block(np.zeros(400, np.int32), np.arange(400, dtype=np.int64), values)
        out = Scores.empty(400)
        detector.update(block, out)
        assert 8 < out.surprise[399] < 250
        first[bool(limits)] = out.column[399, 0]
        place = int(np.flatnonzero(out.column[399] == 2)[0])
        if limits:
            assert out.expected[399, place] == 0.5
    assert first[False] == 2
    assert first[True] != 2


def run_rows(detector, values, alarm=None):
    n = len(values)
    out = Scores.empty(n)
    slots, ts_us = np.zeros(n, np.int32), np.arange(n, dtype=np.int64)
    detector.update(Block(slots, ts_us, np.ascontiguousarray(values, np.float32), alarm), out)
    return out.surprise


def followed(alarm_rows, hold_rows, rows=400):
    """How far the offset of the first column went along with a lasting, small deviation."""
    detector = make_detector(
        "relations", COLUMNS, {"model": fitted(COLUMNS), "warm_rows": 50, "rate": 0.02, "hold_rows": hold_rows}
    )
    detector.reserve(1)
    values = correlated(np.random.default_rng(3), 400, len(COLUMNS))
    values[100:, 0] += 0.3
    alarm = np.zeros(400, np.float32)
    alarm[100 : 100 + alarm_rows] = 9.0
    run_rows(detector, values[:rows], alarm[:rows])
    return float(detector.snapshot(np.zeros(1, np.int32)).view(np.float32)[0, len(COLUMNS)])


def test_offsets_are_held_while_others_are_alarmed_but_not_for_ever():
    calm, held, bounded = followed(0, 10_000), followed(300, 10_000), followed(300, 20)
    before = followed(0, 10_000, rows=100)
    assert held == pytest.approx(before, abs=1e-6), "nothing is learnt from rows that alarm others"
    assert abs(calm - before) > 0.1
    assert abs(bounded - calm) < 0.5 * abs(calm - before), "after hold_rows it follows again"
