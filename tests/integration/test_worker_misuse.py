"""The worker when something is wrong: it says what, loses nothing, and goes on after a restart."""

import json
import socket
import subprocess
import sys
import time

import pytest
from fleet_job import job
from real_worker import committed, environment

from telemetry import clients
from telemetry import settings as settings_module
from telemetry.topics import ensure, topics

BREAKS = """
import sys
from detectors import registry
from detectors.ewma import EwmaZ

class Breaks(EwmaZ):
    def update(self, block, out):
        super().update(block, out)
        if len(block) > 100:  # not in the warm-up
            raise ZeroDivisionError("a detector's bug")

registry.DETECTORS["ewma"] = Breaks
from fleetwatch.cli import main
main(sys.argv[1:])
"""


def run(*arguments: str, timeout: float = 40, **extra: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "fleetwatch", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment(**extra))


def test_an_unreachable_broker_is_named_within_ten_seconds():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    started = time.monotonic()
    done = run("worker", "--port", "0", FLEETWATCH_KAFKA__BOOTSTRAP=address)
    assert done.returncode == 69
    assert address in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - started < 15  # ten for the answer, the rest for Python to start


def test_wrong_settings_are_all_named_at_once(tmp_path):
    config = tmp_path / "wrong.yaml"
    config.write_text(json.dumps({"windows": {"size_s": 3, "hop_s": 2}, "alerts": {"open_row": 2}, "kafkaa": {}}))
    done = run("--config", str(config), "worker", FLEETWATCH_TOPICS__PARTITION="3")
    assert done.returncode == 78
    for name in ("windows", "alerts.open_row", "kafkaa", "FLEETWATCH_TOPICS__PARTITION"):
        assert name in done.stderr
    assert "did you mean partitions" in done.stderr


def test_an_unknown_detector_is_refused_with_the_nearest(kafka_bootstrap, topic_prefix):
    done = run(
        "worker",
        "--port",
        "0",
        FLEETWATCH_KAFKA__BOOTSTRAP=kafka_bootstrap,
        FLEETWATCH_TOPICS__PREFIX=topic_prefix,
        FLEETWATCH_DETECTORS='[{"name": "emwa"}]',
    )
    assert done.returncode == 78
    assert "ewma" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.kafka
def test_topics_with_too_few_partitions_are_refused(kafka_bootstrap, topic_prefix):
    few = {"kafka": {"bootstrap": kafka_bootstrap}, "topics": {"prefix": topic_prefix, "partitions": 2}}
    ensure(settings_module.load(environ={}, **few))
    done = run(
        "worker",
        "--port",
        "0",
        FLEETWATCH_KAFKA__BOOTSTRAP=kafka_bootstrap,
        FLEETWATCH_TOPICS__PREFIX=topic_prefix,
        FLEETWATCH_TOPICS__PARTITIONS="4",
    )
    assert done.returncode == 78
    assert f"{topic_prefix}.vehicle has 2 partitions" in done.stderr


@pytest.mark.kafka
@pytest.mark.timeout(180)
def test_a_detectors_bug_ends_the_worker_and_a_restart_continues(kafka_bootstrap, topic_prefix, tmp_path):
    config = tmp_path / "settings.yaml"
    config.write_text(
        json.dumps(
            {
                "kafka": {"bootstrap": kafka_bootstrap},
                "topics": {"prefix": topic_prefix, "partitions": 2},
                "processing": {"group": topic_prefix, "session_timeout_s": 6, "commit_interval_ms": 200},
                "detectors": [{"name": "ewma"}],
                "service": {"log_format": "json", "log_level": "WARNING"},
            }
        )
    )
    settings = settings_module.load(config, environ={})
    ensure(settings)
    producer = clients.producer(settings)
    records = job(20, 10)
    for key, value in records:
        producer.produce(topics(settings).vehicle.name, value, key)
    assert producer.flush(20) == 0
    script = tmp_path / "breaks.py"
    script.write_text(BREAKS)
    arguments = ["--config", str(config), "worker", "--port", "0"]
    broken = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=90, env=environment()
    )
    assert broken.returncode == 70
    last = json.loads([line for line in broken.stderr.splitlines() if line.startswith("{")][-1])
    assert last["level"] == "critical"
    assert "ZeroDivisionError: a detector's bug" in last["message"]
    assert committed(settings, topics(settings).vehicle.name) == 0
    worker = subprocess.Popen(
        [sys.executable, "-m", "fleetwatch", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    try:
        end = time.monotonic() + 90
        while committed(settings, topics(settings).vehicle.name) < len(records):
            assert worker.poll() is None
            assert time.monotonic() < end
            time.sleep(0.3)
    finally:
        worker.terminate()
        assert worker.wait(30) == 0
