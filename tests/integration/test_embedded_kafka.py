"""The embedded Kafka as a whole: it starts, keeps what it was given, says how it is, and ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from fleetwatch.kafka import config
from fleetwatch.kafka.cluster import EmbeddedKafka
from fleetwatch.kafka.jvm import KafkaStartError
from fleetwatch.kafka.network import answers
from telemetry.errors import SettingsError

pytestmark = pytest.mark.kafka

FLEETWATCH = (sys.executable, "-m", "fleetwatch")


@pytest.fixture
def cluster(tmp_path):
    kafka = EmbeddedKafka(tmp_path / "kafka", port=0)
    yield kafka
    kafka.stop(patience_s=3)


@pytest.fixture
def three(tmp_path):
    kafka = EmbeddedKafka(tmp_path / "kafka3", brokers=3, port=0)
    yield kafka
    kafka.stop(patience_s=0.5)


def _create(bootstrap, topic, **sizes):
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic(topic, **sizes)]).values():
        future.result(20)


def _produce(bootstrap, topic, values):
    failed = []
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "log_level": 0})
    for value in values:
        producer.produce(topic, value, callback=lambda error, _: error and failed.append(error))
    assert producer.flush(30) == 0
    assert failed == []


def _read(bootstrap, topic, timeout_s=30):
    """Every committed value of the topic, sorted, read up to the ends that the partitions have now."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "reader", "enable.partition.eof": True, "log_level": 0}
    )
    partitions = consumer.list_topics(topic, timeout=20).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    values, ended = [], set()
    deadline_s = time.monotonic() + timeout_s
    while len(ended) < len(partitions) and time.monotonic() < deadline_s:
        for message in consumer.consume(500, 0.2):
            if message.error() is None:
                values.append(message.value())
            elif message.error().code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
            else:
                raise KafkaException(message.error())
    consumer.close()
    assert len(ended) == len(partitions), "not read to the end in time"
    return sorted(values)


def test_the_first_group_and_the_first_transaction_need_not_wait_for_internal_topics(cluster, topic_prefix):
    bootstrap = cluster.start()
    admin = AdminClient({"bootstrap.servers": bootstrap})
    resources = [ConfigResource("topic", name) for name in ("__consumer_offsets", "__transaction_state")]
    for resource, future in admin.describe_configs(resources).items():
        settings = future.result(20)
        assert settings["cleanup.policy"].value == "compact", resource
    topics = admin.list_topics(timeout=10).topics
    assert [len(topics[each.name].partitions) for each in resources] == [config.INTERNAL_PARTITIONS] * 2
    _create(bootstrap, topic_prefix, num_partitions=1)
    _produce(bootstrap, topic_prefix, [b"a"])
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "g", "auto.offset.reset": "earliest"})
    consumer.subscribe([topic_prefix])
    message = consumer.poll(20)
    consumer.close()
    assert message is not None
    assert message.value() == b"a"


def test_data_and_address_outlive_a_restart(cluster, topic_prefix):
    values = sorted(b"%06d" % i for i in range(2000))
    bootstrap = cluster.start()
    _create(bootstrap, topic_prefix, num_partitions=3)
    _produce(bootstrap, topic_prefix, values)
    assert _read(bootstrap, topic_prefix) == values

    assert cluster.stop() is True
    assert not answers(int(bootstrap.rpartition(":")[2]))
    assert not cluster.status().running

    assert EmbeddedKafka(cluster.directory).start() == bootstrap
    assert _read(bootstrap, topic_prefix) == values


def test_a_transaction_commits(cluster, topic_prefix):
    bootstrap = cluster.start()
    _create(bootstrap, topic_prefix, num_partitions=1)
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": topic_prefix})
    producer.init_transactions(20)
    for values, finish in (((b"no",), producer.abort_transaction), ((b"yes",), producer.commit_transaction)):
        producer.begin_transaction()
        for value in values:
            producer.produce(topic_prefix, value)
        producer.flush(10)
        finish(20)
    assert _read(bootstrap, topic_prefix) == [b"yes"]


def test_anyone_finds_and_stops_it_through_the_directory(cluster):
    steps = []
    bootstrap = cluster.start(steps.append)
    assert any("starting Kafka" in step.text for step in steps)
    other = EmbeddedKafka(cluster.directory)
    status = other.status()
    assert status.running
    assert status.bootstrap == bootstrap
    assert status.brokers[0].rss_bytes > 50e6
    steps.clear()
    assert other.start(steps.append) == bootstrap
    assert steps == []
    assert other.stop(purge=True) is True
    assert cluster.status().brokers == ()
    assert not cluster.broker_dir(0).exists()


def test_another_shape_than_the_directory_holds_is_refused(cluster):
    bootstrap = cluster.start()
    with pytest.raises(SettingsError, match=r"1 broker\(s\), not 3"):
        EmbeddedKafka(cluster.directory, brokers=3).start()
    with pytest.raises(SettingsError, match=bootstrap):
        EmbeddedKafka(cluster.directory, port=1024).start()
    assert cluster.status().running


def test_two_starts_at_once_make_one_broker(cluster):
    with ThreadPoolExecutor(2) as pool:
        command = [*FLEETWATCH, "kafka", "start", "--port", "0", "--dir", str(cluster.directory)]
        runs = [pool.submit(subprocess.run, command, capture_output=True, text=True, check=True) for _ in range(2)]
        first, second = (run.result() for run in runs)
    assert first.stdout == second.stdout == f"{cluster.status().bootstrap}\n"
    assert sum("starting Kafka" in run.stderr for run in (first, second)) == 1


def test_a_broker_that_cannot_start_is_told_at_once_with_its_log(cluster):
    cluster.start()
    cluster.stop()
    meta = cluster.broker_dir(0) / "data" / "meta.properties"
    meta.write_text(meta.read_text().replace("node.id=1", "node.id=7"), encoding="utf-8")
    started_s = time.monotonic()
    with pytest.raises(KafkaStartError) as caught:
        cluster.start()
    assert time.monotonic() - started_s < 30
    assert "ended while it started" in str(caught.value)
    assert str(cluster.log_path(0)) in str(caught.value)
    assert "node" in str(caught.value).lower()
    assert not cluster.status().degraded


def test_a_damaged_class_archive_only_slows_the_start(cluster, tmp_path, monkeypatch):
    from fleetwatch.kafka import artifacts, jvm

    jars = artifacts.class_path()
    monkeypatch.setenv("FLEETWATCH_CACHE_DIR", str(tmp_path / "cache"))
    artifacts.jar_folder().mkdir(parents=True)
    for jar in jars:
        os.link(jar, artifacts.jar_folder() / jar.name)
    archive = jvm.archive_path(tuple(artifacts.class_path()))
    archive.write_bytes(b"not an archive" * 1000)
    cluster.start()
    assert cluster.status().running


def test_the_command_starts_tells_and_stops(tmp_path):
    where = ("--dir", str(tmp_path / "k"))

    def run(*arguments, code=0):
        done = subprocess.run(
            [*FLEETWATCH, "kafka", *arguments, *where], capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        return done

    run("status", code=3)
    try:
        bootstrap = run("start", "--port", "0").stdout.strip()
        assert "already running" in run("start").stderr
        told = json.loads(run("status", "--format", "json").stdout)
        assert told["state"] == "running"
        assert told["bootstrap"] == bootstrap
        assert bootstrap in run("status").stdout
        assert "Kafka Server started" in run("logs", "--lines", "100000").stdout
        os.kill(told["brokers"][0]["pid"], signal.SIGKILL)
        assert "not running" in run("status", code=3).stdout
        assert run("start").stdout.strip() == bootstrap
    finally:
        run("stop", "--purge")
    run("status", code=3)


def test_three_brokers_lose_one_and_take_it_back(three, topic_prefix):
    bootstrap = three.start()
    assert len(bootstrap.split(",")) == 3
    assert three.status().running
    _create(bootstrap, topic_prefix, num_partitions=3, replication_factor=3)
    _produce(bootstrap, topic_prefix, [b"before"] * 10)

    three.kill_broker(1)
    status = three.status()
    assert status.degraded
    assert [broker.pid is not None for broker in status.brokers] == [True, False, True]
    _produce(bootstrap, topic_prefix, [b"while"] * 10)
    with pytest.raises(ValueError, match="broker 1 does not run"):
        three.kill_broker(1)

    three.restart_broker(1)
    assert three.status().running
    assert _read(bootstrap, topic_prefix) == [b"before"] * 10 + [b"while"] * 10


def test_an_interrupted_start_leaves_no_broker(cluster):
    cluster.start()
    cluster.stop()
    command = [*FLEETWATCH, "kafka", "start", "--dir", str(cluster.directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as starting:
        while "starting Kafka" not in starting.stderr.readline():
            assert starting.poll() is None
        while cluster.process(0) is None:
            time.sleep(0.002)
        starting.send_signal(signal.SIGINT)
        said = starting.communicate(timeout=20)
    assert starting.returncode == 130, said
    assert cluster.status().brokers[0].pid is None
