"""`fleetwatch dlq` against a real broker and what a real worker refused: list, show, mend, replay."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from fleet_job import T0
from real_worker import committed, environment, read_all, wait_for, workers

from fleetwatch.cli import main
from streams.core.effects import DeadLetter
from telemetry import clients, codec
from telemetry import settings as settings_module
from telemetry.reasons import Reason
from telemetry.topics import ensure, topics

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

ENTRY = """
name: site.boiler
version: 1
kind: vehicle
description: A user's own.
period_ms: 1000
steps_per_frame: 1
signals:
  - {name: Flow, unit: l/min, min: 0, max: 100}
  - {name: Heat, unit: degC, min: 0, max: 200}
"""
HOSTILE = b"veh\x1b[31m\r\n<script>"


class Done(NamedTuple):
    stdout: str
    stderr: str


def run(config: Path, *arguments: str, code: int = 0) -> Done:
    """Through the command line as it is called, in this process: starting Python a dozen times takes longer."""
    out, err = io.StringIO(), io.StringIO()
    exit_code = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(["--config", str(config), "dlq", *arguments])
        except SystemExit as exc:
            exit_code = exc.code
    done = Done(out.getvalue(), err.getvalue())
    assert exit_code == code, done.stderr
    assert not set(done.stdout + done.stderr) & {"\x1b", "\r", "\x00"}
    return done


def listed(config: Path, *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(config, "list", "--json", *arguments).stdout.splitlines()]


def boiler(seq: int) -> bytes:
    values = np.array([[1.0 + seq, 2.0]], np.float32)
    return codec.encode_frame(codec.Frame("b-1", "site.boiler/1", seq, T0 + seq * 1_000_000, 0, values))


def settings_file(folder: Path, name: str, bootstrap: str, prefix: str, paths: Sequence[Path]) -> Path:
    file = folder / name
    file.write_text(
        json.dumps(
            {
                "kafka": {"bootstrap": bootstrap},
                "topics": {"prefix": prefix, "partitions": 2},
                "processing": {"group": prefix, "session_timeout_s": 6, "commit_interval_ms": 200},
                "detectors": [],
                "windows": {"size_s": 10, "hop_s": 10, "grace_s": 0},
                "catalog": {"paths": [str(path) for path in paths]},
                "service": {"log_level": "WARNING", "name": "refuser"},
            }
        )
    )
    return file


def test_look_mend_and_send_again(kafka_bootstrap, topic_prefix, tmp_path):
    entries = tmp_path / "entries"
    entries.mkdir()
    (entries / "site.boiler.yaml").write_text(ENTRY)
    before = settings_file(tmp_path, "before.yaml", kafka_bootstrap, topic_prefix, [])
    after = settings_file(tmp_path, "after.yaml", kafka_bootstrap, topic_prefix, [entries])
    settings = settings_module.load(before, environ={})
    ensure(settings)
    names = topics(settings)
    topic = names.vehicle.name
    producer = clients.producer(settings)
    sent = 0

    def produce(key: bytes | None, value: bytes | None) -> None:
        nonlocal sent
        producer.produce(topic, value, key, 0, headers=[("colour", b"\x1b[31m")])
        sent += 1

    for seq in range(25):
        produce(b"b-1", boiler(seq))
    produce(HOSTILE, boiler(99))
    produce(None, b"\x1b]0;owned\x07 not a frame \xff")
    produce(b"b-1", boiler(3)[:40])
    assert producer.flush(20) == 0
    bomber = clients.producer(settings, compression_type="zstd", message_max_bytes=30_000_000)
    bomber.produce(topic, bytes(20_000_000), b"b-1", 0)
    assert bomber.flush(20) == 0
    sent += 1
    with workers(tmp_path) as start:
        worker = start(before)
        wait_for(lambda: committed(settings, topic) == sent, 60, "all of it")
        look(before, topic)
        # nothing is sent while a worker would refuse it again
        idle = run(before, "replay", "--reason", "unknown_catalog", "--yes")
        assert "left: 26  would be refused again: unknown_catalog" in idle.stderr
        assert "sent nothing" in idle.stdout
        worker.terminate()
        assert worker.wait(30) == 0

        dry = run(after, "replay")
        assert "25 records would be sent" in dry.stderr
        assert "left: 1  would be refused again: avro_length" in dry.stderr
        assert "left: 1  would be refused again: bad_header" in dry.stderr
        assert "left: 1  a whole batch" in dry.stderr
        assert len(dry.stdout.splitlines()) == 25
        assert len(read_all(settings, topic)) == sent
        done = run(after, "replay", "--reason", "unknown_catalog", "--yes")
        assert f"sent 25 to {topic}" in done.stdout
        assert "left: 1  would be refused again: key_mismatch" in done.stderr
        again = read_all(settings, topic)[sent:]
        assert [(m.key(), m.value(), m.partition()) for m in again] == [(b"b-1", boiler(i), 0) for i in range(25)]
        assert all(dict(m.headers()) == {"x-attempt": b"1"} for m in again)
        sent += 25

        worker = start(after)
        forced = run(after, "replay", "--reason", "bad_header", "--force", "--yes", "--max-attempts", "1")
        assert f"sent 1 to {topic}" in forced.stdout
        wait_for(lambda: committed(settings, topic) == sent + 1, 60, "what was sent again")
        worker.terminate()
        assert worker.wait(30) == 0
    windows = [codec.decode("window_features", m.value()) for m in read_all(settings, names.features.name)]
    assert [(w["device_id"], w["rows"]) for w in windows] == [("b-1", 10), ("b-1", 10)]
    returned = [row for row in listed(after, "--reason", "bad_header") if row["attempt"]]
    assert [row["attempt"] for row in returned] == [1]
    place = f"{returned[0]['partition']}/{returned[0]['offset']}"
    weary = run(after, "replay", place, "--force", "--yes", "--max-attempts", "1")
    assert "left: 1  sent again 1 times already (--max-attempts 1)" in weary.stderr
    assert "sent nothing" in weary.stdout


def test_ctrl_c_during_a_replay_says_what_was_sent(kafka_bootstrap, topic_prefix, tmp_path):
    config = settings_file(tmp_path, "settings.yaml", kafka_bootstrap, topic_prefix, [])
    settings = settings_module.load(config, environ={})
    ensure(settings)
    names = topics(settings)
    producer = clients.producer(settings)
    for i in range(50):
        letter = DeadLetter(names.vehicle.name, i % 2, i, Reason.BAD_SEQ, b"veh-1", b"junk %d" % i)
        producer.produce(names.dlq.name, letter.value, letter.key, i % 2, headers=letter.headers("w"))
    assert producer.flush(20) == 0
    command = [sys.executable, "-m", "fleetwatch", "--config", str(config), "dlq", "replay"]
    options = ["--force", "--yes", "--rate", "2"]
    with subprocess.Popen([*command, *options], stdout=-1, stderr=-1, text=True, env=environment()) as replay:
        wait_for(lambda: len(read_all(settings, names.vehicle.name)) >= 3, 60, "the first records")
        replay.send_signal(signal.SIGINT)
        out, err = replay.communicate(timeout=30)
    assert replay.returncode == 0, err
    sent = read_all(settings, names.vehicle.name)
    assert f"sent {len(sent)} to {names.vehicle.name}; interrupted before {50 - len(sent)} more" in out
    assert all(m.value() == b"junk %d" % (2 * m.offset() + m.partition()) for m in sent)


def look(config: Path, topic: str) -> None:
    rows = listed(config)
    reasons = [row["reason"] for row in rows]
    wanted = ["unknown_catalog"] * 26 + ["bad_header", "avro_length", "batch_too_large"]
    assert reasons == wanted
    assert [row["source_offset"] for row in rows] == list(range(29))
    assert {row["topic"] for row in rows} == {topic}
    assert rows[-1]["source_last_offset"] == 28
    assert rows[25]["key"] == r"veh\x1b[31m\r\n<script>"
    assert rows[26]["key"] is None
    assert listed(config, "--reason", "avro_length", "--reason", "bad_header") == rows[26:28]
    assert listed(config, "--device", "b-1") == [*rows[:25], rows[27]]
    assert listed(config, "--until", "1h") == listed(config, "--topic", "device") == []
    assert listed(config, "--topic", "vehicle", "--since", "1h", "--limit", "3") == rows[-3:]
    text = run(config, "list", "--limit", "2")
    assert len(text.stdout.splitlines()) == 2
    assert "27 older letters are not shown" in text.stderr
    summary = run(config, "list", "--summary").stdout
    assert "unknown_catalog" in summary
    assert "catalog.paths" in summary
    shown = [run(config, "show", f"{row['partition']}/{row['offset']}").stdout for row in (rows[0], *rows[25:])]
    frame, hostile, junk, cut, bomb = shown
    assert "catalog = site.boiler/1" in frame
    assert "ts = 1760000000000000  (2025-10-09T08:53:20.000+00:00)" in frame
    assert "values = 2 values in 1 block" in frame
    assert "c3 01" in frame
    assert r"veh\x1b[31m\r\n<script>" in hostile
    assert "no header of a frame" in junk
    assert "bytes are left" in cut
    assert "compression zstd" in bomb
    assert "checksum" in bomb and ": right" in bomb
    assert "decompression bomb" in bomb
    missing = run(config, "show", "0/999999", code=78)
    assert "has no letter at 0/999999" in missing.stderr
    assert "has no partition 7" in run(config, "show", "7/0", code=78).stderr
    assert "did you mean" in run(config, "list", "--reason", "unknown_catalogue", code=2).stderr
    assert "is not an input topic" in run(config, "list", "--topic", "alerts", code=78).stderr
