"""Schemas announced on a compacted topic. The rule: announced and acknowledged before the first message is written.

So whoever reads a message finds its schema in the topic, whichever side was upgraded first (docs/adr/0013).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from telemetry import clients, schemas
from telemetry.errors import BrokerUnavailableError, DeliveryError, TopicError
from telemetry.schemas.book import Told
from telemetry.schemas.shapes import TEXT_BYTES_MAX
from telemetry.settings import Settings
from telemetry.topics import TopicSpec, ensure, topics

#: Versions up to this one are known to every process that reads announcements: they need none.
KNOWN_TO_ALL = 1

_ABSENT = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}  # noqa: SLF001
_POLL_S = 0.2
HEADER_BYTES = 10
FLUSH_S = 30.0


def topic(settings: Settings) -> TopicSpec:
    """`<prefix>.schemas`: key = the header of the messages, hex; value = their schema, JSON."""
    return topics(settings).schemas


class AnnouncedSchemas:
    """What the topic holds: a `Source`. Keeps a consumer without a group membership; used by one thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._at = TopicPartition(topic(settings).name, 0, 0)
        self._consumer: Consumer | None = None
        self._reached = 0

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _end(self, consumer: Consumer) -> int:
        """The topic's end as of now; 0 if there is no topic."""
        try:
            return self._ask(consumer)
        except KafkaException as exc:
            code = exc.args[0].code()
            if code in _ABSENT:
                return 0
            if code == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise TopicError(
                    f"not allowed to read topic {self._at.topic}: workers and producers read it "
                    "(`fleetwatch topics apply --acls` says who may do what)"
                ) from exc
            raise BrokerUnavailableError(
                f"no answer about topic {self._at.topic} from {self._settings.kafka.bootstrap}: {exc.args[0].str()}"
            ) from exc

    def _ask(self, consumer: Consumer) -> int:
        timeout_s = self._settings.kafka.connect_timeout_s
        # the brokers are asked in any case: what the client remembers of a missing topic may be out of date
        error = consumer.list_topics(self._at.topic, timeout_s).topics[self._at.topic].error
        if error is not None:
            raise KafkaException(error)
        _, end = consumer.get_watermark_offsets(self._at, timeout=timeout_s, cached=False)
        return int(end)

    def refresh(self) -> Sequence[Told]:
        """All that was announced since the last call, up to the topic's end as of now.

        Raises
        ------
        BrokerUnavailableError, TopicError : the end cannot be had or reached.
        """
        if self._consumer is None:
            # uncommitted: somebody's open transaction must not hide what was announced after it;
            # a short wait: the next question goes over the same connection, behind the last fetch
            options = {"enable_partition_eof": True, "isolation_level": "read_uncommitted", "fetch_wait_max_ms": 10}
            self._consumer = clients.consumer(self._settings, "fleetwatch.schemas", **options)
        end = self._end(self._consumer)
        if end < self._reached:  # the topic was made anew
            self._reached = 0
        if end == self._reached:
            return []
        self._at.offset = self._reached
        self._consumer.assign([self._at])
        try:
            found = self._read(self._consumer, end)
        finally:
            self._consumer.unassign()
        self._reached = end
        return found

    def _read(self, consumer: Consumer, end: int) -> list[Told]:
        found: list[Told] = []
        at, until_s = self._reached, time.monotonic() + self._settings.kafka.connect_timeout_s
        while at < end:
            if time.monotonic() > until_s:
                raise BrokerUnavailableError(
                    f"topic {self._at.topic} cannot be read to its end within "
                    f"{self._settings.kafka.connect_timeout_s:g} s: at {at} of {end}"
                )
            message = consumer.poll(_POLL_S)
            if message is None:
                continue
            error = message.error()
            if error is None:
                found += self._told(message)
                at = message.offset() + 1
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's own name
                at = max(at, message.offset())
            else:
                raise BrokerUnavailableError(f"topic {self._at.topic} cannot be read: {error.str()}")
        return found

    def _told(self, message: Message) -> list[Told]:
        key, value = message.key() or b"", message.value() or b""
        try:
            header, text = bytes.fromhex(key.decode("ascii")), value.decode("utf-8")
        except ValueError:  # not what we write: nobody's schema
            return []
        if len(header) != HEADER_BYTES or not 0 < len(value) <= TEXT_BYTES_MAX:
            return []
        return [Told(header, text, f"{self._at.topic}, offset {message.offset()}")]


def _is_of(told: Told) -> bool:
    """Whether the text is the schema that the header names, and not somebody's mistake."""
    try:
        schema = schemas.parse(told.text, told.origin)
    except schemas.SchemaRefusedError:
        return False
    return told.header == schemas.SINGLE_OBJECT_MARKER + schemas.rabin_of(schema)


def announce(settings: Settings, wanted: Iterable[dict[str, Any]]) -> list[str]:
    """See to it that these schemas are on the topic; returns the headers (hex) that were not and now are.

    Raises
    ------
    DeliveryError : the broker does not take it; the message says who can do it instead.
    BrokerUnavailableError, TopicError : see `AnnouncedSchemas.refresh`.
    """
    missing = {schemas.SINGLE_OBJECT_MARKER + schemas.rabin_of(schema): schema for schema in wanted}
    source = AnnouncedSchemas(settings)
    try:
        for told in source.refresh():
            if _is_of(told):
                missing.pop(told.header, None)
    finally:
        source.close()
    if not missing:
        return []
    spec = topic(settings)
    ensure(settings, (spec,))
    errors: list[str] = []

    def report(error: KafkaError | None, message: Message) -> None:
        del message
        if error is not None:
            errors.append(error.str())

    producer = clients.producer(settings, message_timeout_ms=round(FLUSH_S * 1000))
    for header, schema in missing.items():
        text = json.dumps(schema, separators=(",", ":"))
        producer.produce(spec.name, text.encode(), header.hex().encode(), on_delivery=report)
    if producer.flush(FLUSH_S + 5.0) or errors:
        raise DeliveryError(
            f"the schema cannot be announced on {spec.name}: {errors[0] if errors else 'no answer'}. Nothing was "
            "written with it. Someone who may write that topic can do it: `fleetwatch schemas register`."
        )
    return [header.hex() for header in missing]
