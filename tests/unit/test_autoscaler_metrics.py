"""The autoscaler's figures and pages."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from autoscaler.loop import Standing
from autoscaler.metrics import NAMES_MAX, AutoscalerMetrics
from autoscaler.observation import Decision, Note, Observation
from autoscaler.pages import Answers, Page
from autoscaler.words import CODES, NOTES
from telemetry.errors import SettingsError


def observation(partitions: int) -> Observation:
    ends = np.arange(partitions, dtype=float) * 100 + 50
    return Observation(
        at_s=1.0,
        ends=ends,
        committed=ends - 7,
        lag_s=np.full(partitions, 2.5),
        replicas=2,
        ready=1,
        members=2,
        epoch="e",
        rebalancing=False,
        owner=np.zeros(partitions, dtype=np.int64),
    )


class Figures:
    """The metrics and what a scrape finds of them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = AutoscalerMetrics(self.registry)

    def __call__(self, metric: str, /, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"fleetwatch_autoscaler_{metric}", labels)

    def labels(self, name: str, label: str) -> set[str]:
        return {
            sample.labels[label]
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == f"fleetwatch_autoscaler_{name}"
        }


def test_partitions_that_are_gone_are_no_longer_shown() -> None:
    figures = Figures()
    figures.metrics.seen(observation(4), 1.7e9)
    assert figures("lag_records", partition="3") == 7
    assert figures("lag_seconds", partition="3") == 2.5
    figures.metrics.seen(observation(2), 1.7e9)
    assert figures.labels("lag_records", "partition") == {"0", "1"}
    assert figures.labels("lag_seconds", "partition") == {"0", "1"}


def test_every_code_is_there_before_it_happens() -> None:
    """A rate of a counter that appears with its first event misses that event."""
    figures = Figures()
    assert figures.labels("decisions_total", "code") == set(CODES)
    assert figures.labels("note", "code") == set(NOTES)
    assert figures.labels("scalings_total", "direction") == {"up", "down"}


def test_labels_stay_few_whatever_a_policy_makes_up() -> None:
    figures = Figures()
    for n in range(3 * NAMES_MAX):
        figures.metrics.decided(Decision(2, f"Code{n}", "", (Note(f"Note{n}", ""),), {f"figure{n}": 1.0}))
    assert len(figures.labels("decisions_total", "code")) == NAMES_MAX + 1
    assert len(figures.labels("note", "code")) == NAMES_MAX + 1
    assert len(figures.labels("figure", "name")) == NAMES_MAX + 1


def test_a_figure_that_is_no_longer_known_is_no_number() -> None:
    figures = Figures()
    figures.metrics.decided(Decision(2, "Steady", "", figures={"load": 0.5, "capacity": 10.0}))
    figures.metrics.decided(Decision(2, "Steady", "", figures={"load": 0.7}))
    assert figures("figure", name="load") == 0.7
    capacity = figures("figure", name="capacity")
    assert capacity is not None
    assert np.isnan(capacity)


class Site:
    """A page on a free port, and what its answers are made from."""

    def __init__(self) -> None:
        self.alive = self.ready = True
        self.standing: Standing | None = None
        registry = CollectorRegistry()
        AutoscalerMetrics(registry)
        self.page = Page(
            "127.0.0.1",
            0,
            Answers(registry, lambda: self.alive, lambda: self.ready, lambda: True, lambda: self.standing),
        )
        self.page.start()

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.page.url + path, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            return exc.code, exc.read().decode()


@pytest.fixture
def site() -> Iterator[Site]:
    found = Site()
    yield found
    found.page.stop()


def test_the_page_answers_what_probes_and_prometheus_ask(site: Site) -> None:
    assert site.get("/healthz")[0] == 200
    assert site.get("/readyz?verbose")[0] == 200
    site.alive = site.ready = False
    assert site.get("/healthz") == (503, "the loop stands still\n")
    assert site.get("/readyz")[0] == 503
    status, text = site.get("/metrics")
    assert status == 200
    assert "fleetwatch_autoscaler_leader 0.0" in text
    assert site.get("/")[0] == 404


def test_desired_is_an_error_until_something_is_decided(site: Site) -> None:
    """KEDA falls back to the replicas that there are when a scaler has no figure."""
    assert site.get("/desired")[0] == 503
    site.standing = Standing(4, "ScaleUp", "lag 40 s", datetime(2026, 1, 2, tzinfo=UTC), 2)
    status, text = site.get("/desired")
    assert status == 200
    assert json.loads(text) == {
        "replicas": 4,
        "code": "ScaleUp",
        "text": "lag 40 s",
        "at": "2026-01-02T00:00:00.000+00:00",
        "current": 2,
        "held": "",
        "leader": True,
    }


def test_a_port_that_is_taken_is_a_wrong_setting(site: Site) -> None:
    port = int(site.page.url.rpartition(":")[2])
    with pytest.raises(SettingsError, match=r"autoscaler\.port"):
        Page("127.0.0.1", port, Answers(CollectorRegistry(), bool, bool, bool, lambda: None))
