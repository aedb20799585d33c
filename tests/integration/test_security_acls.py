"""Each role can do its work and is refused the rest: real clients, a real broker with an authoriser."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from alert_receivers import webhook
from alerts_made import made, publish
from click.testing import CliRunner, Result
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType
from real_worker import environment, wait_for
from secure_kafka import SecureKafka, grant, secure_kafka

from fleetwatch.cli import cli
from telemetry import acls, clients
from telemetry.errors import AccessError, TopicError
from telemetry.settings import Settings
from telemetry.topics import ensure, topics

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

PREFIX = "roles"
EVERYBODY = (*acls.ROLES, "stranger")
REFUSED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}


def run(config: Path, *command: str) -> Result:
    return CliRunner().invoke(cli, ["--config", str(config), *command])


def config_of(secure: SecureKafka, user: str, prefix: str, folder: Path) -> Path:
    path = folder / f"{user}-{prefix}.yaml"
    kafka = {k: str(v) for k, v in secure.kafka(user).items()}
    sections = {"kafka": kafka, "topics": {"prefix": prefix, "partitions": 2}, "processing": {"group": prefix}}
    path.write_text(yaml.safe_dump(sections))
    return path


PRINCIPALS = [word for role in acls.ROLES for word in ("--principal", f"{role}=User:{role}")]


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """A broker with the topics and lists that `topics apply --acls` makes."""
    folder = tmp_path_factory.mktemp("secure")
    with secure_kafka(folder) as made:
        done = run(config_of(made, "admin", PREFIX, folder), "topics", "apply", "--acls", *PRINCIPALS)
        assert done.exit_code == 0, done.output
        assert "allowed User:worker WRITE topic roles.state  # worker: " in done.output
        grant(made.settings("admin", PREFIX), {role: [f"User:{role}"] for role in acls.ROLES})  # waits
        admin = made.settings("admin", PREFIX)
        producer = clients.producer(admin)
        for name in all_topics(admin):
            producer.produce(name, b"a record", b"key", 0)
        assert producer.flush(20) == 0
        yield made


def all_topics(settings: Settings) -> list[str]:
    return [spec.name for spec in topics(settings).all()]


def granted(settings: Settings, user: str, operation: str) -> set[str]:
    """The topics that a user's role may READ or WRITE."""
    grants = acls.roles(settings).get(user, ())
    return {g.name for g in grants if g.resource == "topic" and g.operation == operation}


def written(settings: Settings) -> tuple[set[str], set[str]]:
    """(topics that took a record, topics that refused it for want of a permission)."""
    taken, refused = set(), set()

    def report(error: KafkaError | None, message: Any) -> None:
        if error is None:
            taken.add(message.topic())
        else:
            assert error.code() in REFUSED, error
            refused.add(message.topic())

    # not idempotent: who may write nowhere gets no producer id either, and then no answer a topic
    producer = clients.producer(settings, on_delivery=report, enable_idempotence=False)
    for name in all_topics(settings):
        producer.produce(name, b"by a role", b"key", 0)
    assert producer.flush(30) == 0
    return taken, refused


def read(settings: Settings, group: str) -> tuple[set[str], set[str]]:
    """(topics that gave a record, topics that refused)."""
    given, refused = set(), set()
    consumer = clients.consumer(settings, group)
    wanted = all_topics(settings)
    for name in wanted:  # what may not even be described is not fetched
        error = consumer.list_topics(name, timeout=10).topics[name].error
        if error is not None:
            assert error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
            refused.add(name)
    consumer.assign([TopicPartition(name, 0, OFFSET_BEGINNING) for name in wanted if name not in refused])
    for _ in range(100):
        for message in consumer.consume(100, 0.2):
            if (error := message.error()) is None:
                given.add(message.topic())
            elif error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                refused.add(message.topic())
            else:
                assert error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED, error
        if given | refused == set(wanted):
            break
    consumer.close()
    return given, refused


@pytest.mark.parametrize("user", EVERYBODY)
def test_a_role_writes_and_reads_its_topics_and_is_refused_every_other(secure: SecureKafka, user: str) -> None:
    settings = secure.settings(user, PREFIX)
    everything = set(all_topics(settings))
    may_write, may_read = granted(settings, user, "WRITE"), granted(settings, user, "READ")
    assert written(settings) == (may_write, everything - may_write)
    assert read(settings, f"{PREFIX}-any") == (may_read, everything - may_read)


GROUPS = {
    PREFIX: "worker",
    f"{PREFIX}-subscriber-mine": "subscriber",
    f"{PREFIX}-forward-webhook": "forwarder",
    "somebody-elses": "nobody",
}


def _joins(settings: Settings, group: str, topic: str) -> bool:
    consumer = clients.consumer(settings, group)
    consumer.subscribe([topic])
    try:
        for _ in range(100):
            message = consumer.poll(0.2)
            if consumer.assignment():
                return True
            if message is not None and message.error():
                assert message.error().code() == KafkaError.GROUP_AUTHORIZATION_FAILED, message.error()
                return False
        raise AssertionError("neither joined nor refused")
    finally:
        consumer.close()


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("user", ["worker", "subscriber", "forwarder", "replayer"])
def test_a_group_is_joined_by_its_role_alone(secure: SecureKafka, user: str, group: str) -> None:
    settings = secure.settings(user, PREFIX)
    topic = min(granted(settings, user, "READ"))
    assert _joins(settings, group, topic) == (GROUPS[group] == user)


def _transaction(settings: Settings, transactional_id: str, topic: str) -> KafkaError | None:
    producer = clients.producer(settings, transactional_id=transactional_id)
    try:
        producer.init_transactions(15)
        producer.begin_transaction()
        producer.produce(topic, b"in a transaction", b"key", 0)
        producer.commit_transaction(15)
    except KafkaException as exc:
        error: KafkaError = exc.args[0]
        return error
    return None


def test_transactions_are_the_workers_under_their_own_prefix(secure: SecureKafka) -> None:
    worker, producer = secure.settings("worker", PREFIX), secure.settings("producer", PREFIX)
    assert _transaction(worker, f"{PREFIX}-worker-1", topics(worker).features.name) is None
    for settings, name, topic in (
        (worker, "another-1", topics(worker).features.name),
        (producer, f"{PREFIX}-worker-1", topics(worker).vehicle.name),
    ):
        error = _transaction(settings, name, topic)
        assert error is not None
        assert error.code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED


@pytest.mark.parametrize("user", EVERYBODY)
def test_no_role_makes_alters_or_removes(secure: SecureKafka, user: str) -> None:
    settings = secure.settings(user, PREFIX)
    client = clients.admin(settings)
    alerts = topics(settings).alerts.name
    shorter = ConfigEntry("retention.ms", "1", incremental_operation=AlterConfigOpType.SET)
    changed = ConfigResource(ResourceType.TOPIC, alerts, incremental_configs=[shorter])
    attempts = [
        *client.create_topics([NewTopic(f"{PREFIX}.more", 1, 1)]).values(),
        *client.delete_topics([alerts]).values(),
        *client.create_acls([acls.roles(settings)["subscriber"][0].binding(f"User:{user}")]).values(),
        *client.incremental_alter_configs([changed]).values(),
    ]
    for attempt in attempts:
        with pytest.raises(KafkaException) as caught:
            attempt.result(20)
        assert caught.value.args[0].code() in REFUSED


def test_applying_again_changes_nothing_and_a_dry_run_changes_nothing(secure: SecureKafka, tmp_path: Path) -> None:
    admin = config_of(secure, "admin", PREFIX, tmp_path)
    again = run(admin, "topics", "apply", "--acls", *PRINCIPALS)
    assert (again.exit_code, again.stderr) == (0, "")
    total = sum(map(len, acls.roles(secure.settings("admin", PREFIX)).values()))
    assert again.stdout == f"all topics exist\n{total} permissions were there already\n"
    other = config_of(secure, "admin", "dry", tmp_path)
    for _ in range(2):
        dry = run(other, "topics", "apply", "--acls", "--dry-run", "--principal", "worker=User:dry")
        assert "would create dry.state\n" in dry.stdout
        assert "would allow User:dry WRITE topic dry.state  # worker: " in dry.stdout
        assert "would allow User:dry WRITE transactional id dry-*  # worker: " in dry.stdout


def test_what_a_principal_has_beyond_its_role_is_told_and_left(secure: SecureKafka, tmp_path: Path) -> None:
    admin = config_of(secure, "admin", PREFIX, tmp_path)
    done = run(admin, "topics", "apply", "--acls", "--principal", "subscriber=User:worker", "--dry-run")
    assert f"beyond these roles, left alone: User:worker WRITE topic {PREFIX}.state\n" in done.stderr


def test_who_may_not_apply_is_told_who_may(secure: SecureKafka, tmp_path: Path) -> None:
    refused = run(config_of(secure, "worker", PREFIX, tmp_path), "topics", "apply", "--acls", *PRINCIPALS)
    assert isinstance(refused.exception, AccessError)
    assert "super.users" in str(refused.exception)


@pytest.mark.parametrize("user", ["producer", "worker"])
def test_topics_that_exist_are_enough_without_create(secure: SecureKafka, user: str) -> None:
    assert ensure(secure.settings(user, PREFIX)) == []


@pytest.mark.parametrize("user", ["producer", "worker", "stranger"])
def test_who_may_not_create_is_told_what_an_administrator_runs(secure: SecureKafka, user: str) -> None:
    with pytest.raises(AccessError, match="hidden from " + user + r".*fleetwatch topics apply --acls") as caught:
        ensure(secure.settings(user, "absent"))
    assert "absent.state" in str(caught.value)
    assert caught.value.exit_code == 77


def test_one_missing_topic_of_the_role_is_not_passed_over(secure: SecureKafka, tmp_path: Path) -> None:
    prefix = "holey"
    admin = secure.settings("admin", prefix)
    specs = [spec for spec in topics(admin).all() if spec.name != f"{prefix}.state"]
    ensure(admin, tuple(specs))
    grant(admin, {"worker": ["User:worker"]})
    with pytest.raises(AccessError, match=r"^holey\.state: missing, or hidden from worker"):
        ensure(secure.settings("worker", prefix))


def test_subscriber_and_observer_use_their_commands(secure: SecureKafka, tmp_path: Path) -> None:
    alerts = run(config_of(secure, "subscriber", PREFIX, tmp_path), "alerts", "--format", "json")
    assert alerts.exit_code == 0, alerts.output
    (line,) = alerts.stderr.splitlines()  # it read what is there, which is no alert, and complains of nothing else
    assert "no alert in roles.alerts" in line
    listed = run(config_of(secure, "observer", PREFIX, tmp_path), "topics", "list")
    assert listed.exit_code == 0, listed.output
    assert listed.stdout.count("as expected") == len(topics(secure.settings("observer", PREFIX)).all())
    for user in ("producer", "observer", "stranger"):
        refused = run(config_of(secure, user, PREFIX, tmp_path), "alerts")
        assert refused.exit_code != 0
        assert f"{PREFIX}.alerts" in str(refused.exception)


def test_a_forwarder_forwards_and_others_are_refused(secure: SecureKafka, tmp_path: Path) -> None:
    command = ["alerts", "forward", "--to", "webhook"]
    for user in ("subscriber", "observer", "stranger"):
        refused = run(config_of(secure, user, PREFIX, tmp_path), *command, "http://127.0.0.1:1/")
        assert isinstance(refused.exception, AccessError | TopicError), (user, refused.output)
    config = config_of(secure, "forwarder", PREFIX, tmp_path)
    with webhook() as receiver, (tmp_path / "log").open("w") as log:
        whole = [sys.executable, "-m", "fleetwatch", "--config", str(config), *command, receiver.url]
        process = subprocess.Popen(whole, stdout=log, stderr=log, env=environment())
        try:
            wait_for(lambda: "forwards partitions" in (tmp_path / "log").read_text(), 40, "the start")
            publish(secure.settings("admin", PREFIX), [made("gpu-1")])
            wait_for(lambda: len(receiver.ids()) == 1, 30, "delivery")
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()


@pytest.mark.parametrize("user", acls.ROLES)
def test_the_cluster_says_who_may_do_the_work_of_a_role(secure: SecureKafka, tmp_path: Path, user: str) -> None:
    for role in acls.ROLES:
        done = run(config_of(secure, user, PREFIX, tmp_path), "topics", "access", role)
        if role == user:
            assert done.exit_code == 0, done.exception
        else:
            assert isinstance(done.exception, AccessError), (user, role)
            assert f"{user} may not do the work of a {role}; lacking: " in str(done.exception)


def test_each_single_permission_that_is_lacking_is_named(secure: SecureKafka) -> None:
    prefix = "single"
    admin = secure.settings("admin", prefix)
    ensure(admin)
    left_out = ("group", prefix)
    grant(admin, {"worker": ["User:worker"]}, left_out)
    worker = secure.settings("worker", prefix)
    assert [(g.resource, g.name, g.operation) for g in acls.lacking(worker, "worker")] == [(*left_out, "READ")]
    grant(admin, {"worker": ["User:worker"]})
    acls.require(worker, "worker")


def test_top_is_observer_and_subscriber(secure: SecureKafka, tmp_path: Path) -> None:
    prefix = "top"
    admin = secure.settings("admin", prefix)
    ensure(admin)
    grant(admin, {"observer": ["User:observer"], "subscriber": ["User:observer"]})
    page = run(config_of(secure, "observer", prefix, tmp_path), "top", "--once", "--interval", "0.2")
    assert page.exit_code == 0, page.output
    assert f"{prefix}.vehicle" in page.stdout


def test_a_broker_without_an_authoriser_says_so(kafka_bootstrap: str, topic_prefix: str, tmp_path: Path) -> None:
    path = tmp_path / "open.json"
    sections = {"kafka": {"bootstrap": kafka_bootstrap}, "topics": {"prefix": topic_prefix, "partitions": 1}}
    path.write_text(json.dumps(sections))
    done = run(path, "topics", "apply", "--acls", "--principal", "worker=User:w")
    assert isinstance(done.exception, TopicError)
    assert "authorizer.class.name" in str(done.exception)
