"""Every compiled detector against its naive twin, on arbitrary data."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from detector_models import SD, correlated, fitted, needed
from hypothesis import given, settings
from hypothesis import strategies as st
from river.anomaly import HalfSpaceTrees

from detectors.checks import make_trial, run
from detectors.ewma import EwmaZ
from detectors.protocol import Block
from detectors.registry import make_detector
from detectors.robust import RobustMultiscale

_PATH = Path(__file__).parents[1] / "oracles_detectors.py"
_SPEC = importlib.util.spec_from_file_location("oracles_detectors", _PATH)
oracles = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(oracles)

SHAPES = {"d": st.integers(1, 11), "seed": st.integers(0, 2**32 - 1)}


def columns(d):
    return tuple(f"c{i}" for i in range(d))


def telemetry(d, seed, rows):
    """Rows of 3 devices in which anything happens: gaps, holds, jumps, infinities, constants, odd units."""
    rng = np.random.default_rng(seed)
    unit = 10.0 ** rng.integers(-6, 7, d)
    values = rng.normal(rng.normal(0, 5, d), 1.0, (rows, d)) * unit
    values[rng.random((rows, d)) < 0.01] *= 30.0
    values[rng.random((rows, d)) < 0.05] = np.nan
    values[rng.random((rows, d)) < 0.002] = np.inf
    values[rng.random(rows) < 0.03] = np.nan
    if rng.random() < 0.5:
        values[:, 0] = 7.0
        values[rows // 2 :, 0] = rng.integers(0, 3, rows - rows // 2)
    hold = int(rng.integers(0, rows))
    values[hold : hold + 90, d - 1] = values[hold, d - 1]
    slots = rng.integers(0, 3, rows).astype(np.int32)
    return Block(slots, np.arange(rows, dtype=np.int64), values.astype(np.float32))


def scored(detector, block):
    detector.reserve(3)
    return run(detector, block)


@settings(max_examples=40, deadline=None)
@given(**SHAPES)
def test_ewma_is_its_oracle_and_its_state_is_bit_for_bit(d, seed):
    block = telemetry(d, seed, 200)
    detector = EwmaZ(columns(d))
    scores = scored(detector, block)
    rows, devices = oracles.ewma(block.slots, block.values)
    for i, row in enumerate(rows):
        known = {c: z2 for c, z2 in enumerate(row) if z2 is not None}
        assert math.isnan(scores.surprise[i]) == (not known)
        if not known:
            continue
        want = max(0.0, min(300.0, oracles.log10_tail(max(known.values()))) - math.log10(d))
        assert scores.surprise[i] == pytest.approx(want, rel=0.01, abs=0.002)
        if scores.surprise[i] >= 3.0:
            assert known[scores.column[i, 0]] == max(known.values())
    for slot, own in devices.items():
        words = detector.snapshot(np.array([slot], np.int32)).view(np.float64)[0]
        assert words[1 : 1 + d].tolist() == [c.mean for c in own]
        assert words[1 + d : 1 + 2 * d].tolist() == [c.var for c in own]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), z=st.sampled_from([4.0, 6.0]), ulps=st.integers(-40, 40))
def test_comparing_surprise_is_comparing_z_at_the_exact_z(seed, z, ulps):
    rng = np.random.default_rng(seed)
    history = rng.normal(rng.normal(0, 100), 1.0, (60, 2)).astype(np.float32)
    _, devices = oracles.ewma(np.zeros(60, np.int32), history)
    column = devices[0][1]
    x = np.float32(column.mean + z * math.sqrt(column.var))
    for _ in range(abs(ulps)):
        x = np.nextafter(x, np.float32(np.inf if ulps > 0 else -np.inf))
    detector = EwmaZ(("a", "b"), exact_z=z)
    values = np.vstack([history, [[np.nan, x]]]).astype(np.float32)
    scores = scored(detector, Block(np.zeros(61, np.int32), np.arange(61), values))
    assert (scores.surprise[60] > detector.surprise_at_z(z)) == (column.z2(float(x)) > z * z)


@settings(max_examples=15, deadline=None)
@given(**SHAPES)
def test_robust_is_its_oracle(d, seed):
    block = telemetry(d, seed, 500)
    small = {"fast_rows": 4, "mid_rows": 12, "slow_rows": 60, "warm_rows": 20, "level_rows": 40}
    scores = scored(RobustMultiscale(columns(d), **small), block)
    with np.errstate(all="ignore"):
        want = oracles.robust(block.slots, block.values, rows=(4, 12, 60), warm=20, level=40)
    assert np.isfinite(want).any()
    np.testing.assert_allclose(scores.surprise, want, rtol=2e-5, atol=2e-5)


def test_robust_is_its_oracle_at_its_default_settings():
    block = telemetry(3, 5, 3600)
    with np.errstate(all="ignore"):
        want = oracles.robust(block.slots, block.values)
    scores = scored(RobustMultiscale(columns(3)), block)
    np.testing.assert_allclose(scores.surprise, want, rtol=2e-5, atol=2e-5)


@settings(max_examples=8, deadline=None)
@given(d=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_river_bank_is_river_itself_a_device(d, seed):
    rng = np.random.default_rng(seed)
    block = Block(
        rng.integers(0, 3, 400).astype(np.int32),
        np.arange(400, dtype=np.int64),
        rng.random((400, d)).astype(np.float32),
    )
    limits = dict.fromkeys(columns(d), (0.0, 1.0))
    scores = scored(make_detector("river", columns(d), {"limits": limits}), block)
    for slot in range(3):
        model = HalfSpaceTrees(n_trees=5, height=4, window_size=50, seed=0)
        past = []
        for i in np.flatnonzero(block.slots == slot):
            x = dict(enumerate(block.values[i].astype(float).tolist()))
            score = np.float32(model.score_one(x))
            model.learn_one(x)
            if len(past) >= 80:  # 50 that warm the model, 30 that begin the history
                n = len(past) - 50
                want = -math.log10((1 + sum(p >= score for p in past[50:])) / (1 + n))
                assert scores.surprise[i] == pytest.approx(want, abs=1e-6)
            else:
                assert math.isnan(scores.surprise[i])
            past.append(score)


def gappy(d, seed, rows):
    """Correlated rows of 3 devices with offsets of their own: gaps, signals that join late or leave, jumps."""
    rng = np.random.default_rng(seed)
    values = correlated(rng, rows, d)
    slots = rng.integers(0, 3, rows).astype(np.int32)
    values += (rng.normal(0.0, 1.0, (3, d)) * SD)[slots].astype(np.float32)
    values[rng.random((rows, d)) < rng.choice([0.0, 0.02, 0.3])] = np.nan
    values[rng.random(rows) < 0.03] = np.nan
    values[rng.random((rows, d)) < 0.005] *= np.float32(30.0)
    values[rng.random((rows, d)) < 0.002] = rng.choice([np.inf, -np.inf, 3e38])
    column, at = int(rng.integers(0, d)), int(rng.integers(0, rows))
    values[:at, column] = np.where(slots[:at] == 0, np.nan, values[:at, column])
    values[at:, column] = np.where(slots[at:] == 1, np.nan, values[at:, column])
    return Block(slots, np.arange(rows, dtype=np.int64), values)


@settings(max_examples=40, deadline=None)
@given(d=st.integers(1, 7), seed=st.integers(0, 2**32 - 1))
def test_relations_are_their_oracle_whatever_is_missing(d, seed):
    block, model = gappy(d, seed, 300), fitted(columns(d))
    small = {"warm_rows": 15, "rate": 0.01}
    scores = scored(make_detector("relations", columns(d), {"model": model, **small}), block)
    told = oracles.relations(block.slots, block.values, model, warm=15, rate=0.01)
    for i, (surprise, own, expected) in enumerate(told):
        assert math.isnan(scores.surprise[i]) == (surprise is None)
        if surprise is None:
            continue
        assert scores.surprise[i] == pytest.approx(surprise, rel=0.01, abs=0.02)
        named = [c for c in scores.column[i].tolist() if c >= 0]
        for at, c in enumerate(named):
            assert scores.share[i, at] == pytest.approx(own[c], rel=0.01, abs=0.02)
            assert scores.expected[i, at] == pytest.approx(expected[c], rel=1e-3, abs=0.01 * SD)
        if surprise > 3.1:
            assert own[named[0]] == pytest.approx(max(own.values()), rel=0.01, abs=0.02)


_UNCOMPILED = """
import json, numpy as np, sys
np.seterr(all="ignore")
from numba import config
assert config.DISABLE_JIT
from detectors.checks import make_trial, run
from detectors.registry import make_detector
name, path, params = sys.argv[1:]
make = lambda: make_detector(name, ("a", "b", "c"), json.loads(params))
trial = make_trial(make, devices=2, rows=160)
scores = run(trial.fresh(), trial.block)
np.savez(path, surprise=scores.surprise, column=scores.column, expected=scores.expected, share=scores.share)
"""


@pytest.mark.parametrize("name", ["ewma", "relations", "robust", "rules"])
def test_uncompiled_kernels_say_the_same(name, tmp_path):
    path = tmp_path / "scores.npz"
    abc = ("a", "b", "c")
    params = needed(name, abc) | ({"known_rows": 20} if name == "rules" else {"warm_rows": 20})
    subprocess.run(
        [sys.executable, "-c", _UNCOMPILED, name, str(path), json.dumps(params)],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        check=True,
        timeout=120,
    )
    trial = make_trial(lambda: make_detector(name, abc, params), devices=2, rows=160)
    scores = run(trial.fresh(), trial.block)
    assert np.isfinite(scores.surprise).any()
    with np.load(path) as other:
        for field in ("surprise", "expected", "share"):
            np.testing.assert_allclose(getattr(scores, field), other[field], rtol=1e-6)
        np.testing.assert_array_equal(scores.column, other["column"])
