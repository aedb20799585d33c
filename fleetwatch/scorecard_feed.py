"""Truth and exposure as their topics hold them. The rule: a spectator leaves no trace: no group, no commits.

Records are read once, in the topic's order, committed ones only; what is kept is a fault's or a device's, never a
record's.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import fastavro
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, TopicPartition

from fleetwatch.scorecard import Exposure, Fault
from producers.faults import KINDS
from producers.faulttypes import ClockFault
from telemetry import codec, schemas
from telemetry.clients import cluster_metadata, consumer
from telemetry.codec import RefusedError
from telemetry.errors import BrokerUnavailableError, TopicError
from telemetry.settings import Settings
from telemetry.topics import TopicSpec, topics

log = logging.getLogger("fleetwatch.scorecard")

#: More faults than this are not scored.
FAULTS_MAX = 1_000_000
_BATCH_MAX = 1000
_POLL_S = 0.2
_PATIENCE_S = 30.0
_HEAD = ("device_id", "catalog", "window_start", "hop_us")


class TopicReader:
    """One topic from a broker time (0 = its beginning) to where it ends now.

    Raises
    ------
    TopicError : it does not exist; the message says what makes it. BrokerUnavailableError : it cannot be read.
    """

    def __init__(self, settings: Settings, spec: TopicSpec, since_ms: int = 0) -> None:
        self.topic = spec.name
        self._settings = settings
        self._consumer = consumer(
            settings,
            f"{settings.processing.group}-spectator",
            enable_partition_eof=True,
            queued_max_messages_kbytes=16_384,
        )
        try:
            starts = self._starts(since_ms)
            self._open = {start.partition for start in starts}
            self._consumer.assign(starts)
        except BaseException:
            self._consumer.close()
            raise

    def _starts(self, since_ms: int) -> list[TopicPartition]:
        found: Any = cluster_metadata(self._consumer, self._settings).topics.get(self.topic)
        if found is None or found.error is not None:
            raise TopicError(
                f"topic {self.topic} does not exist at {self._settings.kafka.bootstrap} (or this login may not see "
                "it): create the topics with `fleetwatch topics apply`, or start a worker; `fleetwatch scorecard "
                "--simulate` needs no Kafka"
            )
        if not since_ms:
            return [TopicPartition(self.topic, p, OFFSET_BEGINNING) for p in found.partitions]
        at = [TopicPartition(self.topic, p, since_ms) for p in found.partitions]
        starts = self._consumer.offsets_for_times(at, timeout=self._settings.kafka.connect_timeout_s)
        return [s if s.offset >= 0 else TopicPartition(self.topic, s.partition, OFFSET_END) for s in starts]

    def __iter__(self) -> Iterator[Any]:
        """The messages, each partition's in order."""
        heard_s = time.monotonic()
        while self._open:
            for message in self._consumer.consume(_BATCH_MAX, _POLL_S):
                heard_s = time.monotonic()
                error = message.error()
                if error is None:
                    if message.partition() in self._open:
                        yield message
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 (the client's own name for it)
                    self._open.discard(message.partition())
                elif error.retriable():
                    log.warning("reading %s: %s", self.topic, error.str())
                else:
                    raise BrokerUnavailableError(f"reading {self.topic}: {error.str()}")
            if time.monotonic() - heard_s > _PATIENCE_S:
                raise BrokerUnavailableError(
                    f"{self.topic} at {self._settings.kafka.bootstrap}: nothing came for {_PATIENCE_S:.0f} s"
                )

    def __enter__(self) -> TopicReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self._consumer.close()


def fault_of(record: dict[str, Any]) -> Fault:
    """A truth record."""
    kind = KINDS.get(record["kind"])
    rate = 1.0 + record["magnitude"] if isinstance(kind, ClockFault) else 1.0
    return Fault(
        record["fault_id"],
        record["kind"],
        record["device_id"],
        record["onset"],
        record["end"],
        frozenset(record["signals"]),
        record["catalog"].partition("/")[0],
        rate if rate > 0 else 1.0,  # a clock that stands or runs backwards dates nothing
    )


def faults(settings: Settings, since_ms: int) -> tuple[list[Fault], int]:
    """The truth topic's faults, each with its end where that was told; and the records that are none.

    since_ms : of faults that were told before it, a later end is passed over.

    Raises
    ------
    TopicError : no topic, no fault in it, or too many.
    """
    found: dict[str, Fault] = {}
    bad = 0
    with TopicReader(settings, topics(settings).truth, since_ms) as reader:
        for message in reader:
            try:
                fault = fault_of(codec.decode("truth", message.value() or b""))
            except RefusedError:
                bad += 1
                continue
            known = found.get(fault.fault_id)
            if known is None and since_ms and fault.end_us is not None:
                continue  # it began before that, and so did what would have found it
            if known is None or known.end_us is None:
                found[fault.fault_id] = fault
            if len(found) > FAULTS_MAX:
                raise TopicError(f"{reader.topic} holds more than {FAULTS_MAX:,} faults: choose with --since")
    if not found:
        which = " since then" if since_ms else ""
        raise TopicError(
            f"{reader.topic} holds no fault{which}, so there is nothing to score against: inject some (`fleetwatch "
            "simulate vehicles --inject tyre_leak@5m`, `fleetwatch inject tyre_leak`), or score without Kafka: "
            "`fleetwatch scorecard --simulate`"
        )
    return list(found.values()), bad


@cache
def _heads() -> dict[bytes, Any]:
    """Header -> the writer's schema of window features, cut behind the last field that is wanted.

    Reading a record with it leaves the arrays, which are nearly all of its bytes, untouched.
    """
    found = {}
    for version in schemas.versions("window_features"):
        fields = version.schema["fields"]
        last = max(n for n, f in enumerate(fields) if f["name"] in _HEAD)
        found[version.header] = fastavro.parse_schema({**version.schema, "fields": fields[: last + 1]})
    return found


def see_window(exposure: Exposure, value: bytes) -> bool:
    """Count a record of the features topic: one hop of its device's time. False = it is none."""
    head = _heads().get(value[:10])
    if head is None:
        return False
    stream = io.BytesIO(value)
    stream.seek(10)
    try:
        record: Any = fastavro.schemaless_reader(stream, head, None)
    except (EOFError, ValueError, IndexError, OverflowError, UnicodeDecodeError, MemoryError):
        return False
    start_us = codec.micros(record["window_start"])
    exposure.see(record["device_id"], record["catalog"].partition("/")[0], start_us, record["hop_us"])
    return True


def exposure(settings: Settings, since_ms: int) -> tuple[Exposure, int]:
    """Device time by the windows that workers published; and the records that are none."""
    found, bad = Exposure(), 0
    with TopicReader(settings, topics(settings).features, since_ms) as reader:
        for message in reader:
            bad += not see_window(found, message.value() or b"")
    return found, bad
