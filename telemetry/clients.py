"""confluent-kafka clients as the contract wants them. The rule: every producer uses the murmur2_random partitioner.

librdkafka's default hashes keys with CRC32, Faust's and Java's with murmur2: one producer with the default
and nothing is co-partitioned.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from telemetry.errors import BrokerUnavailableError
from telemetry.settings import Settings

log = logging.getLogger("fleetwatch.kafka")

PARTITIONER = "murmur2_random"


class _ErrorLog:
    """Logs a client's errors, each kind once a minute: an absent broker is reported many times a second."""

    def __init__(self) -> None:
        self._last: dict[int, float] = {}

    def __call__(self, error: KafkaError) -> None:
        now = time.monotonic()
        if now - self._last.get(error.code(), -1e9) >= 60:
            self._last[error.code()] = now
            log.warning("kafka client: %s", error.str())


def common_config(settings: Settings) -> dict[str, Any]:
    """Address and security, for any librdkafka client."""
    k = settings.kafka
    config: dict[str, Any] = {
        "bootstrap.servers": k.bootstrap,
        "security.protocol": k.security_protocol,
        "error_cb": _ErrorLog(),
        "logger": logging.getLogger("fleetwatch.librdkafka"),
        "log_level": 4,
        "topic.metadata.refresh.interval.ms": 10_000,
        "reconnect.backoff.max.ms": 1_000,
        "socket.connection.setup.timeout.ms": 5_000,
        "allow.auto.create.topics": False,
    }
    if k.security_protocol.startswith("SASL") and k.sasl_username and k.sasl_password:
        config |= {
            "sasl.mechanisms": k.sasl_mechanism,
            "sasl.username": k.sasl_username,
            "sasl.password": k.sasl_password.get_secret_value(),
        }
    if k.security_protocol.endswith("SSL") and k.ssl_ca:
        config["ssl.ca.location"] = str(k.ssl_ca)
    return config


def producer(settings: Settings, **extra: Any) -> Producer:
    """An idempotent producer. Keyword names are librdkafka's with dots written as underscores."""
    config = common_config(settings) | {
        "partitioner": PARTITIONER,
        "enable.idempotence": True,
        "linger.ms": 20,
        "batch.size": 1 << 20,
        "batch.num.messages": 100_000,
        "queue.buffering.max.messages": 500_000,
        "queue.buffering.max.kbytes": 1 << 19,
    }
    del config["allow.auto.create.topics"]
    config |= {(name if name.startswith("on_") else name.replace("_", ".")): value for name, value in extra.items()}
    return Producer(config)


def consumer(settings: Settings, group: str, **extra: Any) -> Consumer:
    """A consumer that commits nothing by itself and reads only committed records."""
    config = common_config(settings) | {
        "group.id": group,
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "auto.offset.reset": "earliest",
    }
    config |= {(name if name.startswith("on_") else name.replace("_", ".")): value for name, value in extra.items()}
    return Consumer(config)


def admin(settings: Settings) -> AdminClient:
    config = common_config(settings)
    del config["allow.auto.create.topics"]
    return AdminClient(config)


def cluster_metadata(client: Any, settings: Settings) -> Any:
    """list_topics() of any client.

    Raises
    ------
    BrokerUnavailableError : no answer within `kafka.connect_timeout_s`; the message says which address.
    """
    try:
        return client.list_topics(timeout=settings.kafka.connect_timeout_s)
    except KafkaException as exc:
        raise BrokerUnavailableError(
            f"no Kafka broker answers at {settings.kafka.bootstrap} "
            f"({exc.args[0].str()}). Start one with `fleetwatch kafka start`, or set "
            "FLEETWATCH_KAFKA__BOOTSTRAP to a cluster that runs."
        ) from exc


def require_broker(settings: Settings) -> None:
    """Fail early and clearly when no broker answers."""
    cluster_metadata(admin(settings), settings)


_COORDINATOR_MOVES = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
}


def _committed(client: Consumer, partitions: list[TopicPartition], timeout_s: float) -> list[TopicPartition]:
    found: list[TopicPartition] = client.committed(partitions, timeout=timeout_s)
    for entry in found:
        if entry.error is not None:
            raise KafkaException(entry.error)
    return found


def committed_offsets(
    settings: Settings, group: str, wanted: Iterable[tuple[str, int]], timeout_s: float = 60.0
) -> dict[tuple[str, int], int | None]:
    """A group's committed offsets, once no transaction is pending on them; None = none yet.

    A coordinator that is still being elected or loaded is asked again until the time is over.

    Raises
    ------
    KafkaException : no answer within timeout_s, or an error that asking again will not mend.
    """
    partitions = [TopicPartition(topic, partition) for topic, partition in wanted]
    if not partitions:
        return {}
    end = time.monotonic() + timeout_s
    client = consumer(settings, group)
    try:
        while True:
            try:
                found = _committed(client, partitions, max(1.0, end - time.monotonic()))
                return {(e.topic, e.partition): e.offset if e.offset >= 0 else None for e in found}
            except KafkaException as exc:
                if exc.args[0].code() not in _COORDINATOR_MOVES or time.monotonic() >= end:
                    raise
                time.sleep(0.2)
    finally:
        client.close()


def full_queue_retry(send: Callable[[], None], poll: Callable[[float], int]) -> None:
    """Call `send` until librdkafka's queue takes the record: back-pressure, never a drop."""
    while True:
        try:
            send()
            return
        except BufferError:
            poll(0.1)
