"""A release's whole life on a node that really runs it. The rule: the real command, a real Kafka, real probes.

The tests are one story, in the order of the file: install, test, scale, upgrade, uninstall.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from telemetry import clients
from telemetry.settings import Settings, load
from tests.k8s import chart
from tests.k8s.api import Api, Object
from tests.k8s.chart import CHART, RELEASE, Values, merge
from tests.k8s.control_plane import ControlPlane
from tests.k8s.kubelet.node import Kubelet

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]

PARTITIONS = 4
WORKERS = 2
PATIENCE_S = 300.0
WORKER, AUTOSCALER = f"{RELEASE}-fleetwatch-worker", f"{RELEASE}-fleetwatch-autoscaler"


class Release(NamedTuple):
    plane: ControlPlane
    node: Kubelet
    namespace: str
    values: Values
    folder: Path

    @property
    def api(self) -> Api:
        return self.plane.api

    @property
    def settings(self) -> Settings:
        topics = self.values["settings"]["topics"]
        return load(environ={}, kafka={"bootstrap": self.values["kafka"]["bootstrap"]}, topics=topics)

    def helm(self, command: str, *more: Values) -> str:
        path = chart.write(merge(self.values, *more), self.folder / f"{command}.yaml")
        wait = ("--namespace", self.namespace, "--values", str(path), "--wait", "--timeout", f"{PATIENCE_S:.0f}s")
        try:
            return self.plane.helm(command, RELEASE, str(CHART), *wait, timeout_s=PATIENCE_S + 60)
        except Exception as error:
            error.add_note(self.told())
            raise

    def told(self) -> str:
        """What its Pods said last, for a test that failed."""
        pods = self.api.get(f"/api/v1/namespaces/{self.namespace}/pods")["items"]
        lines: list[str] = []
        for pod in pods:
            name = pod["metadata"]["name"]
            lines.append(f"-- {name}: {pod['status'].get('containerStatuses')}")
            lines += self.node.logs(self.namespace, name).splitlines()[-15:]
        return "\n".join(lines)

    def workload(self, name: str) -> Object:
        return self.api.get(f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{name}")

    def until(self, name: str, wanted: Callable[[Object], bool], what: str) -> Object:
        path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{name}"
        return self.api.await_that(path, wanted, PATIENCE_S, what)


@pytest.fixture(scope="module")
def release(
    control_plane: ControlPlane, kubelet: Kubelet, kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Release]:
    name = f"chart{time.time_ns() % 10**8}"
    control_plane.api.post("/api/v1/namespaces", {"metadata": {"name": name}})
    values: Values = {
        "kafka": {"bootstrap": kafka_bootstrap},
        "settings": {
            "topics": {"partitions": PARTITIONS, "replication": 1, "prefix": name},
            "autoscaler": {"interval_s": 2.0, "stale_s": 20.0},
        },
        "worker": {"cacheDir": ""},  # the image brings its kernels
        "autoscaling": {"maxReplicas": WORKERS},
    }
    yield Release(control_plane, kubelet, name, values, tmp_path_factory.mktemp("release"))
    control_plane.api.delete(f"/api/v1/namespaces/{name}")


def available(count: int) -> Callable[[Object], bool]:
    return lambda found: found["status"].get("availableReplicas", 0) == count


def test_install_waits_for_what_is_really_ready(release: Release) -> None:
    release.helm("install")
    assert release.workload(WORKER)["status"]["availableReplicas"] == 1
    assert release.workload(AUTOSCALER)["status"]["availableReplicas"] == 2
    topics = clients.admin(release.settings).list_topics(timeout=10).topics
    ours = {name: topic for name, topic in topics.items() if name.startswith(release.namespace)}
    assert len(ours[f"{release.namespace}.vehicle"].partitions) == PARTITIONS
    jobs = release.api.get(f"/apis/batch/v1/namespaces/{release.namespace}/jobs")["items"]
    assert jobs == [], "the hook's job is deleted when it has succeeded"


def test_pods_run_as_they_are_restricted_to(release: Release) -> None:
    for pod, containers in release.node.pids(release.namespace).items():
        for pid in containers.values():
            status = dict(
                line.split(":\t", 1)
                for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                if ":\t" in line
            )
            assert status["Uid"].split() == ["10001"] * 4, pod
            assert int(status["CapBnd"], 16) == 0, pod
            assert status["NoNewPrivs"] == "1", pod
            mounts = [line.split() for line in Path(f"/proc/{pid}/mounts").read_text().splitlines()]
            root = [mount[3].split(",")[0] for mount in mounts if mount[1] == "/"]
            assert root[-1] == "ro", pod


def test_helm_test_passes(release: Release) -> None:
    said = release.plane.helm("test", RELEASE, "--namespace", release.namespace, "--timeout", "180s")
    assert "Phase:" in said
    assert "Succeeded" in said


def test_upgrade_keeps_the_replicas_and_adds_a_fleet(release: Release) -> None:
    scale = f"/apis/apps/v1/namespaces/{release.namespace}/deployments/{WORKER}/scale"
    release.api.patch(scale, {"spec": {"replicas": WORKERS}}, "application/merge-patch+json")
    release.until(WORKER, available(WORKERS), "two workers")
    before = release.workload(WORKER)["metadata"]["generation"]
    fleet = {"producers": {"fleets": [{"name": "cars", "kind": "vehicles", "count": 20}]}}
    release.helm("upgrade", fleet)
    found = release.workload(WORKER)
    assert found["spec"]["replicas"] == WORKERS
    assert found["metadata"]["generation"] == before, "workers are not restarted for what does not concern them"
    features = f"{release.namespace}.features"
    end, ends = time.monotonic() + 90, 0
    while not ends and time.monotonic() < end:
        time.sleep(1)
        ends = sum(clients_ends(release.settings, features))
    assert ends, f"no features came of the fleet's frames\n{release.told()}"


def clients_ends(settings: Settings, topic: str) -> list[int]:
    from confluent_kafka import TopicPartition

    consumer = clients.consumer(settings, "chart-test")
    try:
        return [consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1] for p in range(PARTITIONS)]
    finally:
        consumer.close()


def test_rolling_restart_never_runs_more_than_there_are(release: Release) -> None:
    stamp = {"spec": {"template": {"metadata": {"annotations": {"restarted": "now"}}}}}
    path = f"/apis/apps/v1/namespaces/{release.namespace}/deployments/{WORKER}"
    generation = release.api.patch(path, stamp)["metadata"]["generation"]
    most, end = 0, time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        status = release.workload(WORKER)["status"]
        most = max(most, status.get("replicas", 0))
        counts = [status.get(key) for key in ("replicas", "updatedReplicas", "availableReplicas")]
        if status.get("observedGeneration") == generation and counts == [WORKERS] * 3:
            break
        time.sleep(0.2)
    else:
        pytest.fail(f"the rollout did not end\n{release.told()}")
    assert most <= WORKERS


def test_uninstall_leaves_nothing_of_ours(release: Release) -> None:
    release.plane.helm("uninstall", RELEASE, "--namespace", release.namespace, "--wait", "--timeout", "120s")
    end = time.monotonic() + 90
    while (left := everything(release.plane, release.namespace)) and time.monotonic() < end:
        time.sleep(1)
    assert left == set()
    assert release.node.pids(release.namespace) == {}


def everything(plane: ControlPlane, namespace: str) -> set[str]:
    """Kind/name of each object in a namespace that is not the control plane's own."""
    asked = plane.kubectl("api-resources", "--namespaced", "--verbs=list", "--output=name")
    kinds = ",".join(kind for kind in asked.stdout.split() if not kind.startswith("events"))
    listed = plane.kubectl("get", kinds, "--namespace", namespace, "--ignore-not-found", "--output=name")
    assert listed.returncode == 0, listed.stderr
    usual = {"configmap/kube-root-ca.crt", "serviceaccount/default"}
    return {name for name in listed.stdout.split() if name not in usual}
