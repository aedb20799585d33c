"""`fleetwatch autoscaler` as processes, on a real API server and a real Kafka: who leads, and what ends it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoscaler.observation import BlindError
from autoscaler.service import END_S, JOIN_S, DefectError, Service
from telemetry import settings as settings_module
from telemetry.topics import ensure
from tests.k8s.api import MERGE, Object
from tests.k8s.control_plane import ControlPlane

LEASE_S = 3


class Process:
    """One autoscaler; its log is a file of JSON lines."""

    def __init__(self, log: Path, environment: dict[str, str], *arguments: str) -> None:
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fleetwatch", "autoscaler", "--port", "0", *arguments],
                env=environment,
                stdout=out,
                stderr=out,
            )

    def messages(self) -> list[str]:
        return [json.loads(line)["message"] for line in self.log.read_text().splitlines() if line.startswith("{")]

    def says(self, pattern: str, timeout_s: float = 30) -> str:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            for message in self.messages():
                if found := re.search(pattern, message):
                    return found.group(0)
            time.sleep(0.05)
        pytest.fail(f"{pattern!r} was not said; log:\n{self.log.read_text()}")

    def page(self, path: str) -> tuple[int, str]:
        url = self.says(r"http://\S+/metrics").removesuffix("/metrics")
        try:
            with urllib.request.urlopen(url + path, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            return exc.code, exc.read().decode()

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


class Fleet:
    """Topics of their own, a Deployment, and autoscalers for it."""

    def __init__(self, plane: ControlPlane, namespace: str, bootstrap: str, prefix: str, folder: Path) -> None:
        self.plane, self.namespace, self.folder = plane, namespace, folder
        self.path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
        self.environment = {n: t for n, t in os.environ.items() if not n.startswith(("FLEETWATCH_", "KUBE"))}
        self.environment |= {
            "KUBECONFIG": str(plane.kubeconfig),
            "FLEETWATCH_KAFKA__BOOTSTRAP": bootstrap,
            "FLEETWATCH_TOPICS__PREFIX": prefix,
            "FLEETWATCH_TOPICS__PARTITIONS": "4",
            "FLEETWATCH_PROCESSING__GROUP": prefix,
            "FLEETWATCH_AUTOSCALER__NAMESPACE": namespace,
            "FLEETWATCH_AUTOSCALER__INTERVAL_S": "1",
            "FLEETWATCH_AUTOSCALER__LEASE_S": str(LEASE_S),
            "FLEETWATCH_AUTOSCALER__MIN_REPLICAS": "3",
        }
        ensure(
            settings_module.load(
                environ={}, kafka={"bootstrap": bootstrap}, topics={"prefix": prefix, "partitions": 4}
            )
        )
        self.started: list[Process] = []

    def deploy(self, replicas: int = 1) -> None:
        labels = {"app": "worker"}
        body: Object = {
            "metadata": {"name": "fleetwatch-worker"},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": [{"name": "c", "image": "none"}], "nodeSelector": {"no": "node"}},
                },
            },
        }
        self.plane.api.post(self.path, body)

    def start(self, *arguments: str, **variables: str) -> Process:
        log = self.folder / f"{len(self.started)}.log"
        self.started.append(Process(log, self.environment | variables, *arguments))
        return self.started[-1]

    def scale(self, replicas: int) -> None:
        """By another hand."""
        self.plane.api.patch(f"{self.path}/fleetwatch-worker/scale", {"spec": {"replicas": replicas}}, MERGE)

    def replicas(self) -> int:
        found: dict[str, Any] = self.plane.api.get(f"{self.path}/fleetwatch-worker")
        return int(found["spec"]["replicas"])

    def reasons(self) -> list[str]:
        found = self.plane.api.get(f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events")["items"]
        return [e["reason"] for e in found if e.get("reportingController") == "fleetwatch-autoscaler"]


@pytest.fixture
def fleet(
    control_plane: ControlPlane, namespace: str, kafka_bootstrap: str, topic_prefix: str, tmp_path: Path
) -> Iterator[Fleet]:
    found = Fleet(control_plane, namespace, kafka_bootstrap, topic_prefix, tmp_path)
    yield found
    for each in found.started:
        each.process.kill()
        each.process.wait()


def until(what: Callable[[], bool], timeout_s: float) -> float:
    began_s = time.monotonic()
    while not what():
        assert time.monotonic() - began_s < timeout_s, "it did not come about"
        time.sleep(0.05)
    return time.monotonic() - began_s


def test_it_scales_says_why_and_hands_over_when_it_is_ended(fleet: Fleet) -> None:
    fleet.deploy()
    a = fleet.start()
    a.says("this autoscaler leads")
    until(lambda: fleet.replicas() == 3, 20)
    a.says(r"scaled from 1 to 3 replicas \(Minimum\)")
    until(lambda: "Minimum" in fleet.reasons(), 10)
    assert a.page("/readyz")[0] == 200
    status, text = a.page("/desired")
    assert (status, json.loads(text)["replicas"]) == (200, 3)
    b = fleet.start()
    until(lambda: b.page("/readyz")[0] == 200, 20)
    assert a.end() == 0
    a.says("the lease is handed over")
    b.says("this autoscaler leads", LEASE_S)
    assert b.end(signal.SIGINT) == 0


def test_a_killed_leader_is_followed(fleet: Fleet) -> None:
    fleet.deploy()
    a = fleet.start()
    a.says("this autoscaler leads")
    b = fleet.start()
    until(lambda: b.page("/readyz")[0] == 200, 20)
    a.end(signal.SIGKILL)
    fleet.scale(1)
    took_s = until(lambda: fleet.replicas() == 3, 20)
    assert took_s < 20, "a lease, the follower's next try, and a look"
    b.says("this autoscaler leads")


def test_a_workload_that_comes_later_is_waited_for(fleet: Fleet) -> None:
    a = fleet.start()
    a.says("there is no Deployment .*--name")
    assert a.page("/healthz")[0] == 200
    assert a.page("/readyz")[0] == 503
    assert a.page("/desired")[0] == 503
    fleet.deploy()
    until(lambda: fleet.replicas() == 3, 20)
    assert a.page("/readyz")[0] == 200
    assert a.end() == 0


def test_no_broker_holds_and_is_said_once(fleet: Fleet) -> None:
    fleet.deploy()
    a = fleet.start(FLEETWATCH_KAFKA__BOOTSTRAP="127.0.0.1:9", FLEETWATCH_KAFKA__CONNECT_TIMEOUT_S="1")
    a.says("no Kafka broker answers at 127.0.0.1:9")
    time.sleep(6)
    assert sum("no Kafka broker answers" in message for message in a.messages()) == 1
    assert fleet.replicas() == 1
    until(lambda: "Holding" in fleet.reasons(), 10)
    assert 'fleetwatch_autoscaler_held{reason="blind"} 1.0' in a.page("/metrics")[1]
    assert a.end() == 0


def test_a_dry_run_changes_nothing(fleet: Fleet) -> None:
    fleet.deploy()
    a = fleet.start("--dry-run")
    a.says(r"would scale from 1 to 3 replicas \(Minimum\)")
    assert fleet.replicas() == 1
    assert fleet.reasons() == []
    leases = fleet.plane.api.get(f"/apis/coordination.k8s.io/v1/namespaces/{fleet.namespace}/leases")
    assert leases["items"] == []
    assert a.end() == 0


def test_a_dry_run_beside_another_scaler_goes_on_deciding(fleet: Fleet) -> None:
    """Such as the one that reads /desired: it is no second owner of the replicas."""
    fleet.deploy()
    a = fleet.start("--dry-run")
    a.says(r"would scale from 1 to 3 replicas")
    for replicas in (2, 1, 2, 1):
        fleet.scale(replicas)
        time.sleep(2)
    status, text = a.page("/desired")
    assert (status, json.loads(text)["replicas"]) == (200, 3)
    assert not any("TwoOwners" in message or "went from" in message for message in a.messages())


def test_without_the_right_to_scale_it_ends_and_lists_what_is_lacking(fleet: Fleet) -> None:
    fleet.deploy()
    config = str(fleet.plane.kubeconfig_of(fleet.namespace, "default"))
    a = fleet.start(KUBECONFIG=config)
    assert a.process.wait(30) == 78
    said = a.log.read_text()
    for right in ("get deployments/scale", "patch deployments/scale", "update leases"):
        assert right in said
    assert "Traceback" not in said


def test_two_with_other_settings_say_so(fleet: Fleet) -> None:
    fleet.deploy()
    a = fleet.start()
    a.says("this autoscaler leads")
    b = fleet.start(FLEETWATCH_AUTOSCALER__MIN_REPLICAS="2")
    b.says("settings .* are not those of the leader")
    a.says("has other settings")
    until(lambda: fleet.reasons().count("SettingsDiffer") == 2, 10)
    assert "fleetwatch_autoscaler_settings_differ 1.0" in b.page("/metrics")[1]
    assert a.end() == 0
    assert b.end() == 0


def test_an_api_server_away_for_a_while_is_outlasted(fleet: Fleet) -> None:
    fleet.deploy(replicas=3)
    a = fleet.start()
    a.says("3 replicas stay")
    fleet.plane.freeze_api_server()
    try:
        a.says("the last decision, 3 replicas, holds: .*does not answer")
        a.says("no longer leads", 3 * LEASE_S)
        assert a.page("/healthz")[0] == 200
    finally:
        fleet.plane.thaw_api_server()
    a.says("over after")
    fleet.scale(1)
    until(lambda: fleet.replicas() == 3, 20)
    assert a.end() == 0


def test_it_ends_in_time_while_a_look_hangs_and_hands_over_first(fleet: Fleet) -> None:
    fleet.deploy()
    with socket.create_server(("127.0.0.1", 0)) as hole:  # takes connections, and never answers
        address = f"127.0.0.1:{hole.getsockname()[1]}"
        a = fleet.start(FLEETWATCH_KAFKA__BOOTSTRAP=address, FLEETWATCH_KAFKA__CONNECT_TIMEOUT_S="60")
        a.says("this autoscaler leads")
        b = fleet.start()
        until(lambda: b.page("/readyz")[0] == 200, 20)
        assert a.page("/healthz")[0] == 200
        a.process.terminate()
        b.says("this autoscaler leads", JOIN_S + LEASE_S)
        assert a.process.wait(JOIN_S + END_S + 5) == 0
        assert b.end() == 0


def test_a_defect_hands_the_lease_over_and_ends_with_70(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.deploy()
    for name in ("KUBERNETES_SERVICE_HOST", *(n for n in os.environ if n.startswith("FLEETWATCH_"))):
        monkeypatch.delenv(name, raising=False)
    for name, text in fleet.environment.items():
        if name.startswith(("FLEETWATCH_", "KUBE")):
            monkeypatch.setenv(name, text)
    monkeypatch.setenv("FLEETWATCH_AUTOSCALER__PORT", "0")
    service = Service(settings_module.load())
    lease = service._lease
    assert lease is not None

    def defect(*_: object) -> None:
        if lease.leading():
            raise ZeroDivisionError

        raise BlindError("not yet")

    service._loop._look = defect
    service.start()
    assert service.stop.wait(20)
    assert lease.leading()
    with pytest.raises(DefectError, match="ZeroDivisionError") as caught:
        service.end()
    assert caught.value.exit_code == 70
    leases = fleet.plane.api.get(f"/apis/coordination.k8s.io/v1/namespaces/{fleet.namespace}/leases")
    assert [each["spec"]["holderIdentity"] for each in leases["items"]] == [""]


def test_one_look_is_a_page_by_partition(fleet: Fleet) -> None:
    fleet.deploy()
    done = subprocess.run(
        [sys.executable, "-m", "fleetwatch", "autoscaler", "--once"],
        env=fleet.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows[1:5]] == ["0", "1", "2", "3"]
    assert f"Deployment {fleet.namespace}/fleetwatch-worker: 1 replicas" in done.stdout
    assert "wanted: 3 (Minimum)" in done.stdout
    assert fleet.replicas() == 1
