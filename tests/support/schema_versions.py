"""Versions of the frame schema that were never released: what a next release, or a third party, may write."""

from __future__ import annotations

import copy
import io
import random
from collections.abc import Iterable, Mapping
from typing import Any

import fastavro

from telemetry import schemas

BOOT_ID = {"name": "boot_id", "type": "long", "default": 0, "doc": "Which boot of the device."}
#: Every shape of a field that the compiled decoder passes over, with values at its bounds.
EXTRAS: list[tuple[dict[str, Any], list[Any]]] = [
    (BOOT_ID, [0, -1, 2**62, -(2**63)]),
    ({"name": "flags", "type": "int", "default": 0}, [0, 2**31 - 1, -(2**31)]),
    ({"name": "charging", "type": "boolean", "default": False}, [False, True]),
    ({"name": "noise", "type": "float", "default": 0.0}, [0.0, -1.5]),
    ({"name": "height", "type": "double", "default": 0.0}, [0.0, 1e300]),
    ({"name": "firmware", "type": "string", "default": ""}, ["", "2.1", "ü" * 300]),
    ({"name": "signature", "type": "bytes", "default": ""}, [b"", bytes(range(256))]),
    ({"name": "hash", "type": {"type": "fixed", "name": "Hash", "size": 16}, "default": "\0" * 16}, [bytes(16)]),
    (
        {"name": "mode", "type": {"type": "enum", "name": "Mode", "symbols": ["A", "B"]}, "default": "A"},
        ["A", "B"],
    ),
    ({"name": "driver", "type": ["null", "string"], "default": None}, [None, "", "x" * 100]),
    ({"name": "trip", "type": ["long", "null", "bytes"], "default": 0}, [5, None, b"ab"]),
    (
        {"name": "sent", "type": {"type": "long", "logicalType": "timestamp-millis"}, "default": 0},
        [0, 1_760_000_000_000],
    ),
    (
        {
            "name": "place",
            "type": {
                "type": "record",
                "name": "Place",
                "fields": [{"name": "cell", "type": "int"}, {"name": "area", "type": ["null", "string"]}],
            },
            "default": {"cell": 0, "area": None},
        },
        [{"cell": 7, "area": None}, {"cell": -7, "area": "north"}],
    ),
]


def with_fields(extras: Iterable[Mapping[str, Any]], seed: int | None = None) -> dict[str, Any]:
    """The frame schema of today and these fields: at its end, or with a seed in any order."""
    schema = copy.deepcopy(schemas.raw("frame"))
    schema["fields"] += [copy.deepcopy(dict(field)) for field in extras]
    if seed is not None:
        random.Random(seed).shuffle(schema["fields"])
    return schema


def header_of(schema: Mapping[str, Any]) -> bytes:
    """Of single-object encoding."""
    return schemas.SINGLE_OBJECT_MARKER + schemas.rabin_of(dict(schema))


def write(schema: Mapping[str, Any], record: Mapping[str, Any], header: bytes | None = None) -> bytes:
    """A message as a writer of that schema sends it."""
    out = io.BytesIO()
    out.write(header_of(schema) if header is None else header)
    fastavro.schemaless_writer(out, fastavro.parse_schema(copy.deepcopy(dict(schema))), dict(record))
    return out.getvalue()
