"""Which Avro schemas may be used on bytes from strangers. The rule: bounded depth, no recursion, no empty items.

fastavro follows a schema into anything it describes: a recursive schema with a 5 KB message ends the
interpreter, an array of null turns 6 bytes into gigabytes. Every schema passes `lint` before fastavro sees it.
"""

from __future__ import annotations

import json
import re
from typing import Any

import fastavro

from telemetry.errors import FleetwatchError

TEXT_BYTES_MAX = 64 * 1024
DEPTH_MAX = 8
FIELDS_MAX = 256
PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
_NAMED = frozenset({"record", "enum", "fixed"})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")


class SchemaRefusedError(FleetwatchError):
    """A schema is not Avro, dangerous to decode with, or not compatible with what was released."""

    exit_code = 65  # EX_DATAERR


def core(node: Any) -> Any:
    """A schema without the dicts that only wrap it: what holds fields, items, symbols or a logical type."""
    while isinstance(node, dict) and isinstance(node["type"], dict | list):
        node = node["type"]
    return node


def kind_of(node: Any) -> Any:
    """The name of a schema's type; of a union the list of its branches."""
    node = core(node)
    return node["type"] if isinstance(node, dict) else node


def logical_of(node: Any) -> str | None:
    """The logical type, None if there is none."""
    node = core(node)
    return node.get("logicalType") if isinstance(node, dict) else None


def _may_be_empty(node: Any) -> bool:
    """Whether a value of this (well-formed) schema can take no bytes."""
    if isinstance(node, dict):
        kind = node.get("type")
        if kind == "record":
            return all(_may_be_empty(field["type"]) for field in node["fields"])
        if kind == "fixed":
            return bool(node["size"] <= 0)
        return isinstance(kind, dict | list | str) and kind not in _NAMED and _may_be_empty(kind)
    return bool(node == "null")


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _record(node: dict[str, Any], path: str, depth: int) -> list[str]:
    fields = node.get("fields")
    if not isinstance(fields, list) or not all(isinstance(f, dict) and "type" in f for f in fields):
        return [f"{path}: its fields are not a list of fields"]
    if not fields:
        return [f"{path}: a record without fields has no bytes"]
    if len(fields) > FIELDS_MAX:
        return [f"{path}: {len(fields)} fields; at most {FIELDS_MAX}"]
    found: list[str] = []
    for field in fields:
        name = field.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            found.append(f"{path}: {str(name)[:40]!r} is not a field's name")
        elif not _are_texts(field.get("aliases", [])):
            found.append(f"{path}.{name}: its aliases are not a list of names")
        else:
            found += _walk(field["type"], f"{path}.{name}", depth + 1)
    return found


def _named(node: dict[str, Any], path: str, depth: int) -> list[str]:
    kind, name = node["type"], node.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return [f"{path}: {str(name)[:40]!r} is not a name"]
    if kind == "record":
        return _record(node, path, depth)
    if kind == "fixed" and not (isinstance(node.get("size"), int) and node["size"] > 0):
        return [f"{path}: a fixed has a size above 0"]
    if kind == "enum":
        symbols = node.get("symbols")
        if not symbols or not _are_texts(symbols):
            return [f"{path}: an enum has a list of symbols"]
        if "default" in node and node["default"] not in symbols:
            return [f"{path}: the default is not one of the symbols"]
    return []


def _walk(node: Any, path: str, depth: int) -> list[str]:
    if depth > DEPTH_MAX:
        return [f"{path}: more than {DEPTH_MAX} levels deep"]
    if isinstance(node, str):
        if node in PRIMITIVES:
            return []
        return [f"{path}: refers to {node[:80]!r} by name; a recursive schema can end the interpreter"]
    if isinstance(node, list):
        return [problem for branch in node for problem in _walk(branch, path, depth + 1)]
    if not isinstance(node, dict) or "type" not in node:
        return [f"{path}: is not a schema"]
    kind = node["type"]
    if isinstance(kind, dict | list) or kind in PRIMITIVES:
        return _walk(kind, path, depth + 1)
    if kind in _NAMED:
        return _named(node, path, depth)
    if kind in ("array", "map"):
        inner = node.get("items" if kind == "array" else "values")
        found = _walk(inner, path + ("[]" if kind == "array" else "{}"), depth + 1)
        if kind == "array" and not found and _may_be_empty(inner):
            found = [f"{path}: an array whose items may have no bytes"]
        return found
    return [f"{path}: {str(kind)[:80]!r} is not a type"]


def lint(schema: Any) -> list[str]:
    """What makes a schema unfit to decode strangers' bytes with, one line each; any JSON value may be given."""
    if not isinstance(schema, dict) or schema.get("type") != "record":
        return ["a message's schema is a record"]
    return _walk(schema, str(schema.get("name"))[:80], 0)


def parse(text: str | bytes, source: str) -> dict[str, Any]:
    """The schema that a text of unknown origin holds, linted.

    Raises
    ------
    SchemaRefusedError : too long, not JSON, not Avro or dangerous; the message begins with `source`.
    """
    if len(text) > TEXT_BYTES_MAX:
        raise SchemaRefusedError(f"{source}: {len(text):,} bytes; at most {TEXT_BYTES_MAX:,}")
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise SchemaRefusedError(f"{source}: not JSON: {exc}") from exc
    if problems := lint(schema):
        raise SchemaRefusedError(f"{source}: " + "; ".join(problems[:10]))
    try:
        fastavro.parse_schema(schema)
    except (fastavro.schema.SchemaParseException, ValueError, TypeError, KeyError) as exc:
        raise SchemaRefusedError(f"{source}: not an Avro schema: {exc}") from exc
    assert isinstance(schema, dict)
    return schema
