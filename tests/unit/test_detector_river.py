"""The bank: its places, its ceiling, its ranges, what survives a restore."""

import numpy as np
import pytest

from detectors.checks import run
from detectors.protocol import Block
from detectors.river_bank import RiverBank

HOUR_US = 3_600_000_000


def rows(slots, ts_us, d=2, seed=0):
    values = np.random.default_rng(seed).random((len(slots), d)).astype(np.float32)
    return Block(np.asarray(slots, np.int32), np.asarray(ts_us, np.int64), values)


def bank(**params):
    made = RiverBank(("a", "b"), **params)
    made.reserve(16)
    return made


def test_a_full_bank_refuses_newcomers_and_evicts_the_longest_idle():
    two = bank(devices_max=2)
    run(two, rows([0, 1, 2, 0], [0, 1, 2, 3]))
    assert two.held == 2
    assert not two.snapshot(np.array([2], np.int32)).any()
    run(two, rows([0, 3], [HOUR_US, HOUR_US + 2]))
    held = two.snapshot(np.arange(4, dtype=np.int32)).any(axis=1)
    assert held.tolist() == [True, False, False, True]


def test_its_surprise_has_the_ceiling_it_says_and_outliers_reach_it():
    values = np.random.default_rng(1).normal(0.5, 0.02, (600, 2)).astype(np.float32)
    values[-1] = 50.0
    one = bank(history=100)
    told = run(one, Block(np.zeros(600, np.int32), np.arange(600), values)).surprise
    assert np.isnan(told[:80]).all()
    assert np.isfinite(told[80:]).all()
    assert told[-1] == pytest.approx(one.surprise_ceiling)
    assert one.surprise_ceiling == pytest.approx(np.log10(101))


def test_ranks_are_uniform_on_steady_data():
    values = np.random.default_rng(2).random((4000, 2)).astype(np.float32)
    told = run(bank(), Block(np.zeros(4000, np.int32), np.arange(4000), values)).surprise[500:]
    for share in (0.1, 0.02):
        assert np.mean(told > -np.log10(share)) == pytest.approx(share, rel=0.5)


def test_a_first_row_with_a_gap_builds_the_same_trees():
    whole, gap = bank(), bank()
    block = rows(np.zeros(300, int), np.arange(300))
    run(gap, Block(np.zeros(1, np.int32), np.zeros(1, np.int64), np.array([[np.nan, 0.5]], np.float32)))
    run(whole, block)
    run(gap, block)
    splits = [
        [
            (n.feature, n.threshold)
            for tree in b._places.get(0).model.river._tree_nodes
            for n in tree
            if hasattr(n, "feature")
        ]
        for b in (whole, gap)
    ]
    assert splits[0] == splits[1]
    assert {feature for feature, _ in splits[0]} == {0, 1}


def test_declared_limits_are_kept_and_others_follow_the_device():
    one = bank(limits={"a": (0.0, 10.0)})
    run(one, rows(np.zeros(50, int), np.arange(50)))
    state = one.snapshot(np.zeros(1, np.int32)).view(one._row)[0, 0]
    assert (state["low"][0], state["high"][0]) == (0.0, 10.0)
    assert 0.0 <= state["low"][1] < state["high"][1] <= 1.0


def test_models_whose_state_is_no_array_must_be_asked_to_start_anew():
    with pytest.raises(ValueError, match="on_restore must be 'warm'"):
        bank(model="river.anomaly.OneClassSVM")
    one = bank(model="river.anomaly.OneClassSVM", on_restore="warm")
    told = run(one, rows(np.zeros(120, int), np.arange(120))).surprise
    assert np.isfinite(told[80:]).all()
    states = one.snapshot(np.zeros(1, np.int32))
    one.restore(np.zeros(1, np.int32), states)
    assert one.held == 0
    assert one.spec.params["on_restore"] == "warm"


def test_restoring_more_devices_than_places_keeps_the_latest():
    many, few = bank(), bank(devices_max=2)
    run(many, rows([0, 1, 2, 3, 0], [0, 1, 2, 3, 4]))
    slots = np.arange(4, dtype=np.int32)
    few.restore(slots, many.snapshot(slots))
    assert few.snapshot(slots).any(axis=1).tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"model": "river.anomaly.HalfSpaceTree"}, "did you mean river.anomaly.HalfSpaceTrees"),
        ({"model": "os.system"}, "no anomaly detector 'os.system'"),
        ({"model": "river.anomaly.QuantileFilter"}, "no anomaly detector"),
        ({"params": {"n_tree": 3}}, "has no n_tree"),
        ({"limits": {"z": (0, 1)}}, "limits: 'z'"),
        ({"limits": {"a": (1, 1)}}, "limits: 'a'"),
        ({"devices_max": 0}, "devices_max"),
        ({"history": 5}, "history"),
        ({"idle_us": -1}, "idle_us"),
        ({"on_restore": "pickle"}, "on_restore"),
    ],
)
def test_wrong_parameters_are_refused_by_name(params, text):
    with pytest.raises(ValueError, match=text):
        bank(**params)
