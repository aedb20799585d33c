"""confluent-kafka clients as the contract wants them. The rule: every producer uses the murmur2_random partitioner.

librdkafka's default hashes keys with CRC32, Faust's and Java's with murmur2: one producer with the default
and nothing is co-partitioned.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from telemetry import security
from telemetry.errors import BrokerUnavailableError, SettingsError
from telemetry.kafka_settings import KafkaSettings
from telemetry.log import printable
from telemetry.passing import PASSING
from telemetry.settings import Settings

log = logging.getLogger("fleetwatch.kafka")

PARTITIONER = "murmur2_random"
#: The first wait for an answer before asking why there is none; each further one is twice as long.
FIRST_PATIENCE_S = 0.5


class ClientErrors:
    """A client's error callback: logs each kind once a minute, as an absent broker is told many times a second.

    Attributes
    ----------
    waiting : somebody waits for the first answer and will say why there is none: nothing is logged.
    last : the newest error's text.
    login : the newest refusal of our login.
    """

    def __init__(self) -> None:
        self._logged: dict[int, float] = {}
        self.waiting = False
        self.last = ""
        self.login = ""

    def __call__(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN or not self.last:  # noqa: SLF001
            self.last = error.str()
        if error.code() == KafkaError._AUTHENTICATION:  # noqa: SLF001
            self.login = error.str()
        now = time.monotonic()
        if not self.waiting and now - self._logged.get(error.code(), -1e9) >= 60:
            self._logged[error.code()] = now
            log.warning("kafka client: %s", error.str())


class _Producer(Producer):
    errors: ClientErrors


class _Consumer(Consumer):
    errors: ClientErrors


class _Admin(AdminClient):
    errors: ClientErrors


_C = TypeVar("_C", _Producer, _Consumer, _Admin)


def _made(kind: type[_C], config: dict[str, Any]) -> _C:
    client = kind(config)
    client.errors = config["error_cb"]
    return client


def common_config(settings: Settings) -> dict[str, Any]:
    """Address and security, for any librdkafka client. Secrets in files are read anew.

    Raises
    ------
    SettingsError : a certificate, key or secret cannot be used.
    """
    k = settings.kafka
    config: dict[str, Any] = {
        "bootstrap.servers": k.bootstrap,
        "security.protocol": k.security_protocol,
        "error_cb": ClientErrors(),
        "logger": logging.getLogger("fleetwatch.librdkafka"),
        "log_level": 4,
        "topic.metadata.refresh.interval.ms": 10_000,
        "reconnect.backoff.max.ms": 1_000,
        "socket.connection.setup.timeout.ms": 5_000,
        "allow.auto.create.topics": False,
    }
    if k.security_protocol.startswith("SASL"):
        config |= {
            "sasl.mechanisms": k.sasl_mechanism,
            "sasl.username": k.sasl_username,
            "sasl.password": k.password(),
        }
    if k.security_protocol.endswith("SSL"):
        config |= _tls_config(k)
    return config


def _tls_config(k: KafkaSettings) -> dict[str, Any]:
    security.ssl_context(k)  # says better than librdkafka what is wrong with a file
    config: dict[str, Any] = {
        "enable.ssl.certificate.verification": True,
        "ssl.endpoint.identification.algorithm": "https",
    }
    if k.ssl_ca:
        config["ssl.ca.location"] = str(k.ssl_ca)
    if k.ssl_certificate:
        config |= {"ssl.certificate.location": str(k.ssl_certificate), "ssl.key.location": str(k.ssl_key)}
        if (password := k.key_password()) is not None:
            config["ssl.key.password"] = password
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
    return _made(_Producer, config)


def consumer(settings: Settings, group: str, **extra: Any) -> Consumer:
    """A consumer that commits nothing by itself and reads only committed records."""
    config = common_config(settings) | {
        "group.id": group,
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "auto.offset.reset": "earliest",
    }
    config |= {(name if name.startswith("on_") else name.replace("_", ".")): value for name, value in extra.items()}
    return _made(_Consumer, config)


def admin(settings: Settings) -> AdminClient:
    config = common_config(settings)
    del config["allow.auto.create.topics"]
    return _made(_Admin, config)


def cluster_metadata(client: Any, settings: Settings) -> Any:
    """list_topics() of a client made here.

    Raises
    ------
    SettingsError : the brokers refuse our login or certificate, or we theirs, at once and by the setting's name.
    BrokerUnavailableError : no answer within `kafka.connect_timeout_s`; the message says which address.
    """
    errors: ClientErrors = client.errors
    errors.waiting = True
    try:
        return _first_answer(client, settings, errors)
    finally:
        errors.waiting = False


def _first_answer(client: Any, settings: Settings, errors: ClientErrors) -> Any:
    k = settings.kafka
    end, patience_s = time.monotonic() + k.connect_timeout_s, FIRST_PATIENCE_S
    while True:
        asked = time.monotonic()
        try:
            return client.list_topics(timeout=max(0.05, min(patience_s, end - asked)))
        except KafkaException as exc:
            failure = exc
        if not (isinstance(client, Consumer) and client.assignment()):  # else it would take a record
            client.poll(0)  # serves the error callback
        cause = security.refused_login(k, errors.login) if errors.login else security.diagnose(k)
        if cause is not None and (cause.sure or time.monotonic() >= end):
            raise SettingsError(cause.text) from failure
        if time.monotonic() >= end:
            raise _unavailable(settings, printable(errors.last or failure.args[0].str())) from failure
        time.sleep(max(0.0, 0.1 - (time.monotonic() - asked)))
        patience_s *= 2


def _unavailable(settings: Settings, reason: str) -> BrokerUnavailableError:
    k = settings.kafka
    advice = "Start one with `fleetwatch kafka start`, or set FLEETWATCH_KAFKA__BOOTSTRAP to a cluster that runs."
    if k.security_protocol != "PLAINTEXT":
        advice = f"Check kafka.bootstrap and whether that port wants kafka.security_protocol {k.security_protocol}."
    return BrokerUnavailableError(f"no Kafka broker answers at {k.bootstrap} ({reason}). {advice}")


def require_broker(settings: Settings) -> None:
    """Fail early and clearly when no broker answers."""
    cluster_metadata(admin(settings), settings)


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
                if exc.args[0].code() not in PASSING or time.monotonic() >= end:
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
