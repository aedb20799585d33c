"""Sends the input at a steady rate. The rule: what was sent, and what Kafka said to it, is known for each."""

from __future__ import annotations

import hashlib
import threading
import time
from array import array
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from confluent_kafka import KafkaError

from telemetry import clients
from telemetry.settings import Settings
from tests.chaos.workload import Record

TopicPart = tuple[str, int]
#: So many records may wait for their acknowledgement; then the sender waits, too.
WAITING_MAX = 20_000


def digest(key: bytes | None, value: bytes | None) -> int:
    """64 bits that stand for a record."""
    sizes = f"{-1 if key is None else len(key)} {-1 if value is None else len(value)} ".encode()
    joined = sizes + (key or b"") + (value or b"")
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "big")


class Sender:
    """A thread with one idempotent producer, acks=all, explicit partitions."""

    def __init__(self, settings: Settings, names: tuple[str, str], source: Iterator[Record], rate: float) -> None:
        self._names, self._source, self._rate = names, source, rate
        self._producer = clients.producer(
            settings,
            acks="all",
            message_timeout_ms=0,  # an outage of any length is waited for
            request_timeout_ms=5_000,
            socket_timeout_ms=6_000,
            linger_ms=10,
        )
        self.digests: dict[TopicPart, array[int]] = defaultdict(lambda: array("Q"))
        self._ends: dict[TopicPart, int] = defaultdict(int)
        self.total = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.problems: list[str] = []
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        started, sent = time.monotonic(), 0
        try:
            for record in self._source:
                if self._stop.is_set():
                    break
                while len(self._producer) >= WAITING_MAX and not self._stop.is_set():
                    self._producer.poll(0.1)
                    started += 0.1  # the time of an outage is not made up for
                self.send(record)
                sent += 1
                ahead_s = sent / self._rate - (time.monotonic() - started)
                self._producer.poll(max(0.0, ahead_s) if ahead_s > 0.005 else 0)
        except Exception as exc:  # the run must hear of it
            self.problems.append(f"the sender ended: {type(exc).__name__}: {exc}")
            raise

    def send(self, record: Record) -> None:
        topic = self._names[record.topic]
        self.digests[topic, record.partition].append(digest(record.key, record.value))
        clients.full_queue_retry(
            lambda: self._producer.produce(
                topic, record.value, record.key, record.partition, on_delivery=self._delivered
            ),
            self._producer.poll,
        )

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        at = message.topic(), message.partition()
        if error is not None:
            self.problems.append(f"a record for {at} was not delivered: {error.str()}")
            return
        with self._lock:
            # no offset: the broker had the record already, from a request whose answer was lost
            offset = message.offset() if message.offset() is not None else self._ends[at]
            self._ends[at] = max(self._ends[at], offset + 1)
            self.total += 1

    def acked(self) -> dict[TopicPart, int]:
        """The offset behind the last acknowledged record of each partition."""
        with self._lock:
            return dict(self._ends)

    @property
    def waiting(self) -> int:
        return len(self._producer)

    def finish(self, timeout_s: float) -> None:
        """Send no more and wait until all is acknowledged."""
        self._stop.set()
        self._thread.join(10)
        left = self._producer.flush(timeout_s)
        if left:
            self.problems.append(f"{left} records were not acknowledged {timeout_s:.0f} s after the last fault")

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)
        self._producer.purge()
        self._producer.flush(1)
