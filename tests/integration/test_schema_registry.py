"""Frames in the Confluent wire format, with a real schema registry: confluent-kafka's own clients on both ends."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka.schema_registry import Schema, record_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from registry_server import registry as running_registry
from schema_versions import BOOT_ID, header_of, with_fields

from fleetwatch.cli import main
from telemetry import codec, registry, schemas
from telemetry import settings as settings_module
from telemetry.codec import FrameEncoder
from telemetry.registry import RegistryError, RegistrySchemas, writing_header
from telemetry.schema_settings import SchemaSettings
from telemetry.schemas.book import Learner, SchemaBook
from telemetry.schemas.reading import learner
from telemetry.schemas.writing import frame_header

pytestmark = pytest.mark.timeout(240)
FRAME = "io.fleetwatch.telemetry.Frame"
CONTEXT = SerializationContext("telemetry.vehicle", MessageField.VALUE)
RECORD = {"device_id": "d", "catalog": "bench.single/1", "seq": 1, "ts": 5, "period_us": 0, "values": [1.5]}
NEXT = with_fields([BOOT_ID])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture
def config(url: str) -> SchemaSettings:
    """The registry as it is when no frame was ever registered."""
    found = SchemaSettings(registry_url=url)
    client = registry.client(found)
    for subject in client.get_subjects():
        client.delete_subject(subject)
        client.delete_subject(subject, permanent=True)
    return found


def test_a_frame_is_what_confluents_serializer_writes_and_reads(config):
    settings = settings_module.load(environ={}, schemas=config.model_dump(mode="json", exclude_unset=True))
    header = frame_header(settings)
    assert header[0] == 0
    client = registry.client(config)
    (version,) = client.get_versions(FRAME)
    registered = client.get_version(FRAME, version)
    assert header == registry.header(registered.schema_id)
    assert json.loads(registered.schema.schema_str) == schemas.raw("frame")

    value = FrameEncoder("d", "bench.single/1", 0, header).encode(1, 5, np.array([1.5]))
    conf = {"auto.register.schemas": False, "subject.name.strategy": record_subject_name_strategy}
    serializer = AvroSerializer(client, json.dumps(schemas.raw("frame")), conf=conf)
    assert serializer(RECORD, CONTEXT) == value
    read = AvroDeserializer(registry.client(config))(value, CONTEXT)
    assert read is not None
    assert read | {"ts": codec.micros(read["ts"])} == RECORD
    assert frame_header(settings) == header  # a second producer registers nothing
    assert client.get_versions(FRAME) == [version]


def test_two_versions_are_read_by_the_ids_that_the_registry_gave(config):
    ours = writing_header(config, "frame")
    client = registry.client(config)
    book, source = SchemaBook(), RegistrySchemas(config)
    learn = Learner(book, [source], framed=True)
    assert ours in (learn() or {})
    conf = {"subject.name.strategy": record_subject_name_strategy}
    value = AvroSerializer(client, json.dumps(NEXT), conf=conf)(RECORD | {"boot_id": 9}, CONTEXT)
    with pytest.raises(codec.RefusedError):
        book.decode("frame", value)
    assert value[:5] in (learn() or {})
    assert book.decode("frame", value) == RECORD
    assert book.decode("frame", codec.encode("frame", RECORD, ours)) == RECORD
    assert learn() is None


def test_an_id_that_is_no_frame_of_ours_is_not_read(config):
    """The registry holds other people's schemas too: an id alone is no permission."""
    client = registry.client(config)
    other = copy.deepcopy(schemas.raw("truth"))
    text = json.dumps(other)
    stranger = client.register_schema("io.fleetwatch.telemetry.Truth", Schema(text, "AVRO"))
    learn = Learner(SchemaBook(), [RegistrySchemas(config)], framed=True)
    assert learn() is None
    assert registry.header(stranger) not in learn.book


def test_what_is_not_registered_is_not_written_where_producers_may_not_register(config):
    with pytest.raises(RegistryError, match="schemas register"):
        writing_header(config.model_copy(update={"registry_register": False}), "frame")
    header = writing_header(config, "frame")
    assert writing_header(config.model_copy(update={"registry_register": False}), "frame") == header


def test_the_registry_refuses_a_breaking_change_too(config):
    breaking = copy.deepcopy(schemas.raw("frame"))
    breaking["fields"].append({"name": "boot_id", "type": "long"})
    client = registry.client(config)
    client.register_schema(FRAME, Schema(json.dumps(breaking), "AVRO"))
    client.set_compatibility(FRAME, "FULL_TRANSITIVE")
    with pytest.raises(RegistryError, match="schemas check"):
        writing_header(config, "frame")


def test_a_registry_that_is_away_is_named():
    away = SchemaSettings(registry_url="http://127.0.0.1:9/apis/ccompat/v7", registry_timeout_s=1)
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:9.*does not answer"):
        writing_header(away, "frame")
    settings = settings_module.load(
        environ={}, schemas={"announced": False} | away.model_dump(mode="json", exclude_unset=True)
    )
    with pytest.raises(RegistryError, match="does not answer"):
        learner(settings)()


@pytest.mark.kafka
def test_register_tells_the_topic_and_the_registry_and_list_shows_it(
    config, kafka_bootstrap, topic_prefix, tmp_path, monkeypatch, capsys
):
    for name, value in {
        "KAFKA__BOOTSTRAP": kafka_bootstrap,
        "TOPICS__PREFIX": topic_prefix,
        "SCHEMAS__REGISTRY_URL": config.registry_url,
    }.items():
        monkeypatch.setenv(f"FLEETWATCH_{name}", value)
    file = tmp_path / "next.avsc"
    file.write_text(json.dumps(NEXT))
    main(["schemas", "register"])
    main(["schemas", "register", str(file)])
    main(["schemas", "register", str(file)])
    out = capsys.readouterr().out
    assert f"{topic_prefix}.schemas: {len(schemas.NAMES)} announced, 0 were there" in out
    assert "1 announced, 0 were there" in out
    assert "0 announced, 1 were there" in out
    client = registry.client(config)
    assert len(client.get_subjects()) == len(schemas.NAMES)
    ids = [client.get_version(FRAME, number).schema_id for number in client.get_versions(FRAME)]
    assert len(ids) == 2
    main(["schemas", "list", "--live"])
    out = capsys.readouterr().out
    for header in (header_of(NEXT), *map(registry.header, ids)):
        assert header.hex() in out


class _Login(BaseHTTPRequestHandler):
    """Says 401 without the right password, else that there are no versions; remembers what it was shown."""

    seen: list[str | None] = []  # noqa: RUF012 - one server, one test

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("Authorization"))
        allowed = self.seen[-1] == "Basic cmVhZGVyOnMzY3JldA=="
        body = b"[]" if allowed else b'{"error_code": 401, "message": "Unauthorized"}'
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        del format, args


def test_the_password_comes_from_a_file_and_is_shown_to_the_registry_only(tmp_path: Path, caplog):
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    with HTTPServer(("127.0.0.1", 0), _Login) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            config = SchemaSettings(
                registry_url=f"http://127.0.0.1:{server.server_port}",
                registry_username="reader",
                registry_password_file=secret,
            )
            assert RegistrySchemas(config).refresh() == []
            secret.write_text("wrong\n")
            with pytest.raises(RegistryError, match="registry_username") as refused:
                RegistrySchemas(config).refresh()
        finally:
            server.shutdown()
            thread.join()
    assert _Login.seen[0] == "Basic cmVhZGVyOnMzY3JldA=="
    assert "s3cret" not in caplog.text + str(refused.value) + repr(config)
