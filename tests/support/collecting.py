"""For tests of what the autoscaler sees: groups, records, transactions on a real broker, and a worker's page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from real_worker import wait_for

from autoscaler.collect import Collector
from autoscaler.kafka_source import KafkaSource
from autoscaler.observation import BlindError, Observation
from autoscaler.worker_pages import WorkerPages
from autoscaler.workload import GroupWorkload
from telemetry import clients
from telemetry import settings as settings_module
from telemetry.settings import Settings
from telemetry.topics import topics

PARTITIONS = 2


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


def look_until(watching: Collector, check: Callable[[Observation], bool], what: str) -> Observation:
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
