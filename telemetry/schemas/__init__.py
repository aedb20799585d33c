"""The Avro schemas, one file a record, and their fingerprints. The rule: a schema here is linted when loaded.

fastavro follows a schema into anything it describes: a recursive schema with a 5 KB message ends the
interpreter, an array of null turns 6 bytes into gigabytes. `lint` refuses such shapes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form

from telemetry.errors import CatalogError

NAMES = (
    "frame",
    "window_features",
    "score",
    "alert",
    "dead_letter",
    "truth",
    "device",
    "state_row",
)

#: Avro single-object encoding: marker, then the CRC-64-AVRO fingerprint of the writer's schema.
SINGLE_OBJECT_MARKER = b"\xc3\x01"


def _types(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, node
    if isinstance(node, list):
        for branch in node:
            yield from _types(branch, path)
    elif isinstance(node, dict):
        kind = node["type"]
        if kind == "record":
            for field in node["fields"]:
                yield from _types(field["type"], f"{path}.{field['name']}")
        elif kind == "array":
            yield from _types(node["items"], f"{path}[]")
        elif kind == "map":
            yield from _types(node["values"], f"{path}{{}}")
        elif isinstance(kind, dict | list):
            yield from _types(kind, path)


def lint(schema: dict[str, Any]) -> list[str]:
    """What makes a schema dangerous to decode from strangers, one line each: recursion, items of no bytes."""
    problems: list[str] = []
    named: set[str] = set()
    primitive = {"null", "boolean", "int", "long", "float", "double", "bytes", "string"}
    for path, node in _types(schema, schema["name"]):
        name = node.get("type") if isinstance(node, dict) else node
        if isinstance(node, dict) and name in {"record", "enum", "fixed"}:
            named.add(node["name"])
        if isinstance(node, dict) and name == "array" and node["items"] in ("null", {"type": "null"}):
            problems.append(f"{path}: an array of null has items of no bytes")
        if isinstance(node, dict) and name == "record" and not node["fields"]:
            problems.append(f"{path}: a record without fields has no bytes")
        if isinstance(node, str) and node not in primitive:
            problems.append(f"{path}: refers to {node} by name; a recursive schema can end the interpreter")
    return problems


@cache
def raw(name: str) -> dict[str, Any]:
    """The schema file as it stands, for example `raw("frame")`."""
    text = resources.files(__package__).joinpath(f"{name}.avsc").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    if problems := lint(schema):
        raise CatalogError(f"schema {name}: " + "; ".join(problems))
    return schema


@cache
def parsed(name: str) -> Any:
    """The schema as fastavro wants it."""
    return fastavro.parse_schema(raw(name))


@cache
def rabin(name: str) -> bytes:
    """The 8 bytes of the CRC-64-AVRO fingerprint, in the order in which they stand in a message."""
    hexed: str = fingerprint(to_parsing_canonical_form(raw(name)), "CRC-64-AVRO")
    return bytes.fromhex(hexed)


@cache
def header(name: str) -> bytes:
    """The 10 bytes that begin a single-object encoded message of this schema."""
    return SINGLE_OBJECT_MARKER + rabin(name)
