"""Results and state rows out, through confluent-kafka. The rule: a record that was not delivered ends the worker.

Results are handed to librdkafka as they arise. While a checkpoint waits for those that were sent before it, later
ones are held back for a moment, so that the wait has an end. State rows have a producer of their own: results need
not wait for them. A full queue makes the worker wait, never drop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from confluent_kafka import KafkaError, Producer

from streams.core.effects import Effects, Message
from telemetry.topics import Topics

log = logging.getLogger("fleetwatch.publisher")

#: More records than this waiting in librdkafka: the worker takes no new batch.
QUEUE_HIGH = 200_000
FLUSH_TIMEOUT_S = 60.0
#: Rows handed over at a time: a call holds Python's lock, and the event loop has batches to process meanwhile.
ROWS_AT_A_TIME = 500


def _hand_over(producer: Producer, topic: str, messages: list[Message]) -> None:
    """Give records to librdkafka, waiting while its queue is full."""
    sent = 0
    while sent < len(messages):
        sent += producer.produce_batch(topic, messages[sent:] if sent else messages)
        if sent < len(messages):
            producer.poll(0.05)


class UndeliveredError(RuntimeError):
    """Kafka did not take a record of ours; the work since the last commit must be done again."""


class Publisher:
    """Called by the worker's event loop, but for `flush`, which waits and so runs in an executor."""

    def __init__(self, producer: Producer, rows: Producer, topics: Topics, worker: str) -> None:
        self._producer, self._rows, self._topics, self._worker = producer, rows, topics, worker
        self._held: list[Effects] | None = None
        self._failure: KafkaError | None = None
        self.published = 0

    def delivery_failed(self, error: KafkaError | None, message: Any) -> None:
        """librdkafka's delivery report; with `delivery.report.only.error` only failures come."""
        if error is not None and self._failure is None:
            self._failure = error
            log.error("a record for %s was not delivered: %s", message.topic(), error.str())

    def _check(self) -> None:
        if self._failure is not None:
            raise UndeliveredError(self._failure.str())

    def send(self, topic: str, messages: list[Message]) -> None:
        """Hand records to librdkafka, waiting while its queue is full."""
        _hand_over(self._producer, topic, messages)
        self.published += len(messages)

    def _send_one(
        self, topic: str, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]], partition: int
    ) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, partition, headers=headers)
                break
            except BufferError:
                self._producer.poll(0.05)
        self.published += 1

    def publish(self, effects: Effects) -> None:
        """Send a batch's results, or hold them back while a checkpoint waits."""
        if not effects.records:
            return
        if self._held is not None:
            self._held.append(effects)
            return
        topics = self._topics
        for topic, messages in (
            (topics.features.name, effects.features),
            (topics.scores.name, effects.scores),
            (topics.late.name, effects.late),
        ):
            if messages:
                self.send(topic, messages)
        for alert in effects.alerts:
            key, value, headers = alert.to_message()
            self._send_one(topics.alerts.name, key, value, headers, alert.partition)
        for letter in effects.dead:
            self._send_one(
                topics.dlq.name, letter.key, letter.value, letter.headers(self._worker), letter.partition
            )
        self._producer.poll(0)

    async def room(self) -> None:
        """Wait until librdkafka's queue is short enough for another batch's results.

        Raises
        ------
        UndeliveredError : an earlier record was not delivered.
        """
        while len(self._producer) > QUEUE_HIGH or (self._held is not None and len(self._held) > 64):
            self._producer.poll(0)
            await asyncio.sleep(0.01)
        self._check()

    def hold(self) -> None:
        """From now on results wait for `release`."""
        self._held = []

    def release(self) -> None:
        """Send what was held back."""
        held, self._held = self._held, None
        for effects in held or ():
            self.publish(effects)

    def flush(self) -> None:
        """Wait until all results that were handed over are acknowledged.

        Raises
        ------
        UndeliveredError : something was not, within a minute.
        """
        self._await(self._producer)

    def write_rows(self, rows: list[Message]) -> None:
        """Send state rows and wait until they are acknowledged.

        Raises
        ------
        UndeliveredError : something was not, within a minute.
        """
        topic = self._topics.state.name
        for first in range(0, len(rows), ROWS_AT_A_TIME):
            _hand_over(self._rows, topic, rows[first : first + ROWS_AT_A_TIME])
            time.sleep(0)
        self._await(self._rows)

    def _await(self, producer: Producer) -> None:
        left = producer.flush(FLUSH_TIMEOUT_S)
        self._check()
        if left:
            raise UndeliveredError(f"{left} records were not acknowledged within {FLUSH_TIMEOUT_S:.0f} s")
