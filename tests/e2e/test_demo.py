"""The demo from the command line, on a real Kafka: faults are found, and nothing of it stays."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from confluent_kafka.admin import AdminClient

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(200)]


def started(folder: Path, bootstrap: str, *options: str) -> subprocess.Popen:
    """The demo, its output in a file of the folder."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("FLEETWATCH_")}
    env |= {"FLEETWATCH_KAFKA__BOOTSTRAP": bootstrap, "TMPDIR": str(folder), "NO_COLOR": "1"}
    with (folder / "out").open("w") as out:
        command = [sys.executable, "-m", "fleetwatch", "demo", *options]
        return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env, cwd=folder)


def assert_nothing_stays(folder: Path, bootstrap: str, said: str) -> None:
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or ())]
    assert not list(folder.glob("fleetwatch-demo-*"))
    prefix = re.search(r"topics (demo[0-9a-f]+)\.\*", said)[1]
    # deleting is asynchronous within the brokers
    deadline = time.monotonic() + 10
    client = AdminClient({"bootstrap.servers": bootstrap})
    while left := [name for name in client.list_topics(timeout=10).topics if name.startswith(prefix)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def test_a_short_demo_finds_its_faults(kafka_bootstrap, tmp_path):
    options = ["--seconds", "45", "--vehicles", "40", "--nodes", "6"]
    process = started(tmp_path, kafka_bootstrap, *options)
    try:
        code = process.wait(180)
    finally:
        process.kill()
    said = (tmp_path / "out").read_text()
    assert code == 0, said
    assert "\x1b" not in said
    assert re.search(r"5 injected, 5 found", said), said
    frames = re.search(r"frames +([\d,]+) sent, ([\d,]+) acknowledged, ([\d,]+) processed", said)
    assert len(set(frames.groups())) == 1
    assert int(frames[1].replace(",", "")) > 10_000
    assert re.search(r"worker-1 \(pid \d+\) is killed with SIGKILL", said)
    assert re.search(r"worker-2 holds all partitions .* after the kill", said)
    assert re.search(r"false alarms +none\n", said)
    assert re.search(r"dead letters +0\n", said)
    assert len(re.findall(r"found after", said)) == 5
    assert_nothing_stays(tmp_path, kafka_bootstrap, said)


def test_ctrl_c_stops_everything(kafka_bootstrap, tmp_path):
    process = started(tmp_path, kafka_bootstrap, "--vehicles", "5", "--nodes", "2")
    try:
        deadline = time.monotonic() + 90
        while "fleet: " not in (tmp_path / "out").read_text():
            assert process.poll() is None, (tmp_path / "out").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
    said = (tmp_path / "out").read_text()
    assert "interrupted: stopping everything" in said
    assert_nothing_stays(tmp_path, kafka_bootstrap, said)


def test_the_recording_of_a_real_drive(kafka_bootstrap, tmp_path):
    process = started(tmp_path, kafka_bootstrap, "--replay")
    try:
        code = process.wait(120)
    finally:
        process.kill()
    said = (tmp_path / "out").read_text()
    assert code == 0, said
    frames = re.search(r"frames +(\d+) sent, (\d+) acknowledged, (\d+) processed", said)
    assert len(set(frames.groups())) == 1
    assert int(frames[1]) >= 100
    assert int(re.search(r"windows +(\d+) published", said)[1]) >= 5
    assert_nothing_stays(tmp_path, kafka_bootstrap, said)
