"""A frame writer's schema as the compiled decoder's plan. The rule: what the plan cannot bound is refused here.

A plan is a list of steps in the order in which the writer's fields stand in the bytes: fetch a field that the
decoder knows, or skip one that it does not. So a field added with a default passes without a change of code.
The rules are those of Avro's schema resolution, with two more: a known field keeps its logical type (milliseconds
read as microseconds would be silently wrong), and an unknown one has a bounded shape (no arrays, no maps).
"""

from __future__ import annotations

from typing import Any

from telemetry.schemas.shapes import SchemaRefusedError, core, kind_of, logical_of

# What a step does; its number is `kind | argument << ARGUMENT`.
(
    FETCH_ID,
    FETCH_CATALOG,
    FETCH_SEQ,
    FETCH_TS,
    FETCH_PERIOD,
    FETCH_VALUES,
    SKIP_LONG,
    SKIP_INT,
    SKIP_BYTES,
    SKIP_FIXED,  # argument: bytes
    SKIP_UNION,  # argument: number of branches, whose skips are the next steps
) = range(11)
ARGUMENT = 8

#: Steps of one plan at most: a bound on the work a frame may ask for before its values.
STEPS_MAX = 64
FIXED_MAX = 4096

#: Field -> step, the physical types that resolve to it, and its logical type.
_KNOWN: dict[str, tuple[int, tuple[str, ...], str | None]] = {
    "device_id": (FETCH_ID, ("string", "bytes"), None),
    "catalog": (FETCH_CATALOG, ("string", "bytes"), None),
    "seq": (FETCH_SEQ, ("long", "int"), None),
    "ts": (FETCH_TS, ("long",), "timestamp-micros"),
    "period_us": (FETCH_PERIOD, ("int",), None),
}
_SKIPS = {
    "null": SKIP_FIXED,
    "boolean": SKIP_FIXED | 1 << ARGUMENT,
    "int": SKIP_INT,
    "long": SKIP_LONG,
    "float": SKIP_FIXED | 4 << ARGUMENT,
    "double": SKIP_FIXED | 8 << ARGUMENT,
    "bytes": SKIP_BYTES,
    "string": SKIP_BYTES,
    "enum": SKIP_INT,
}


def _skip(node: Any, where: str) -> list[int]:
    node, kind = core(node), kind_of(node)
    if isinstance(kind, list):
        branches = [_skip(branch, where) for branch in kind]
        if any(len(branch) != 1 for branch in branches):
            raise SchemaRefusedError(f"{where}: a branch of a union must be of one plain type")
        return [SKIP_UNION | len(branches) << ARGUMENT, *(branch[0] for branch in branches)]
    if kind == "fixed":
        size = node["size"]
        if not 0 <= size <= FIXED_MAX:
            raise SchemaRefusedError(f"{where}: a fixed of {size} bytes; at most {FIXED_MAX}")
        return [SKIP_FIXED | size << ARGUMENT]
    if kind == "record":
        return [step for field in node["fields"] for step in _skip(field["type"], f"{where}.{field['name']}")]
    if kind not in _SKIPS:
        raise SchemaRefusedError(
            f"{where}: the frame decoder does not pass over a field of type {kind}; "
            "use a primitive type, bytes, string, enum, fixed, or a union or record of them"
        )
    return [_SKIPS[kind]]


def _fetch(name: str, node: Any) -> int:
    kind, logical = kind_of(node), logical_of(node)
    if name == "values":
        if kind != "array" or kind_of(core(node)["items"]) != "float":
            raise SchemaRefusedError("frame.values: must be an array of float")
        return FETCH_VALUES
    step, kinds, wanted = _KNOWN[name]
    if kind not in kinds or logical != wanted:
        said = f"{kind} ({logical})" if logical else str(kind)
        raise SchemaRefusedError(
            f"frame.{name}: {said} cannot be read as {kinds[0]}{f' ({wanted})' if wanted else ''}"
        )
    return step


def plan_of(schema: dict[str, Any]) -> tuple[int, ...]:
    """The plan of a writer's Frame schema, which `schemas.lint` has passed.

    Raises
    ------
    SchemaRefusedError : a field that every frame needs is missing or has another type, or a field that the decoder
        does not know has a shape that it cannot skip within bounds.
    """
    steps: list[int] = []
    fields = {field["name"]: field["type"] for field in schema["fields"]}
    for name, node in fields.items():
        if name in _KNOWN or name == "values":
            steps.append(_fetch(name, node))
        else:
            steps += _skip(node, f"frame.{name}")
    if missing := [name for name in (*_KNOWN, "values") if name not in fields]:
        raise SchemaRefusedError(f"frame: {', '.join(missing)} missing, for which there is no default")
    if len(steps) > STEPS_MAX:
        raise SchemaRefusedError(f"frame: {len(steps)} fields to read or skip; at most {STEPS_MAX}")
    return tuple(steps)
