"""Whether one schema reads what another wrote. The rule: Avro's resolution, and no value changes its meaning.

Two of Avro's permissions are refused, because what is read would not be what was written: another logical type
(micro- read as milliseconds), and a number that a promotion may round (long to float or double, int to float).
"""

from __future__ import annotations

from typing import Any

from telemetry.schemas.shapes import core, kind_of, logical_of

#: Writer's type -> the reader's types that it is promoted to without loss.
_PROMOTIONS = {
    "int": {"long", "double"},
    "float": {"double"},
    "string": {"bytes"},
    "bytes": {"string"},
}


def _said(node: Any) -> str:
    kind = kind_of(node)
    if isinstance(kind, list):
        return "[" + ", ".join(_said(branch) for branch in kind) + "]"
    logical = logical_of(node)
    return f"{kind} ({logical})" if logical else str(kind)


def _records(reader: dict[str, Any], writer: dict[str, Any], path: str) -> list[str]:
    found: list[str] = []
    written = {field["name"]: field for field in writer["fields"]}
    for field in reader["fields"]:
        where = f"{path}.{field['name']}"
        names = [field["name"], *field.get("aliases", [])]
        source = next((written[name] for name in names if name in written), None)
        if source is not None:
            found += problems(field["type"], source["type"], where)
        elif "default" not in field:
            found.append(f"{where}: the reader asks for it, the writer does not write it, and it has no default")
    return found


def _unions(reader: Any, writer: Any, path: str) -> list[str]:
    if isinstance(kind_of(writer), list):
        return [problem for branch in core(writer) for problem in problems(reader, branch, path)]
    if any(not problems(branch, writer, path) for branch in core(reader)):
        return []
    return [f"{path}: the reader's {_said(reader)} has no branch for the writer's {_said(writer)}"]


def _named(reader: dict[str, Any], writer: dict[str, Any], path: str) -> list[str]:
    """Of two enums, fixeds or records."""
    if reader["name"].rpartition(".")[2] != writer["name"].rpartition(".")[2]:
        return [f"{path}: the reader's {reader['name']} is not the writer's {writer['name']}"]
    if reader["type"] == "enum":
        lost = [symbol for symbol in writer["symbols"] if symbol not in reader["symbols"]]
        if not lost or reader.get("default") in reader["symbols"]:
            return []
        return [f"{path}: the reader does not know {', '.join(lost)}, and has no default symbol"]
    if reader["type"] == "fixed":
        same = reader["size"] == writer["size"]
        return [] if same else [f"{path}: the reader wants {reader['size']} bytes, the writer has {writer['size']}"]
    return _records(reader, writer, path)


def problems(reader: Any, writer: Any, path: str = "") -> list[str]:
    """Why `reader` cannot read what `writer` wrote, one line each with the field's path; empty = it can.

    reader, writer : schemas that `lint` has passed.
    """
    reader_kind, writer_kind = kind_of(reader), kind_of(writer)
    if isinstance(reader_kind, list) or isinstance(writer_kind, list):
        return _unions(reader, writer, path)
    a, b = core(reader), core(writer)
    if reader_kind == writer_kind:
        if reader_kind in ("record", "enum", "fixed"):
            return _named(a, b, path or a["name"])
        if reader_kind == "array":
            return problems(a["items"], b["items"], f"{path}[]")
        if reader_kind == "map":
            return problems(a["values"], b["values"], f"{path}{{}}")
    elif reader_kind not in _PROMOTIONS.get(writer_kind, ()):
        return [f"{path}: the reader's {_said(reader)} cannot take the writer's {_said(writer)}"]
    if logical_of(a) != logical_of(b):
        return [f"{path}: the reader's {_said(reader)} means something else than the writer's {_said(writer)}"]
    return []


# -- JSON ------------------------------------------------------------------------------------------------------


def _json_types(node: dict[str, Any]) -> set[str]:
    kinds = node.get("type", [])
    return {kinds} if isinstance(kinds, str) else set(kinds)


def _follow(node: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """The node with its local ``$ref`` put in."""
    reference = node.get("$ref", "")
    if not reference.startswith("#/$defs/"):
        return node
    return root["$defs"][reference.removeprefix("#/$defs/")] | {k: v for k, v in node.items() if k != "$ref"}


def json_problems(newer: dict[str, Any], older: dict[str, Any]) -> list[str]:
    """What a consumer written for `older` may not bear in data of `newer` (JSON Schema); empty = nothing.

    A consumer may rely on every required property, on its types and its set of values; it ignores properties that
    it does not know.
    """
    return _json(newer, older, newer, older, "$")


def _json(
    new: dict[str, Any], old: dict[str, Any], new_root: dict[str, Any], old_root: dict[str, Any], path: str
) -> list[str]:
    new, old = _follow(new, new_root), _follow(old, old_root)
    found: list[str] = []
    if extra := _json_types(new) - _json_types(old) if _json_types(old) else set():
        found.append(f"{path}: may now be {', '.join(sorted(extra))}")
    if _json_types(old) and not _json_types(new):
        found.append(f"{path}: no longer has a type")
    if "enum" in old and (extra := set(new.get("enum", ["anything"])) - set(old["enum"])):
        found.append(f"{path}: may now be {', '.join(sorted(extra))}, which consumers do not know")
    found += [
        f"{path}: the rule `{rule}` that consumers rely on has changed"
        for rule in ("pattern", "format")
        if rule in old and new.get(rule) != old[rule]
    ]
    if lost := sorted(set(old.get("required", [])) - set(new.get("required", []))):
        found.append(f"{path}: no longer required: {', '.join(lost)}")
    for name, node in old.get("properties", {}).items():
        if name in new.get("properties", {}):
            found += _json(new["properties"][name], node, new_root, old_root, f"{path}.{name}")
        elif name not in old.get("required", []):
            found.append(f"{path}.{name}: removed")
    if "items" in old and "items" in new:
        found += _json(new["items"], old["items"], new_root, old_root, f"{path}[]")
    return found
