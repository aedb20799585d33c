"""Records to Kafka, with every delivery accounted for. The rule: a full queue waits, nothing is ever dropped.

The record timestamp is the time of sending (librdkafka's default), not the event time: a broker refuses
timestamps an hour ahead of it, deletes old ones by retention, and latency is measured from it.
"""

from __future__ import annotations

import time
from typing import Any, Literal

from confluent_kafka import KafkaError, KafkaException, Message

from telemetry import clients
from telemetry.errors import DeliveryError
from telemetry.settings import Settings

#: Delivery reports are served after so many records; the driving loop also polls.
POLL_EVERY = 512


class KafkaSink:
    """One producer and its counts. Used by one thread.

    Parameters
    ----------
    reports : "every" calls back for each acknowledged record; "failures" only for failed ones, which spares
        the load generator about a microsecond a record: what is neither failed nor still in the queue has
        been acknowledged.
    extra : librdkafka's settings, with dots written as underscores.
    """

    def __init__(
        self, settings: Settings, *, reports: Literal["every", "failures"] = "every", **extra: Any
    ) -> None:
        self._every = reports == "every"
        if not self._every:
            extra["delivery_report_only_error"] = True
        self._producer = clients.producer(settings, **extra)
        self._unpolled = 0
        self._acknowledged = 0
        self.sent = 0
        self.failed = 0
        self.first_error: str | None = None

    @property
    def queued(self) -> int:
        """Records that have been sent and of which nothing is known yet.

        With `reports` "failures" an upper bound while sending: librdkafka counts its other events too.
        """
        if self._every:
            return self.sent - self.failed - self._acknowledged
        return min(len(self._producer), self.sent - self.failed)

    @property
    def acknowledged(self) -> int:
        """Records that the brokers have acknowledged (acks=all)."""
        return self._acknowledged if self._every else self.sent - self.failed - self.queued

    def _report(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self._acknowledged += 1
        else:
            self._fail(f"{message.topic()}: {error.str()}")

    def _fail(self, text: str, count: int = 1) -> None:
        self.failed += count
        if self.first_error is None:
            self.first_error = text

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        ts_us: int | None = None,
        headers: list[tuple[str, bytes]] | None = None,
    ) -> None:
        """Queue one record; waits while the queue is full.

        ts_us : record timestamp in microseconds, kept in milliseconds; None = now, which is what telemetry
            wants (see the module's text).

        A record that the client refuses (too large) counts as sent and failed.
        """
        optional: dict[str, Any] = {}
        if ts_us is not None:
            optional["timestamp"] = ts_us // 1000
        if headers is not None:
            optional["headers"] = headers
        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=self._report, **optional)
                break
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as exc:
                self._fail(f"{topic}: {exc.args[0].str()}")
                break
        self.sent += 1
        self._unpolled += 1
        if self._unpolled >= POLL_EVERY:
            self.poll()

    def send_batch(self, topic: str, partition: int, records: list[dict[str, Any]]) -> None:
        """Queue many records for one partition; waits while the queue is full.

        records : dicts with `key` and `value`, given back unchanged. Those that do not fit are queued again later.
        """
        todo = records
        while todo:
            queued = self._producer.produce_batch(topic, todo, partition, on_delivery=self._report)
            refused = [record for record in todo if "_error" in record] if queued < len(todo) else []
            again = []
            for record in refused:
                error = record.pop("_error")
                if error.code() == KafkaError._QUEUE_FULL:  # noqa: SLF001 - librdkafka's own name
                    again.append(record)
                else:
                    self._fail(f"{topic}: {error.str()}")
            self.sent += len(todo) - len(again)
            todo = again
            if todo:
                self._producer.poll(0.1)
        self._producer.poll(0)

    def poll(self, timeout_s: float = 0.0) -> None:
        """Serve delivery reports, for at most so long."""
        self._unpolled = 0
        self._producer.poll(timeout_s)

    def flush(self, timeout_s: float) -> bool:
        """Wait for all delivery reports; False if some are still missing after so long."""
        self._unpolled = 0
        return bool(self._producer.flush(timeout_s) == 0)

    def close(self, timeout_s: float = 30.0) -> None:
        """Flush, then compare what was sent with what was acknowledged.

        Raises
        ------
        DeliveryError : they differ; the message has the numbers and the first error.
        """
        started = time.monotonic()
        done = self.flush(timeout_s)
        if done and self.acknowledged == self.sent:
            return
        text = f"sent {self.sent:,} records, acknowledged {self.acknowledged:,}"
        if self.failed:
            text += f", failed {self.failed:,} (first: {self.first_error})"
        if self.queued:
            text += f", {self.queued:,} without an answer after {time.monotonic() - started:.0f} s"
        raise DeliveryError(text)
