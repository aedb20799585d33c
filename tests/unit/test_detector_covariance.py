"""What the streaming covariance sees, what it must not cry about, what it learns and what it holds."""

import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from detector_models import correlated
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.checks import check_detector, make_trial, run
from detectors.covariance import Covariance
from detectors.covariance_fit import fit_prior
from detectors.protocol import Block, Scores

_PATH = Path(__file__).parents[1] / "oracles_covariance.py"
_SPEC = importlib.util.spec_from_file_location("oracles_covariance", _PATH)
oracles = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(oracles)

COLUMNS = tuple("abcdef")


def columns(d):
    return tuple(f"c{i}" for i in range(d))


def device(seed, rows=3000, d=6):
    return correlated(np.random.default_rng(seed), rows, d)


def block(values, alarm=None):
    n = len(values)
    values = np.ascontiguousarray(values, np.float32)
    return Block(np.zeros(n, np.int32), np.arange(n, dtype=np.int64), values, alarm)


def made(d=6, **params):
    detector = Covariance(columns(d), **params)
    detector.reserve(1)
    return detector


def learnt(detector):
    """All the numbers of slot 0, float64."""
    wide = 32 * len(detector.spec.columns)
    state = detector.snapshot(np.zeros(1, np.int32))[0]
    return np.concatenate([state[:wide].view(np.float64), state[wide:].view(np.float32).astype(np.float64)])


def relation(detector):
    """The correlation of the first two columns that slot 0 has learnt."""
    state = detector.snapshot(np.zeros(1, np.int32))[0][32 * len(detector.spec.columns) :].view(np.float32)
    return float(state[1] / math.sqrt(state[0] * state[2]))


def telemetry(d, seed, rows):
    """Rows of 3 devices: hidden causes, gaps, spikes, infinities, a constant, odd units, a late column."""
    rng = np.random.default_rng(seed)
    values = correlated(rng, rows, d) * 10.0 ** rng.integers(-5, 6, d)
    slots = rng.integers(0, 3, rows).astype(np.int32)
    values[rng.random((rows, d)) < rng.choice([0.0, 0.05])] = np.nan
    values[rng.random(rows) < 0.03] = np.nan
    values[rng.random((rows, d)) < 0.003] *= 30.0
    values[rng.random((rows, d)) < 0.002] = np.inf
    if rng.random() < 0.5:
        values[:, 0] = 7.0
    if rng.random() < 0.5:
        values[: rows // 2, d - 1] = np.nan
    return Block(slots, np.arange(rows, dtype=np.int64), values.astype(np.float32))


@settings(max_examples=15, deadline=None)
@given(d=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
def test_it_is_its_oracle_whatever_is_missing(d, seed):
    some = telemetry(d, seed, 500)
    small = {"alpha": 0.01, "shrink": 0.1, "hold": 3.0, "hold_rows": 30}
    detector = Covariance(columns(d), warm_rows=25, explain_from=0.5, **small)
    detector.reserve(3)
    scores = run(detector, some)
    told = oracles.covariance(some.slots, some.values, warm=25, **small)
    for i, (surprise, named) in enumerate(told):
        assert math.isnan(scores.surprise[i]) == (surprise is None)
        if surprise is None:
            continue
        assert scores.surprise[i] == pytest.approx(surprise, rel=0.02, abs=0.03)
        if scores.surprise[i] < 0.6 or not named:
            continue
        strength = {j: evidence for evidence, j, _ in named}
        assert strength[scores.column[i, 0]] == pytest.approx(named[0][0], rel=0.05)
        for at, c in enumerate(c for c in scores.column[i].tolist() if c >= 0):
            (want,) = [implied for _, j, implied in named if j == c]
            spread = np.nanstd(some.values[np.isfinite(some.values[:, c]), c])
            assert scores.expected[i, at] == pytest.approx(want, rel=1e-3, abs=0.02 * float(spread) + 1e-30)


def test_healthy_devices_are_seldom_surprising():
    told = np.concatenate([run(made(), block(device(seed))).surprise[60:] for seed in range(8)])
    assert np.isfinite(told).all()
    assert np.mean(told > 3.0) < 2e-3
    assert np.mean(told > 2.0) < 2e-2
    assert np.mean(told > 1.5) < 5e-2
    assert told.max() < 6.0


@pytest.mark.parametrize("column", range(6))
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_broken_relation_is_found_and_the_right_signal_named_first(column, sign):
    values = device(11)
    values[2000:2030, column] += sign * 6.0
    clean = device(11)
    scores = run(made(), block(values))
    assert (scores.surprise[2003:2015] > 3.0).all()
    assert (scores.surprise[2003:2030] > 1.5).all()
    assert scores.surprise[2000:2030].max() > 4.5
    assert (scores.column[2003:2030, 0] == column).mean() > 0.9
    assert scores.column[2000 + int(np.argmax(scores.surprise[2000:2030])), 0] == column
    others = np.delete(clean[2006:2030], column, axis=1).mean(axis=1)
    assert np.abs(scores.expected[2006:2030, 0] - others).mean() < 2.0
    assert scores.share[2010, 0] == scores.surprise[2010]


@pytest.mark.parametrize("fault", ["frozen", "noisy"])
def test_a_signal_that_freezes_or_becomes_noisy_is_named(fault):
    values = device(5)
    if fault == "frozen":
        values[2000:2060, 2] = values[2000, 2]
    else:
        values[2000:2060, 2] += np.random.default_rng(1).normal(0.0, 5.0, 60).astype(np.float32)
    scores = run(made(), block(values))
    worst = 2000 + int(np.argmax(scores.surprise[2000:2060]))
    assert scores.surprise[worst] > 3.3
    assert scores.column[worst, 0] == 2


def test_what_moves_all_signals_is_seen_as_a_whole():
    values = device(8)
    values[2000:2020] = 20.0 + (values[2000:2020] - 20.0) * np.float32(6.0)
    told = run(made(), block(values)).surprise
    assert told[2003:2020].mean() > np.quantile(told[60:2000], 0.99)


def test_a_lasting_change_is_hardly_learnt_at_first_and_becomes_normal():
    values = device(3, 9000)
    values[3000:, 1] = 20.0 + np.random.default_rng(1).normal(0.0, 3.0, 6000)
    held, free = made(hold_rows=1000, hold=1.5), made(hold=300.0)
    for detector in (held, free):
        detector.update(block(values[:3400]), Scores.empty(3400))
    assert relation(held) > 0.8
    assert 1.0 - relation(held) < 0.95 * (1.0 - relation(free))
    told = run(held, block(values[3400:])).surprise
    assert relation(held) < 0.4
    assert told[-500:].mean() < 1.2


def test_what_alarms_others_is_hardly_learnt_but_not_for_ever():
    values, odd = device(4, 2000), device(5, 3000)
    odd[:, 0] = np.random.default_rng(2).normal(20.0, 3.0, 3000)
    alarm = np.full(3000, 9.0, np.float32)
    warm = made(hold_rows=500)
    run(warm, block(values))
    states = warm.snapshot(np.zeros(1, np.int32))

    def covariance_after(rows, alarmed):
        warm.restore(np.zeros(1, np.int32), states)
        warm.update(block(odd[:rows], alarm[:rows] if alarmed else None), Scores.empty(rows))
        return relation(warm)

    before = covariance_after(0, False)
    told, quiet = covariance_after(400, False), covariance_after(400, True)
    assert before > 0.85
    assert before - quiet < 0.2 * (before - told)
    assert covariance_after(3000, True) < 0.35


def test_constant_missing_and_wild_columns_leave_no_trace():
    values = device(6, 3000, 6)
    values[:, 0] = 5.0
    values[:, 1] = np.nan
    values[1500:, 2] = np.nan
    values[:1500, 3] = np.nan
    rng = np.random.default_rng(0)
    values[rng.random(3000) < 0.01, 4] = np.inf
    values[rng.random(3000) < 0.01, 4] = 1e30
    values[rng.random(3000) < 0.01, 4] = 9e29
    values[rng.random(3000) < 0.01, 5] = 1e-45
    detector = made()
    scores = run(detector, block(values))
    assert np.isfinite(learnt(detector)).all()
    assert np.isfinite(scores.surprise[60:]).all()
    assert not np.isin(scores.column, [1]).any()


@pytest.mark.parametrize("d", [1, 2, 60])
@pytest.mark.parametrize("scale", [1e-38, 1.0, 1e28])
def test_any_width_and_any_unit(d, scale):
    values = device(7, 700, d).astype(np.float64) * scale
    detector = made(d)
    scores = run(detector, block(values.astype(np.float32)))
    assert np.isfinite(learnt(detector)).all()
    assert np.isfinite(scores.surprise[60:]).all()
    if scale != 1e-38:
        plain = run(made(d), block(device(7, 700, d))).surprise
        np.testing.assert_allclose(scores.surprise[60:], plain[60:], atol=0.05, rtol=0.02)


def test_one_row_and_no_row():
    detector = made()
    assert np.isnan(run(detector, block(device(1, 1))).surprise).all()
    assert len(run(detector, block(device(1, 0).reshape(0, 6))).surprise) == 0
    assert np.isfinite(learnt(detector)).all()


def prior():
    return fit_prior(columns(6), [device(100 + seed, 800) for seed in range(8)])


def test_with_a_prior_a_fault_in_the_second_minute_is_found_and_named_without_it_not():
    values = device(9, 60)
    values[30:50, 3] += np.float32(6.0)
    model = prior()
    for cohort in (0, -1):
        detector = made(priors=[model])
        detector.enrol(np.zeros(1, np.int32), np.array([cohort], np.int16))
        scores = run(detector, block(values))
        assert np.isnan(scores.surprise[:20]).all()
        if cohort < 0:
            assert np.isnan(scores.surprise[:59]).all()
            continue
        assert scores.surprise[20:30].max() < 3.0
        assert scores.surprise[33:50].max() > 4.0
        assert scores.column[30 + int(np.argmax(scores.surprise[30:50])), 0] == 3


def test_a_device_departs_from_its_prior():
    values = device(12, 4000)
    values[:, 2] = np.random.default_rng(3).normal(50.0, 1.0, 4000)
    detector = made(priors=[prior()], prior_rows=200)
    detector.enrol(np.zeros(1, np.int32), np.zeros(1, np.int16))
    told = run(detector, block(values)).surprise
    assert told[20:40].mean() > 2.5
    assert told[3000:].mean() < 1.0


def test_a_prior_that_is_none_is_refused():
    model = prior()
    for wrong in ({**model, "mean": [1.0]}, {**model, "rows": 0}, {**model, "unit": ["x"] * 12}, {}):
        with pytest.raises(ValueError, match="prior"):
            made(priors=[wrong])
    with pytest.raises(ValueError, match="6 columns"):
        fit_prior(columns(6), [device(1, 500, 5)])
    with pytest.raises(ValueError, match="100 rows"):
        fit_prior(columns(6), [device(1, 50)])
    with pytest.raises(ValueError, match="indices below 1"):
        made(priors=[model]).enrol(np.zeros(1, np.int32), np.ones(1, np.int16))


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha": 0.0},
        {"warm_rows": 5},
        {"shrink": 0.0},
        {"hold": 0.0},
        {"hold_rows": 10},
        {"prior_rows": 0},
        {"explain_from": 0.0},
    ],
)
def test_parameters_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        made(**wrong)
    with pytest.raises(ValueError, match="columns"):
        Covariance(())


@pytest.mark.parametrize("d", [1, 2, 9, 24])
def test_it_obeys_the_laws_at_any_width(d):
    check_detector(lambda: Covariance(columns(d)), seed=d)


_UNCOMPILED = """
import numpy as np, sys
np.seterr(all="ignore")
from numba import config
assert config.DISABLE_JIT
from detectors.checks import make_trial, run
from detectors.covariance import Covariance
trial = make_trial(lambda: Covariance(("a", "b", "c"), warm_rows=20), devices=2, rows=160)
np.save(sys.argv[1], run(trial.fresh(), trial.block).surprise)
"""


def test_uncompiled_kernels_say_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    subprocess.run([sys.executable, "-c", _UNCOMPILED, str(tmp_path / "s.npy")], check=True, timeout=120)
    trial = make_trial(lambda: Covariance(("a", "b", "c"), warm_rows=20), devices=2, rows=160)
    told = run(trial.fresh(), trial.block).surprise
    assert np.isfinite(told).any()
    np.testing.assert_allclose(told, np.load(tmp_path / "s.npy"), rtol=1e-4, atol=1e-4)
