"""The allow-list of writers' schemas: what it takes, what it refuses, and when a worker asks for more."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

import pytest
from schema_versions import BOOT_ID, header_of, with_fields, write

from telemetry import codec, registry, schemas, settings
from telemetry.errors import BrokerUnavailableError, SettingsError
from telemetry.reasons import Reason
from telemetry.schemas import SchemaRefusedError, shapes
from telemetry.schemas.book import QUESTIONS_BURST, WRITERS_MAX, Learner, SchemaBook, Told
from telemetry.schemas.reading import learner

NEXT = with_fields([BOOT_ID])
RECORD = {"device_id": "d", "catalog": "bench.single/1", "seq": 1, "ts": 5, "period_us": 0, "values": [1.0]}


def told(schema: object, header: bytes | None = None) -> Told:
    text = json.dumps(schema)
    return Told(header_of(schema) if header is None else header, text, "a source")


class Channel:
    """A source that tells each thing once, and counts how often it was asked."""

    def __init__(self, *found: Told) -> None:
        self.found, self.asked = list(found), 0

    def refresh(self) -> Sequence[Told]:
        self.asked += 1
        found, self.found = self.found, []
        return found


class Away:
    def refresh(self) -> Sequence[Told]:
        raise BrokerUnavailableError("away")


def test_begins_with_every_released_version():
    book = SchemaBook()
    assert {w.header for w in book.writers()} == {v.header for n in schemas.NAMES for v in schemas.versions(n)}
    assert set(book.frames()) == {v.header for v in schemas.versions("frame")}


@pytest.mark.parametrize(
    ("schema", "header", "message"),
    [
        (NEXT | {"name": "Other"}, None, "io.fleetwatch.telemetry.Other is not a record of ours"),
        (NEXT, schemas.SINGLE_OBJECT_MARKER + bytes(8), "is not the fingerprint of the schema"),
        (with_fields([{"name": "t", "type": {"type": "array", "items": "int"}}]), None, "does not pass over"),
        (NEXT | {"fields": NEXT["fields"][1:]}, None, "device_id: the reader asks for it"),
    ],
)
def test_refuses_what_it_cannot_read(schema, header, message):
    with pytest.raises(SchemaRefusedError, match=message):
        SchemaBook().add(header_of(schema) if header is None else header, schema, "test")


def test_has_a_bound():
    book = SchemaBook()
    already = len(book.writers())
    for number in range(WRITERS_MAX - already):
        assert book.add(registry.header(number), NEXT, "test")
    assert not book.add(registry.header(0), NEXT, "test")
    with pytest.raises(SchemaRefusedError, match="256 schemas are known"):
        book.add(registry.header(WRITERS_MAX), NEXT, "test")


def test_decodes_by_the_header():
    book = SchemaBook()
    book.add(registry.header(7), NEXT, "test")
    value = write(NEXT, RECORD | {"boot_id": 3}, registry.header(7))
    assert book.decode("frame", value) == RECORD
    for wrong, reason in [
        (b"\x01\x02", Reason.BAD_HEADER),
        (b"", Reason.BAD_HEADER),
        (b"\0\0\0\0\x08", Reason.UNKNOWN_FINGERPRINT),
        (codec.encode("frame", RECORD, registry.header(9)), Reason.UNKNOWN_FINGERPRINT),
        (value[:-1], Reason.AVRO_TRUNCATED),
        (value + b"\0", Reason.AVRO_TRAILING),
    ]:
        with pytest.raises(codec.RefusedError) as refused:
            book.decode("frame", wrong)
        assert refused.value.reason is reason
    with pytest.raises(codec.RefusedError):
        book.decode("truth", value)


def test_learns_what_a_source_tells_and_asks_no_more_than_it_may():
    now = [100.0]
    channel = Channel(told(NEXT))
    learn = Learner(SchemaBook(), [channel], clock=lambda: now[0])
    plans = learn()
    assert plans is not None
    assert header_of(NEXT) in plans
    for _ in range(1000):
        assert learn() is None
    assert channel.asked == QUESTIONS_BURST
    now[0] += 3.0
    channel.found = [told(NEXT, registry.header(5))]
    assert registry.header(5) in (learn() or {})
    for _ in range(1000):
        learn()
    assert channel.asked == QUESTIONS_BURST + 3


def test_a_source_that_is_away_is_no_ground_for_refusing():
    with pytest.raises(BrokerUnavailableError):
        Learner(SchemaBook(), [Channel(), Away()])()


def test_a_poisonous_announcement_is_logged_once_and_stops_nothing(caplog):
    recursive = NEXT | {"fields": [*NEXT["fields"], {"name": "next", "type": ["null", "Frame"], "default": None}]}
    poison = [
        Told(b"\xc3\x01" + b"a" * 8, "not JSON", "a source"),
        Told(b"\xc3\x01" + b"b" * 8, "[" * 100_000, "a source"),
        Told(b"\xc3\x01" + b"c" * 8, "[" * 30_000 + "]" * 30_000, "a source"),
        Told(b"\xc3\x01" + b"d" * 8, json.dumps(recursive), "a source"),
        Told(b"\xc3\x01" + b"e" * 8, "{}", "a source"),
    ]
    channel = Channel(*poison, told(NEXT))
    learn = Learner(SchemaBook(), [channel])
    with caplog.at_level(logging.INFO, logger="fleetwatch.schemas"):
        assert header_of(NEXT) in (learn() or {})
        channel.found = list(poison)
        assert learn() is None
    assert sum("refused" in line.message for line in caplog.records) == len(poison)


@pytest.mark.parametrize(
    "schema",
    [
        None,
        [],
        "frame",
        {"type": "record"},
        {"type": "record", "name": "R", "fields": []},
        {"type": "record", "name": "R", "fields": [{"name": "a"}]},
        {"type": "record", "name": "R", "fields": [{"name": "a b", "type": "int"}]},
        {"type": "record", "name": "R", "fields": [{"name": "a", "type": "R"}]},
        {"type": "record", "name": "R", "fields": [{"name": "a", "type": {"type": "array", "items": "null"}}]},
        {"type": "record", "name": "R", "fields": [{"name": "a", "type": {"type": "array"}}]},
        {"type": "record", "name": "R", "fields": [{"name": "a", "type": {"type": "fixed", "name": "F"}}]},
        {"type": "record", "name": "R", "fields": [{"name": "a", "type": {"type": "enum", "name": "E"}}]},
        {"type": "record", "name": "R", "fields": [{"name": "a", "type": 7}]},
        {"type": "record", "name": "R", "fields": [{"name": f"f{i}", "type": "int"} for i in range(300)]},
        {
            "type": "record",
            "name": "R",
            "fields": [
                {
                    "name": "a",
                    "type": {
                        "type": "array",
                        "items": {"type": "record", "name": "N", "fields": [{"name": "n", "type": "null"}]},
                    },
                }
            ],
        },
    ],
)
def test_the_lint_takes_any_json_and_refuses_what_is_dangerous(schema):
    assert shapes.lint(schema)
    with pytest.raises(SchemaRefusedError, match="source"):
        schemas.parse(json.dumps(schema), "source")


def test_the_lint_bounds_depth():
    deep: object = "int"
    for _ in range(shapes.DEPTH_MAX + 1):
        deep = {"type": "array", "items": deep}
    assert shapes.lint({"type": "record", "name": "R", "fields": [{"name": "a", "type": deep}]})


def test_files_of_the_settings_are_accepted(tmp_path):
    path = tmp_path / "next.avsc"
    path.write_text(json.dumps(NEXT))
    loaded = settings.load(environ={}, schemas={"accept": [str(path)]})
    assert header_of(NEXT) in learner(loaded).book
    path.write_text("{}")
    with pytest.raises(SchemaRefusedError, match=r"next\.avsc"):
        learner(loaded)
    path.unlink()
    with pytest.raises(SchemaRefusedError, match="cannot be read"):
        learner(loaded)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"registry_url": "registry:8081"}, "http:// or https:// address"),
        ({"registry_url": "https://u:secret@registry"}, "no user and password in the address"),
        ({"registry_url": "https://registry", "registry_username": "u"}, "needed together"),
        (
            {"registry_url": "http://registry", "registry_username": "u", "registry_password": "p"},
            "sent in clear",
        ),
    ],
)
def test_settings_that_would_not_work_or_not_protect_are_refused(monkeypatch, given, message):
    for name, value in given.items():
        monkeypatch.setenv(f"FLEETWATCH_SCHEMAS__{name.upper()}", value)
    with pytest.raises(SettingsError, match=message) as refused:
        settings.load()
    assert "secret" not in str(refused.value)
