"""The rules against their naive twin on arbitrary data, and every law of a detector with everything declared."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detectors.checks import LAWS, Trial, check_detector, make_trial, run
from detectors.protocol import Block
from detectors.registry import make_detector
from detectors.rules import kind_of

_PATH = Path(__file__).parents[1] / "oracles_rules.py"
_SPEC = importlib.util.spec_from_file_location("oracles_rules", _PATH)
oracles = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(oracles)

PERIOD_US = 100_000
DEVICES = 3


def columns(d):
    return tuple(f"c{i}" for i in range(d))


def rubbish(rng, d, rows):
    """Rows of 3 devices: walks, holds, whole numbers, gaps, jumps, infinities, times that repeat or go back."""
    values = np.cumsum(rng.normal(0.0, 0.3, (rows, d)), axis=0) + 20.0
    whole = rng.random(d) < 0.3
    values[:, whole] = np.round(values[:, whole])
    for _ in range(int(rng.integers(0, 4))):
        at, c = int(rng.integers(0, rows)), int(rng.integers(0, d))
        values[at : at + int(rng.integers(2, 200)), c] = values[at, c]
    if rng.random() < 0.3:
        at = int(rng.integers(0, rows))
        values[at : at + 150] = values[at]
    values[rng.random((rows, d)) < 0.01] *= rng.choice([-1.0, 3.0, 1e20])
    values[rng.random((rows, d)) < rng.choice([0.0, 0.02, 0.3])] = np.nan
    values[rng.random(rows) < 0.03] = np.nan
    values[rng.random((rows, d)) < 0.003] = rng.choice([np.inf, -np.inf, 1e30, 3e38])
    kinds = [PERIOD_US, PERIOD_US // 3, 7, 0, -3 * PERIOD_US, 40 * PERIOD_US]
    steps = rng.choice(kinds, rows, p=[0.86, 0.05, 0.03, 0.03, 0.01, 0.02])
    at = int(rng.integers(0, rows))
    steps[at : at + int(rng.choice([0, 200]))] = rng.choice([0, 500])
    ts_us = 1_700_000_000_000_000 + np.cumsum(steps)
    if rng.random() < 0.2:
        ts_us[rng.random(rows) < 0.01] = rng.choice([0, -(2**63), 2**63 - 1])
    return Block(rng.integers(0, DEVICES, rows).astype(np.int32), ts_us.astype(np.int64), values.astype(np.float32))


def declarations(rng, d):
    """Parameters, and the same for the twin; anything may be undeclared."""
    ranges = [(None, None), (0.0, 30.0), (None, 25.0), (12.0, None)]
    limits = [ranges[int(k)] for k in rng.integers(0, 4, d)]
    rates = [None if rng.random() < 0.3 else float(rng.choice([0.5, 5.0, 50.0])) for _ in range(d)]
    stuck = [None if rng.random() < 0.3 else float(rng.choice([0.3, 2.0, 20.0])) for _ in range(d)]
    if rng.random() < 0.1:
        rates = stuck = [None] * d
    declared = [oracles.Declared(*limits[j], rates[j], stuck[j]) for j in range(d)]
    return {"limits": limits, "rates": rates, "stuck_after_s": stuck}, declared


@settings(max_examples=60, deadline=None)
@given(
    d=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0.5, 0.1, 0.001]),
    known_rows=st.integers(1, 40),
    period_us=st.sampled_from([PERIOD_US, PERIOD_US, PERIOD_US, 0]),
    flood_rows=st.sampled_from([20, 100]),
)
@example(d=1, seed=0, share=0.1, known_rows=1, period_us=PERIOD_US, flood_rows=20)
def test_rules_are_their_oracle_whatever_comes(d, seed, share, known_rows, period_us, flood_rows):
    rng = np.random.default_rng(seed)
    block = rubbish(rng, d, 400)
    params, declared = declarations(rng, d)
    own = {"missing_share": share, "known_rows": known_rows, "flood_rows": flood_rows, "period_us": period_us}
    detector = make_detector("rules", columns(d), {**params, **own})
    detector.reserve(DEVICES)
    scores = run(detector, block)
    told = oracles.rules(block.slots, block.ts_us, block.values, declared, **own)
    for i, (surprise, guilty) in enumerate(told):
        assert math.isnan(scores.surprise[i]) == (surprise is None)
        if surprise is None:
            continue
        assert scores.surprise[i] == pytest.approx(surprise, rel=1e-5, abs=1e-5)
        broken = {c: o for c, o in guilty.items() if o[0] >= 3.0}
        want = sorted(broken, key=lambda c: (-np.float32(broken[c][0]), c))[:3]
        assert [c for c in scores.column[i].tolist() if c >= 0] == want
        for at, c in enumerate(want):
            assert scores.share[i, at] == pytest.approx(guilty[c][0], rel=1e-5)
            assert scores.expected[i, at] == pytest.approx(guilty[c][1], rel=1e-5, nan_ok=True)
    states = detector.snapshot(np.arange(DEVICES, dtype=np.int32))
    assert np.isfinite(detector._figures).all()
    assert states.shape == (DEVICES, detector.state_nbytes)


def everything(d):
    """Declarations that the laws' own telemetry breaks now and then."""
    return {
        "limits": [(-1000.0, 1000.0)] * d,
        "rates": [400.0] * d,
        "stuck_after_s": [0.3] * d,
        "period_us": PERIOD_US,
        "flood_rows": 2,
        "flood_share": 0.5,
    }


def odd_trial(seed=2):
    """A trial whose telemetry breaks every rule."""

    def factory():
        return make_detector("rules", columns(5), everything(5) | {"stuck_after_s": [2.0] * 5, "rates": [5.0] * 5})

    rng = np.random.default_rng(seed)
    block = rubbish(rng, 5, 1600)
    block.values[~(np.abs(block.values) < 1e30)] = np.nan
    block.values[300:500, 2] = block.values[300, 2]
    block.values[900:960, 3] = np.nan
    block.values[1000:1010, 1] = -2000.0
    block.ts_us[1020:1120] = block.ts_us[1020]
    return Trial(factory, block, DEVICES, seed)


@pytest.mark.parametrize("law", LAWS)
def test_law_holds_with_everything_declared(law):
    LAWS[law](make_trial(lambda: make_detector("rules", columns(5), everything(5)), seed=4))
    if law != "score_before_learn":  # what that law holds for calm, a median, is itself a jump there
        LAWS[law](odd_trial())


@pytest.mark.parametrize("d", [1, 2, 17])
def test_check_detector_at_other_widths(d):
    check_detector(lambda: make_detector("rules", columns(d), everything(d)), seed=d)


def test_the_odd_trial_breaks_every_rule():
    trial = odd_trial()
    detector = trial.fresh()
    scores = run(detector, trial.block)
    spoke = np.flatnonzero(scores.surprise > 3.0)
    kinds = {"flood" if scores.column[i, 0] < 0 else kind_at(detector, trial, scores, i) for i in spoke}
    assert kinds == {"dropout", "range", "rate", "stuck", "flood"}


def kind_at(detector, trial, scores, i):
    c = scores.column[i, 0]
    return kind_of(detector.spec, columns(5)[c], float(trial.block.values[i, c]), float(scores.expected[i, 0]))


_UNCOMPILED = """
import json, numpy as np, sys
from numba import config
assert config.DISABLE_JIT
from detectors.checks import make_trial, run
from detectors.registry import make_detector
path, params = sys.argv[1:]
trial = make_trial(lambda: make_detector("rules", ("a", "b", "c"), json.loads(params)), devices=2, rows=300)
scores = run(trial.fresh(), trial.block)
np.savez(path, surprise=scores.surprise, column=scores.column, expected=scores.expected, share=scores.share)
"""


def test_the_uncompiled_kernel_says_the_same(tmp_path):
    path, params = tmp_path / "scores.npz", everything(3)
    subprocess.run(
        [sys.executable, "-W", "error", "-c", _UNCOMPILED, str(path), json.dumps(params)],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        check=True,
        timeout=120,
    )
    trial = make_trial(lambda: make_detector("rules", ("a", "b", "c"), params), devices=2, rows=300)
    scores = run(trial.fresh(), trial.block)
    with np.load(path) as other:
        for field in ("surprise", "expected", "share", "column"):
            np.testing.assert_allclose(getattr(scores, field), other[field], rtol=1e-6)
