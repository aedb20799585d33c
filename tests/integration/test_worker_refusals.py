"""A hostile input topic: every record ends in one place, and the worker goes on."""

import json

import numpy as np
import pytest
from fleet_job import T0
from real_worker import committed, read_all, wait_for, workers

from telemetry import clients, codec
from telemetry import settings as settings_module
from telemetry.topics import ensure, topics

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]


def frame(device: str, seq: int, second: float, catalog: str = "bench.frames/1", signals: int = 10) -> bytes:
    values = np.full((1, signals), 1.0 + seq, np.float32)
    return codec.encode_frame(codec.Frame(device, catalog, seq, T0 + int(second * 1e6), 1000, values))


def test_bad_records_late_frames_and_scores(kafka_bootstrap, topic_prefix, tmp_path):
    config = tmp_path / "settings.yaml"
    config.write_text(
        json.dumps(
            {
                "kafka": {"bootstrap": kafka_bootstrap},
                "topics": {"prefix": topic_prefix, "partitions": 2},
                "processing": {"group": topic_prefix, "session_timeout_s": 6, "commit_interval_ms": 200},
                "detectors": [{"name": "ewma", "params": {"warm_rows": 2}}],
                "windows": {"size_s": 10, "hop_s": 10, "grace_s": 1},
                "service": {"log_level": "WARNING", "name": "refuser"},
            }
        )
    )
    settings = settings_module.load(config, environ={})
    ensure(settings)
    names = topics(settings)
    good = [(b"veh-1", frame("veh-1", i, i)) for i in range(25)]
    late = (b"veh-1", frame("veh-1", 26, 3))
    bad = {
        "avro_length": (b"veh-1", good[0][1][:-3]),
        "bad_header": (b"veh-1", b"\x00" * 30),
        "unknown_fingerprint": (b"veh-1", b"\xc3\x01" + b"\x07" * 30),
        "key_mismatch": (b"veh-2", good[0][1]),
        "absurd_time": (b"veh-3", frame("veh-3", 0, 4e9)),
        "wrong_column_count": (b"veh-3", frame("veh-3", 0, 1, signals=7)),
        "unknown_catalog": (
            b"gpu-1",
            frame("gpu-1", 0, 1, "gpu.node/1", 22),
        ),  # of a device, on the vehicles' topic
        "null_value": (b"veh-1", None),
    }
    producer = clients.producer(settings)
    for key, value in [*good, *bad.values(), late]:
        producer.produce(names.vehicle.name, value, key)
    assert producer.flush(20) == 0
    total = len(good) + len(bad) + 1
    with workers(tmp_path) as start:
        worker = start(config)
        wait_for(lambda: committed(settings, names.vehicle.name) == total, 60, "all of it")
        worker.terminate()
        assert worker.wait(30) == 0
    letters = {dict(m.headers())["x-reason"].decode(): m for m in read_all(settings, names.dlq.name)}
    assert letters.keys() == bad.keys()
    for reason, (key, value) in bad.items():
        message, headers = letters[reason], dict(letters[reason].headers())
        assert (message.key(), message.value()) == (key, value)
        assert headers["__connect.errors.topic"] == names.vehicle.name.encode()
        assert headers["__connect.errors.exception.class.name"] == reason.encode()
        assert headers["x-worker"] == b"refuser"
        assert int(headers["__connect.errors.offset"]) >= 0
    assert [(m.key(), m.value()) for m in read_all(settings, names.late.name)] == [late]
    windows = [codec.decode("window_features", m.value()) for m in read_all(settings, names.features.name)]
    assert sorted(w["window_start"] for w in windows) == [T0, T0 + 10_000_000]
    assert [w["rows"] for w in windows] == [10, 10]
    scores = [codec.decode("score", m.value()) for m in read_all(settings, names.scores.name)]
    assert {(s["detector"], s["device_id"]) for s in scores} == {("ewma", "veh-1")}
