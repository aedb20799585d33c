"""The Avro schemas and every version ever released. The rule: what was released never changes, and stays readable.

`<name>.avsc` is what we write; `history/<name>.<n>.avsc` are the versions released, the newest included, and
`history/released.txt` their fingerprints. docs/schemas.md says how to add a field.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form

from telemetry.errors import CatalogError
from telemetry.schemas.shapes import SchemaRefusedError, lint, parse

__all__ = ["SchemaRefusedError", "lint", "parse"]

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

_FILE = re.compile(r"(?P<name>[a-z_]+)\.(?P<number>[1-9][0-9]*)\.avsc")


@dataclass(frozen=True, slots=True)
class Version:
    """A released version of a schema: `number` counts from 1."""

    name: str
    number: int
    schema: dict[str, Any]
    rabin: bytes

    @property
    def header(self) -> bytes:
        return SINGLE_OBJECT_MARKER + self.rabin


def folder() -> Traversable:
    """Where the schemas are."""
    return resources.files(__package__)


def rabin_of(schema: dict[str, Any]) -> bytes:
    """The 8 bytes of the CRC-64-AVRO fingerprint, in the order in which they stand in a message."""
    hexed: str = fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO")
    return bytes.fromhex(hexed)


def full_name(schema: dict[str, Any]) -> str:
    """With its namespace, as in ``io.fleetwatch.telemetry.Frame``."""
    name, space = schema["name"], schema.get("namespace")
    return f"{space}.{name}" if space and "." not in name else name


@cache
def _names() -> dict[str, str]:
    return {full_name(raw(name)): name for name in NAMES}


def name_of(record: str) -> str | None:
    """Our name of a record by its full name: ``io.fleetwatch.telemetry.Frame`` is ``frame``; None = not ours."""
    return _names().get(record)


@cache
def raw(name: str) -> dict[str, Any]:
    """The schema file as it stands, for example `raw("frame")`."""
    schema: dict[str, Any] = json.loads(folder().joinpath(f"{name}.avsc").read_text(encoding="utf-8"))
    if problems := lint(schema):
        raise CatalogError(f"schema {name}: " + "; ".join(problems))
    return schema


@cache
def versions(name: str) -> tuple[Version, ...]:
    """Every released version, oldest first."""
    return versions_in(folder().joinpath("history"), name)


def versions_in(history: Traversable, name: str) -> tuple[Version, ...]:
    """The versions of a schema in a folder of released ones, oldest first."""
    found: list[Version] = []
    for entry in history.iterdir():
        match = _FILE.fullmatch(entry.name)
        if match and match["name"] == name:
            schema = parse(entry.read_text(encoding="utf-8"), entry.name)
            found.append(Version(name, int(match["number"]), schema, rabin_of(schema)))
    return tuple(sorted(found, key=lambda version: version.number))


@cache
def parsed(name: str) -> Any:
    """The schema as fastavro wants it."""
    return fastavro.parse_schema(raw(name))


@cache
def writers(name: str) -> dict[bytes, Any]:
    """Header -> the writer's schema as fastavro wants it, of every version that we read."""
    newest = header(name)
    return {
        version.header: parsed(name) if version.header == newest else fastavro.parse_schema(version.schema)
        for version in versions(name)
    }


@cache
def rabin(name: str) -> bytes:
    """The fingerprint of what we write."""
    return rabin_of(raw(name))


@cache
def header(name: str) -> bytes:
    """The 10 bytes that begin a single-object encoded message of this schema."""
    return SINGLE_OBJECT_MARKER + rabin(name)
