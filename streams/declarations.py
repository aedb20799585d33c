"""What devices declare of themselves, from their topic, for as long as the worker runs. The rule: what is known at
a device's first row counts; nobody waits for a declaration that has not come."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from streams.core.enrolment import declared_by
from telemetry import clients, codec
from telemetry.settings import Settings

log = logging.getLogger("fleetwatch.declarations")

#: The first reading takes so long at most: after that, devices without a word start from their class's prior.
FIRST_READING_S = 30.0
_NOTHING: Mapping[str, str] = {}


class Declarations:
    """Reads the compacted topic of the devices, in a thread of its own.

    devices_max : of so many the declarations are held, those heard first.
    """

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings, self._topic = settings, topic
        self._devices_max = settings.processing.devices_max
        self._said: dict[bytes, Mapping[str, str]] = {}
        self._ending = threading.Event()
        self._caught_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="declarations", daemon=True)
        self.refused = 0

    def __len__(self) -> int:
        return len(self._said)

    def __call__(self, key: bytes) -> Mapping[str, str]:
        """What the device of this id declares: model, firmware, and its attributes; empty = nothing is known."""
        return self._said.get(key, _NOTHING)

    def start(self) -> None:
        """Begin, and wait for the end of what is there now."""
        started = time.monotonic()
        self._thread.start()
        if self._caught_up.wait(FIRST_READING_S):
            log.info("declarations of %d devices in %.1f s", len(self), time.monotonic() - started)
        else:
            log.warning(
                "%s: not read to its end in %.0f s; devices of unknown cohorts start from their class's prior",
                self._topic, FIRST_READING_S,
            )  # fmt: skip

    def close(self) -> None:
        """End the thread; it may be called before `start`."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _run(self) -> None:
        wait_s = 1.0
        while not self._ending.is_set():
            try:
                self._follow()
            except KafkaException as exc:
                log.warning("%s: %s; reading it again in %.0f s", self._topic, exc, wait_s)
                self._ending.wait(wait_s)
                wait_s = min(2.0 * wait_s, 60.0)

    def _follow(self) -> None:
        """Read from the beginning, then on and on.

        Raises
        ------
        KafkaException : the topic cannot be read.
        """
        consumer = clients.consumer(
            self._settings,
            self._settings.processing.group + "-restore",
            enable_partition_eof=True,
            fetch_wait_max_ms=500,
        )
        try:
            known = consumer.list_topics(self._topic, 10.0).topics[self._topic]
            left = set(known.partitions)
            consumer.assign([TopicPartition(self._topic, p, 0) for p in left])
            while not self._ending.is_set():
                for message in consumer.consume(500, 0.5):
                    error = message.error()
                    if error is None:
                        self._hear(message.key(), message.value())
                    elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                        left.discard(message.partition())
                    else:
                        raise KafkaException(error)
                if not left:
                    self._caught_up.set()
        finally:
            consumer.close()

    def _hear(self, key: bytes | None, value: bytes | None) -> None:
        if key is None:
            return
        if value is None:
            self._said.pop(key, None)
            return
        try:
            record = codec.decode("device", value)
        except codec.RefusedError:
            self.refused += 1
            if self.refused == 1:
                log.warning("%s: a record that is no declaration is passed over (told once)", self._topic)
            return
        if key in self._said or len(self._said) < self._devices_max:
            self._said[key] = declared_by(record)
