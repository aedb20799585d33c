"""Schemas announced on a topic of a real broker: told before the first message, found by whoever asks after it."""

from __future__ import annotations

import json
import logging

import pytest
from schema_versions import BOOT_ID, header_of, with_fields

from telemetry import clients
from telemetry import settings as settings_module
from telemetry.errors import BrokerUnavailableError
from telemetry.schemas.announce import AnnouncedSchemas, announce, topic
from telemetry.schemas.book import Learner, SchemaBook
from telemetry.settings import Settings
from telemetry.topics import ensure

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]
NEXT = with_fields([BOOT_ID])
LATER = with_fields([BOOT_ID, {"name": "flags", "type": "int", "default": 0}])


@pytest.fixture
def settings(kafka_bootstrap: str, topic_prefix: str) -> Settings:
    return settings_module.load(environ={}, kafka={"bootstrap": kafka_bootstrap}, topics={"prefix": topic_prefix})


def write(settings: Settings, key: bytes | None, value: bytes | None) -> None:
    producer = clients.producer(settings)
    producer.produce(topic(settings).name, value, key)
    assert producer.flush(20) == 0


def test_what_is_announced_is_found_at_once_and_told_once(settings):
    source = AnnouncedSchemas(settings)
    assert source.refresh() == []  # there is no topic yet
    assert announce(settings, [NEXT]) == [header_of(NEXT).hex()]
    (told,) = source.refresh()
    assert (told.header, json.loads(told.text)) == (header_of(NEXT), NEXT)
    assert announce(settings, [NEXT, LATER]) == [header_of(LATER).hex()]
    assert [t.header for t in source.refresh()] == [header_of(LATER)]
    assert source.refresh() == []
    fresh = AnnouncedSchemas(settings)
    assert [t.header for t in fresh.refresh()] == [header_of(NEXT), header_of(LATER)]
    source.close()
    fresh.close()


def test_a_topic_with_anything_in_it_teaches_only_what_is_sound(settings, caplog):
    ensure(settings, (topic(settings),))
    write(settings, b"not hex", b"{}")
    write(settings, header_of(LATER).hex().encode(), json.dumps(NEXT).encode())  # under another's name
    write(settings, header_of(NEXT).hex().encode(), b"\xff\xfe")
    write(settings, header_of(NEXT).hex().encode(), b"{}")
    write(settings, b"00000000ff", json.dumps(NEXT).encode())
    announce(settings, [NEXT])
    book = SchemaBook()
    with caplog.at_level(logging.WARNING, logger="fleetwatch.schemas"):
        plans = Learner(book, [AnnouncedSchemas(settings)])()
    assert header_of(NEXT) in (plans or {})
    assert header_of(LATER) not in book
    assert "is not the fingerprint of the schema" in caplog.text


def test_a_tombstone_takes_nothing_back_that_is_in_use(settings):
    announce(settings, [NEXT])
    learn = Learner(SchemaBook(), [AnnouncedSchemas(settings)])
    assert header_of(NEXT) in (learn() or {})
    write(settings, header_of(NEXT).hex().encode(), None)
    assert learn() is None
    assert header_of(NEXT) in learn.book


def test_a_broker_that_is_away_is_named_and_nothing_is_concluded(monkeypatch):
    monkeypatch.delenv("FLEETWATCH_KAFKA__BOOTSTRAP", raising=False)
    away = settings_module.load(environ={}, kafka={"bootstrap": "127.0.0.1:9", "connect_timeout_s": 1})
    with pytest.raises(BrokerUnavailableError, match=r"127\.0\.0\.1:9"):
        AnnouncedSchemas(away).refresh()
