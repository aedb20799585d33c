"""Real workers behind TLS and an authoriser: frames in, features out, and no secret in a word that they say."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fleet_job import job
from real_worker import committed, environment, read_all, wait_for, workers
from secure_kafka import SecureKafka, grant, secure_kafka

from producers.sink import KafkaSink
from telemetry import acls
from telemetry import settings as settings_module
from telemetry.settings import Settings
from telemetry.topics import ensure, topics

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

LOUD = {"log_level": "DEBUG", "log_format": "text", "name": "worker-1"}


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    with secure_kafka(tmp_path_factory.mktemp("secure")) as made:
        yield made


def sections(kafka: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {
        "kafka": {k: str(v) for k, v in kafka.items()},
        "topics": {"prefix": prefix, "partitions": 2},
        "processing": {"group": prefix, "session_timeout_s": 6, "commit_interval_ms": 200},
        "detectors": [{"name": "ewma", "params": {"warm_rows": 2}}],
        "windows": {"size_s": 2, "hop_s": 2, "grace_s": 1},
        "service": LOUD,
    }


def config(folder: Path, kafka: dict[str, Any], prefix: str, name: str = "settings") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(sections(kafka, prefix)))
    return path


def told(secure: SecureKafka) -> list[str]:
    """Every secret in the forms in which one leaks: as it is, in base 64, in hex."""
    found = list(secure.secrets.values())
    for user, password in secure.secrets.items():
        for raw in (password.encode(), f"\0{user}\0{password}".encode()):
            found += [base64.b64encode(raw).decode().rstrip("="), raw.hex()]
    for pair in secure.certificates.values():
        found += pair.key.read_text().splitlines()[1:2]
    return found


def assert_silent(secure: SecureKafka, text: str) -> None:
    for secret in told(secure):
        assert secret not in text, "a secret is in what was written"


def by_plain(secure: SecureKafka) -> dict[str, Any]:
    path = secure.folder / "plain.password"
    path.write_text(secure.secrets["worker by PLAIN"])
    return secure.kafka("worker", sasl_mechanism="PLAIN", sasl_password_file=path)


WAYS: dict[str, Callable[[SecureKafka], dict[str, Any]]] = {
    "scram": lambda secure: secure.kafka("worker"),
    "mutual": lambda secure: secure.kafka_mutual("worker"),
    "plain": by_plain,
}


def prepared(secure: SecureKafka, prefix: str, without: tuple[str, str] | None = None) -> Settings:
    """Topics, and every role's permissions, made by the administrator. without : a (resource, name) not granted."""
    admin = secure.settings("admin", prefix)
    ensure(admin)
    grant(admin, {role: [f"User:{role}"] for role in acls.ROLES}, without)
    return admin


def send(kafka: dict[str, Any], topic: str, records: list[tuple[bytes, bytes]]) -> None:
    """As a producer; every record is acknowledged."""
    sink = KafkaSink(settings_module.load(environ={}, kafka=kafka))
    for key, value in records:
        sink.send(topic, key, value)
    sink.close()


@pytest.mark.parametrize("way", WAYS)
def test_a_worker_with_least_privilege_works_and_is_silent(secure: SecureKafka, tmp_path: Path, way: str) -> None:
    prefix = f"whole{way}"
    admin = prepared(secure, prefix)
    names = topics(admin)
    records = job(devices=20, rounds=30)
    send(secure.kafka("producer"), names.vehicle.name, records)
    with workers(tmp_path) as start:
        worker = start(config(tmp_path, WAYS[way](secure), prefix))
        wait_for(lambda: committed(admin, names.vehicle.name) == len(records), 90, "all of it")
        worker.terminate()
        assert worker.wait(30) == 0
    log = (tmp_path / "worker-0.log").read_text()
    assert "DEBUG" in log
    assert_silent(secure, log)
    assert len(read_all(admin, names.features.name)) > 20
    rows = {message.key() for message in read_all(admin, names.state.name)}
    assert rows == {key for key, _ in records}
    assert [message.value() for message in read_all(admin, names.dlq.name)] == []


def test_a_worker_takes_its_state_up_again_over_tls(secure: SecureKafka, tmp_path: Path) -> None:
    prefix = "again"
    admin = prepared(secure, prefix)
    names = topics(admin)
    records = job(devices=10, rounds=20)
    half = len(records) // 2
    for part, upto in ((records[:half], half), (records[half:], len(records))):
        send(secure.kafka_mutual("producer"), names.vehicle.name, part)
        with workers(tmp_path) as start:
            worker = start(config(tmp_path, secure.kafka_mutual("worker"), prefix))
            wait_for(lambda n=upto: committed(admin, names.vehicle.name) == n, 90, "all of it")
            worker.kill()
    windows = [message.value() for message in read_all(admin, names.features.name)]
    assert len(windows) == len(set(windows)) > 10


REFUSALS = {
    "an output": (("topic", "{p}.features"), "^fleetwatch: {p}.features: missing, or hidden from worker"),
    "the state": (("topic", "{p}.state"), "^fleetwatch: {p}.state: missing, or hidden from worker"),
    "an input": (("topic", "{p}.device"), "^fleetwatch: {p}.device: missing, or hidden from worker"),
    "transactions": (("transactional id", "{p}-"), "[Tt]ransactional ?[Ii]d"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_a_worker_that_lacks_a_permission_ends_and_says_which(
    secure: SecureKafka, tmp_path: Path, what: str
) -> None:
    prefix = "lacks" + what.replace(" ", "")
    (resource, name), message = REFUSALS[what]
    prepared(secure, prefix, (resource, name.format(p=prefix)))
    with workers(tmp_path) as start:
        worker = start(config(tmp_path, secure.kafka("worker"), prefix))
        assert worker.wait(90) not in (0, None)
    log = (tmp_path / "worker-0.log").read_text()
    assert re.search(message.format(p=prefix), log.splitlines()[-1])
    assert_silent(secure, log)


@pytest.mark.parametrize(
    "command",
    [
        ["settings"],
        ["settings", "--format", "json"],
        ["worker", "--port", "0"],
        ["simulate", "vehicles", "--count", "1", "--seconds", "1"],
        ["topics", "apply"],
        ["alerts", "--follow"],
    ],
)
def test_no_command_says_a_secret_that_it_was_given(secure: SecureKafka, command: list[str]) -> None:
    wrong = secure.kafka("worker", sasl_password_file=None, sasl_password=secure.secrets["producer"])
    variables = {f"FLEETWATCH_KAFKA__{k.upper()}": str(v) for k, v in wrong.items()}
    done = subprocess.run(
        [sys.executable, "-m", "fleetwatch", *command],
        env=environment(**variables, FLEETWATCH_SERVICE__LOG_LEVEL="DEBUG"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == (0 if command[0] == "settings" else 78), done.stderr
    assert_silent(secure, done.stdout + done.stderr)
    if done.returncode:
        (line,) = [text for text in done.stderr.splitlines() if text.startswith("fleetwatch: ")]
        assert "kafka.sasl_password" in line
        assert "Traceback" not in done.stderr
