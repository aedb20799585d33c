"""Prometheus, rules, dashboards, Alertmanager on the running core. The rule: a real server is asked everything."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from confluent_kafka import Producer

from tests.compose.project import Project, await_that

pytestmark = pytest.mark.timeout(1800)

ROOT = Path(__file__).resolve().parents[2]
COMPONENTS = {"worker", "autoscaler", "producers", "forwarder"}
METRIC = re.compile(r"\b((?:fleetwatch|process)_[a-z0-9_]+|fleetwatch:[a-z0-9_:]+)")
FILLED = {
    "$namespace": "compose",
    "$release": "fleetwatch",
    "$__rate_interval": "1m",
    "$__interval": "15s",
    "$__range": "5m",
}
#: Counters by a label that have no series before what they count happens; on a healthy machine it does not.
EVENTS = {
    "fleetwatch_drift_total",
    "fleetwatch_autoscaler_errors_total",
    "fleetwatch_autoscaler_scalings_total",
    "fleetwatch_forward_ended_total",
}


def panels() -> list[tuple[str, str, str]]:
    """(dashboard, panel, expression) of all dashboards, nested rows included."""
    found = []
    for path in sorted((ROOT / "helm/fleetwatch/dashboards").glob("*.json")):
        waiting = list(json.loads(path.read_text())["panels"])
        while waiting:
            panel = waiting.pop(0)
            waiting += panel.get("panels", [])
            found += [(path.stem, panel["title"], target["expr"]) for target in panel.get("targets", [])]
    return found


def query(project: Project, expression: str) -> list[Any]:
    """The result now; an expression that is refused raises HTTPError."""
    answer = project.get("PROMETHEUS_PORT", f"/api/v1/query?{urlencode({'query': expression})}")
    assert answer["status"] == "success", (expression, answer)
    result: list[Any] = answer["data"]["result"]
    return result


def known(project: Project) -> set[str]:
    """Names of metrics that a scraped page declares, with or without a series; and of recorded rules."""
    families = project.get("PROMETHEUS_PORT", "/api/v1/metadata")["data"]
    series = project.get("PROMETHEUS_PORT", "/api/v1/label/__name__/values")["data"]
    return {f"{family}{end}" for family in families for end in ("", "_total", "_bucket", "_sum", "_count")} | set(
        series
    )


@pytest.fixture(scope="module")
def scraped(observed: Project) -> Project:
    """All roles have been seen, and records that cannot be used were sent."""
    producer = Producer({"bootstrap.servers": observed.bootstrap})

    def refuse() -> None:
        producer.produce("telemetry.vehicle", b"no frame at all", key=b"veh-000001")
        assert producer.flush(20) == 0

    refuse()

    def components() -> set[str]:
        return {each["metric"]["app_kubernetes_io_component"] for each in query(observed, "up == 1")}

    await_that("all roles are scraped", 120, lambda: components() >= COMPONENTS)
    await_that("a dead letter is counted", 60, lambda: query(observed, "fleetwatch_dead_letters_total > 0"))
    refuse()  # a counter that appears with its first event has no rate yet
    # rates need two scrapes; the autoscaler's figures need a few looks
    await_that(
        "rates are there", 120, lambda: query(observed, "rate(fleetwatch_autoscaler_look_seconds_count[1m]) > 0")
    )
    return observed


def test_dashboards_have_panels() -> None:
    assert {name for name, _, _ in panels()} == {"fleet", "workers", "autoscaler"} and len(panels()) > 50


@pytest.mark.parametrize(("board", "title", "expression"), panels())
def test_every_panel_has_its_series(scraped: Project, board: str, title: str, expression: str) -> None:
    for mark, value in FILLED.items():
        expression = expression.replace(mark, value)
    names = set(METRIC.findall(expression))
    assert names <= known(scraped), f"{board}, {title}: no page has {names - known(scraped)}"
    if names & EVENTS:
        query(scraped, expression)
        return
    await_that(f"{board}, {title}: {expression}", 90, lambda: query(scraped, expression), every_s=3)


def test_every_variable_of_a_dashboard_has_a_value(scraped: Project) -> None:
    for path in (ROOT / "helm/fleetwatch/dashboards").glob("*.json"):
        for variable in json.loads(path.read_text())["templating"]["list"]:
            if variable["name"] != "datasource":
                text = variable["query"]["query"]
                metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", text).groups()  # type: ignore[union-attr]
                for mark, value in FILLED.items():
                    metric = metric.replace(mark, value)
                assert {s["metric"].get(label) for s in query(scraped, metric)} & {"compose", "fleetwatch"}, text


def test_every_rule_is_evaluated_on_series_that_exist(scraped: Project) -> None:
    groups = scraped.get("PROMETHEUS_PORT", "/api/v1/rules")["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    written = yaml.safe_load((ROOT / "compose/prometheus/rules.yml").read_text())["groups"]
    assert len(rules) == sum(len(group["rules"]) for group in written)
    names = known(scraped)
    for rule in rules:
        assert rule["health"] == "ok" and not rule.get("lastError"), rule
        query(scraped, rule["query"])
        assert set(METRIC.findall(rule["query"])) <= names, rule["query"]


def test_nothing_is_wrong_on_a_healthy_machine(scraped: Project) -> None:
    alerts = scraped.get("PROMETHEUS_PORT", "/api/v1/alerts")["data"]["alerts"]
    firing = {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}
    # the tests before this one have killed and scaled workers, on purpose
    assert firing <= {"FleetwatchWorkerRestarts", "FleetwatchRebalancing"}, firing


def test_alerts_on_devices_reach_alertmanager(scraped: Project) -> None:
    alerts = await_that(
        "an alert of a device",
        120,
        lambda: scraped.get("ALERTMANAGER_PORT", "/api/v2/alerts?filter=source%3Dfleetwatch"),
    )
    assert {"device", "severity", "kind"} <= set(alerts[0]["labels"]) and alerts[0]["annotations"]["summary"]


def test_provisioning_of_grafana_names_what_is_there() -> None:
    """Grafana itself cannot be run here; what it is told is checked against the files and the compose file."""
    folder = ROOT / "compose/grafana/provisioning"
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    assert source["type"] == "prometheus" and source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((folder / "dashboards/fleetwatch.yml").read_text())["providers"]
    mounted = {volume["target"]: volume["source"] for volume in services["grafana"]["volumes"]}
    boards = list((ROOT / mounted[provider["options"]["path"]]).glob("*.json"))
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home).name in {board.name for board in boards}
