"""What the autoscaler sees of a real group on a real broker, and what it says when something is wrong."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from behaviour import Job
from collecting import (
    PARTITIONS,
    Page,
    Transactions,
    collector,
    commit,
    join,
    look_until,
    members,
    send,
    settings_of,
    told,
)
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewPartitions
from real_worker import wait_for, workers

from autoscaler.collect import Collector
from autoscaler.kafka_source import KafkaSource
from autoscaler.observation import BlindError, Observation
from autoscaler.positions import STILL_S
from autoscaler.worker_pages import WorkerPages
from autoscaler.workload import Scale, WorkloadError
from telemetry import clients
from telemetry.settings import Settings
from telemetry.topics import ensure, topics

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


@pytest.fixture(autouse=True)
def _own_brokers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable, which says where the session's broker is, would beat what a test says of its own."""
    monkeypatch.delenv("FLEETWATCH_KAFKA__BOOTSTRAP", raising=False)


@pytest.fixture
def settings(kafka_bootstrap: str, topic_prefix: str) -> Settings:
    made = settings_of(kafka_bootstrap, topic_prefix)
    ensure(made, topics(made).inputs)
    return made


@pytest.fixture
def names(settings: Settings) -> tuple[str, str]:
    vehicle, device = topics(settings).inputs
    return vehicle.name, device.name


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
        seen = look_until(
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
