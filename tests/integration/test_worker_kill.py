"""Two real workers, one killed: every feature, alert and state row of an uninterrupted run, once."""

import signal
import time

import pytest
from behaviour import Job
from real_worker import workers

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


@pytest.fixture
def start(tmp_path):
    with workers(tmp_path) as start:
        yield start


def test_a_killed_worker_loses_nothing(kafka_bootstrap, topic_prefix, start, tmp_path):
    job = Job.make(tmp_path, kafka_bootstrap, topic_prefix, devices=60)
    first, second = start(job.config), start(job.config)
    third = len(job.records) // 3
    job.send(third)
    job.wait()
    job.send(third)
    time.sleep(0.5)
    first.send_signal(signal.SIGKILL)
    assert first.wait(10) == -signal.SIGKILL
    assert second.poll() is None
    job.send(len(job.records) - 2 * third)
    job.wait(100)
    job.check()
    second.send_signal(signal.SIGTERM)
    assert second.wait(30) == 0
