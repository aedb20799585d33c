"""The topics: names, keys, partitions, retention. The rule: a topic that exists with another shape is refused.

Inputs, state and outputs are co-partitioned: the same number of partitions and, on every producer, the
partitioner ``murmur2_random``. A key's partition follows from their number, so growth is refused with a message.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from telemetry.clients import admin, cluster_metadata
from telemetry.errors import AccessError, BrokerUnavailableError, TopicError
from telemetry.offsets import offsets_of
from telemetry.passing import PASSING
from telemetry.settings import Settings

HOUR_MS = 3_600_000
#: A new partition's leader has its log within a second or two.
LEADERS_S = 30.0
ATTEMPT_S = 1.5


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One topic. co_partitioned: has as many partitions as the inputs. writers, readers: see `telemetry.acls`."""

    name: str
    key: str
    value: str
    doc: str
    partitions: int
    config: tuple[tuple[str, str], ...] = ()
    co_partitioned: bool = True
    writers: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Topics:
    """All of them; `topics.vehicle.name` is a name."""

    vehicle: TopicSpec
    device: TopicSpec
    features: TopicSpec
    scores: TopicSpec
    alerts: TopicSpec
    dlq: TopicSpec
    late: TopicSpec
    state: TopicSpec
    truth: TopicSpec
    devices: TopicSpec
    control: TopicSpec
    schemas: TopicSpec

    def all(self) -> tuple[TopicSpec, ...]:
        return tuple(getattr(self, field) for field in self.__slots__)

    @property
    def inputs(self) -> tuple[TopicSpec, TopicSpec]:
        return (self.vehicle, self.device)


def topics(settings: Settings) -> Topics:
    """The topics under the settings' prefix."""
    t = settings.topics
    inputs = (("retention.ms", str(int(t.input_retention_hours * HOUR_MS))),)
    outputs = (("retention.ms", str(int(t.output_retention_hours * HOUR_MS))),)
    broker_time = (*outputs, ("message.timestamp.type", "LogAppendTime"))
    compact = (
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.3"),
        ("segment.ms", "3600000"),
        ("segment.bytes", str(32 << 20)),
    )

    def spec(
        name: str,
        key: str,
        value: str,
        doc: str,
        config: tuple[tuple[str, str], ...],
        roles: tuple[tuple[str, ...], tuple[str, ...]],
        n: int = 0,
    ) -> TopicSpec:
        writers, readers = roles
        return TopicSpec(f"{t.prefix}.{name}", key, value, doc, n or t.partitions, config, not n, writers, readers)

    sent = (("producer", "replayer"), ("worker",))
    declared: tuple[tuple[str, ...], tuple[str, ...]] = (("producer",), ())
    found: tuple[tuple[str, ...], tuple[str, ...]] = (("worker",), ())
    return Topics(
        vehicle=spec("vehicle", "device id", "Frame", "Frames of vehicles.", inputs, sent),
        device=spec("device", "device id", "Frame", "Frames of devices: GPU nodes, sensors.", inputs, sent),
        features=spec("features", "device id", "WindowFeatures", "Features of closed windows.", outputs, found),
        scores=spec(
            "scores", "device id", "Score", "Each detector's score of each closed window.", broker_time, found
        ),
        alerts=spec(
            "alerts",
            "device id",
            "JSON, CloudEvents",
            "Alerts, for people and programs.",
            broker_time,
            (("worker",), ("subscriber", "forwarder")),
        ),
        dlq=spec(
            "dlq",
            "as it was",
            "as it was",
            "Refused records, with their provenance in headers.",
            (*broker_time, ("max.message.bytes", "2097152")),
            (("worker",), ("replayer",)),
        ),
        late=spec("late", "device id", "Frame", "Frames with rows too late for their window.", outputs, found),
        state=spec(
            "state",
            "device id",
            "StateRow",
            "Changelog of what is learnt of each device.",
            compact,
            (("worker",), ("worker",)),
        ),
        truth=spec("truth", "device id", "Truth", "Faults that a simulator injected.", outputs, declared),
        devices=spec(
            "devices",
            "device id",
            "Device",
            "What each device declares: model, firmware.",
            compact,
            (("producer",), ("worker",)),
        ),
        control=spec(
            "control",
            "run",
            "JSON",
            "Orders to running simulators: inject a fault.",
            outputs,
            (("producer",), ("producer",)),
            1,
        ),
        schemas=spec(
            "schemas",
            "header, hex",
            "Avro schema, JSON",
            "Schemas that producers write with.",
            (("cleanup.policy", "compact"),),
            (("producer",), ("producer", "worker", "replayer")),
            1,
        ),
    )


def _existing(client: AdminClient, settings: Settings) -> dict[str, int]:
    metadata = cluster_metadata(client, settings)
    return {name: len(topic.partitions) for name, topic in metadata.topics.items() if topic.error is None}


def _check(spec: TopicSpec, partitions: int) -> str | None:
    if not spec.co_partitioned or partitions == spec.partitions:
        return None
    return (
        f"topic {spec.name} has {partitions} partitions, the setting topics.partitions says "
        f"{spec.partitions}: keys would be looked for in other partitions than where they are; "
        "set topics.partitions to the topics' number, or use another topics.prefix"
    )


def role_topics(settings: Settings, role: str) -> tuple[TopicSpec, ...]:
    """The topics that a role writes or reads."""
    return tuple(spec for spec in topics(settings).all() if role in (*spec.writers, *spec.readers))


def _hidden(settings: Settings, names: list[str], visible: set[str]) -> str | None:
    """What is wrong when topics cannot be seen, nor made for want of a permission: nothing if the role is served.

    Kafka shows a topic only to those who may do something with it: a producer sees no scores.
    """
    lacking = [
        [spec.name for spec in role_topics(settings, role) if spec.name not in visible]
        for role in ("worker", "producer")
    ]
    if not visible:
        lacking = [names]
    if not (fewest := min(lacking, key=len)):
        return None
    who = settings.kafka.sasl_username or "this client"
    return (
        f"{', '.join(fewest)}: missing, or hidden from {who}, who may not create topics either: an administrator "
        "makes them and says who may use them with `fleetwatch topics apply --acls`"
    )


_REFUSED = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED})


def ensure(settings: Settings, specs: tuple[TopicSpec, ...] | None = None, *, create: bool = True) -> list[str]:
    """Create the missing topics and check the shape of the others; returns the names created.

    specs : None = all of them; then those that a client may neither see nor create are passed over, as long as it
        sees all that one of the roles uses.

    Raises
    ------
    TopicError : one or many have another number of partitions (all are listed), or cannot be created.
    AccessError : topics are missing, or hidden from this client, and it may not create them.
    BrokerUnavailableError : no broker answers.
    """
    wanted = specs if specs is not None else topics(settings).all()
    client = admin(settings)
    existing = _existing(client, settings)
    problems = [p for spec in wanted if spec.name in existing and (p := _check(spec, existing[spec.name]))]
    missing = [spec for spec in wanted if spec.name not in existing]
    if missing and not create:
        problems += [f"topic {spec.name} does not exist" for spec in missing]
        missing = []
    if problems:
        raise TopicError("\n".join(problems))
    created, refused = _create(client, settings, missing)
    if refused:
        seen = {spec.name for spec in wanted} - set(refused) if specs is None else set()
        if found := _hidden(settings, refused, seen):
            raise AccessError(found)
    _await_leaders(settings, [spec for spec in wanted if spec.name not in refused])
    return created


def _await_leaders(settings: Settings, specs: list[TopicSpec]) -> None:
    """Return when every partition's leader has its log.

    A leader that does not have it yet refuses a producer's first batch, may take its second, and then takes the
    first one's repetition for a duplicate: an acknowledged record is lost.

    Each attempt has a client of its own: one that saw a new topic without a leader believes so for 30 s (librdkafka
    2.16): on a busy machine the demo waited that long.
    """
    wanted = [(spec.name, partition) for spec in specs for partition in range(spec.partitions)]
    deadline = time.monotonic() + LEADERS_S
    while True:
        try:
            offsets_of(admin(settings), wanted, OffsetSpec.latest(), ATTEMPT_S)
        except KafkaException as exc:
            if exc.args[0].code() in PASSING and time.monotonic() < deadline:
                continue
            raise BrokerUnavailableError(
                f"topics at {settings.kafka.bootstrap} have partitions without a leader after {LEADERS_S:.0f} s "
                f"({exc.args[0].str()}): see that enough brokers run"
            ) from exc
        return


def _create(client: AdminClient, settings: Settings, specs: list[TopicSpec]) -> tuple[list[str], list[str]]:
    """(names created, names that we may not create)."""
    if not specs:
        return [], []
    created, refused, problems = [], [], []
    new = [NewTopic(s.name, s.partitions, settings.topics.replication, config=dict(s.config)) for s in specs]
    for name, future in client.create_topics(new, operation_timeout=20, request_timeout=30).items():
        try:
            future.result(30)
            created.append(name)
        except KafkaException as exc:
            error = exc.args[0]
            if error.code() in _REFUSED:
                refused.append(name)
            elif error.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                problems.append(f"topic {name} cannot be created: {error.str()}")
    if problems:
        raise TopicError("\n".join(problems))
    return created, refused
