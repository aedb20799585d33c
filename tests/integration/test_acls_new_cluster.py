"""What a login may do, asked of a cluster that has just been made. The rule: what passes is waited for."""

from __future__ import annotations

import pytest

from fleetwatch.kafka.cluster import EmbeddedKafka
from telemetry import acls
from telemetry.settings import load

pytestmark = pytest.mark.kafka


def test_the_first_question_to_a_new_cluster_is_answered(tmp_path, monkeypatch):
    """Four of five new brokers first say that they are no coordinator, or one that is still loading."""
    monkeypatch.delenv("FLEETWATCH_KAFKA__BOOTSTRAP", raising=False)
    kafka = EmbeddedKafka(tmp_path / "kafka", brokers=1, port=0)
    try:
        settings = load(environ={}, kafka={"bootstrap": kafka.start()})
        assert acls.lacking(settings, "worker") == []
    finally:
        kafka.stop()
