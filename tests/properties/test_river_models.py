"""Every model of river.anomaly in the bank: it obeys the laws and finds an outlier, or is refused and told why."""

import inspect
from functools import cache

import numpy as np
import pytest
from river import anomaly

from detectors.checks import LAWS, Trial, make_trial, run
from detectors.protocol import Block
from detectors.river_bank import RiverBank

COLUMNS = ("a", "b", "c")
#: Parameters that keep the laws quick.
MODELS = {
    "HalfSpaceTrees": {},
    "LODA": {"n_random_cuts": 10},
    "LocalOutlierFactor": {"n_neighbors": 2},
    "OneClassSVM": {"nu": 0.2},
    "GaussianScorer": {"grace_period": 40},
    "StandardAbsoluteDeviation": {},
    "PredictiveAnomalyDetection": {"n_std": 3.0},
}
FILTERS = ("QuantileFilter", "ThresholdFilter")


def make(name, **changed):
    params = {"params": MODELS[name], "warm_rows": 40, "on_restore": "warm"} | changed
    return RiverBank(COLUMNS, model=f"river.anomaly.{name}", **params)


def test_no_model_of_river_is_forgotten():
    known = {name for name, cls in vars(anomaly).items() if inspect.isclass(cls) and not inspect.isabstract(cls)}
    assert known == {*MODELS, *FILTERS}


@cache
def trial(name):
    return make_trial(lambda: make(name), seed=3, devices=4, rows=640)


#: Laws that a bank cannot obey which begins anew after a restore.
EXACT = {"snapshot_restore", "score_before_learn"}


@pytest.mark.parametrize("law", sorted(set(LAWS) - EXACT))
@pytest.mark.parametrize("name", MODELS)
def test_law_holds(name, law):
    LAWS[law](trial(name))


@pytest.mark.parametrize("name", MODELS)
def test_it_scores_before_it_learns_and_the_absurd_does_not_excuse_itself(name):
    values = health(300)
    whole = told(make(name), values)
    cut = told(make(name), values[:200])
    np.testing.assert_array_equal(whole[:200], cut)
    last = []
    for far in (0.0, 1e5, 1e7):
        other = values.copy()
        other[-1] = np.median(values, axis=0) + np.float32(far)
        got = told(make(name), other)
        np.testing.assert_array_equal(got[:-1], whole[:-1])
        last.append(got[-1])
    assert last[0] < last[1] <= last[2]


@pytest.mark.parametrize("name", MODELS)
def test_constants_and_columns_that_come_late_or_leave_break_nothing(name):
    values = health(400)
    values[:, 0] = 7.0
    values[:200, 1] = np.nan
    values[300:, 2] = np.nan
    surprise = told(make(name), values)
    assert np.isfinite(surprise[100:]).all()
    constant = told(make(name), np.full((200, 3), 5.0, np.float32))[100:]
    assert np.isfinite(constant).all()
    assert name == "OneClassSVM" or (constant == 0.0).all()  # its weights, and with them its scores, never rest


@pytest.mark.parametrize("name", MODELS)
def test_a_restored_device_begins_anew(name):
    found: Trial = trial(name)
    old, new = found.fresh(), found.fresh()
    run(old, found.block)
    slots = np.arange(found.devices, dtype=np.int32)
    states = old.snapshot(slots)
    assert states.shape == (found.devices, old.state_nbytes) == (found.devices, 8)
    old.restore(slots, states)
    assert old.held == 0
    again, first = run(old, found.block), run(new, found.block)
    np.testing.assert_array_equal(again.surprise, first.surprise)


def health(rows, seed=1):
    """Three signals with one cause, as a device's are."""
    rng = np.random.default_rng(seed)
    cause = rng.normal(0.0, 1.0, (rows, 1))
    return (20.0 + cause + rng.normal(0.0, 0.2, (rows, 3))).astype(np.float32)


def told(bank, values, alarm=None):
    bank.reserve(1)
    n = len(values)
    return run(bank, Block(np.zeros(n, np.int32), np.arange(n), values, alarm)).surprise


@pytest.mark.parametrize("name", MODELS)
def test_an_outlier_reaches_the_ceiling_and_health_has_uniform_ranks(name):
    values = health(500)
    values[-1] = 80.0
    bank = make(name, history=100)
    surprise = told(bank, values)
    tied = ("HalfSpaceTrees", "PredictiveAnomalyDetection")  # whose highest score is one that other rows get, too
    assert surprise[-1] >= (1.3 if name in tied else bank.surprise_ceiling - 1e-5)
    calm = surprise[150:-1]
    assert np.isfinite(calm).all()
    assert np.mean(calm > 1.0) < 0.25


@pytest.mark.parametrize("name", MODELS)
def test_huge_values_poison_no_model(name):
    values = health(400)
    values[200] = 3e29
    values[210] = [3e38, np.inf, 20.0]
    values[220] = -3e29
    limits = dict.fromkeys(COLUMNS, (10.0, 30.0))
    bank = make(name, limits=limits, history=100)
    surprise = told(bank, values)
    assert np.isfinite(surprise[100:]).all()
    assert np.isfinite(told(bank, health(100, seed=2))).all()


@pytest.mark.parametrize("name", MODELS)
def test_rows_that_alarm_others_are_scored_and_not_learnt_for_so_long(name):
    values, extra = health(300), health(60, seed=5) + 3.0
    plain, held = make(name), make(name, hold_rows=60)
    joined = np.concatenate([values, extra, values])
    alarm = np.zeros(len(joined), np.float32)
    alarm[300:360] = 6.0
    got = told(held, joined, alarm)
    assert np.isfinite(got[300:360]).all(), "a held row is scored"
    want = told(plain, np.concatenate([values, values]))
    np.testing.assert_array_equal(got[:300], want[:300])
    np.testing.assert_array_equal(got[360:], want[300:])
    limited = make(name, hold_rows=20)
    got = told(limited, joined, alarm)
    want = told(make(name), np.concatenate([values, extra[20:], values]))
    np.testing.assert_array_equal(got[320:], want[300:])


def test_a_calm_row_begins_a_new_stretch_and_no_alarm_is_none():
    values = health(400)
    alarm = np.full(400, np.nan, np.float32)
    alarm[300:] = 5.9
    np.testing.assert_array_equal(told(make("HalfSpaceTrees"), values, alarm), told(make("HalfSpaceTrees"), values))
    alarm[300:310], alarm[311:321] = 7.0, 7.0
    kept = np.ones(400, bool)
    kept[300:310] = kept[311:321] = False
    got = told(make("HalfSpaceTrees", hold_rows=10), values, alarm)
    np.testing.assert_array_equal(got[kept], told(make("HalfSpaceTrees"), values[kept]))


def test_an_exact_bank_goes_on_within_a_stretch():
    values, alarm = health(400), np.zeros(400, np.float32)
    alarm[280:] = 9.0
    whole = told(make("HalfSpaceTrees", on_restore="exact", hold_rows=50), values, alarm)
    one, two = (make("HalfSpaceTrees", on_restore="exact", hold_rows=50) for _ in range(2))
    told(one, values[:300], alarm[:300])
    two.reserve(1)
    two.restore(np.zeros(1, np.int32), one.snapshot(np.zeros(1, np.int32)))
    np.testing.assert_array_equal(told(two, values[300:], alarm[300:]), whole[300:])


@pytest.mark.parametrize("name", FILTERS)
def test_filters_are_refused_with_the_reason(name):
    with pytest.raises(ValueError, match=r"is no anomaly detector but a filter: .*never learns.*`hold`"):
        RiverBank(COLUMNS, model=f"river.anomaly.{name}", on_restore="warm")


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "river.linear_model.LinearRegression",
        "river.compose.Pipeline",
        "river.anomaly.base.HalfSpaceTrees",
        "river.anomaly.hst.HalfSpaceTrees",
        "river.anomaly.",
        "river.anomaly.__builtins__",
        "HalfSpaceTrees",
        "",
    ],
)
def test_what_is_not_of_river_anomaly_is_not_imported(path):
    with pytest.raises(ValueError, match=r"model: no anomaly detector .*did you mean river\.anomaly"):
        RiverBank(COLUMNS, model=path, on_restore="warm")


@pytest.mark.parametrize(
    ("name", "params", "text"),
    [
        ("LocalOutlierFactor", {"n_neighbors": "many"}, "refuses"),
        ("LocalOutlierFactor", {"engine": {"window_size": 10}}, "engine must be a number"),
        ("OneClassSVM", {"optimizer": ["SGD"]}, "optimizer must be a number"),
        ("PredictiveAnomalyDetection", {"predictive_model": "linear"}, "refuses"),
        ("StandardAbsoluteDeviation", {"sub_stat": "mean"}, "refuses"),
        ("GaussianScorer", {"window": 5}, "has no window; it has window_size, grace_period"),
    ],
)
def test_parameters_that_a_model_cannot_use_are_refused_at_once(name, params, text):
    with pytest.raises(ValueError, match=f"params: .*{text}"):
        RiverBank(COLUMNS, model=f"river.anomaly.{name}", params=params, on_restore="warm")


@pytest.mark.parametrize("params", [{"hold": 0.0}, {"hold": float("nan")}, {"hold_rows": -1}, {"warm_rows": -1}])
def test_wrong_parameters_of_the_bank_are_refused_by_name(params):
    with pytest.raises(ValueError, match=next(iter(params))):
        make("HalfSpaceTrees", **params)
