"""What may change in a schema and what may not, rule by rule; the avro package's checker as a second opinion."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import make_avsc_object
from schema_versions import BOOT_ID, EXTRAS, with_fields

from telemetry import schemas
from telemetry.schemas import check, compat


def record(*fields: dict[str, Any], name: str = "R") -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields)}


def field(kind: Any, **more: Any) -> dict[str, Any]:
    return {"name": "x", "type": kind, **more}


def enum(*symbols: str, **more: Any) -> dict[str, Any]:
    return {"type": "enum", "name": "E", "symbols": list(symbols), **more}


MICROS = {"type": "long", "logicalType": "timestamp-micros"}
MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
FIXED = {"type": "fixed", "name": "F", "size": 4}
OTHER = {"name": "y", "type": "int"}

#: (reader, writer, part of the message or None if it reads it)
RULES: list[tuple[Any, Any, str | None]] = [
    (record(field("int")), record(field("int")), None),
    (record(field("int"), OTHER | {"default": 0}), record(field("int")), None),
    (record(field("int"), OTHER), record(field("int")), r"R\.y: .* has no default"),
    (record(field("int")), record(field("int"), OTHER), None),
    (record(OTHER, field("int")), record(field("int"), OTHER), None),
    (record(field("int", aliases=["y"])), record(OTHER), None),
    (record(field("int")), record(OTHER), "has no default"),
    (record(field("int"), name="S"), record(field("int")), "the reader's S is not the writer's R"),
    (record(field("long")), record(field("int")), None),
    (record(field("double")), record(field("int")), None),
    (record(field("double")), record(field("float")), None),
    (record(field("int")), record(field("long")), r"R\.x: the reader's int cannot take the writer's long"),
    (record(field("float")), record(field("double")), "cannot take"),
    (record(field("string")), record(field("bytes")), None),
    (record(field("bytes")), record(field("string")), None),
    (record(field("string")), record(field("int")), "cannot take"),
    (record(field("boolean")), record(field("int")), "cannot take"),
    (record(field(["null", "int"])), record(field("int")), None),
    (record(field("int")), record(field(["null", "int"])), "cannot take the writer's null"),
    (record(field(["null", "int", "string"])), record(field(["null", "int"])), None),
    (record(field(["null", "int"])), record(field(["null", "string"])), "no branch for the writer's string"),
    (record(field({"type": "array", "items": "int"})), record(field({"type": "array", "items": "long"})), r"x\[\]"),
    (record(field({"type": "array", "items": "long"})), record(field({"type": "array", "items": "int"})), None),
    (record(field({"type": "map", "values": "int"})), record(field({"type": "map", "values": "string"})), "x{}"),
    (record(field({"type": "array", "items": "int"})), record(field("int")), "cannot take"),
    (record(field(FIXED)), record(field(FIXED | {"size": 5})), "wants 4 bytes, the writer has 5"),
    (record(field(FIXED)), record(field(FIXED | {"name": "G"})), "is not the writer's G"),
    (record(field(enum("A", "B"))), record(field(enum("A"))), None),
    (record(field(enum("A"))), record(field(enum("A", "B"))), "does not know B"),
    (record(field(enum("A", default="A"))), record(field(enum("A", "B"))), None),
    (record(field(record(OTHER, name="P"))), record(field(record(field("int"), name="P"))), r"R\.x\.y"),
]

#: Where we are stricter than Avro: what is read would not be what was written.
STRICTER: list[tuple[Any, Any, str]] = [
    (record(field(MICROS)), record(field(MILLIS)), r"timestamp-micros\) means something else"),
    (record(field(MICROS)), record(field("long")), "means something else"),
    (record(field("long")), record(field(MICROS)), "means something else"),
    (record(field("float")), record(field("int")), "cannot take"),
    (record(field("float")), record(field("long")), "cannot take"),
    (record(field("double")), record(field("long")), "cannot take"),
]


def by_avro(reader: Any, writer: Any) -> bool:
    pair = [make_avsc_object(copy.deepcopy(schema)) for schema in (reader, writer)]
    found = ReaderWriterCompatibilityChecker().get_compatibility(*pair)
    return found.compatibility is SchemaCompatibilityType.compatible


@pytest.mark.parametrize(("reader", "writer", "message"), RULES)
def test_the_rules_of_avros_resolution(reader, writer, message):
    found = compat.problems(reader, writer)
    assert by_avro(reader, writer) == (message is None)
    if message is None:
        assert found == []
    else:
        (problem,) = found
        assert re.search(message, problem)


@pytest.mark.parametrize(("reader", "writer", "message"), STRICTER)
def test_what_avro_permits_and_we_do_not(reader, writer, message):
    assert by_avro(reader, writer)
    (problem,) = compat.problems(reader, writer)
    assert re.search(message, problem)


@pytest.mark.parametrize("name", schemas.NAMES)
def test_every_version_reads_every_other(name):
    for reader in schemas.versions(name):
        for writer in schemas.versions(name):
            assert compat.problems(reader.schema, writer.schema) == []


# -- the alerts' JSON ------------------------------------------------------------------------------------------


def alert_schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(schemas.folder().joinpath("alert.schema.json").read_text(encoding="utf-8"))
    return found


def put(path: str, value: Any) -> dict[str, Any]:
    """The alerts' JSON schema with one entry replaced; None removes it."""
    schema = alert_schema()
    node = schema
    *parts, last = path.split("/")
    for part in parts:
        node = node[part]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return schema


@pytest.mark.parametrize(
    ("newer", "problem"),
    [
        (put("properties/fleet", {"type": "string"}), None),
        (put("properties/score/description", "other words"), None),
        (put("properties/severity/enum", ["minor", "major"]), None),
        (put("properties/score/type", "number"), None),
        (put("required", ["id"]), r"\$: no longer required: .*device"),
        (put("properties/score/type", ["number", "null", "string"]), r"\$\.score: may now be string"),
        (put("properties/window_us/type", None), r"\$\.window_us: no longer has a type"),
        (put("properties/severity/enum", ["minor", "fatal"]), r"\$\.severity: may now be fatal"),
        (put("properties/severity/enum", None), r"\$\.severity: may now be anything"),
        (put("properties/device/pattern", ".*"), r"\$\.device: the rule `pattern`"),
        (put("$defs/time/format", "date"), r"\$\.onset: the rule `format`"),
        (put("$defs/signal/required", ["signal"]), r"\$\.signals\[\]: no longer required: .*unit"),
        (put("properties/detector/properties/version/type", "string"), r"\$\.detector\.version: may now be string"),
    ],
)
def test_what_consumers_of_alerts_rely_on(newer, problem):
    found = compat.json_problems(newer, alert_schema())
    if problem is None:
        assert found == []
    else:
        assert any(re.search(problem, line) for line in found), found


# -- the check before a release --------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the schemas' folder to change."""
    ours = Path(str(schemas.folder()))
    copied = tmp_path / "schemas"
    shutil.copytree(ours, copied, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return copied


def rewrite(path: Path, schema: dict[str, Any]) -> None:
    path.write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")


def test_the_schemas_as_they_stand_pass():
    assert check.problems() == []


def test_words_may_be_changed_without_a_new_version(folder):
    schema = with_fields([])
    schema["fields"][0]["doc"] = "In other words."
    rewrite(folder / "frame.avsc", schema)
    assert check.problems(folder) == []


def test_a_compatible_change_passes_once_it_is_released(folder):
    rewrite(folder / "frame.avsc", with_fields([BOOT_ID]))
    (problem,) = check.problems(folder)
    assert "frame: compatible, but not released" in problem
    line = problem.splitlines()[-1].strip()
    shutil.copy(folder / "frame.avsc", folder / "history" / "frame.2.avsc")
    (problem,) = check.problems(folder)
    assert "history/frame.2.avsc: not in history/released.txt" in problem
    with (folder / "history" / "released.txt").open("a") as file:
        file.write(line + "\n")
    assert check.problems(folder) == []


def test_a_released_file_that_was_edited_or_removed_is_named(folder):
    path = folder / "history" / "score.1.avsc"
    path.write_text(path.read_text().replace("surprising", "astonishing"))
    (folder / "history" / "alert.1.avsc").unlink()
    found = check.problems(folder)
    assert any("history/score.1.avsc: was released and has been changed" in line for line in found)
    assert any("history/alert.1.avsc: was released and is gone" in line for line in found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: [f for f in fields if f["name"] != "seq"], "is not read by version 1: Frame.seq"),
        (lambda fields: [*fields, {"name": "boot_id", "type": "long"}], "does not read version 1: Frame.boot_id"),
        (
            lambda fields: [f | {"name": "dev"} if f["name"] == "device_id" else f for f in fields],
            "Frame.device_id",
        ),
        (lambda fields: [f | {"type": "double"} if f["name"] == "seq" else f for f in fields], "Frame.seq: .*long"),
        (lambda fields: [f | {"type": MILLIS} if f["name"] == "ts" else f for f in fields], "timestamp-millis"),
        (
            lambda fields: [*fields, {"name": "t", "type": {"type": "array", "items": "int"}, "default": []}],
            "does not pass over",
        ),
        (lambda fields: [*fields, {"name": "next", "type": ["null", "Frame"], "default": None}], "by name"),
    ],
)
def test_a_breaking_change_is_refused(folder, change, message):
    schema = with_fields([])
    schema["fields"] = change(schema["fields"])
    path = folder / "frame.avsc"
    rewrite(path, schema)
    assert any(re.search(message, line) for line in check.problems(folder))


def test_a_default_is_not_changed_behind_the_fingerprint(folder):
    schema = copy.deepcopy(schemas.raw("device"))
    schema["fields"][2]["default"] = "unknown"
    rewrite(folder / "device.avsc", schema)
    (problem,) = check.problems(folder)
    assert "device: differs from version 1 only in what the fingerprint leaves out" in problem


def test_a_third_version_is_held_to_the_first_too(folder):
    """What v2 added with a default, v3 may not take away and add again with another type."""
    two = with_fields([BOOT_ID])
    rewrite(folder / "history" / "frame.2.avsc", two)
    released = schemas.versions_in(folder / "history", "frame")
    three = with_fields([BOOT_ID | {"type": "string", "default": ""}])
    found = list(check.candidate_problems("frame", three, released))
    assert found
    assert all("version 2" in line for line in found)


def test_every_field_that_the_decoder_passes_over_may_be_added(folder):
    released = schemas.versions_in(folder / "history", "frame")
    for extra, _ in EXTRAS:
        assert list(check.candidate_problems("frame", with_fields([extra]), released)) == []
