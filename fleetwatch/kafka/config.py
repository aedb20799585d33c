"""What a broker is told: server.properties as a pure function. The rule: it listens on 127.0.0.1 and nowhere else.

Combined KRaft mode: every process is broker and controller. Broker i (from 0) has node id i+1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from telemetry.errors import SettingsError

HOST = "127.0.0.1"
#: A broker cannot be told to use more than one of these counts: one, or enough for a quorum that survives a loss.
BROKER_COUNTS = (1, 3)
MEBIBYTE = 1 << 20
#: Of the offsets and transactions topics: few clients use this cluster.
INTERNAL_PARTITIONS = 4


@dataclass(frozen=True)
class Ports:
    """Of one broker."""

    client: int
    controller: int


def consecutive_ports(first: int, brokers: int) -> tuple[Ports, ...]:
    """Broker i listens on first+2i, its controller on first+2i+1.

    Raises
    ------
    SettingsError : a port would be outside 1..65535.
    """
    last = first + 2 * brokers - 1
    if first < 1 or last > 65535:
        raise SettingsError(f"--port {first}: {brokers} broker(s) need ports {first} to {last}, within 1 to 65535")
    return tuple(Ports(first + 2 * i, first + 2 * i + 1) for i in range(brokers))


def default_heap_mb(brokers: int) -> int:
    """JVM heap of each broker, MiB: room for one alone, little for each of three."""
    return 512 if brokers == 1 else 192


def properties(index: int, ports: tuple[Ports, ...], data: Path) -> dict[str, str]:
    """Settings of broker `index` (from 0) of the cluster that `ports` describes."""
    brokers = len(ports)
    own = ports[index]
    voters = ",".join(f"{i + 1}@{HOST}:{each.controller}" for i, each in enumerate(ports))
    replicas = str(min(3, brokers))
    in_sync = str(2 if brokers >= 3 else 1)
    settings = {
        "process.roles": "broker,controller",
        "node.id": str(index + 1),
        "controller.quorum.voters": voters,
        "listeners": f"PLAINTEXT://{HOST}:{own.client},CONTROLLER://{HOST}:{own.controller}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{own.client}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "log.dirs": str(data),
        # topics: made on purpose, never by a misspelt name
        "auto.create.topics.enable": "false",
        "num.partitions": "4",
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "unclean.leader.election.enable": "false",
        # a laptop's disk: topics that set their own retention win
        "log.retention.hours": "24",
        "log.retention.bytes": str(2048 * MEBIBYTE),
        "log.segment.bytes": str(256 * MEBIBYTE),
        "offsets.topic.replication.factor": replicas,
        "offsets.topic.num.partitions": str(INTERNAL_PARTITIONS),
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": str(INTERNAL_PARTITIONS),
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": "1",
        # what a dead worker's transaction holds back is let go within a second of its timeout, not within ten
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
        # groups: no waiting for members who do not come, and short sessions allowed, for tests of failures
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        # small: the cleaner's buffer alone is 128 MB by default, more than a small heap
        "log.cleaner.dedupe.buffer.size": str(4 * MEBIBYTE),
        "log.cleaner.threads": "1",
        "num.network.threads": "2",
        "num.io.threads": "4",
        "background.threads": "2",
        "num.recovery.threads.per.data.dir": "1",
        "controller.quorum.election.timeout.ms": "500",
        "controller.quorum.election.backoff.max.ms": "500",
        # a dead broker is replaced as leader, and taken back when it starts again, in about 3 s instead of 9
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
    }
    if brokers > 1:
        settings |= {
            "controller.quorum.fetch.timeout.ms": "1000",
            "replica.lag.time.max.ms": "10000",
        }
    return settings


def internal_topics(brokers: int) -> dict[str, dict[str, str]]:
    """Topic settings of the offsets and transactions topics, as the broker itself would make them."""
    segment = {"cleanup.policy": "compact", "segment.bytes": str(100 * MEBIBYTE)}
    return {
        "__consumer_offsets": {**segment, "compression.type": "producer"},
        "__transaction_state": {
            **segment,
            "compression.type": "uncompressed",
            "unclean.leader.election.enable": "false",
            "min.insync.replicas": str(2 if brokers >= 3 else 1),
        },
    }


def render(settings: Mapping[str, str]) -> str:
    """A Java properties file. Backslashes are escaped; a newline in a value is refused."""
    lines: list[str] = []
    for key, value in settings.items():
        assert "\n" not in value, (key, value)
        escaped = value.replace("\\", "\\\\")
        lines.append(f"{key}={escaped}\n")
    return "".join(lines)
