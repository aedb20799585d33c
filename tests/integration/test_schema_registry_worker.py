"""A real worker and real producers with a real schema registry: ids are learnt as they come, nothing is lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka.schema_registry import record_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from fleet_job import job
from real_worker import committed, environment, read_all, wait_for, workers
from registry_server import registry as running_registry
from schema_versions import BOOT_ID, with_fields

from telemetry import clients, codec, registry
from telemetry import settings as settings_module
from telemetry.registry import RegistryError
from telemetry.topics import ensure, topics

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
NEXT = with_fields([BOOT_ID])


def test_frames_of_three_headers_are_one_stream(kafka_bootstrap, topic_prefix, tmp_path: Path):
    """Fingerprints, the id of today's schema, and of a next one that is registered while the worker runs."""
    with running_registry(tmp_path) as url, workers(tmp_path) as start:
        sections = {
            "kafka": {"bootstrap": kafka_bootstrap},
            "topics": {"prefix": topic_prefix, "partitions": 2},
            "processing": {"group": f"{topic_prefix}-g", "session_timeout_s": 6, "commit_interval_ms": 300},
            "detectors": [{"name": "ewma"}],
            "windows": {"size_s": 2, "hop_s": 2, "grace_s": 0},
            "schemas": {"registry_url": url},
        }
        config = tmp_path / "settings.yaml"
        config.write_text(json.dumps(sections))
        settings = settings_module.load(config, environ={})
        ensure(settings)
        names = topics(settings)
        worker = start(config)

        options = "--class sensor.pump --count 4 --speed 0 --seconds 60 --gap-rate 0"
        subprocess.run(
            [sys.executable, "-m", "fleetwatch", "--config", str(config), "simulate", "devices", *options.split()],
            env=environment(),
            check=True,
            timeout=90,
            cwd=tmp_path,
        )
        devices = read_all(settings, names.device.name)
        assert {m.value()[:1] for m in devices} == {b"\0"}
        wait_for(lambda: committed(settings, names.device.name) == len(devices), 150, "the simulator's frames")

        producer = clients.producer(settings)
        records = job(20, 40)
        serializer = AvroSerializer(
            registry.client(settings.schemas),
            json.dumps(NEXT),
            conf={"subject.name.strategy": record_subject_name_strategy},
        )
        context = SerializationContext(names.vehicle.name, MessageField.VALUE)
        for number, (key, value) in enumerate(records):
            if number >= len(records) // 2:  # another maker's producer, with Confluent's serializer
                value = serializer(codec.decode("frame", value) | {"boot_id": 7}, context)
            producer.produce(names.vehicle.name, value, key)
        assert producer.flush(30) == 0
        wait_for(lambda: committed(settings, names.vehicle.name) == len(records), 60, "the vehicles' frames")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0

        assert read_all(settings, names.dlq.name) == []
        features = [codec.decode("window_features", m.value()) for m in read_all(settings, names.features.name)]
        vehicles = [f for f in features if f["catalog"] == "bench.frames/1"]
        assert len(vehicles) == len({(f["device_id"], f["window_start"]) for f in vehicles}) == 20 * 9
        assert {f["rows"] for f in vehicles} == {20}
        assert {f["device_id"] for f in features if f["catalog"].startswith("sensor.pump")} == {
            m.key().decode() for m in devices
        }


def test_a_worker_ends_rather_than_refuse_while_the_registry_is_away(kafka_bootstrap, topic_prefix, tmp_path: Path):
    with running_registry(tmp_path) as url, workers(tmp_path) as start:
        sections = {
            "kafka": {"bootstrap": kafka_bootstrap},
            "topics": {"prefix": topic_prefix, "partitions": 1},
            "processing": {"group": f"{topic_prefix}-g", "session_timeout_s": 6, "commit_interval_ms": 300},
            "detectors": [],
            "schemas": {"registry_url": url, "registry_timeout_s": 1},
        }
        config, away = tmp_path / "settings.yaml", tmp_path / "away.yaml"
        config.write_text(json.dumps(sections))
        sections["schemas"]["registry_url"] = "http://127.0.0.1:9/apis/ccompat/v7"
        away.write_text(json.dumps(sections))
        settings = settings_module.load(config, environ={})
        ensure(settings)
        names = topics(settings)
        header = registry.writing_header(settings.schemas, "frame")
        producer = clients.producer(settings)
        for key, value in job(5, 10):
            producer.produce(names.vehicle.name, header + value[10:], key)
        assert producer.flush(30) == 0

        worker = start(away)
        assert worker.wait(150) == RegistryError.exit_code
        assert "does not answer" in (tmp_path / "worker-0.log").read_text()
        assert committed(settings, names.vehicle.name) == 0
        assert read_all(settings, names.dlq.name) == []
        worker = start(config)
        wait_for(lambda: committed(settings, names.vehicle.name) == 50, 150, "all frames")
        assert read_all(settings, names.dlq.name) == []
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
