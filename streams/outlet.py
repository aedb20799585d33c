"""Producers as the worker uses them. The rule: a failed delivery is remembered, and whoever waits is told.

An outlet is thrown away when its transaction cannot be saved: a new one of the same transactional id aborts at the
broker what the old one left open.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, Producer

from streams.core.effects import Message
from telemetry import clients
from telemetry.passing import PASSING
from telemetry.settings import Settings

log = logging.getLogger("fleetwatch.outlet")

T = TypeVar("T")

#: How long one call to the broker may block; what is waited for longer is asked for again.
CALL_S = 5.0
TELL_EVERY_S = 60.0


class UndeliveredError(RuntimeError):
    """Kafka did not take a record of ours; the work since the last commit must be done again."""


class Patience:
    """Waits for as long as it takes, telling so once a minute; ends early when the worker is to stop.

    stopping : asked whether the worker is to stop; then grace_s more are waited, no longer.
    """

    def __init__(self, stopping: Callable[[], bool] = lambda: False, grace_s: float = 10.0) -> None:
        self._stopping, self._grace_s = stopping, grace_s
        self._stopping_since: float | None = None

    def _over(self, began: float, now: float, give_up_s: float) -> bool:
        """Whether to ask no more: give_up_s after it began, or grace_s after the worker was first seen to stop."""
        if self._stopping() and self._stopping_since is None:
            self._stopping_since = now
        stopped = self._stopping_since is not None and now - self._stopping_since > self._grace_s
        return stopped or now - began > give_up_s

    def retry(self, call: Callable[[], T], what: str, give_up_s: float = float("inf")) -> T:
        """The call's result, once it does not fail with an error that passes. Blocking.

        Raises
        ------
        KafkaException : an error that asking again will not mend, or one that passes after give_up_s or while
            stopping.
        """
        began = told = time.monotonic()
        while True:
            try:
                return call()
            except KafkaException as exc:
                error, now = exc.args[0], time.monotonic()
                passing = error.retriable() or error.code() in PASSING
                if not passing or error.txn_requires_abort() or error.fatal():
                    raise
                if self._over(began, now, give_up_s):
                    raise
                if now - told >= TELL_EVERY_S:
                    told = now
                    log.warning("%s: waiting for the broker for %.0f s: %s", what, now - began, error.str())
                time.sleep(0.1)


class _Reports:
    """Delivery reports of one producer. Apart from the outlet, so that producer and outlet make no cycle."""

    def __init__(self) -> None:
        self.failure: KafkaError | None = None

    def take(self, error: KafkaError | None, message: Any) -> None:
        if error is not None and self.failure is None:
            self.failure = error
            log.error("a record for %s was not delivered: %s", message.topic(), error.str())


class Outlet:
    """One librdkafka producer. Called by one thread at a time, but for the delivery reports.

    transactional_id : None = an idempotent producer without transactions.
    """

    def __init__(self, settings: Settings, transactional_id: str | None, **options: Any) -> None:
        self._reports = reports = _Reports()
        self.transactional = transactional_id is not None
        self.open = False
        self.opened_at = 0.0
        if transactional_id is not None:
            timeout_ms = round(settings.processing.transaction_timeout_s * 1000)
            options |= {
                "transactional.id": transactional_id,
                "transaction.timeout.ms": timeout_ms,
                "message.timeout.ms": timeout_ms,
                # librdkafka 2.10 to 2.16 asks a dead coordinator for ever, and its call with it, until some other
                # connection changes its state: connections that idle are closed, and so one does (its issue 5511)
                "connections.max.idle.ms": 3000,
            }
        else:
            options |= {"message.timeout.ms": 0}  # for ever: an absent broker is waited for
        self.producer: Producer = clients.producer(
            settings, delivery_report_only_error=True, linger_ms=5, on_delivery=reports.take, **options
        )

    def __len__(self) -> int:
        return len(self.producer)

    @property
    def failure(self) -> KafkaError | None:
        """The first delivery that failed, or that the producer is broken."""
        return self._reports.failure

    def check(self) -> None:
        """Raises UndeliveredError if a delivery failed."""
        if self.failure is not None:
            raise UndeliveredError(self.failure.str())

    def poll(self, timeout_s: float = 0.0) -> None:
        """Serve delivery reports. A broken producer says so here, too: remembered like a failed delivery."""
        try:
            self.producer.poll(timeout_s)
        except KafkaException as exc:
            self._reports.failure = self.failure or exc.args[0]

    def hand_over(self, topic: str, messages: list[Message]) -> None:
        """Give records to librdkafka, waiting while its queue is full.

        Raises
        ------
        UndeliveredError : a record that the client refuses, such as one that is too large.
        """
        waiting: list[Any] = list(messages)
        while self.producer.produce_batch(topic, waiting) < len(waiting):
            waiting = [message for message in waiting if "_error" in message]
            for message in waiting:
                error: KafkaError = message.pop("_error")
                if error.code() != KafkaError._QUEUE_FULL:  # noqa: SLF001
                    size = len(message["value"])
                    raise UndeliveredError(f"a record of {size} bytes for {topic}: {error.str()}")
            self.check()
            self.poll(0.05)

    def hand_over_one(
        self, topic: str, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]], partition: int
    ) -> None:
        """One record with headers, likewise."""
        while True:
            try:
                self.producer.produce(topic, value, key, partition, headers=headers)
                return
            except BufferError:
                self.check()
                self.poll(0.05)

    def flush(self, patience: Patience) -> None:
        """Wait until all that was handed over is acknowledged.

        Raises
        ------
        UndeliveredError : something was refused, or the worker is to stop and the broker is away.
        """

        def once() -> None:
            left = self.producer.flush(CALL_S)
            self.check()
            if left:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{left} records wait", retriable=True))  # noqa: SLF001

        try:
            patience.retry(once, "delivering results")
        except KafkaException as exc:
            raise UndeliveredError(exc.args[0].str()) from exc

    # -- transactions ----------------------------------------------------------------------------------------

    def register(self, patience: Patience) -> None:
        """Take the transactional id over: aborts what its last holder left open, and fences that holder. Blocking.

        Raises
        ------
        KafkaException : the broker refuses, or the worker is to stop and the broker is away.
        """
        if self.transactional:
            patience.retry(lambda: self.producer.init_transactions(CALL_S), "registering for transactions")

    def begin(self) -> None:
        """Open a transaction unless one is open."""
        if self.transactional and not self.open:
            self.producer.begin_transaction()
            self.open, self.opened_at = True, time.monotonic()

    def verdict(self, error: KafkaError) -> KafkaError:
        """What is wrong with the producer, of which `error` may be but a consequence."""
        error = self.failure or error
        try:
            self.producer.begin_transaction()
        except KafkaException as exc:
            found: KafkaError = exc.args[0]
            hidden = error.code() in (KafkaError._STATE, KafkaError._FAIL)  # noqa: SLF001
            return found if found.fatal() or hidden else error
        return error

    def discard(self) -> None:
        """Forget what waits to be sent and let the client go; the outlet is not used after this.

        librdkafka joins its threads when the last reference goes, which may take seconds, or for ever if it hangs:
        in a thread of its own.
        """
        producer = self.__dict__.pop("producer")
        producer.purge(in_queue=True, in_flight=True, blocking=False)
        keep = [producer]
        del producer
        threading.Thread(target=keep.clear, name="outlet-discard", daemon=True).start()
