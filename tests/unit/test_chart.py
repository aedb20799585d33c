"""The chart's files, without helm: schema, alerts and runbooks, dashboards, and what the docs say of them."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import chart
import chart_schema
import jsonschema
import pytest
import yaml

from autoscaler import words
from autoscaler.metrics import HELD
from telemetry.settings import Settings

SCHEMA = json.loads((chart.CHART / "values.schema.json").read_text(encoding="utf-8"))
VALUES = chart.default_values()
DASHBOARDS = sorted((chart.CHART / "dashboards").glob("*.json"))
RUNBOOKS = (chart.ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
PAGE = (chart.ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
#: What is replaced when rules are rendered.
PLACEHOLDERS = {"selector", "lag_slo_s", "lag_budget"}


def valid(values: Any) -> bool:
    return bool(jsonschema.Draft7Validator(SCHEMA).is_valid(values))


def free(schema: Any) -> bool:
    """Whether an object's keys are the user's to choose."""
    return bool(schema.get("additionalProperties", True) is not False)


def resolved(schema: Any) -> Any:
    while "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    return schema


def sections(schema: Any, values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, schema) of every object of values.yaml whose keys the schema fixes."""
    schema = resolved(schema)
    if not isinstance(values, dict) or free(schema):
        return
    yield path, schema
    for name, inner in values.items():
        yield from sections(schema["properties"][name], inner, (*path, name))


SECTIONS = list(sections(SCHEMA, VALUES))


def leaves(schema: Any, path: str = "") -> Iterator[str]:
    """Every path that a value may have, the product's settings included."""
    schema = resolved(schema)
    for name, inner in schema.get("properties", {}).items():
        here = f"{path}.{name}".lstrip(".")
        yield here
        yield from leaves(inner, here)


PATHS = frozenset(leaves(SCHEMA))
#: Below these, names are Kubernetes' own.
FREE = ("worker.resources.requests.", "worker.resources.limits.")


def test_the_schema_is_one_and_the_values_keep_it() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.Draft7Validator(SCHEMA).validate(VALUES)


def test_patterns_are_of_the_kind_that_helm_knows() -> None:
    patterns = re.findall(r'"pattern": "((?:[^"\\]|\\.)*)"', json.dumps(SCHEMA))
    assert len(patterns) > 5
    assert not [p for p in patterns if re.search(r"\(\?[=!<]", p)], "Go's regular expressions look neither way"


@pytest.mark.parametrize("path", [path for path, _ in SECTIONS], ids=lambda path: ".".join(path) or "top")
def test_a_name_that_does_not_exist_is_refused(path: tuple[str, ...]) -> None:
    values = copy.deepcopy(VALUES)
    at = values
    for name in path:
        at = at[name]
    at["replicsa"] = 1
    assert not valid(values)


@pytest.mark.parametrize(
    "wrong",
    [
        {"worker": {"kind": "DaemonSet"}},
        {"autoscaling": {"mode": "auto"}},
        {"autoscaling": {"minReplicas": -1}},
        {"autoscaling": {"keda": {"source": "records"}}},
        {"kafka": {"bootstrap": "kafka"}},
        {"kafka": {"securityProtocol": "TLS"}},
        {"kafka": {"existingSecret": "Not_A_Name"}},
        {"image": {"digest": "latest"}},
        {"settings": {"kafka": {"bootstrap": "a:1"}}},
        {"settings": {"windows": {"size": 10}}},
        {"settings": {"windows": {"size_s": -1}}},
        {"settings": {"autoscaler": {"max_replicas": 3}}},
        {"settings": {"schemas": {"registry_password": "secret"}}},
        {"settings": {"detectors": [{"nmae": "rules"}]}},
        {"topicsJob": {"principals": {"workers": ["User:w"]}}},
        {"producers": {"fleets": [{"name": "a", "kind": "cars", "count": 1}]}},
        {"monitoring": {"prometheusRule": {"disabled": ["FleetwatchNoDta"]}}},
        {"worker": {"livenessProbe": {"httpGet": {}}}},
        {"worker": {"extraEnv": [{"name": "A", "vlaue": "b"}]}},
    ],
    ids=lambda wrong: json.dumps(wrong),
)
def test_a_wrong_value_is_refused(wrong: Any) -> None:
    def put(into: Any, what: Any) -> None:
        for name, value in what.items():
            if isinstance(value, dict) and isinstance(into.get(name), dict):
                put(into[name], value)
            else:
                into[name] = value

    values = copy.deepcopy(VALUES)
    put(values, wrong)
    assert not valid(values)


def test_each_value_that_may_be_given_has_a_default_to_see() -> None:
    for path, schema in SECTIONS:
        if path[:1] == ("settings",) or path[-1:] == ("principals",):
            continue
        at = VALUES
        for name in path:
            at = at[name]
        left_out = set(schema["properties"]) - set(at) - {"global"}
        optional = {"initialDelaySeconds", "successThreshold", "terminationGracePeriodSeconds", "claims"}
        assert left_out <= optional, f"values.yaml lacks {left_out} in {'.'.join(path)}"


def test_the_settings_part_is_as_the_product_has_it() -> None:
    assert chart_schema.written() == SCHEMA, "python tests/support/chart_schema.py writes it"
    assert set(SCHEMA["properties"]["settings"]["properties"]) == (
        set(Settings.model_fields) - chart_schema.OWN_SECTIONS
    )


def test_names_of_alerts_and_roles_are_those_there_are() -> None:
    assert set(SCHEMA["$defs"]["alert"]["enum"]) == {rule["alert"] for rule in chart.alerts()}
    assert set(SCHEMA["properties"]["topicsJob"]["properties"]["principals"]["properties"]) == set(
        chart_schema.roles()
    )


def test_the_chart_is_of_this_release() -> None:
    about = yaml.safe_load((chart.CHART / "Chart.yaml").read_text(encoding="utf-8"))
    project = tomllib.loads((chart.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert about["name"] == project["name"] == "fleetwatch"
    assert about["appVersion"] == project["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", about["version"])


def used(expression: str) -> set[str]:
    """Names of the metrics in a PromQL expression."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]', " ", expression)
    return set(re.findall(r"\b(?:fleetwatch|process|python)_\w+|fleetwatch:[\w:]+", bare))


def expressions() -> Iterator[tuple[str, str]]:
    """(where, expression) of all rules and panels."""
    for name, groups in chart.rule_groups().items():
        for group in groups:
            for rule in group["rules"]:
                yield f"{name} {rule.get('alert', rule.get('record'))}", rule["expr"]
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            for target in panel.get("targets", ()):
                yield f"{path.name} {panel['title']}", target["expr"]


def test_rules_and_dashboards_name_only_metrics_that_exist() -> None:
    recorded = {
        rule["record"]
        for groups in chart.rule_groups().values()
        for group in groups
        for rule in group["rules"]
        if "record" in rule
    }
    known = chart.metric_names() | recorded
    asked = {where: used(expression) for where, expression in expressions()}
    assert len(asked) > 60
    assert all(asked.values()), "an expression without a metric"
    assert not {where: names - known for where, names in asked.items() if names - known}


def test_rules_and_dashboards_name_only_codes_and_figures_that_exist() -> None:
    text = " ".join(expression for _, expression in expressions())
    decisions = re.findall(r'decisions_total\{[^}]*code="(\w+)"', text)
    notes = re.findall(r'autoscaler_note\{[^}]*code="(\w+)"', text)
    assert decisions
    assert set(decisions) <= set(words.CODES)
    assert notes
    assert set(notes) <= set(words.NOTES)
    source = (chart.ROOT / "autoscaler" / "words.py").read_text(encoding="utf-8")
    for name in re.findall(r'autoscaler_figure\{[^}]*name="(\w+)"', text):
        assert f'"{name}":' in source, name
    for reason in HELD:
        assert f"`{reason}`" in RUNBOOKS, reason


def test_every_expression_is_of_one_release() -> None:
    for where, expression in expressions():
        for labels in re.findall(r"(?:fleetwatch|process)_\w+(\{[^}]*\})?", re.sub(r'"[^"]*"', '""', expression)):
            chosen = "$selector" in labels or "app_kubernetes_io_instance" in labels
            assert chosen, f"{where}: without the release's labels"


def test_every_alert_says_what_an_operator_needs() -> None:
    names = [rule["alert"] for rule in chart.alerts()]
    assert len(names) == len(set(names)) > 20
    for rule in chart.alerts():
        assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]
        assert rule["for"], rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]
        placeholders = set(re.findall(r"(?<!\{ )\$(\w+)", json.dumps(rule))) - {"value", "labels"}
        assert placeholders <= PLACEHOLDERS, rule["alert"]


def test_every_alert_has_its_runbook_and_none_is_left_over() -> None:
    written = re.findall(r"^## (\S+)$", RUNBOOKS, re.MULTILINE)
    assert sorted(written) == sorted(rule["alert"] for rule in chart.alerts())
    for section in re.split(r"^## ", RUNBOOKS, flags=re.MULTILINE)[1:]:
        assert len(section.split()) > 25, section


def test_links_within_the_runbooks_lead_somewhere() -> None:
    anchors = {name.lower() for name in re.findall(r"^## (\S+)$", RUNBOOKS, re.MULTILINE)}
    linked = set(re.findall(r"\]\(#(\S+?)\)", RUNBOOKS))
    assert linked
    assert linked <= anchors


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_whole(path: Any) -> None:
    board = json.loads(path.read_text(encoding="utf-8"))
    assert board["uid"] == f"fleetwatch-{path.stem}"
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "namespace", "release"]
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, f"{panel['title']} lies over another panel"
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["targets"], panel["title"]
            assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


@pytest.mark.parametrize(
    ("page", "least"), [("kubernetes.md", 40), ("runbooks.md", 25)], ids=["kubernetes", "runbooks"]
)
def test_the_docs_name_only_values_that_exist(page: str, least: int) -> None:
    text = (chart.ROOT / "docs" / page).read_text(encoding="utf-8")
    tops = "|".join(sorted(SCHEMA["properties"], key=len, reverse=True))
    named = set(re.findall(rf"`((?:{tops})\.[A-Za-z_.]*[A-Za-z_])(?=[`:=\s])", text))
    assert len(named) > least
    beyond = {path for path in named - PATHS if not path.startswith(FREE)}
    assert not beyond


def test_the_docs_explain_every_top_level_value() -> None:
    for name in VALUES:
        assert re.search(rf"`{name}[`.]", PAGE), f"docs/kubernetes.md says nothing of {name}"


def test_the_examples_in_the_docs_are_valid_values() -> None:
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
    examples = [block for block in blocks if "apiVersion" not in block]
    assert len(examples) >= 2
    for example in examples:
        jsonschema.Draft7Validator(SCHEMA).validate(example)
