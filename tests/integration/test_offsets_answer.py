"""A leader that does not answer, and how its offsets are read. The rule: no answer is never taken for an offset."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import OffsetSpec
from frozen import freeze

from fleetwatch.kafka.cluster import EmbeddedKafka
from telemetry import clients
from telemetry.offsets import list_offsets
from telemetry.settings import load
from telemetry.topics import ensure

pytestmark = pytest.mark.kafka


def test_a_frozen_leader_is_an_error_that_names_the_partition(tmp_path, monkeypatch):
    monkeypatch.delenv("FLEETWATCH_KAFKA__BOOTSTRAP", raising=False)
    kafka = EmbeddedKafka(tmp_path / "kafka", brokers=1, port=0)
    try:
        settings = load(environ={}, kafka={"bootstrap": kafka.start()}, topics={"partitions": 1})
        ensure(settings)
        admin = clients.admin(settings)
        assert list_offsets(admin, {"telemetry.alerts": 1}, OffsetSpec.latest(), 10) == {("telemetry.alerts", 0): 0}
        broker = kafka.process(0)
        assert broker is not None
        freeze(broker)
        try:
            with pytest.raises(KafkaException, match=r"telemetry\.alerts/0: its leader does not answer"):
                list_offsets(admin, {"telemetry.alerts": 1}, OffsetSpec.latest(), 2)
        finally:
            broker.resume()
    finally:
        kafka.stop()
