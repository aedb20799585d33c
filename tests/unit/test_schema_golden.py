"""Golden bytes of every schema version ever released: read by today's code, and written as they were."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import fastavro
import jsonschema
import numpy as np
import pytest

from telemetry import codec, schemas
from telemetry.alerts import Alert
from telemetry.schemas import Version
from telemetry.schemas.book import SchemaBook

GOLDEN = Path(__file__).parents[1] / "golden"
RELEASED = [version for name in schemas.NAMES for version in schemas.versions(name)]


def native(value: Any) -> Any:
    """JSON has neither bytes nor NaN: they stand as {"hex": ...} and "NaN"."""
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"]) if set(value) == {"hex"} else {k: native(v) for k, v in value.items()}
    if isinstance(value, list):
        return [native(each) for each in value]
    return math.nan if value == "NaN" else value


def cases(version: Version) -> list[tuple[dict[str, Any], bytes]]:
    path = GOLDEN / f"{version.name}.{version.number}.json"
    return [(native(c["record"]), bytes.fromhex(c["hex"])) for c in json.loads(path.read_text(encoding="utf-8"))]


def test_every_released_version_has_golden_bytes_and_nothing_else_has():
    wanted = {f"{v.name}.{v.number}.json" for v in RELEASED} | {"alert_message.1.json", "alert_message.2.json"}
    assert {path.name for path in GOLDEN.iterdir()} == wanted
    assert all(cases(version) for version in RELEASED)


def as_newest(record: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """A record of any version as the newest schema reads it."""
    found = {}
    for field in schema["fields"]:
        value = record.get(field["name"], field.get("default"))
        kind = field["type"]
        if isinstance(kind, dict) and isinstance(kind.get("items"), dict) and "fields" in kind["items"]:
            value = [as_newest(each, kind["items"]) for each in value]
        found[field["name"]] = value
    return found


@pytest.mark.parametrize("version", RELEASED, ids=lambda v: f"{v.name}.{v.number}")
def test_golden_bytes_are_read_and_written_as_ever(version):
    for record, golden in cases(version):
        assert golden[:10] == version.header
        wanted = as_newest(record, schemas.raw(version.name))
        np.testing.assert_equal(codec.decode(version.name, golden), wanted)
        np.testing.assert_equal(SchemaBook().decode(version.name, golden), wanted)
        out = io.BytesIO(version.header)
        out.seek(10)
        fastavro.schemaless_writer(out, fastavro.parse_schema(version.schema), record)
        assert out.getvalue() == golden
        if version.header == schemas.header(version.name):
            assert codec.encode(version.name, record) == golden


def test_golden_frames_are_what_the_producers_encoder_writes():
    for record, golden in cases(schemas.versions("frame")[-1]):
        encoder = codec.FrameEncoder(record["device_id"], record["catalog"], record["period_us"])
        assert encoder.encode(record["seq"], record["ts"], np.array(record["values"], np.float32)) == golden


def test_golden_alert_messages():
    """The JSON on the alerts topic, which other people's programs read."""
    shape = json.loads(schemas.folder().joinpath("alert.schema.json").read_text(encoding="utf-8"))
    for number in (1, 2):
        for case in json.loads((GOLDEN / f"alert_message.{number}.json").read_text(encoding="utf-8")):
            headers = [(name, value.encode()) for name, value in case["headers"]]
            value = case["value"].encode()
            key, written, again = Alert.from_message(value, headers).to_message()
            assert (key, again) == (case["key"].encode(), headers)
            assert number == 1 or written == value
            assert (
                json.loads(written).items()
                >= {k: v for k, v in json.loads(value).items() if k != "signals"}.items()
            )
            jsonschema.validate(json.loads(value), shape)
