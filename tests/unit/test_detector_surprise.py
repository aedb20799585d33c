"""The table against erfc; its monotony; its ends."""

import math

import numpy as np
import pytest

from detectors.surprise import CAP, NORMAL_TABLE, log10_erfc, normal_two_sided, tail_of_excess, tail_of_z2


def test_within_a_thousandth_of_erfc():
    z = np.concatenate([np.geomspace(1e-5, 1.0, 400), np.linspace(1.0, 37.0, 3000)])
    want = np.array([-math.log10(math.erfc(v / math.sqrt(2.0))) for v in z])
    np.testing.assert_allclose(normal_two_sided(z * z), np.minimum(want, CAP), rtol=1e-3)


def test_the_asymptote_meets_erfc():
    for t in (25.0, 25.5, 26.0):
        assert log10_erfc(t) == pytest.approx(math.log10(math.erfc(t)), rel=1e-9)


def test_never_falls_and_never_leaves_its_range():
    rng = np.random.default_rng(0)
    z2 = np.sort(np.concatenate([np.geomspace(1e-300, 1e300, 4000), rng.uniform(0, 2000, 20000)]))
    near = np.concatenate([z2, np.nextafter(z2, 0), np.nextafter(z2, np.inf), [0.0, np.inf]])
    near.sort()
    told = normal_two_sided(near)
    assert (np.diff(told) >= 0).all()
    assert told[0] == 0.0
    assert told[-1] == CAP
    edges = np.ldexp(1.0 + np.arange(32) / 32, 3)
    for edge in edges:
        assert tail_of_z2(np.nextafter(edge, 0), NORMAL_TABLE) <= tail_of_z2(edge, NORMAL_TABLE)


def test_bonferroni_multiplies_p_by_the_number_of_columns():
    one, ten = normal_two_sided(np.array([0.01, 36.0])), normal_two_sided(np.array([0.01, 36.0]), 10)
    assert ten[1] == pytest.approx(one[1] - 1.0)
    assert ten[0] == 0.0


def test_no_opinion_stays_none_and_nonsense_is_refused():
    assert np.isnan(normal_two_sided(np.array([np.nan, 1.0]))).tolist() == [True, False]
    with pytest.raises(ValueError, match="negative"):
        normal_two_sided(np.array([-1.0]))
    with pytest.raises(ValueError, match="at least 1"):
        normal_two_sided(np.array([1.0]), 0)


def test_the_pareto_tail_starts_at_its_share_and_has_its_shape():
    assert tail_of_excess(-1.0, 0.02, 0.1) == 0.0
    assert tail_of_excess(0.0, 0.02, 0.1) == pytest.approx(-math.log10(0.02))
    assert tail_of_excess(30.0, 0.02, 0.1) == pytest.approx(-math.log10(0.02 * (1 + 0.1 * 30.0) ** -10.0))
    assert tail_of_excess(1e300, 0.02, 0.1) <= CAP
    steps = [tail_of_excess(e, 0.02, 0.1) for e in np.linspace(-2.0, 50.0, 500)]
    assert (np.diff(steps) >= 0).all()
