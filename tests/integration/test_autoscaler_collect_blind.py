"""What the autoscaler says when brokers, leaders or rights are missing, on clusters of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from collecting import (
    collector,
    commit,
    look_until,
    send,
    settings_of,
    told,
)
from confluent_kafka.admin import NewTopic
from real_worker import wait_for
from secure_kafka import SecureKafka, grant, secure_kafka

from autoscaler.observation import BlindError
from fleetwatch.kafka.cluster import EmbeddedKafka
from fleetwatch.kafka.network import free_ports
from telemetry import clients
from telemetry import settings as settings_module
from telemetry.settings import Settings
from telemetry.topics import ensure, topics

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


@pytest.fixture(autouse=True)
def _own_brokers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable, which says where the session's broker is, would beat what a test says of its own."""
    monkeypatch.delenv("FLEETWATCH_KAFKA__BOOTSTRAP", raising=False)


def test_no_broker_is_told_with_what_to_do(topic_prefix: str) -> None:
    (ports,) = free_ports(1)
    settings = settings_module.load(
        environ={},
        kafka={"bootstrap": f"127.0.0.1:{ports.client}", "connect_timeout_s": 1.0},
        topics={"prefix": topic_prefix},
    )
    watching = collector(settings)
    began = time.monotonic()
    with pytest.raises(BlindError, match=rf"no Kafka broker answers at 127\.0\.0\.1:{ports.client}"):
        watching.look(0.0)
    assert time.monotonic() - began < 8
    watching.close()


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    kafka = EmbeddedKafka(tmp_path_factory.mktemp("three"), brokers=3, port=0)
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.stop(patience_s=1.0)


def _leaders(settings: Settings, topic: str) -> dict[int, int]:
    """None of a topic that the broker which answers has not heard of yet."""
    found = clients.cluster_metadata(clients.admin(settings), settings).topics
    return {number: each.leader for number, each in found[topic].partitions.items()} if topic in found else {}


def test_a_partition_without_a_leader_keeps_its_last_figures(three: EmbeddedKafka, topic_prefix: str) -> None:
    spec = three.spec()
    assert spec is not None
    settings = settings_of(spec.bootstrap, topic_prefix, 6)
    vehicle, device = (each.name for each in topics(settings).inputs)
    admin = clients.admin(settings)
    for name in (vehicle, device):
        admin.create_topics([NewTopic(name, 6, 1)])[name].result(20)
    wait_for(lambda: len(set(_leaders(settings, vehicle).values()) - {-1}) == 3, 20, "every broker leads")
    commit(settings, *((vehicle, number, 0) for number in range(6)))
    watching = collector(settings)
    look_until(watching, lambda seen: not any("leader" in each for each in seen.problems), "all are seen")
    for number in range(6):
        send(settings, vehicle, number, 10 + number)
    before = watching.look(time.monotonic())
    # of another than the group's coordinator: while that fails over, librdkafka 2.16.0 may abort (see KafkaSource)
    described = admin.describe_consumer_groups([topic_prefix])[topic_prefix].result(20)
    broker = next(each for each in _leaders(settings, vehicle).values() if each != described.coordinator.id)
    lost = [number for number, leader in _leaders(settings, vehicle).items() if leader == broker]
    three.kill_broker(broker - 1)
    began = time.monotonic()
    seen = look_until(
        watching, lambda seen: told(seen, vehicle, "no leader"), "the partitions without a leader are told"
    )
    print(f"told after {time.monotonic() - began:.1f} s")
    np.testing.assert_array_equal(seen.ends, before.ends)
    np.testing.assert_array_equal(seen.lag_s[lost], before.lag_s[lost])
    others = [number for number in range(6) if number not in lost]
    assert others
    assert all(seen.lag_s[others] > before.lag_s[others])
    assert told(seen, "the last figures known are kept")
    fresh = collector(settings)  # has never seen them
    without = look_until(fresh, lambda seen: True, "a look")
    assert all(np.isnan(without.lag_s[lost]))
    np.testing.assert_array_equal((without.ends - without.committed)[lost], 0)
    assert told(without, "no leader, and never seen: counted as if nothing waited")
    three.restart_broker(broker - 1)
    look_until(watching, lambda seen: not seen.problems or not told(seen, "last figures"), "all leaders are back")
    for index in range(3):
        three.kill_broker(index)
    began = time.monotonic()
    with pytest.raises(BlindError, match="no Kafka broker answers"):
        watching.look(time.monotonic())
    assert time.monotonic() - began < 20
    watching.close()
    fresh.close()


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    with secure_kafka(tmp_path_factory.mktemp("secure")) as made:
        yield made


def test_an_observer_may_see_and_others_are_told_what_is_lacking(secure: SecureKafka, topic_prefix: str) -> None:
    admin = secure.settings("admin", topic_prefix)
    ensure(admin)
    grant(admin, {"observer": ["User:observer"]})
    send(admin, topics(admin).vehicle.name, 0, 3)
    commit(admin, (topics(admin).vehicle.name, 0, 0))  # the first commit makes the broker's topic of offsets
    watching = collector(secure.settings("observer", topic_prefix))
    assert watching.look(0.0).ends[0] == 3
    watching.close()
    stranger = collector(secure.settings("stranger", topic_prefix))
    advice = "`fleetwatch topics apply --acls --principal observer=User:NAME`"
    with pytest.raises(BlindError, match=f"stranger may not see the topic .*{advice}"):
        stranger.look(0.0)
    grant(admin, {"observer": ["User:stranger"]}, ("group", topic_prefix))
    with pytest.raises(BlindError, match=f"stranger may not see the group {topic_prefix}: .*{advice}"):
        stranger.look(1.0)
    stranger.close()


def test_a_wrong_password_is_told(secure: SecureKafka, topic_prefix: str, tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("wrong")
    watching = collector(secure.settings("observer", topic_prefix, sasl_password_file=path))
    with pytest.raises(BlindError, match="sasl_password"):
        watching.look(0.0)
    watching.close()
