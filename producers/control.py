"""Orders to running simulations over the control topic. The rule: every simulation that hears an order answers it.

`fleetwatch inject` sends an order; each simulation with a fitting device carries it out and answers with the
fault's truth record, the others with the reason why not. The truth topic gets the record when the fault begins.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from producers.sink import KafkaSink
from telemetry import clients
from telemetry.errors import FleetwatchError, TopicError
from telemetry.settings import Settings
from telemetry.topics import ensure, topics

#: After the first answer, other simulations have so long to give theirs, seconds.
OTHERS_S = 0.5
OTHERS_AFTER_REFUSAL_S = 2.0
#: Control messages are short; anything longer is not ours.
MESSAGE_BYTES_MAX = 16 * 1024


class NoAnswerError(FleetwatchError):
    """No running simulation carried the order out."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Order:
    """A request to inject. inject: as on the command line, its time counted from now; run: None = any."""

    order: str
    inject: str
    run: str | None = None


def from_end(settings: Settings, topic: str) -> Consumer:
    """A consumer placed behind the last record of every partition: it sees what is written from now on.

    Raises
    ------
    BrokerUnavailableError, TopicError : the broker or the topic does not answer.
    """
    consumer = clients.consumer(settings, f"fleetwatch-control-{uuid.uuid4().hex}")
    metadata = clients.cluster_metadata(consumer, settings)
    places = [TopicPartition(topic, p) for p in metadata.topics[topic].partitions]
    deadline_s = time.monotonic() + settings.kafka.connect_timeout_s
    for place in places:
        while True:  # a topic just made has no leader yet
            try:
                place.offset = consumer.get_watermark_offsets(place, timeout=1.0)[1]
                break
            except KafkaException as exc:
                if time.monotonic() > deadline_s:
                    consumer.close()
                    raise TopicError(f"topic {topic} does not answer: {exc.args[0].str()}") from exc
                time.sleep(0.1)
    consumer.assign(places)
    return consumer


def _take(consumer: Consumer, timeout_s: float) -> list[dict[str, Any]]:
    """Control messages that have arrived; broker errors are librdkafka's to retry and are logged by it."""
    found = []
    for message in consumer.consume(64, timeout=timeout_s):
        value = message.value() if message.error() is None else None
        if value is not None and len(value) <= MESSAGE_BYTES_MAX and (data := _parse(value)):
            found.append(data)
    return found


def _parse(value: bytes) -> dict[str, Any] | None:
    """A control message, or None if it is not one: anybody may write to the topic."""
    try:
        data = json.loads(value)
    except ValueError:
        return None
    return data if isinstance(data, dict) and isinstance(data.get("order"), str) else None


class Listener:
    """A simulation's ear: `poll` between steps."""

    def __init__(self, settings: Settings, run_id: str) -> None:
        self._topic = topics(settings).control.name
        self._run_id = run_id
        self._consumer = from_end(settings, self._topic)

    def poll(self) -> list[Order]:
        """New orders for this run; does not wait."""
        return [
            Order(data["order"], data["inject"], data.get("run"))
            for data in _take(self._consumer, 0.0)
            if isinstance(data.get("inject"), str) and data.get("run") in (None, self._run_id)
        ]

    def answer(
        self, sink: KafkaSink, order: Order, *, injected: dict[str, Any] | None = None, refused: str = ""
    ) -> None:
        """Say what was done. injected : the truth record; None = refused, and why."""
        data: dict[str, Any] = {"order": order.order, "run": self._run_id}
        data |= {"refused": refused} if injected is None else {"injected": injected}
        sink.send(self._topic, self._run_id.encode(), json.dumps(data).encode())

    def close(self) -> None:
        self._consumer.close()


def send_order(settings: Settings, inject: str, run: str | None, timeout_s: float) -> list[dict[str, Any]]:
    """Send an order and wait timeout_s for answers.

    Returns ``{"run": ..., "injected": truth record}`` of each simulation.

    Raises
    ------
    NoAnswerError : none answered, or all refused; the message says why.
    BrokerUnavailableError, TopicError, DeliveryError : the order could not be sent.
    """
    spec = topics(settings).control
    ensure(settings, (spec,))
    consumer = from_end(settings, spec.name)
    try:
        order = Order(uuid.uuid4().hex, inject, run)
        sink = KafkaSink(settings, linger_ms=0)
        message = {"order": order.order, "inject": inject} | ({"run": run} if run else {})
        sink.send(spec.name, (run or "").encode(), json.dumps(message).encode())
        sink.close()
        return _answers(consumer, order, timeout_s)
    finally:
        consumer.close()


def _answers(consumer: Consumer, order: Order, timeout_s: float) -> list[dict[str, Any]]:
    injected: list[dict[str, Any]] = []
    refusals: dict[str, str] = {}
    deadline_s = time.monotonic() + timeout_s
    while (now_s := time.monotonic()) < deadline_s:
        for data in _take(consumer, min(0.2, deadline_s - now_s)):
            if data["order"] != order.order:
                continue
            if isinstance(data.get("injected"), dict):
                injected.append(data)
                deadline_s = min(deadline_s, time.monotonic() + OTHERS_S)
            elif "refused" in data:
                refusals[str(data.get("run"))] = str(data["refused"])
                deadline_s = min(deadline_s, time.monotonic() + OTHERS_AFTER_REFUSAL_S)
    if injected:
        return injected
    if refusals:
        raise NoAnswerError("; ".join(f"run {run}: {why}" for run, why in sorted(refusals.items())))
    whom = f"no running simulation with the id {order.run}" if order.run else "no running simulation"
    raise NoAnswerError(f"{whom} answered within {timeout_s:g} s; start one with `fleetwatch simulate vehicles`")
