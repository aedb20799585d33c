"""A reader of committed alerts that says when each arrived. The rule: the clock is read at once.

Runs as a process of its own, so that no writer holds its interpreter; writes one line of JSON a record.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition

from benchmarks.job import PARTITIONS
from benchmarks.process import Process
from telemetry import clients
from telemetry import settings as settings_module
from telemetry.topics import topics

Place = tuple[int, int]


class Subscriber(Process):
    """The child process and what it has written: when the record at (partition, offset) was there, ms."""

    def __init__(self, config: Path, log: Path) -> None:
        self._out = log.with_suffix(".jsonl")
        self._out.touch()
        super().__init__(["-m", "benchmarks.subscriber", str(config), str(self._out)], log)

    def received(self) -> dict[Place, float]:
        """So far.

        Raises
        ------
        RuntimeError : a record came twice.
        """
        found: dict[Place, float] = {}
        for line in self._out.read_text(encoding="utf-8").splitlines(keepends=True):
            if not line.endswith("\n"):
                break  # being written
            partition, offset, at_ms = json.loads(line)
            if (partition, offset) in found:
                raise RuntimeError(f"the record at {partition}/{offset} came twice")
            found[partition, offset] = at_ms
        return found

    def wait_received(self, wanted: Sequence[Place], timeout_s: float = 30.0) -> dict[Place, float]:
        """`received`, once all of these have arrived.

        Raises
        ------
        RuntimeError : the process ended. TimeoutError : it took longer.
        """
        end = time.monotonic() + timeout_s
        while missing := set(wanted) - (found := self.received()).keys():
            self.check()
            if time.monotonic() > end:
                raise TimeoutError(f"{len(missing)} of {len(wanted)} alerts did not arrive")
            time.sleep(0.2)
        return found


def main(config: Path, out: Path) -> None:
    """Read the alerts topic from its beginning until the process is ended."""
    settings = settings_module.load(config, environ={})
    consumer = clients.consumer(settings, "benchmark-subscriber")
    topic = topics(settings).alerts.name
    consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(PARTITIONS)])
    with out.open("w", buffering=1, encoding="utf-8") as lines:
        while True:
            message = consumer.poll(1.0)
            if message is None:
                continue
            at_ms = time.time() * 1000
            if (error := message.error()) is not None:
                raise KafkaException(error)
            lines.write(json.dumps([message.partition(), message.offset(), at_ms]) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
