"""One path online and offline: a file replayed through Kafka and a worker gets the scores of `fleetwatch score`."""

import csv
import itertools
import json
import subprocess
import sys
import time

import numpy as np
import pytest
from real_worker import committed, environment, read_all, wait_for, workers

from streams.wiring import detector_factory
from telemetry import catalog, clients, codec
from telemetry import settings as settings_module
from telemetry.alerts import Alert, AlertState
from telemetry.codec import FrameEncoder
from telemetry.topics import ensure, topics

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

ENTRY = """
name: lab.rig
version: 1
kind: device
period_ms: 1000
steps_per_frame: 1
signals:
  - {name: Rig.Speed, min: 0, max: 200}
  - {name: Rig.Load, rate_max: 400}
  - {name: Rig.Bumps, nature: counter}
  - {name: Rig.Heading, nature: position}
  - {name: Rig.Heat, max: 500}
"""
KEY, DEVICE, PERIOD_US = "lab.rig/1", "rig-1", 1_000_000
ROWS = 1800


def job() -> tuple[np.ndarray, np.ndarray]:
    """(int64 (n,) us, float32 (n, 5)): a machine with faults, gaps, repeated and late times."""
    rng = np.random.default_rng(11)
    speed = 100 + 20 * np.sin(np.arange(ROWS) / 40) + rng.normal(0, 1, ROWS)
    values = np.stack(
        [
            speed,
            3 * speed + rng.normal(0, 2, ROWS),
            np.cumsum(rng.poisson(3, ROWS)),
            np.arange(ROWS) % 360,
            40 + 0.2 * speed + rng.normal(0, 0.3, ROWS),
        ],
        axis=1,
    ).astype(np.float32)
    values[700:740, 4] += 15
    values[1100:1130, 0] = 260
    values[1300:1330, 1] -= 60
    values[1500:1520, 4] = np.nan
    values[900] = np.nan
    values[901, 0], values[902, 0], values[903, 4] = np.inf, 1e30, 1e-42
    start_us = (time.time_ns() // 10**9 - 2 * ROWS) * PERIOD_US
    ts_us = start_us + np.arange(ROWS) * PERIOD_US
    ts_us[500] = ts_us[499]
    ts_us[1200] -= 30 * PERIOD_US
    return ts_us, values


def write_csv(path, ts_us: np.ndarray, values: np.ndarray) -> None:
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["ts", *catalog.parse(ENTRY, "test").columns])
        for t, row in zip(ts_us.tolist(), values.tolist(), strict=True):
            out.writerow([t, *("" if v != v else repr(v) for v in row)])


def test_a_file_through_kafka_and_a_worker_gets_the_scores_that_the_command_gives(
    kafka_bootstrap, topic_prefix, tmp_path
):
    (tmp_path / "rig.yaml").write_text(ENTRY)
    config = tmp_path / "settings.yaml"
    sections = {
        "kafka": {"bootstrap": kafka_bootstrap},
        "topics": {"prefix": topic_prefix, "partitions": 2},
        "catalog": {"paths": [str(tmp_path / "rig.yaml")]},
        "processing": {"group": f"{topic_prefix}-g", "session_timeout_s": 6, "commit_interval_ms": 300},
        "windows": {"size_s": 1, "hop_s": 1, "grace_s": 0},  # a window is a row: its peak is the row's score
        "alerts": {"budget": 2000, "warmup_s": 60, "resolve_s": 20, "cooldown_s": 5},
        "service": {"log_format": "text"},
    }
    config.write_text(json.dumps(sections))
    settings = settings_module.load(config, environ={})
    ts_us, values = job()
    write_csv(tmp_path / "rig.csv", ts_us, values)

    with workers(tmp_path) as start:
        ensure(settings)
        start(config)
        producer = clients.producer(settings, linger_ms=5)
        encoder = FrameEncoder(DEVICE, KEY, PERIOD_US)
        for i, (t, row) in enumerate(zip(ts_us.tolist(), values, strict=True)):
            producer.produce(topics(settings).device.name, encoder.encode(i, t, row[None, :]), DEVICE.encode())
        assert producer.flush(30) == 0
        command = [sys.executable, "-m", "fleetwatch", "--config", str(config), "score", str(tmp_path / "rig.csv")]
        more = ["--catalog", str(tmp_path / "rig.yaml"), "-o", str(tmp_path / "out.csv")]
        subprocess.run([*command, *more], check=True, env=environment(), cwd=tmp_path, timeout=300)
        wait_for(lambda: committed(settings, topics(settings).device.name) >= ROWS, 300, "the work on the rows")
    offline = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [int(row["ts"]) for row in offline] == ts_us.tolist()

    scores = [codec.decode("score", m.value()) for m in read_all(settings, topics(settings).scores.name)]
    lineup = detector_factory(settings)(catalog.load(settings.catalog.paths)[KEY])
    alerting = [d.spec.name for d in lineup.sample[: lineup.alerting]]
    online: dict[int, tuple[float, str | None]] = {}
    for s in scores:
        if s["detector"] in alerting:
            best = online.get(s["window_start"], (-1.0, None))[0]
            if s["surprise"] > best:
                online[s["window_start"]] = (s["surprise"], s["signal"])
    late = {500, 1200}
    assert [i for i, row in enumerate(offline) if row["note"] == "out of order"] == sorted(late)
    differing = []
    for i, row in enumerate(offline[:-1]):  # the last row's window is still open
        if i in late:
            assert (row["score"], row["signal"]) == ("0", "")
            continue
        told, signal = online.get(int(ts_us[i]), (0.0, None))
        same = np.float32(row["score"]) == np.float32(told) and signal in (None, row["signal"])
        differing += [] if same else [(i, row, told, signal)]  # the command names signals from a lower score on
    assert differing == []
    assert sum(signal is not None for _, signal in online.values()) > 100
    strange = [float(row["score"]) for row in offline if float(row["score"]) > 0]
    assert len(strange) > 300 and max(strange) > 5

    messages = read_all(settings, topics(settings).alerts.name)
    alerts = [Alert.from_message(m.value(), m.headers()) for m in messages]
    flags = [0, *(int(row["alert"]) for row in offline)]
    turns = [(b, int(ts_us[i])) for i, (a, b) in enumerate(itertools.pairwise(flags)) if a != b]
    told = [(int(a.state is AlertState.OPEN), a.ts_us) for a in alerts if a.state is not AlertState.UPDATE]
    assert turns == told
    assert sum(on for on, _ in turns) >= 2
