"""Real workers on a real Kafka: start them, wait for their commits, read what they published."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, KafkaError, TopicPartition

from telemetry import clients
from telemetry.settings import Settings


def environment(**extra: str) -> dict[str, str]:
    """Ours, without settings of whoever runs the tests."""
    return {k: v for k, v in os.environ.items() if not k.startswith("FLEETWATCH_")} | extra


@contextmanager
def workers(folder: Path) -> Iterator[Callable[[Path], subprocess.Popen]]:
    """A function that starts a worker with a settings file; all are ended at the end."""
    started: list[subprocess.Popen] = []

    def start(config: Path) -> subprocess.Popen:
        command = [sys.executable, "-m", "fleetwatch", "--config", str(config), "worker", "--port", "0"]
        with (folder / f"worker-{len(started)}.log").open("w") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment(), cwd=folder))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.wait(10)


def read_all(settings: Settings, topic: str) -> list[Any]:
    """Every record of a topic, committed ones only, up to its end as of now; each partition in order."""
    consumer = clients.consumer(settings, "check", enable_partition_eof=True, fetch_wait_max_ms=50)
    partitions = clients.cluster_metadata(consumer, settings).topics[topic].partitions
    consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in partitions])
    left, found = set(partitions), []
    while left:
        for message in consumer.consume(5000, 2.0):
            if message.error() is None:
                found.append(message)
            else:
                assert message.error().code() == KafkaError._PARTITION_EOF
                left.discard(message.partition())
    consumer.close()
    return found


def committed(settings: Settings, topic: str) -> int:
    """Records of an input topic that the workers' group has finished."""
    wanted = [(topic, p) for p in range(settings.topics.partitions)]
    return sum(o or 0 for o in clients.committed_offsets(settings, settings.processing.group, wanted).values())


def wait_for(check: Callable[[], bool], timeout_s: float, what: str, pause_s: float = 0.3) -> None:
    end = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < end, f"{what} did not happen within {timeout_s} s"
        time.sleep(pause_s)
