"""Workers come and go under traffic: nothing lost, nothing twice, and what moves was read before it moved."""

import re
import signal
import threading
import time

import behaviour
import pytest
from behaviour import Job
from confluent_kafka import Producer
from confluent_kafka.admin import OffsetSpec
from real_worker import wait_for, workers

from telemetry import clients
from telemetry.offsets import offsets_of

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]
GRACE_S = 30


@pytest.fixture
def start(tmp_path):
    with workers(tmp_path) as start:
        yield start


def log_of(tmp_path, number: int) -> str:
    return (tmp_path / f"worker-{number}.log").read_text()


def rebalanced(tmp_path, number: int) -> int:
    return log_of(tmp_path, number).count("Worker ready")


def end(worker) -> float:
    """SIGTERM; seconds until it has ended well."""
    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(GRACE_S) == 0
    return time.monotonic() - began


def test_two_become_three_and_two_again_under_traffic(kafka_bootstrap, topic_prefix, start, tmp_path, monkeypatch):
    monkeypatch.setattr(behaviour, "PARTITIONS", 6)
    job = Job.make(tmp_path, kafka_bootstrap, topic_prefix, devices=60, rounds=240)
    kept = [start(job.config), start(job.config)]
    job.send(2400)
    job.wait()
    stop = threading.Event()

    def traffic() -> None:
        while not stop.is_set() and job.sent < len(job.records):
            job.send(40, 0.1)

    load = threading.Thread(target=traffic)
    load.start()
    try:
        before = [rebalanced(tmp_path, i) for i in range(2)]
        third = start(job.config)
        wait_for(lambda: "restored partitions" in log_of(tmp_path, 2), 90, "the third worker's restore")
        wait_for(lambda: all(rebalanced(tmp_path, i) > before[i] for i in range(2)), 30, "the others' rebalance")
        time.sleep(3)
        end(third)
        time.sleep(3)
    finally:
        stop.set()
        load.join()
    job.send(len(job.records) - job.sent)
    job.wait()
    job.check()
    ahead = re.search(r"read ahead: partitions \[(.*)\], \d+ records", log_of(tmp_path, 2))
    given = re.search(r"restored partitions \[(.*)\]: (\d+) rows of (\d+) records", log_of(tmp_path, 2))
    assert ahead and given and ahead[1] == given[1], (ahead, given)
    assert "leaving" in log_of(tmp_path, 2)
    for i in range(2):
        inherited = re.findall(r"read ahead: partitions \[(.*)\]", log_of(tmp_path, i))
        restored = re.findall(r"restored partitions \[(.*)\]", log_of(tmp_path, i))
        assert inherited[-1:] == restored[-1:], (inherited, restored)  # each what it then was given
    for worker in kept:
        assert worker.poll() is None
        end(worker)


def test_a_worker_that_is_alone_leaves_at_once(kafka_bootstrap, topic_prefix, start, tmp_path):
    job = Job.make(tmp_path, kafka_bootstrap, topic_prefix)
    worker = start(job.config)
    job.send(1000)
    job.wait()
    end(worker)
    assert "leaving" not in log_of(tmp_path, 0)
    job.check()


def test_markers_and_aborted_records_are_no_lag(kafka_bootstrap, topic_prefix, start, tmp_path):
    """One transaction is committed, one aborted, nothing comes after: the group stands at the stable end."""
    job = Job.make(tmp_path, kafka_bootstrap, topic_prefix)
    start(job.config)
    topic = job.names.vehicle.name
    producer = Producer({"bootstrap.servers": kafka_bootstrap, "transactional.id": topic_prefix})
    producer.init_transactions(30)
    for keep in (True, False):
        producer.begin_transaction()
        for key, value in job.records[:200] if keep else job.records[200:400]:
            producer.produce(topic, value, key)
        assert producer.flush(30) == 0
        if keep:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)
    parts = [(topic, p) for p in range(behaviour.PARTITIONS)]
    ends = offsets_of(clients.admin(job.settings), parts, OffsetSpec.latest(), 10, stable=True)
    assert sum(ends.values()) == 400 + 2 * len(parts)  # a marker of each transaction in each partition

    def committed() -> dict:
        return clients.committed_offsets(job.settings, job.settings.processing.group, parts)

    wait_for(lambda: committed() == ends, 90, "the commit behind the last marker")
