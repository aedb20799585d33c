"""Schemas from strangers: any JSON is taken or refused with a reason; nothing else is raised, nothing recurses."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from schema_versions import EXTRAS, header_of, with_fields

from telemetry import codec, schemas
from telemetry.schemas import SchemaRefusedError, check
from telemetry.schemas.book import SchemaBook
from telemetry.schemas.plan import STEPS_MAX

WORDS = ["type", "name", "fields", "items", "values", "symbols", "size", "default", "aliases", "logicalType", "doc"]
TYPES = [
    "record",
    "array",
    "map",
    "enum",
    "fixed",
    "null",
    "int",
    "long",
    "float",
    "string",
    "bytes",
    "Frame",
    "error",
]
leaves = (
    st.none() | st.booleans() | st.integers(-10, 2**40) | st.sampled_from(TYPES) | st.text(max_size=3) | st.floats()
)
anything = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=8,
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


def replaced(node: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    node = copy.copy(node)
    node[path[0]] = replaced(node[path[0]], path[1:], value)
    return node


@st.composite
def damaged(draw):
    """A valid frame schema with a few places replaced, and entries of other names put in."""
    schema: Any = with_fields(field | {"aliases": ["other"]} for field, _ in EXTRAS)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(schema)))
        schema = replaced(schema, path, draw(anything))
        if isinstance(schema, dict) and draw(st.booleans()):
            schema = schema | {draw(st.sampled_from(WORDS)): draw(anything)}
    return schema


@given(damaged() | anything)
def test_any_json_is_taken_or_refused(schema):
    book = SchemaBook()
    try:
        parsed = schemas.parse(json.dumps(schema), "a stranger")
        assert all(isinstance(p, str) for p in check.candidate_problems("frame", parsed, schemas.versions("frame")))
        header = header_of(parsed)
        book.add(header, parsed, "a stranger")
    except SchemaRefusedError:
        return
    assert len(book.frames().get(header, ())) <= STEPS_MAX
    with pytest.raises(codec.RefusedError):
        book.decode("frame", header + b"\x80")


@given(st.binary(max_size=300) | st.text(max_size=300))
def test_any_bytes_are_taken_or_refused(text):
    with pytest.raises(SchemaRefusedError):
        schemas.parse(text, "a stranger")
