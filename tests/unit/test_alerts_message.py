"""Alerts as CloudEvents messages: golden bytes, the JSON Schema, the way back, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
from importlib import resources
from typing import Any

import jsonschema
import pytest

from telemetry import schemas
from telemetry.alerts import Alert, AlertState, GuiltySignal, Severity, micros_of, rfc3339

ONSET_US = 1_700_000_000_123_456

ALERT = Alert(
    id="veh-0007/2023-11-14T22:13:20.123456Z",
    device_id="veh-0007",
    catalog="vehicle.ev/1",
    kind="shift",
    state=AlertState.OPEN,
    severity=Severity.MAJOR,
    score=17.25,
    confidence=0.9,
    onset_us=ONSET_US,
    ts_us=ONSET_US + 1_500_000,
    window_us=1_500_000,
    signals=(
        GuiltySignal("Vehicle.Powertrain.TractionBattery.CellVoltage.Min", "V", 3.42, 3.73, 17.25),
        GuiltySignal("Vehicle.Speed", "km/h", math.nan, math.nan, math.nan),
    ),
    sentence="traction battery cell voltage min is 0.31 V below what was expected",
    detector="robust",
    detector_version=1,
    topic="telemetry.vehicle",
    partition=3,
    offset_first=100,
    offset_last=104,
    warming=True,
)

GOLDEN_VALUE = (
    b'{"id":"veh-0007/2023-11-14T22:13:20.123456Z","device":"veh-0007","class":"vehicle.ev",'
    b'"catalog":"vehicle.ev/1","kind":"shift","state":"open","severity":"major","score":17.25,"confidence":0.9,'
    b'"warming":true,"onset":"2023-11-14T22:13:20.123456Z","ts":"2023-11-14T22:13:21.623456Z","window_us":1500000,"signals":['
    b'{"signal":"Vehicle.Powertrain.TractionBattery.CellVoltage.Min","unit":"V","observed":3.42,'
    b'"expected":3.73,"residual":-0.31,"surprise":17.25},'
    b'{"signal":"Vehicle.Speed","unit":"km/h","observed":null,"expected":null,"residual":null,"surprise":null}],'
    b'"sentence":"traction battery cell voltage min is 0.31 V below what was expected",'
    b'"detector":{"name":"robust","version":1},'
    b'"evidence":{"topic":"telemetry.vehicle","partition":3,"offset_first":100,"offset_last":104}}'
)
GOLDEN_HEADERS = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"veh-0007/2023-11-14T22:13:20.123456Z/open/1700000001623456"),
    ("ce_source", b"urn:fleetwatch:worker"),
    ("ce_type", b"io.fleetwatch.alert.open.v1"),
    ("ce_time", b"2023-11-14T22:13:21.623456Z"),
    ("ce_subject", b"veh-0007"),
    ("ce_partitionkey", b"veh-0007"),
    ("ce_dataschema", b"urn:fleetwatch:schema:alert:1"),
    ("content-type", b"application/json"),
]


@pytest.fixture(scope="module")
def validator() -> Any:
    text = resources.files("telemetry").joinpath("schemas", "alert.schema.json").read_text(encoding="utf-8")
    schema = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())


def same(one: Alert, other: Alert) -> bool:
    """Equal, NaN being equal to NaN."""
    return repr(one) == repr(other)


def test_the_message_is_these_bytes() -> None:
    assert ALERT.to_message() == (b"veh-0007", GOLDEN_VALUE, GOLDEN_HEADERS)


def test_the_way_back() -> None:
    _, value, headers = ALERT.to_message()
    assert same(Alert.from_message(value, headers), ALERT)


@pytest.mark.parametrize("state", AlertState)
@pytest.mark.parametrize("severity", Severity)
@pytest.mark.parametrize("score", [0.0, 300.0, math.nan, math.inf])
def test_messages_satisfy_the_schema(validator: Any, state: AlertState, severity: Severity, score: float) -> None:
    alert = dataclasses.replace(ALERT, state=state, severity=severity, score=score, signals=ALERT.signals[:1])
    _, value, headers = alert.to_message()
    validator.validate(json.loads(value))
    back = Alert.from_message(value, headers)
    assert (back.state, back.severity) == (state, severity)
    assert back.score == score or (not math.isfinite(score) and math.isnan(back.score))


@pytest.mark.parametrize(
    ("field", "value"),
    [("state", "closed"), ("onset", "yesterday"), ("device", "a b"), ("window_us", -1), ("extra", 1)],
)
def test_the_schema_refuses(validator: Any, field: str, value: object) -> None:
    assert not validator.is_valid(json.loads(GOLDEN_VALUE) | {field: value})


def _properties(node: Any) -> list[tuple[str, dict[str, Any]]]:
    if isinstance(node, list):
        return [found for item in node for found in _properties(item)]
    if not isinstance(node, dict):
        return []
    own = list(node["properties"].items()) if isinstance(node.get("properties"), dict) else []
    return own + [found for item in node.values() for found in _properties(item)]


def test_every_field_is_described_and_objects_are_closed(validator: Any) -> None:
    properties = _properties(validator.schema)
    assert {name for name, _ in properties} >= set(json.loads(GOLDEN_VALUE))
    assert [name for name, body in properties if not body.get("description")] == []
    text = json.dumps(validator.schema)
    assert text.count('"type": "object"') == text.count('"additionalProperties": false')


def test_the_avro_form_has_the_same_fields() -> None:
    fields = {field.name for field in dataclasses.fields(Alert)}
    renamed = {"onset_us": "onset", "ts_us": "ts"}
    avro = {field["name"] for field in schemas.parsed("alert")["fields"]}
    assert {renamed.get(name, name) for name in fields} == avro


@pytest.mark.parametrize(
    "change",
    [{"state": AlertState.UPDATE}, {"ts_us": ONSET_US + 1}, {"id": "veh-0007/2"}],
    ids=lambda change: next(iter(change)),
)
def test_an_events_name_is_its_own(change: dict[str, Any]) -> None:
    other = dataclasses.replace(ALERT, **change)
    assert other.event_id != ALERT.event_id
    again = dataclasses.replace(ALERT, score=1.0, sentence="told otherwise")
    assert again.event_id == ALERT.event_id


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"state": "closed"}, "closed"),
        ({"score": "high"}, "data.score is 'high', not a number or null"),
        ({"score": True}, "data.score is True"),
        ({"window_us": 1.5}, "data.window_us is 1.5, not a whole number"),
        ({"device": None}, "data.device is None, not text"),
        ({"signals": {}}, "signals is not a list"),
        ({"signals": [{"signal": "x"}]}, "signals[0] lacks unit, observed, expected, surprise"),
        ({"detector": "robust"}, "detector is not an object"),
        ({"onset": "2023-11-14T22:13:20"}, "has no zone"),
        ({"class": "vehicle.ice"}, "data.class"),
    ],
)
def test_wrong_data_are_refused_with_the_field(change: dict[str, Any], said: str) -> None:
    value = json.dumps(json.loads(GOLDEN_VALUE) | change).encode()
    with pytest.raises(ValueError, match=said.replace("[", r"\[").replace("]", r"\]").replace(".", r"\.")):
        Alert.from_message(value, GOLDEN_HEADERS)


def test_fields_of_a_later_version_are_passed_over_and_those_of_an_earlier_need_not_be_there() -> None:
    later = json.dumps(json.loads(GOLDEN_VALUE) | {"more": 1}).encode()
    assert same(Alert.from_message(later, GOLDEN_HEADERS), ALERT)
    earlier = json.loads(GOLDEN_VALUE)
    del earlier["warming"]
    assert not Alert.from_message(json.dumps(earlier).encode(), GOLDEN_HEADERS).warming


@pytest.mark.parametrize("value", [None, b"", b"{", b"\xff\xfe", b"[1]", b"null", b"[" * 100_000])
def test_anything_else_is_refused_as_a_value_error(value: bytes | None) -> None:
    with pytest.raises(ValueError, match=r"not JSON|not an object"):
        Alert.from_message(value, GOLDEN_HEADERS)


@pytest.mark.parametrize("gone", ["ce_specversion", "ce_id", "ce_source", "ce_type"])
def test_required_attributes(gone: str) -> None:
    with pytest.raises(ValueError, match=f"{gone} is missing"):
        Alert.from_message(GOLDEN_VALUE, [pair for pair in GOLDEN_HEADERS if pair[0] != gone])


@pytest.mark.parametrize(
    ("header", "value"),
    [("ce_specversion", b"0.3"), ("ce_type", b"io.fleetwatch.alert.resolved.v1"), ("ce_type", b"\xff")],
)
def test_contradicting_attributes(header: str, value: bytes) -> None:
    with pytest.raises(ValueError, match=header):
        Alert.from_message(GOLDEN_VALUE, [*GOLDEN_HEADERS, (header, value)])


def test_times_keep_their_microseconds() -> None:
    for ts_us in (0, 1, 999_999, ONSET_US, 4_102_444_800_000_001):
        assert micros_of(rfc3339(ts_us)) == ts_us
    assert micros_of("1970-01-01T01:00:00+01:00") == 0


def test_severities_are_ordered() -> None:
    assert [severity.rank for severity in Severity] == [0, 1, 2, 3]
    assert Severity.CRITICAL.rank > Severity.MAJOR.rank
