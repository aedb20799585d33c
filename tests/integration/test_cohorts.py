"""A new device starts from the cohort that it declares: in the core, after a restore, and in a real worker."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from batches import part
from detector_models import MEAN, correlated, fitted
from real_worker import committed, read_all, wait_for, workers

from detectors.cohorts import cohort_of
from streams.core.effects import Effects
from streams.core.state import Restored, dirty_rows, load
from streams.wiring import make_core
from telemetry import clients, codec
from telemetry import settings as settings_module
from telemetry.codec import FrameEncoder
from telemetry.topics import ensure, topics

SIGNALS = ("Rig.One", "Rig.Two", "Rig.Three", "Rig.Four")
ENTRY = "name: lab.rig\nversion: 1\nkind: device\nperiod_ms: 1000\nsteps_per_frame: 1\nsignals:\n" + "".join(
    f"  - {{name: {name}}}\n" for name in SIGNALS
)
KEY, PERIOD_US, ROWS = "lab.rig/1", 1_000_000, 400
#: In the other cohort the first two signals oppose each other.
SIGNS = np.array([1, -1, 1, 1], np.float32)
DECLARED = [
    {"device_id": "rig-a", "catalog": KEY, "model": "A", "firmware": "2", "since": 0, "attributes": {"site": "x"}},
    {"device_id": "rig-b", "catalog": KEY, "model": "B", "firmware": "2", "since": 0, "attributes": {}},
]


@pytest.fixture
def sections(tmp_path):
    classes = tmp_path / "classes"
    classes.mkdir()
    (classes / "rig.yaml").write_text(ENTRY)
    model = fitted(SIGNALS)
    signs = SIGNS.astype(float)
    precision = np.array(model["precision"]).reshape(4, 4) * np.outer(signs, signs)
    other = {**model, "mean": (MEAN + signs * (np.array(model["mean"]) - MEAN)).tolist()}
    other["precision"] = precision.ravel().tolist()
    cohorts = [{"match": {"model": "B"}, **other}]
    (classes / "lab.rig-1.relations.json").write_text(json.dumps({**model, "cohorts": cohorts}))
    return {
        "catalog": {"paths": [str(classes)]},
        "windows": {"size_s": 1, "hop_s": 1, "grace_s": 0},
        "detectors": [{"name": "relations", "params": {"warm_rows": 60}}],
    }


def rows_of(device: str) -> np.ndarray:
    """What a healthy device of cohort B sends, whatever its name."""
    rng = np.random.default_rng(sum(device.encode()))
    return (MEAN + SIGNS * (correlated(rng, ROWS, 4) - MEAN)).astype(np.float32)


def frames(start_us: int, names=("rig-a", "rig-b", "rig-c")):
    encoders = {name: FrameEncoder(name, KEY, PERIOD_US) for name in names}
    values = {name: rows_of(name) for name in names}
    return [
        (name.encode(), encoders[name].encode(i, start_us + i * PERIOD_US, values[name][i][None, :]))
        for i in range(ROWS)
        for name in names
    ]


def surprise_of(messages) -> dict[str, list[tuple[int, float]]]:
    told: dict[str, list[tuple[int, float]]] = {}
    for value in messages:
        score = codec.decode("score", value)
        told.setdefault(score["device_id"], []).append((score["window_start"], score["surprise"]))
    return told


def test_the_most_specific_match_is_taken():
    cohorts = [{"model": "A"}, {"model": "A", "firmware": "2"}, {"firmware": "2"}, {}]
    assert cohort_of({"model": "A", "firmware": "2", "site": "x"}, cohorts) == 1
    assert cohort_of({"model": "A", "firmware": "1"}, cohorts) == 0
    assert cohort_of({"model": "B", "firmware": "2"}, cohorts) == 2
    assert cohort_of({}, cohorts) == 3
    assert cohort_of({"model": "B"}, cohorts[:3]) == -1


def test_a_device_is_judged_by_its_cohort_from_its_first_minutes_and_after_a_restore(sections):
    settings = settings_module.load(environ={}, **sections)
    core, half = make_core(settings), make_core(settings)
    start_us = 1_790_000_000_000_000
    sent = frames(start_us)
    told = Effects()
    for one in (core, half):
        one.declare(DECLARED)
    topic, now_us = core.topics[1], start_us + 10**9
    core.process(topic, 0, [part(sent)], 0, now_us, told)
    late = {
        name: [s for _, s in scores][-200:] for name, scores in surprise_of(m["value"] for m in told.scores).items()
    }
    assert max(late["rig-b"]) < 5.0, "what is normal for its cohort"
    assert min(max(late["rig-a"]), max(late["rig-c"])) > 15.0, "by the class's model they are sick"

    first, rest = Effects(), Effects()
    half.process(topic, 0, [part(sent[:600])], 0, now_us, first)
    again = make_core(settings)  # which has heard of nobody: the state says what the device started from
    load(again, [row["value"] for row in dirty_rows(half)], {again.owner(topic, 0)}, Restored())
    again.process(topic, 0, [part(sent[600:], 600)], 0, now_us, rest)
    assert [m["value"] for m in (*first.scores, *rest.scores)] == [m["value"] for m in told.scores]


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_a_worker_reads_what_devices_declare(kafka_bootstrap, topic_prefix, tmp_path, sections):
    config = tmp_path / "settings.yaml"
    whole = sections | {
        "kafka": {"bootstrap": kafka_bootstrap},
        "topics": {"prefix": topic_prefix, "partitions": 2},
        "processing": {"group": f"{topic_prefix}-g", "session_timeout_s": 6, "commit_interval_ms": 300},
        "service": {"log_format": "text"},
    }
    config.write_text(json.dumps(whole))
    settings = settings_module.load(config, environ={})
    ensure(settings)
    producer = clients.producer(settings, linger_ms=5)
    for record in DECLARED:
        producer.produce(
            topics(settings).devices.name, codec.encode("device", record), record["device_id"].encode()
        )
    assert producer.flush(30) == 0
    start_us = (time.time_ns() // 10**9 - 2 * ROWS) * PERIOD_US
    sent = frames(start_us)
    with workers(tmp_path) as start:
        start(config)
        for key, value in sent:
            producer.produce(topics(settings).device.name, value, key)
        assert producer.flush(30) == 0
        wait_for(lambda: committed(settings, topics(settings).device.name) >= len(sent), 200, "the work")
    online = surprise_of(m.value() for m in read_all(settings, topics(settings).scores.name))
    core, told = make_core(settings), Effects()
    core.declare(DECLARED)
    core.process(core.topics[1], 0, [part(sent)], 0, start_us + 10**9, told)
    assert online == surprise_of(m["value"] for m in told.scores)
    assert max(s for _, s in online["rig-b"][-200:]) < 5.0
