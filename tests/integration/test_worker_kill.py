"""Two real workers, one killed: every feature and alert of an uninterrupted run appears."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from batches import part
from confluent_kafka import OFFSET_BEGINNING, KafkaError, TopicPartition
from fleet_job import job

from streams.core.effects import Effects
from streams.wiring import make_core
from telemetry import clients, codec
from telemetry import settings as settings_module
from telemetry.alerts import Alert
from telemetry.settings import Settings
from telemetry.topics import ensure, topics

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
PARTITIONS = 4


def read_all(settings: Settings, topic: str) -> list:
    """Every record of a topic, committed ones only, up to its end as of now."""
    consumer = clients.consumer(settings, "check", enable_partition_eof=True)
    consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(PARTITIONS)])
    left, found = set(range(PARTITIONS)), []
    while left:
        for message in consumer.consume(5000, 2.0):
            if message.error() is None:
                found.append(message)
            else:
                assert message.error().code() == KafkaError._PARTITION_EOF
                left.discard(message.partition())
    consumer.close()
    return found


def committed(settings: Settings, topic: str) -> int:
    wanted = [(topic, p) for p in range(PARTITIONS)]
    return sum(o or 0 for o in clients.committed_offsets(settings, settings.processing.group, wanted).values())


@pytest.fixture
def workers(tmp_path: Path):
    started: list[subprocess.Popen] = []

    def start(config: Path) -> subprocess.Popen:
        env = {k: v for k, v in os.environ.items() if not k.startswith("FLEETWATCH_")}
        log = (tmp_path / f"worker-{len(started)}.log").open("w")
        command = [sys.executable, "-m", "fleetwatch", "--config", str(config), "worker", "--port", "0"]
        started.append(subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=tmp_path))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(10)


def wait_for(check, timeout_s: float, what: str) -> None:
    end = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < end, f"{what} did not happen within {timeout_s} s"
        time.sleep(0.3)


def test_a_killed_worker_loses_nothing(kafka_bootstrap, topic_prefix, workers, tmp_path):
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

    first, second = workers(config), workers(config)
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
    assert sorted(set(got)) == expected
    alerts = {Alert.from_message(m.value(), m.headers()) for m in read_all(settings, names.alerts.name)}
    assert len(effects.alerts) > 10
    assert {(a.device_id, a.ts_us, a.signals) for a in alerts} == {
        (a.device_id, a.ts_us, a.signals) for a in [Alert.from_data(a.to_data()) for a in effects.alerts]
    }
    newest = {m.key(): codec.decode("state_row", m.value()) for m in read_all(settings, names.state.name)}
    assert len(newest) == 60
    second.send_signal(signal.SIGTERM)
    assert second.wait(30) == 0
