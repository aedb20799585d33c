"""docs/asyncapi.yaml: as the code is, well formed, and its examples are what the product reads and writes."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import fastavro
import pytest
import yaml
from click.testing import CliRunner
from jsonschema import Draft7Validator, Draft202012Validator

from fleetwatch import asyncapi, reference
from fleetwatch.asyncapi_examples import EXAMPLES, plain
from producers.control import _parse
from producers.faults import parse_inject
from telemetry import acls, codec, schemas
from telemetry import settings as contract
from telemetry.alerts import Alert, AlertState
from telemetry.reasons import Reason
from telemetry.settings import Settings
from telemetry.topics import topics

DEFAULTS = Settings.model_construct()
DOCUMENT: dict[str, Any] = yaml.safe_load((reference.DOCS / "asyncapi.yaml").read_text(encoding="utf-8"))
COMPONENTS = DOCUMENT["components"]
MESSAGES: dict[str, Any] = COMPONENTS["messages"]
AVRO = sorted(set(MESSAGES) & set(schemas.NAMES) - {"alert", "dead_letter"})
EXTENSION = "x-"

#: object of AsyncAPI 3.0 -> (fields that it must have, fields that it may have), as far as this document goes
FIELDS: Mapping[str, tuple[set[str], set[str]]] = {
    "root": ({"asyncapi", "info"}, {"servers", "channels", "operations", "components", "defaultContentType", "id"}),
    "info": ({"title", "version"}, {"description", "license", "tags", "contact", "externalDocs"}),
    "server": ({"host", "protocol"}, {"description", "variables", "security", "title", "summary", "tags"}),
    "channel": (set(), {"address", "messages", "summary", "title", "description", "bindings", "tags", "servers"}),
    "operation": (
        {"action", "channel"},
        {"title", "summary", "description", "tags", "bindings", "messages", "security"},
    ),
    "message": (
        set(),
        {"name", "title", "summary", "description", "contentType", "headers", "payload", "bindings", "examples"},
    ),
    "components": (set(), {"messages", "schemas", "securitySchemes"}),
    "channel binding": (set(), {"topic", "partitions", "replicas", "topicConfiguration", "bindingVersion"}),
    "operation binding": (set(), {"groupId", "clientId", "bindingVersion"}),
    "message binding": (set(), {"key", "schemaIdLocation", "schemaIdPayloadEncoding", "bindingVersion"}),
    "security scheme": ({"type"}, {"description"}),
}


def objects() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(kind, where, object) of all that `FIELDS` knows."""
    yield "root", "", DOCUMENT
    yield "info", "info", DOCUMENT["info"]
    yield "components", "components", COMPONENTS
    for kind, found in (
        ("server", DOCUMENT["servers"]),
        ("channel", DOCUMENT["channels"]),
        ("operation", DOCUMENT["operations"]),
        ("message", MESSAGES),
        ("security scheme", COMPONENTS["securitySchemes"]),
    ):
        for name, each in found.items():
            yield kind, name, each
            if "kafka" in each.get("bindings", {}):
                yield f"{kind} binding", name, each["bindings"]["kafka"]


def resolved(reference_: str) -> Any:
    assert reference_.startswith("#/"), reference_
    node: Any = DOCUMENT
    for part in reference_[2:].split("/"):
        assert part in node, f"{reference_} leads nowhere"
        node = node[part]
    return node


def references(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(node, dict):
        for name, inner in node.items():
            if name == "$ref" and isinstance(inner, str):
                yield path, inner
            else:
                yield from references(inner, (*path, str(name)))
    elif isinstance(node, list):
        for i, inner in enumerate(node):
            yield from references(inner, (*path, str(i)))


def of_schema(node: Any) -> Draft7Validator:
    """A validator of a schema within the document."""
    return Draft7Validator(
        {"allOf": [node], "components": COMPONENTS}, format_checker=Draft7Validator.FORMAT_CHECKER
    )


def examples() -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
    """(message, example, its record)."""
    for name, message in MESSAGES.items():
        for example in message["examples"]:
            yield name, example, message["x-records"][example["name"]]


def test_the_page_is_as_the_code_says() -> None:
    written = (reference.DOCS / "asyncapi.yaml").read_text(encoding="utf-8")
    assert written == asyncapi.page(DEFAULTS), "run `python -m fleetwatch.reference`"
    assert yaml.safe_load(written) == asyncapi.document(DEFAULTS)


def test_objects_have_the_fields_of_the_specification_and_no_others() -> None:
    seen = set()
    for kind, where, each in objects():
        must, may = FIELDS[kind]
        own = {name for name in each if not name.startswith(EXTENSION)}
        assert must <= own, (kind, where, must - own)
        assert own <= must | may, (kind, where, own - must - may)
        seen.add(kind)
    assert seen == set(FIELDS)
    assert DOCUMENT["asyncapi"] == "3.0.0"


def test_every_reference_leads_to_what_it_is_used_as() -> None:
    found = list(references(DOCUMENT))
    assert len(found) > 80
    for path, target in found:
        node = resolved(target)
        if path[-1] == "channel":
            assert "address" in node
        elif path[-1] in ("payload", "headers"):
            assert target.startswith("#/components/schemas/")
        elif path[0] == "channels" and path[2] == "messages":
            assert target == f"#/components/messages/{path[-1]}"
        elif path[0] == "operations" and path[2] == "messages":
            assert target.startswith(DOCUMENT["operations"][path[1]]["channel"]["$ref"] + "/messages/")
    used = {target.rpartition("/")[2] for _, target in found}
    keys = {"any_key", "schema_header", "run", "device_id"}  # within the messages' bindings
    assert set(COMPONENTS["schemas"]) - used <= keys
    assert set(COMPONENTS["securitySchemes"]) <= used


def test_every_topic_is_a_channel_with_its_figures() -> None:
    specs = topics(DEFAULTS)
    assert list(DOCUMENT["channels"]) == list(specs.__slots__)
    for name, channel in DOCUMENT["channels"].items():
        spec = getattr(specs, name)
        binding = channel["bindings"]["kafka"]
        assert channel["address"] == binding["topic"] == spec.name
        assert binding["partitions"] == spec.partitions
        config = {k: v[0] if isinstance(v, list) else str(v) for k, v in binding["topicConfiguration"].items()}
        assert config == dict(spec.config)
        assert channel["messages"], name


def test_operations_are_the_roles_rights() -> None:
    """No more and no fewer than the access control lists give."""
    granted = {
        (role, "send" if grant.operation == "WRITE" else "receive", grant.name)
        for role, grants in acls.roles(DEFAULTS).items()
        for grant in grants
        if grant.resource == "topic" and grant.operation in ("READ", "WRITE")
    }
    told = {
        (each["tags"][0]["name"], each["action"], resolved(each["channel"]["$ref"])["address"])
        for each in DOCUMENT["operations"].values()
    }
    assert told == granted
    assert len(told) == len(DOCUMENT["operations"])
    subscriber = DOCUMENT["operations"]["subscriber_receives_alerts"]
    group = of_schema(subscriber["bindings"]["kafka"]["groupId"])
    assert group.is_valid("fleetwatch-subscriber-pager")
    assert not group.is_valid("pager")
    assert "read_committed" in subscriber["description"]


def test_every_message_has_examples_and_a_record_for_each() -> None:
    assert set(MESSAGES) == set(EXAMPLES)
    for message in MESSAGES.values():
        names = [example["name"] for example in message["examples"]]
        assert names
        assert sorted(names) == sorted(message["x-records"])


@pytest.mark.parametrize("name", AVRO)
def test_avro_examples_are_what_the_codec_and_a_stranger_read(name: str) -> None:
    """The stranger has nothing but the document and the bytes."""
    embedded = COMPONENTS["schemas"][name]
    assert embedded["schemaFormat"] == "application/vnd.apache.avro;version=1.9.0"
    for message, example, record in examples():
        if message != name:
            continue
        data = bytes.fromhex(record["value"])
        assert plain(codec.decode(name, data)) == example["payload"]
        assert data[:2] == b"\xc3\x01"
        assert data[2:10] == schemas.rabin_of(embedded["schema"])
        read = fastavro.schemaless_reader(io.BytesIO(data[10:]), fastavro.parse_schema(embedded["schema"]), None)
        assert {k: plain(codec._plain(v)) for k, v in read.items()} == example["payload"]
        assert record["key"] == example["payload"]["device_id"]


def test_examples_fit_their_schemas() -> None:
    checked = 0
    for name, example, record in examples():
        message = MESSAGES[name]
        of_schema(message["bindings"]["kafka"]["key"]).validate(record["key"])
        if "headers" in example:
            of_schema(message["headers"]).validate(example["headers"])
        if name not in AVRO and "payload" in example:
            of_schema(message["payload"]).validate(example["payload"])
            checked += 1
    assert checked >= 8


def test_alert_examples_are_alerts() -> None:
    states = []
    for _, example, record in (each for each in examples() if each[0] == "alert"):
        headers = [(name, text.encode()) for name, text in example["headers"].items()]
        alert = Alert.from_message(json.dumps(example["payload"]).encode(), headers)
        key, value, written = alert.to_message()
        assert (key.decode(), written) == (record["key"], headers)
        assert json.loads(value) == example["payload"]
        states.append(alert.state)
    assert states == list(AlertState)


def changed(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The alert with each of its parts missing, of another type, or unknown."""
    for name in data:
        yield {k: v for k, v in data.items() if k != name}
        yield {**data, name: [17]}
        yield {**data, name: "no"}
    yield {**data, "more": 1}
    for part in ("detector", "evidence"):
        for name in data[part]:
            yield {**data, part: {k: v for k, v in data[part].items() if k != name}}
            yield {**data, part: {**data[part], name: None}}
    for name in data["signals"][0]:
        signal = copy.deepcopy(data["signals"][0])
        signal[name] = None
        yield {**data, "signals": [signal]}
        del signal[name]
        yield {**data, "signals": [signal]}


def test_the_alerts_schema_judges_as_the_original() -> None:
    """It was moved, and its references with it: what the one takes the other takes."""
    original = Draft202012Validator(
        json.loads(schemas.folder().joinpath("alert.schema.json").read_text(encoding="utf-8"))
    )
    moved = of_schema({"$ref": "#/components/schemas/alert"})
    verdicts = []
    for data in changed(MESSAGES["alert"]["examples"][0]["payload"]):
        verdicts.append(original.is_valid(data))
        assert moved.is_valid(data) is verdicts[-1], data
    assert 5 < sum(verdicts) < len(verdicts) - 5


def test_a_header_that_is_missing_or_wrong_is_refused() -> None:
    headers = MESSAGES["alert"]["examples"][0]["headers"]
    schema = of_schema(MESSAGES["alert"]["headers"])
    for name in headers:
        assert not schema.is_valid({k: v for k, v in headers.items() if k != name})
        assert not schema.is_valid(headers | {name: ""})


def test_the_dead_letter_is_refused_for_the_reason_that_its_headers_give() -> None:
    (found,) = (each for each in examples() if each[0] == "dead_letter")
    _, example, record = found
    with pytest.raises(codec.RefusedError) as refused:
        codec.decode("frame", bytes.fromhex(record["value"]))
    assert refused.value.reason is Reason.AVRO_TRUNCATED
    assert example["headers"]["x-reason"] == refused.value.reason.code
    assert example["headers"]["x-schema-fp"] == schemas.rabin("frame").hex()


def test_orders_and_answers_are_understood() -> None:
    for name, example, _ in examples():
        if name in ("order", "answer"):
            assert _parse(json.dumps(example["payload"]).encode()) == example["payload"]
        if name == "order":
            parse_inject(example["payload"]["inject"])
            assert not of_schema(MESSAGES["answer"]["payload"]).is_valid(example["payload"])
        if name == "answer":
            assert not of_schema(MESSAGES["order"]["payload"]).is_valid(example["payload"])


def test_the_announced_schema_is_named_by_its_key() -> None:
    (found,) = (each for each in examples() if each[0] == "announcement")
    _, example, record = found
    assert bytes.fromhex(record["key"])[2:] == schemas.rabin_of(example["payload"])


def test_servers_are_all_that_the_settings_allow() -> None:
    servers = DOCUMENT["servers"]
    assert list(servers) == ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]
    for name, server in servers.items():
        assert (server["protocol"] == "kafka-secure") is name.endswith("ssl")
        assert set(server["variables"]) == {"host", "port"}
    in_clear = [each["$ref"].rpartition("/")[2] for each in servers["sasl_plaintext"]["security"]]
    assert in_clear == ["SCRAM-SHA-256", "SCRAM-SHA-512"]  # never a password in clear


def test_it_can_be_had_for_settings_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    own = contract.load(
        environ={},
        kafka={"bootstrap": "broker-1.example:9094,broker-2.example:9094"},
        topics={"prefix": "acme.fleet", "partitions": 12, "replication": 3},
        processing={"group": "acme.fleet"},
    )
    found = asyncapi.document(own)
    assert found["channels"]["alerts"]["address"] == "acme.fleet.alerts"
    assert found["channels"]["alerts"]["bindings"]["kafka"]["partitions"] == 12
    assert found["channels"]["control"]["bindings"]["kafka"]["partitions"] == 1
    assert found["channels"]["alerts"]["bindings"]["kafka"]["replicas"] == 3
    assert found["servers"]["sasl_ssl"]["variables"]["host"]["default"] == "broker-1.example"
    group = found["operations"]["subscriber_receives_alerts"]["bindings"]["kafka"]["groupId"]
    assert Draft7Validator(group).is_valid("acme.fleet-subscriber-pager")
    assert not Draft7Validator(group).is_valid("acmexfleet-subscriber-pager")
    monkeypatch.setenv("FLEETWATCH_TOPICS__PREFIX", "acme")
    printed = CliRunner().invoke(asyncapi.main, [], catch_exceptions=False).output
    assert yaml.safe_load(printed)["channels"]["alerts"]["address"] == "acme.alerts"
