"""What the autoscaler sees of a real group on a real broker, and what it says when something is wrong."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from behaviour import Job
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import NewPartitions, NewTopic
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from real_worker import wait_for, workers
from secure_kafka import SecureKafka, grant, secure_kafka

from autoscaler.collect import Collector
from autoscaler.kafka_source import KafkaSource
from autoscaler.observation import BlindError, Observation
from autoscaler.positions import STILL_S
from autoscaler.worker_pages import WorkerPages
from autoscaler.workload import GroupWorkload, Scale, WorkloadError
from fleetwatch.kafka.cluster import EmbeddedKafka
from fleetwatch.kafka.network import free_ports
from telemetry import clients
from telemetry import settings as settings_module
from telemetry.settings import Settings
from telemetry.topics import ensure, topics

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

PARTITIONS = 2


@pytest.fixture(autouse=True)
def _own_brokers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable, which says where the session's broker is, would beat what a test says of its own."""
    monkeypatch.delenv("FLEETWATCH_KAFKA__BOOTSTRAP", raising=False)


def settings_of(bootstrap: str, prefix: str, partitions: int = PARTITIONS) -> Settings:
    return settings_module.load(
        environ={},
        kafka={"bootstrap": bootstrap},
        topics={"prefix": prefix, "partitions": partitions},
        processing={"group": prefix},
    )


def collector(settings: Settings, pages: WorkerPages | None = None) -> Collector:
    source = KafkaSource(settings)
    return Collector(source, pages, GroupWorkload(source.members), settings.topics.partitions)


@pytest.fixture
def settings(kafka_bootstrap: str, topic_prefix: str) -> Settings:
    made = settings_of(kafka_bootstrap, topic_prefix)
    ensure(made, topics(made).inputs)
    return made


@pytest.fixture
def names(settings: Settings) -> tuple[str, str]:
    vehicle, device = topics(settings).inputs
    return vehicle.name, device.name


def send(settings: Settings, topic: str, partition: int, count: int) -> None:
    producer = clients.producer(settings)
    for _ in range(count):
        producer.produce(topic, b"x", partition=partition)
    assert producer.flush(20) == 0


@contextmanager
def members(settings: Settings, count: int) -> Iterator[list[Consumer]]:
    """A group of that many, each with what it was assigned; who is added later joins by `join`."""
    group: list[Consumer] = []
    try:
        join(settings, group, count)
        yield group
    finally:
        for each in group:
            each.close()


def join(settings: Settings, group: list[Consumer], count: int) -> None:
    names = [spec.name for spec in topics(settings).inputs]
    for _ in range(count):
        group.append(clients.consumer(settings, settings.processing.group))
        group[-1].subscribe(names)
    wanted = len(names) * settings.topics.partitions

    def settled() -> bool:
        for each in group:
            each.poll(0.05)
        held = [(tp.topic, tp.partition) for each in group for tp in each.assignment()]
        return len(held) == len(set(held)) == wanted and all(each.assignment() for each in group)

    wait_for(settled, 30, "every member has its partitions", 0.0)


def commit(settings: Settings, *offsets: tuple[str, int, int]) -> None:
    """For a group without members."""
    consumer = clients.consumer(settings, settings.processing.group)

    def done() -> bool:
        try:
            consumer.commit(offsets=[TopicPartition(*each) for each in offsets], asynchronous=False)
        except KafkaException as exc:
            if exc.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:  # the coordinator has not heard of it yet
                raise
            return False
        return True

    wait_for(done, 20, "the commit is taken")
    consumer.close()


def told(seen: Observation, *words: str) -> bool:
    """One problem has all of the words."""
    return any(all(word in problem for word in words) for problem in seen.problems)


def test_a_group_that_works(settings: Settings, names: tuple[str, str]) -> None:
    send(settings, names[0], 0, 100)
    send(settings, names[1], 0, 10)
    send(settings, names[1], 1, 5)
    watching = collector(settings)
    with members(settings, 1) as group:
        (only,) = group
        only.commit(offsets=[TopicPartition(names[0], 0, 40), TopicPartition(names[1], 1, 5)], asynchronous=False)
        first = watching.look(100.0)
        np.testing.assert_array_equal(first.ends, [110, 5])
        np.testing.assert_array_equal(first.committed, [40, 5])
        np.testing.assert_array_equal(first.owner, [0, 0])
        assert math.isnan(first.lag_s[0])  # written before anybody looked
        assert first.lag_s[1] == 0
        assert (first.members, first.replicas, first.ready, first.rebalancing) == (1, 1, 1, False)
        send(settings, names[0], 1, 50)
        watching.look(110.0)
        third = watching.look(130.0)  # the records in 1 came between 100 and 110
        assert third.lag_s[1] == pytest.approx(30.0)
        assert third.epoch == first.epoch
        join(settings, group, 1)
        fourth = watching.look(140.0)
        assert (fourth.members, sorted(fourth.owner)) == (2, [0, 1])
        assert fourth.epoch != first.epoch
        only.commit(offsets=[TopicPartition(names[0], 0, 100), TopicPartition(names[1], 0, 10)], asynchronous=False)
        assert watching.look(150.0).lag_s[0] == 0
    left = watching.look(160.0)
    assert (left.members, set(left.owner)) == (0, {-1})
    watching.close()


def test_a_look_takes_well_under_a_second(kafka_bootstrap: str, topic_prefix: str) -> None:
    settings = settings_of(kafka_bootstrap, topic_prefix, 24)
    ensure(settings, topics(settings).inputs)
    watching = collector(settings)
    watching.look(0.0)
    took = []
    for _ in range(5):
        began = time.monotonic()
        watching.look(began)
        took.append(time.monotonic() - began)
    watching.close()
    assert sorted(took)[2] < 0.5, took


def test_a_group_that_does_not_exist_stands_at_the_beginning(settings: Settings, names: tuple[str, str]) -> None:
    send(settings, names[0], 1, 30)
    watching = collector(settings)
    seen = watching.look(0.0)
    assert seen.members == seen.replicas == 0
    np.testing.assert_array_equal(seen.ends - seen.committed, [0, 30])
    assert told(seen, "the group does not exist")
    assert told(seen, f"{names[0]} 1: no committed offset")
    watching.close()


def test_without_commits_the_group_stands_at_the_beginning(settings: Settings, names: tuple[str, str]) -> None:
    send(settings, names[0], 1, 30)
    watching = collector(settings)
    with members(settings, 1):
        seen = watching.look(0.0)
        np.testing.assert_array_equal(seen.committed, [0, 0])
        assert seen.problems == (
            f"{names[0]} 1: no committed offset: counted from its beginning, where a worker would begin",
        )
    watching.close()


def test_what_retention_removed_is_not_counted(settings: Settings, names: tuple[str, str]) -> None:
    send(settings, names[0], 0, 100)
    commit(settings, (names[0], 0, 10))
    admin = clients.admin(settings)
    (gone,) = admin.delete_records([TopicPartition(names[0], 0, 60)]).values()
    gone.result(20)
    watching = collector(settings)
    seen = watching.look(0.0)
    assert (seen.ends[0], seen.committed[0]) == (100, 60)
    assert told(seen, f"{names[0]} 0: records were removed before the group processed them")
    watching.close()


def test_a_topic_that_is_deleted_and_made_anew(settings: Settings, names: tuple[str, str]) -> None:
    send(settings, names[0], 0, 100)
    commit(settings, (names[0], 0, 90))
    watching = collector(settings)
    watching.look(0.0)
    send(settings, names[0], 0, 100)
    assert watching.look(10.0).lag_s[0] > 0
    admin = clients.admin(settings)
    admin.delete_topics([names[0]])[names[0]].result(20)
    with pytest.raises(BlindError, match=rf"topic {names[0]} does not exist: `fleetwatch topics apply` makes it"):
        watching.look(20.0)
    ensure(settings, topics(settings).inputs)
    commit(settings, (names[0], 0, 90))  # as a worker that still runs, or a coordinator that kept it
    anew = watching.look(30.0)
    assert (anew.ends[0], anew.committed[0], anew.lag_s[0]) == (0, 0, 0)
    assert told(anew, f"{names[0]} 0-1: the topic was made anew")
    assert told(anew, f"{names[0]} 0: the committed offset is beyond the end")
    commit(settings, (names[0], 0, 0))
    send(settings, names[0], 0, 40)
    later = watching.look(40.0)
    assert (later.ends[0], later.committed[0]) == (40, 0)
    assert later.lag_s[0] == pytest.approx(10.0)  # by the new topic's history, not the old one's
    assert later.problems == ()
    watching.close()


def test_partitions_that_were_added_count_and_are_told(settings: Settings, names: tuple[str, str]) -> None:
    watching = collector(settings)
    assert watching.look(0.0).partitions == PARTITIONS
    admin = clients.admin(settings)
    admin.create_partitions([NewPartitions(names[0], 3)])[names[0]].result(20)
    wait_for(lambda: watching.look(1.0).partitions == 3, 20, "the new partition is seen")
    send(settings, names[0], 2, 7)
    seen = watching.look(10.0)
    np.testing.assert_array_equal(seen.ends, [0, 0, 7])
    assert told(seen, f"topic {names[0]} has 3 partitions, the setting topics.partitions says 2", "exit 78")
    assert told(seen, f"different numbers of partitions ({names[0]} 3, {names[1]} 2): the largest counts")
    watching.close()


class Transactions:
    """A producer with transactions, as some are."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.producer: Producer = clients.producer(settings, transactional_id=name)
        self.producer.init_transactions(20)

    def begin(self, topic: str, partition: int, count: int) -> None:
        self.producer.begin_transaction()
        for _ in range(count):
            self.producer.produce(topic, b"x", partition=partition)
        assert self.producer.flush(20) == 0


def test_open_transactions_are_neither_records_nor_commits(settings: Settings, names: tuple[str, str]) -> None:
    sender = Transactions(settings, names[0])
    watching = collector(settings)
    with members(settings, 1) as (only,):
        sender.begin(names[0], 0, 20)
        assert watching.look(0.0).ends[0] == 0
        sender.producer.commit_transaction(20)
        wait_for(lambda: watching.look(1.0).ends[0] == 21, 20, "the transaction is over")  # with its marker
        sender.begin(names[0], 0, 5)
        sender.producer.send_offsets_to_transaction(
            [TopicPartition(names[0], 0, 20)], only.consumer_group_metadata(), 20
        )
        assert watching.look(2.0).committed[0] == 0  # pending, and perhaps never
        sender.producer.commit_transaction(20)
        wait_for(lambda: watching.look(3.0).committed[0] == 20, 20, "the commit is seen")
    watching.close()


class Page:
    """A real HTTP server with a worker's series."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.lag = Gauge("fleetwatch_lag_records", "wait", ["topic", "partition"], registry=registry)
        self.records = Counter("fleetwatch_records", "processed", registry=registry)
        self.busy = Counter("fleetwatch_busy_seconds", "busy", registry=registry)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(generate_latest(registry))

            def log_message(self, *args: object) -> None:
                del args

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/metrics"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def page() -> Iterator[Page]:
    made = Page()
    yield made
    made.close()


def markers(settings: Settings, topic: str) -> int:
    """Ten records that count, a marker, and a log that ends in an aborted transaction of 30; the end."""
    sender = Transactions(settings, topic)
    sender.begin(topic, 0, 10)
    sender.producer.commit_transaction(20)
    sender.begin(topic, 0, 30)
    sender.producer.abort_transaction(20)
    return 10 + 1 + 30 + 1


def test_markers_and_aborted_records_are_no_lag(settings: Settings, names: tuple[str, str], page: Page) -> None:
    end = markers(settings, names[0])
    pages = WorkerPages(lambda: {"w-0": page.url})
    watching = collector(settings, pages)
    with members(settings, 1) as (only,):
        only.commit(offsets=[TopicPartition(names[0], 0, 10)], asynchronous=False)
        wait_for(lambda: watching.look(0.0).ends[0] == end, 20, "the end is seen")
        page.lag.labels(names[0], 0).set(7)
        busy = watching.look(STILL_S + 1)
        assert busy.committed[0] == 10  # its worker says that records wait
        assert told(busy, f"{names[0]} 0: neither commit nor end has moved", "it stands still")
        page.lag.labels(names[0], 0).set(0)
        seen = watching.look(STILL_S + 2)
        assert (seen.committed[0], seen.lag_s[0]) == (end, 0)
        assert told(seen, f"{names[0]} 0: its end is markers of transactions or aborted records")
        assert watching.look(STILL_S + 3).problems == ()  # said once
        send(settings, names[0], 0, 5)
        more = watching.look(STILL_S + 4)
        assert more.ends[0] - more.committed[0] == 5  # what comes after them is lag, they are not
        only.commit(offsets=[TopicPartition(names[0], 0, 0)], asynchronous=False)  # set back by hand
        assert watching.look(STILL_S + 5).committed[0] == 0
    watching.close()


def test_without_pages_what_does_not_move_is_told(settings: Settings, names: tuple[str, str]) -> None:
    end = markers(settings, names[0])
    watching = collector(settings)
    with members(settings, 1) as (only,):
        only.commit(offsets=[TopicPartition(names[0], 0, 10)], asynchronous=False)
        wait_for(lambda: watching.look(0.0).ends[0] == end, 20, "the end is seen")
        assert watching.look(STILL_S - 1).problems == ()
        seen = watching.look(STILL_S + 1)
        assert (seen.ends[0], seen.committed[0]) == (end, 10)
        assert told(seen, f"{names[0]} 0: offsets differ, but neither commit nor end has moved")
    assert watching.look(STILL_S + 2).problems == ()  # nobody is there who should commit
    watching.close()


def test_a_real_worker_and_a_log_that_ends_in_aborted_records(
    kafka_bootstrap: str, topic_prefix: str, tmp_path: Path
) -> None:
    work = Job.make(tmp_path, kafka_bootstrap, topic_prefix, devices=8, rounds=40)
    settings, vehicle = work.settings, work.names.vehicle.name
    with workers(tmp_path) as start:
        worker = start(work.config)
        urls: dict[str, str] = {}
        watching = collector(settings, WorkerPages(lambda: urls))
        sender = Transactions(settings, vehicle)
        sender.producer.begin_transaction()
        for key, value in work.records:
            sender.producer.produce(vehicle, value, key)
        sender.producer.commit_transaction(20)
        log = tmp_path / "worker-0.log"
        wait_for(lambda: "worker: http" in log.read_text(), 120, "the worker says where its page is")
        (urls["w-0"],) = re.findall(r"^worker: (http\S+)", log.read_text(), re.MULTILINE)
        seen = _until(
            watching,
            lambda seen: (seen.ends - seen.committed).max() <= 1 and bool(seen.workers),
            "all is processed",
        )
        assert seen.ends.sum() >= len(work.records)
        assert (seen.members, set(seen.owner)) == (1, {0})
        (load,) = seen.workers
        assert load.name == "w-0"
        assert load.partitions == tuple(range(seen.partitions))
        assert 0 <= load.busy <= 1
        assert load.records_per_s >= 0
        sender.begin(vehicle, 0, 30)
        sender.producer.abort_transaction(20)
        aborted = seen.ends[0] + 30
        later_s = time.monotonic() + 5
        wait_for(lambda: watching.look(later_s).ends[0] > aborted, 20, "their end is seen")
        # either the worker commits past them, or its page is believed
        wait_for(lambda: _waiting(watching.look(later_s + STILL_S + 1)) == 0, 20, "none of them waits")
        assert worker.poll() is None
        watching.close()


def _waiting(seen: Observation) -> float:
    return float((seen.ends - seen.committed).sum())


def test_a_workload_that_cannot_be_read_costs_no_history(settings: Settings, names: tuple[str, str]) -> None:
    class Away:
        away = True

        def read(self) -> Scale:
            if self.away:
                raise WorkloadError("the API server does not answer")
            return Scale(3, 2, "someone")

    workload = Away()
    commit(settings, (names[0], 0, 0))
    watching = Collector(KafkaSource(settings), None, workload, PARTITIONS)
    with pytest.raises(WorkloadError, match="does not answer"):
        watching.look(0.0)
    send(settings, names[0], 0, 10)
    with pytest.raises(WorkloadError):
        watching.look(10.0)
    workload.away = False
    seen = watching.look(20.0)
    assert seen.lag_s[0] == pytest.approx(20.0)
    assert (seen.replicas, seen.ready, seen.scaled_by) == (3, 2, "someone")
    watching.close()


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


def _until(watching: Collector, check: Callable[[Observation], bool], what: str) -> Observation:
    """Looks until one look is as wanted; blind ones in between are."""
    seen: list[Any] = []

    def once() -> bool:
        try:
            seen.append(watching.look(time.monotonic()))
        except BlindError as exc:
            seen.append(exc)
            return False
        return check(seen[-1])

    end = time.monotonic() + 60
    while not once():
        assert time.monotonic() < end, f"{what} did not happen; the last look: {seen[-1]}"
        time.sleep(0.3)
    found: Observation = seen[-1]
    return found


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
    _until(watching, lambda seen: not any("leader" in told for told in seen.problems), "all partitions are seen")
    for number in range(6):
        send(settings, vehicle, number, 10 + number)
    before = watching.look(time.monotonic())
    # of another than the group's coordinator: while that fails over, librdkafka 2.16.0 may abort (see KafkaSource)
    described = admin.describe_consumer_groups([topic_prefix])[topic_prefix].result(20)
    broker = next(each for each in _leaders(settings, vehicle).values() if each != described.coordinator.id)
    lost = [number for number, leader in _leaders(settings, vehicle).items() if leader == broker]
    three.kill_broker(broker - 1)
    began = time.monotonic()
    seen = _until(
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
    without = _until(fresh, lambda seen: True, "a look")
    assert all(np.isnan(without.lag_s[lost]))
    np.testing.assert_array_equal((without.ends - without.committed)[lost], 0)
    assert told(without, "no leader, and never seen: counted as if nothing waited")
    three.restart_broker(broker - 1)
    _until(watching, lambda seen: not seen.problems or not told(seen, "last figures"), "all leaders are back")
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
