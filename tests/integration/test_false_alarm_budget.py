"""The budget of false alarms is what health costs: counted through the worker's engine, by the shipped settings.

Months of event time are needed for a few false alarms, so the device is a slow one: a row every ten seconds.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from streams.core.rows import RowScorer
from streams.wiring import budget_surprise, detector_factory
from telemetry import settings
from telemetry.catalog import Catalog, Signal

PERIOD_US = 10_000_000
ROWS, DEVICES = 400_000, 4
WARM_ROWS = 40_000
BUDGETS = (3.0, 30.0, 300.0)
MONTHS = DEVICES * (ROWS - WARM_ROWS) * PERIOD_US / (30 * 86_400e6)
ENTRY = Catalog(
    name="file", version=1, kind="device", period_ms=PERIOD_US / 1000, signals=tuple(Signal(name=n) for n in "abc")
)


def wandering(rng, rows):
    """Each value leans on the one before: what healthy signals do."""
    out = rng.normal(size=(rows, 4))
    for i in range(1, rows):
        out[i] = 0.9 * out[i - 1] + math.sqrt(1 - 0.81) * out[i]
    return out


def heavy(rng, rows):
    """Independent values with heavy tails."""
    return rng.standard_t(5, (rows, 4))


def alarms(source, budget):
    wanted = settings.load(environ={}, alerts={"budget": budget})
    found = 0
    for device in range(DEVICES):
        hidden = source(np.random.default_rng(device), ROWS)
        values = (50.0 + 3.0 * (hidden[:, :1] + 0.5 * hidden[:, 1:])).astype(np.float32)
        ts_us = 1_600_000_000_000_000 + PERIOD_US * np.arange(ROWS, dtype=np.int64)
        scorer = RowScorer(ENTRY, detector_factory(wanted)(ENTRY))
        scorer.score(ts_us[:WARM_ROWS], values[:WARM_ROWS])
        before = scorer.alerts
        scorer.score(ts_us[WARM_ROWS:], values[WARM_ROWS:])
        found += scorer.alerts - before
    return found


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("source", [wandering, heavy])
def test_health_costs_the_budget_within_a_factor_of_two(source, budget):
    expected = budget * MONTHS
    assert expected > 15, "too few to tell"
    assert expected / 2 <= alarms(source, budget) <= 2 * expected


def test_a_tenth_of_the_budget_is_one_more_decade_of_surprise():
    levels = [budget_surprise(budget, PERIOD_US) for budget in BUDGETS]
    np.testing.assert_allclose(np.diff(levels), -1.0)
    assert budget_surprise(1.0, 500_000) == pytest.approx(math.log10(30 * 86_400 * 2))
