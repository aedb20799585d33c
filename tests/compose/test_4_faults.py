"""What goes wrong at the start. The rule: the last line says what and what to do, it is not exit 0, and it ends."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from tests.compose.daemon import Docker
from tests.compose.project import Project, await_that, project

pytestmark = pytest.mark.timeout(1800)

SASL = Path(__file__).resolve().parent / "sasl.yml"
#: Roles that end when no broker answers; the autoscaler holds its last decision and goes on asking.
ENDING = ("topics", "worker", "vehicles", "alerts", "forwarder", "replay")
#: Ten restarts with pauses that double from 0.1 s are 102 s, and the runs themselves.
GIVES_UP_S = 300


@pytest.fixture(scope="module")
def alone(docker: Docker, image: str) -> Iterator[Project]:
    """A project of which nothing runs."""
    with project(docker, image) as made:
        yield made


def test_a_taken_port_is_named(alone: Project) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", alone.ports["KAFKA_PORT"]))
        taken.listen()
        done = alone.compose("up", "-d", "kafka", check=False)
    said = done.stdout + done.stderr
    assert done.returncode != 0 and str(alone.ports["KAFKA_PORT"]) in said, said
    assert "in use" in said or "already allocated" in said, said
    assert not [each for each in alone.containers() if each["State"]["Running"]]


def test_a_missing_mount_is_named(alone: Project, tmp_path: Path) -> None:
    over = tmp_path / "over.yml"
    mount = {"type": "bind", "source": str(tmp_path / "nowhere.yml"), "target": "/etc/prometheus/rules.yml"}
    over.write_text(json.dumps({"services": {"prometheus": {"volumes": [mount]}}}))
    alone.files.append(over)
    try:
        done = alone.compose("up", "-d", "prometheus", profiles=("observability",), check=False)
    finally:
        alone.files.remove(over)
    assert done.returncode != 0 and "nowhere.yml" in done.stdout + done.stderr, done.stderr


@pytest.mark.parametrize("service", ENDING)
def test_a_broker_that_is_not_there(alone: Project, service: str) -> None:
    done = alone.compose(
        *("run", "--rm", "--no-deps", "-T", "-e", "FLEETWATCH_KAFKA__BOOTSTRAP=127.0.0.1:1"),
        *("-e", "FLEETWATCH_KAFKA__CONNECT_TIMEOUT_S=3", service),
        check=False,
    )
    lines = (done.stdout + done.stderr).strip().splitlines()
    if lines[-1] == str(done.returncode):  # docker-compose 1.29 says it
        lines.pop()
    print(f"{service}: {done.returncode}: {lines[-1]}")
    assert done.returncode == 69, lines
    assert "127.0.0.1:1" in "".join(lines) and "FLEETWATCH_KAFKA__BOOTSTRAP" in lines[-1], lines


def test_a_wrong_password_is_said_and_not_tried_for_ever(docker: Docker, image: str) -> None:
    with project(docker, image, SASL) as made:
        made.compose("up", "-d", "kafka")
        await_that(
            "the broker is healthy",
            120,
            lambda: made.containers("kafka")[0]["State"]["Health"]["Status"] == "healthy",
        )
        login = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        client = AdminClient({"bootstrap.servers": made.bootstrap})
        wanted = UserScramCredentialUpsertion("fleet", login, b"the right one")
        for future in client.alter_user_scram_credentials([wanted]).values():
            future.result(30)
        services = ("topics", "worker", "alerts")
        for each in services:  # together, those behind `topics` would wait for it
            made.compose("up", "-d", "--no-deps", each)

        def given_up() -> bool:
            states = [made.containers(each)[0]["State"] for each in services]
            return all(not s["Running"] and not s["Restarting"] for s in states)

        await_that("all have given up", GIVES_UP_S, given_up, every_s=3)
        for each in services:
            (container,) = made.containers(each)
            last = made.log(each, tail="1").strip()
            print(f"{each}: {container['State']['ExitCode']} after {container['RestartCount']} restarts: {last}")
            assert container["State"]["ExitCode"] in (77, 78) and container["RestartCount"] == 10
            assert "password" in last.lower() and "traceback" not in last.lower()
