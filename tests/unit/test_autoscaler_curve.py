"""The curve of busy by load. The rule: what is proportional stays so, whatever the noise."""

from __future__ import annotations

import numpy as np
import pytest

from autoscaler.curve import KEPT_S, REACH, Curve


def learnt(exponent: float, noise: float, seed: int = 1) -> Curve:
    """After two hours of load that goes up and down by three, with assignments that change."""
    rng, curve = np.random.default_rng(seed), Curve()
    for i in range(720):
        rate = 400.0 * 3 ** (0.5 + 0.5 * np.sin(i / 30)) * np.exp(rng.normal(0, noise))
        busy = (rate / 2000) ** exponent * np.exp(rng.normal(0, noise))
        curve = curve.add(10.0 * i, rate, float(busy), anew=i % 50 == 0)
    return curve


@pytest.mark.parametrize("noise", [0.0, 0.03, 0.06])
@pytest.mark.parametrize("exponent", [0.3, 0.5, 0.7])
def test_an_exponent_is_found(exponent: float, noise: float) -> None:
    assert learnt(exponent, noise).exponent == pytest.approx(exponent, abs=0.12)


@pytest.mark.parametrize("seed", range(5))
def test_proportion_is_not_doubted(seed: int) -> None:
    curve = learnt(1.0, 0.05, seed)
    assert curve.exponent == 1.0
    assert curve.capacity(500.0, 0.5) == 1000.0


def test_a_steady_load_and_a_worker_that_slows_down_teach_nothing() -> None:
    curve = Curve()
    for i in range(1440):
        curve = curve.add(10.0 * i, 500.0, 0.4 + 0.5 * i / 1440, anew=False)
    assert curve.fitted == 1.0


def test_a_full_worker_teaches_nothing() -> None:
    curve = Curve()
    for i in range(200):
        curve = curve.add(10.0 * i, 500.0 + 10 * i, 0.99, anew=False)
    assert curve == Curve()


def test_what_is_kept_is_bounded_in_time() -> None:
    curve = Curve()
    for i in range(1000):
        curve = curve.add(10.0 * i, 500.0, 0.5, anew=False)
    assert len(curve.points) <= KEPT_S / 10 + 1


def test_a_capacity_is_within_reach_of_what_is_done() -> None:
    assert Curve(fitted=0.25).capacity(100.0, 0.3) == pytest.approx(100 * REACH)
