"""Two real workers, one killed: every feature and alert of an uninterrupted run appears once."""

import json
import signal
import time

import pytest
from batches import part
from fleet_job import job
from real_worker import committed, read_all, wait_for, workers

from streams.core.effects import Effects
from streams.wiring import make_core
from telemetry import clients, codec
from telemetry import settings as settings_module
from telemetry.alerts import Alert
from telemetry.topics import ensure, topics

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
PARTITIONS = 4


@pytest.fixture
def start(tmp_path):
    with workers(tmp_path) as start:
        yield start


def test_a_killed_worker_loses_nothing(kafka_bootstrap, topic_prefix, start, tmp_path):
    sections = {
        "kafka": {"bootstrap": kafka_bootstrap},
        "topics": {"prefix": topic_prefix, "partitions": PARTITIONS},
        "processing": {"group": f"{topic_prefix}-g", "session_timeout_s": 6, "commit_interval_ms": 300},
        "detectors": [{"name": "ewma"}],
        "alerts": {"mode": "frames", "open_surprise": 8.0},
        "windows": {"grace_s": 0},
        "outputs": {"scores": False},
        "service": {"log_level": "WARNING"},
    }
    config = tmp_path / "settings.yaml"
    config.write_text(json.dumps(sections))
    settings = settings_module.load(config, environ={})
    ensure(settings)
    names = topics(settings)
    producer = clients.producer(settings)
    records = job(60, 120)

    def send(some: list) -> None:
        for key, value in some:
            producer.produce(names.vehicle.name, value, key)
        assert producer.flush(20) == 0

    first, second = start(config), start(config)
    third = len(records) // 3
    send(records[:third])
    wait_for(lambda: committed(settings, names.vehicle.name) >= third, 90, "the first third")
    send(records[third : 2 * third])
    time.sleep(0.5)
    first.send_signal(signal.SIGKILL)
    assert first.wait(10) == -signal.SIGKILL
    assert second.poll() is None
    send(records[2 * third :])
    wait_for(lambda: committed(settings, names.vehicle.name) == len(records), 100, "the rest")

    core, effects = make_core(settings), Effects()
    core.process(names.vehicle.name, 0, [part(records)], 0, time.time_ns() // 1000, effects)
    expected = sorted(message["value"] for message in effects.features)
    got = [message.value() for message in read_all(settings, names.features.name)]
    assert len(expected) >= 60 * 5
    assert sorted(got) == expected  # each once
    alerts = [Alert.from_message(m.value(), m.headers()) for m in read_all(settings, names.alerts.name)]
    assert len(effects.alerts) > 10
    assert sorted((a.device_id, a.ts_us, str(a.signals)) for a in alerts) == sorted(
        (a.device_id, a.ts_us, str(a.signals)) for a in [Alert.from_data(a.to_data()) for a in effects.alerts]
    )
    newest = {m.key(): codec.decode("state_row", m.value()) for m in read_all(settings, names.state.name)}
    assert len(newest) == 60
    second.send_signal(signal.SIGTERM)
    assert second.wait(30) == 0
