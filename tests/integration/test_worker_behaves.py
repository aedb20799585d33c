"""What becomes of a worker when its broker goes away, its topics change, its disk is full, its code hangs."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from behaviour import PARTITIONS, Job
from confluent_kafka import Producer
from confluent_kafka.admin import NewPartitions
from real_worker import environment, wait_for, workers

from fleetwatch.kafka.cluster import EmbeddedKafka
from telemetry import clients

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]
#: Five minutes in the long form: FLEETWATCH_TEST_OUTAGE_S=300.
OUTAGE_S = float(os.environ.get("FLEETWATCH_TEST_OUTAGE_S", "25"))
BAD = [(b"veh-bad", b"junk")] * 3

HANGS = """
import sys, time
from detectors import registry
from detectors.ewma import EwmaZ

class Hangs(EwmaZ):
    def update(self, block, out):
        super().update(block, out)
        if len(block) > 100:  # not in the warm-up
            time.sleep(3600)

registry.DETECTORS["ewma"] = Hangs
from fleetwatch.cli import main
main(sys.argv[1:])
"""


@pytest.fixture
def start(tmp_path):
    with workers(tmp_path) as start:
        yield start


@pytest.fixture
def own_kafka(tmp_path, monkeypatch):
    """A broker that a test may kill."""
    monkeypatch.delenv("FLEETWATCH_KAFKA__BOOTSTRAP", raising=False)
    kafka = EmbeddedKafka(tmp_path / "kafka", brokers=1, port=0)
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.stop()


def log_of(tmp_path: Path) -> list[str]:
    return (tmp_path / "worker-0.log").read_text().splitlines()


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb") as out:
        while True:
            out.write(bytes(1 << 20))
            out.flush()


def test_a_broker_that_is_away_is_waited_for(own_kafka, topic_prefix, start, tmp_path):
    job = Job.make(tmp_path, own_kafka.spec().bootstrap, topic_prefix)
    worker = start(job.config)
    job.send(2000)
    job.wait()
    job.send(1000, extra=BAD)  # some of it is in an open transaction when the broker dies
    own_kafka.kill_broker(0)
    time.sleep(5)
    process, lines = psutil.Process(worker.pid), len(log_of(tmp_path))
    used_s, rss = sum(process.cpu_times()[:2]), process.memory_info().rss
    time.sleep(OUTAGE_S)
    assert worker.poll() is None
    share = (sum(process.cpu_times()[:2]) - used_s) / OUTAGE_S
    grown_mb = (process.memory_info().rss - rss) / 1e6
    told = len(log_of(tmp_path)) - lines
    own_kafka.restart_broker(0)
    job.send(1000, 0.01)
    job.wait(120)
    job.check()
    print(f"away for {OUTAGE_S:.0f} s: {share:.3f} of a core, {grown_mb:.1f} MB more, {told} lines")
    assert share < 0.25, "a hot loop"
    assert grown_mb < 50
    assert told <= 6 + 3 * OUTAGE_S / 60, log_of(tmp_path)[lines:]
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0


def test_told_to_stop_while_the_broker_is_away_it_ends_in_time(own_kafka, topic_prefix, start, tmp_path):
    job = Job.make(tmp_path, own_kafka.spec().bootstrap, topic_prefix)
    worker = start(job.config)
    job.send(1000)
    job.wait()
    job.send(1000, extra=BAD)
    own_kafka.kill_broker(0)
    told = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 75
    assert "will be done again" in log_of(tmp_path)[-1]
    assert time.monotonic() - told < 29
    own_kafka.restart_broker(0)
    start(job.config)
    job.wait(120)
    job.check()


def test_an_event_loop_that_hangs_ends_the_worker_with_its_stack(kafka_bootstrap, topic_prefix, start, tmp_path):
    job = Job.make(
        tmp_path, kafka_bootstrap, topic_prefix, processing={"stall_timeout_s": 16, "transaction_timeout_s": 1}
    )
    job.send(2000)
    script = tmp_path / "hangs.py"
    script.write_text(HANGS)
    hanging = subprocess.run(
        [sys.executable, str(script), "--config", str(job.config), "worker", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
    )
    assert hanging.returncode == 70
    assert "in update" in hanging.stderr, "the stack that hangs"
    assert re.search(r"event loop has not run for \d+ s", hanging.stderr.strip().splitlines()[-1])
    start(job.config)
    job.wait()
    job.check()


def test_a_topic_that_grows_is_refused_and_nothing_is_lost(kafka_bootstrap, topic_prefix, start, tmp_path):
    job = Job.make(tmp_path, kafka_bootstrap, topic_prefix)
    worker = start(job.config)
    job.send(2000)
    job.wait()
    grown = NewPartitions(job.names.vehicle.name, PARTITIONS + 2)
    admin = clients.admin(job.settings)
    admin.create_partitions([grown])[job.names.vehicle.name].result(20)
    writer = Producer({"bootstrap.servers": kafka_bootstrap})
    for key, value in job.records[2000:2040]:
        writer.produce(job.names.vehicle.name, value, key, PARTITIONS + 1)
    assert writer.flush(20) == 0
    assert worker.wait(120) == 78
    last = log_of(tmp_path)[-1]
    assert f"{job.names.vehicle.name}" in last and "partitions" in last, last
    again = start(job.config)
    assert again.wait(60) == 78
    found, expected = job._found(), job._expected()
    assert found["features"] == expected["features"] and found["state"] == expected["state"]


def test_a_topic_that_is_deleted_ends_the_worker(kafka_bootstrap, topic_prefix, start, tmp_path):
    job = Job.make(tmp_path, kafka_bootstrap, topic_prefix)
    worker = start(job.config)
    job.send(2000)
    job.wait()
    admin = clients.admin(job.settings)
    admin.delete_topics([job.names.state.name])[job.names.state.name].result(20)
    assert worker.wait(150) == 78
    assert f"topic {job.names.state.name} is gone" in log_of(tmp_path)[-1]


def test_a_full_disk_at_the_broker_is_waited_for(topic_prefix, start, tmp_path, monkeypatch):
    """The broker ends when it cannot write; with room and a restart the work goes on where it was."""
    monkeypatch.delenv("FLEETWATCH_KAFKA__BOOTSTRAP", raising=False)
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    kafka = EmbeddedKafka(disk / "kafka", brokers=1, port=0)
    try:
        kafka.start()
        job = Job.make(tmp_path, kafka.spec().bootstrap, topic_prefix)
        worker = start(job.config)
        job.send(2000)
        job.wait()
        filler = disk / "filler"
        with pytest.raises(OSError, match="No space"):
            fill(filler)
        refused = Producer(
            {"bootstrap.servers": kafka.spec().bootstrap, "message.timeout.ms": 4000, "log_level": 0}
        )
        for _ in range(40):
            refused.produce(job.names.truth.name, os.urandom(500_000))
            refused.poll(0)
        refused.flush(20)
        wait_for(lambda: kafka.process(0) is None, 60, "the broker's end for want of disk")
        time.sleep(10)
        assert worker.poll() is None
        filler.unlink()
        kafka.restart_broker(0)
        job.send(1000, 0.01)
        job.wait(120)
        job.check()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    finally:
        kafka.stop()
        subprocess.run(["umount", "-l", str(disk)], check=True)
