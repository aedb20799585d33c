"""The schemas in the AsyncAPI document: Avro as released, the alert's JSON Schema, headers, keys. The rule: none is
written twice; what the contract has as a schema is taken from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from telemetry import schemas
from telemetry.alerts import CONTENT_TYPE, DATA_SCHEMA, SOURCE, AlertState

Node = dict[str, Any]

AVRO_FORMAT = "application/vnd.apache.avro;version=1.9.0"


def ref(*path: str) -> Node:
    """A reference within the document."""
    return {"$ref": "#/" + "/".join(path)}


def schema_of(name: str) -> Node:
    """A reference to a component schema."""
    return ref("components", "schemas", name)


def _lifted(node: Any) -> Any:
    """A part of alert.schema.json with its `$defs` as components of this document.

    A schema of AsyncAPI is of draft 7, where what stands beside a `$ref` is ignored: it goes into an `allOf`.
    """
    if isinstance(node, list):
        return [_lifted(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    found = {
        name: _lifted(inner) for name, inner in node.items() if name not in ("$schema", "$id", "$defs", "$ref")
    }
    if "$ref" not in node:
        return found
    target = schema_of("alert_" + node["$ref"].removeprefix("#/$defs/"))
    return {**found, "allOf": [target]} if found else target


def text_of(about: str, **more: Any) -> Node:
    """A string."""
    return {"description": about, "type": "string", **more}


def _object(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> Node:
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


def _alert_schemas() -> Node:
    raw = json.loads(schemas.folder().joinpath("alert.schema.json").read_text(encoding="utf-8"))
    headers = {
        "ce_specversion": text_of("Version of CloudEvents.", const="1.0"),
        "ce_id": text_of(
            "Names the event: the same input gives the same id; drop what has been seen.", minLength=1
        ),
        "ce_source": text_of("Who found it.", const=SOURCE),
        "ce_type": text_of("Also in the data, as `state`.", enum=[state.ce_type for state in AlertState]),
        "ce_time": {"description": "Event time of this event.", "allOf": [schema_of("alert_time")]},
        "ce_subject": {"description": "The device.", "allOf": [schema_of("device_id")]},
        "ce_partitionkey": {"description": "The record's key.", "allOf": [schema_of("device_id")]},
        "ce_dataschema": text_of("Names the data's schema.", const=DATA_SCHEMA),
        "content-type": text_of("Of the data.", const=CONTENT_TYPE),
    }
    parts = {f"alert_{name}": _lifted(part) for name, part in raw["$defs"].items()}
    device = text_of("Names a device.", pattern=raw["properties"]["device"]["pattern"])
    return {"device_id": device, "alert": _lifted(raw), **parts, "alert_headers": _object(headers)}


def _letter_headers() -> Node:
    number = "^[0-9]+$"
    required = {
        "__connect.errors.topic": text_of("Topic of the refused record, or that a recording's row was meant for."),
        "__connect.errors.stage": text_of("Where it was refused: transport, schema, decode, contract or replay."),
        "__connect.errors.exception.message": text_of("Why, for a person."),
        "x-reason": text_of("Why: a stable code; docs/bad-input.md lists them."),
    }
    optional = {
        "__connect.errors.partition": text_of("Partition of the refused record.", pattern=number),
        "__connect.errors.offset": text_of("Its offset.", pattern=number),
        "__connect.errors.class.name": text_of("The program that refused it."),
        "__connect.errors.exception.class.name": text_of("The same code as `x-reason`."),
        "x-worker": text_of("Who refused it."),
        "x-attempt": text_of("How often the record had been sent again from the dead letters.", pattern=number),
        "x-time": text_of("When it was refused.", format="date-time"),
        "x-schema-fp": text_of(
            "The fingerprint of its writer's schema, where it has one.", pattern="^[0-9a-f]{16}$"
        ),
        "x-last-offset": text_of("The letter is a whole batch, from the offset to this one.", pattern=number),
        "x-truncated": text_of("The value was cut; so long it was, in bytes.", pattern=number),
        "x-truncated-key": text_of("The key was cut; so long it was, in bytes.", pattern=number),
        "x-source": text_of("Of a row of a recording: the file."),
        "x-line": text_of("Of a row of a recording: the line.", pattern=number),
    }
    return _object(required, optional)


def _control_schemas() -> Node:
    order = {"order": text_of("Names the order; its answers repeat it.", minLength=1)}
    inject = text_of(
        "KIND[@T][:DEVICE][*MAGNITUDE][+DURATION], its time counted from when it is heard.", minLength=1
    )
    run = text_of("Names a simulation's run.")
    done = {"description": "The fault's truth record.", "type": "object"}
    answers = [{"required": ["injected"]}, {"required": ["refused"]}]
    return {
        "run": text_of("The run that is meant or that answers; empty = every run."),
        "order": _object({**order, "inject": inject}, {"run": run}),
        "answer": _object({**order, "run": run}, {"injected": done, "refused": text_of("Why not.")})
        | {"oneOf": answers},
    }


def all_schemas(avro: Iterable[str]) -> Node:
    """Every component. avro : the records that topics carry."""
    own = {
        "any_key": {"description": "The refused record's key.", "type": ["string", "null"], "format": "binary"},
        "dead_letter": {"description": "The refused value.", "type": ["string", "null"], "format": "binary"},
        "schema_header": text_of(
            "The first bytes of a message that is written with the schema.",
            pattern=f"^{schemas.SINGLE_OBJECT_MARKER.hex()}[0-9a-f]{{16}}$",
        ),
        "announcement": _object(
            {"type": {"const": "record"}, "name": {"type": "string"}, "fields": {"type": "array"}}
        ),
        "frame_headers": _object(
            {}, {"x-attempt": text_of("How often it was sent again from the dead letters.", pattern="^[0-9]+$")}
        ),
        "dead_letter_headers": _letter_headers(),
    }
    records = {name: {"schemaFormat": AVRO_FORMAT, "schema": schemas.raw(name)} for name in avro}
    return {**_alert_schemas(), **_control_schemas(), **own, **records}
