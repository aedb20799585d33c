"""What the world does to a worker between two checkpoints, and that nothing of it is seen in its results."""

import re
import signal
import time

import pytest
from behaviour import Job
from real_worker import wait_for, workers

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
BAD = [(b"veh-bad", b"junk")] * 3


@pytest.fixture
def start(tmp_path):
    with workers(tmp_path) as start:
        yield start


def log_of(tmp_path, number: int = 0) -> str:
    return (tmp_path / f"worker-{number}.log").read_text()


def test_a_transaction_that_ran_out_is_done_again_in_the_same_process(
    kafka_bootstrap, topic_prefix, start, tmp_path
):
    """Stopped for longer than the transaction's timeout, and shorter than the session's: still a member."""
    slow = {"session_timeout_s": 60, "commit_interval_ms": 4000, "transaction_timeout_s": 5}
    job = Job.make(tmp_path, kafka_bootstrap, topic_prefix, processing=slow)
    worker = start(job.config)
    job.send(1000)
    job.wait()
    job.send(1000, extra=BAD)
    time.sleep(1.5)  # processed, and the next commit is seconds away
    worker.send_signal(signal.SIGSTOP)
    stopped_at = job.done()
    time.sleep(16)  # the timeout, and what a broker may take to see it
    worker.send_signal(signal.SIGCONT)
    job.send(1000, 0.02)
    job.wait()
    assert stopped_at < 2003, "the worker was stopped too late to have work in hand"
    job.check()
    assert "work since the last checkpoint will be done again" in log_of(tmp_path)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0


def test_of_two_workers_with_one_name_the_first_ends(kafka_bootstrap, topic_prefix, start, tmp_path):
    job = Job.make(tmp_path, kafka_bootstrap, topic_prefix, service={"name": "twin"})
    first = start(job.config)
    job.send(1000)
    job.wait()
    second = start(job.config)
    wait_for(lambda: "kernels ready" in log_of(tmp_path, 1), 60, "the second worker's start")
    job.send(3000, 0.05, extra=BAD)
    assert first.wait(60) == 70
    last = log_of(tmp_path).strip().splitlines()
    assert any("another process took this worker's transactional id" in line for line in last[-40:])
    job.wait()
    job.check()
    second.send_signal(signal.SIGTERM)
    assert second.wait(30) == 0


def test_partitions_that_come_back_are_not_read_again(kafka_bootstrap, topic_prefix, start, tmp_path):
    """A second worker takes half of them, works on one half of those, and leaves."""
    job = Job.make(tmp_path, kafka_bootstrap, topic_prefix)
    first = start(job.config)
    job.send(2000)
    job.wait()
    second = start(job.config)
    wait_for(lambda: "restored partitions" in log_of(tmp_path, 1), 60, "the second worker's restore")
    job.send(400, extra=BAD)
    job.wait()
    second.send_signal(signal.SIGTERM)
    assert second.wait(30) == 0
    job.send(400)
    job.wait()
    job.check()
    restores = [
        (int(rows), int(records))
        for rows, records in re.findall(r"restored partitions .*: (\d+) rows of (\d+) records", log_of(tmp_path))
    ]
    # after the second had left: only what it had written, not the changelog from its beginning
    assert restores[-1][1] < 60, restores
    first.send_signal(signal.SIGTERM)
    assert first.wait(30) == 0


def test_what_another_has_done_to_a_partition_that_comes_back_is_read(
    kafka_bootstrap, topic_prefix, start, tmp_path
):
    """The first worker stands still when it loses partitions, so that the second works on them before it knows."""
    job = Job.make(tmp_path, kafka_bootstrap, topic_prefix, processing={"session_timeout_s": 20})
    first = start(job.config)
    job.send(1600)
    job.wait()
    assigned = log_of(tmp_path).count("Executing _on_partitions_assigned")
    second = start(job.config)
    wait_for(lambda: log_of(tmp_path).count("Executing _on_partitions_assigned") > assigned, 60, "it", 0.0005)
    first.send_signal(signal.SIGSTOP)
    wait_for(lambda: "restored partitions" in log_of(tmp_path, 1), 60, "the second worker's restore")
    stood = job.done()
    job.send(1600)
    wait_for(lambda: job.done() > stood + 200, 15, "the second worker's work")
    first.send_signal(signal.SIGCONT)
    time.sleep(3)
    second.kill()
    second.wait(10)
    job.send(1600)
    job.wait()
    job.check()
    first.send_signal(signal.SIGTERM)
    assert first.wait(30) == 0


def test_without_transactions_a_reader_can_drop_what_it_has_seen(kafka_bootstrap, topic_prefix, start, tmp_path):
    job = Job.make(
        tmp_path,
        kafka_bootstrap,
        topic_prefix,
        processing={"guarantee": "at_least_once", "commit_interval_ms": 3000},
    )
    worker = start(job.config)
    job.send(2000)
    job.wait()
    job.send(1000, extra=BAD)
    time.sleep(1.5)
    worker.kill()
    worker.wait(10)
    again = start(job.config)
    job.send(1000)
    job.wait()
    found, expected = job._found(), job._expected()
    for kind in ("features", "alerts", "dlq"):
        assert sorted(set(found[kind])) == sorted(set(expected[kind]))
    assert found["state"] == expected["state"]
    again.send_signal(signal.SIGTERM)
    assert again.wait(30) == 0
