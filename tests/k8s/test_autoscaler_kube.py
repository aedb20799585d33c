"""What the autoscaler asks of Kubernetes, asked of a real API server, with the rights that its Role gives."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from autoscaler.events import NOTE_MAX, Events
from autoscaler.kube import (
    CALL_S,
    AwayError,
    ConflictError,
    DeniedError,
    Kube,
    MissingError,
    connect,
    lacking,
)
from autoscaler.lease import HOLD_SHARE, Keeper, Lease
from autoscaler.lease_store import OTHER, SETTINGS, KubeLeases
from autoscaler.limits import FIELD_MANAGER
from autoscaler.target import ScaleTarget
from telemetry.errors import SettingsError
from tests.k8s.api import MERGE, Object
from tests.k8s.control_plane import ControlPlane

NAME, LEASE = "worker", "deployment-worker-autoscaler"
LEASE_S = 3.0
FULL: list[Object] = [
    {
        "apiGroups": ["apps"],
        "resources": ["deployments/scale", "statefulsets/scale"],
        "resourceNames": [NAME],
        "verbs": ["get", "patch"],
    },
    {
        "apiGroups": ["apps"],
        "resources": ["deployments", "statefulsets"],
        "resourceNames": [NAME],
        "verbs": ["get"],
    },
    {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "resourceNames": [LEASE],
        "verbs": ["get", "update"],
    },
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
    {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
]


def workload(kind: str, replicas: int = 2) -> Object:
    labels = {"app": NAME}
    spec: Object = {
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "c", "image": "none"}], "nodeSelector": {"no": "node"}},
        },
    }
    if kind == "StatefulSet":
        spec["serviceName"] = NAME
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": NAME}, "spec": spec}


class Site:
    """A namespace with a workload, and logins with more or fewer rights."""

    def __init__(self, plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plane, self.namespace, self._monkeypatch = plane, namespace, monkeypatch
        self.apps = f"/apis/apps/v1/namespaces/{namespace}"
        self.deployment = f"{self.apps}/deployments/{NAME}"
        self.lease = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{LEASE}"
        plane.api.post(f"{self.apps}/deployments", workload("Deployment"))

    def login(self, rules: list[Object], name: str = "autoscaler") -> Kube:
        """As a ServiceAccount whose Role has these rules."""
        api, rbac = self.plane.api, f"/apis/rbac.authorization.k8s.io/v1/namespaces/{self.namespace}"
        meta = {"metadata": {"name": name}}
        api.post(f"/api/v1/namespaces/{self.namespace}/serviceaccounts", meta)
        api.post(f"{rbac}/roles", meta | {"rules": rules})
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
        subject = {"kind": "ServiceAccount", "name": name, "namespace": self.namespace}
        api.post(f"{rbac}/rolebindings", meta | {"roleRef": role, "subjects": [subject]})
        self._monkeypatch.setenv("KUBECONFIG", str(self.plane.kubeconfig_of(self.namespace, name)))
        self._monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        return connect(self.namespace)

    def kubectl(self, *arguments: str) -> str:
        done = self.plane.kubectl("-n", self.namespace, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def set_status(self, pod: str, status: Object) -> None:
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/status"
        self.plane.api.patch(path, {"status": status}, MERGE)


@pytest.fixture
def site(control_plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(control_plane, namespace, monkeypatch)


def always() -> bool:
    return True


@pytest.mark.parametrize("kind", ["deployment", "statefulset"])
def test_a_workload_is_read_and_scaled_and_its_scaler_is_known(site: Site, kind: str) -> None:
    if kind == "statefulset":
        site.plane.api.post(f"{site.apps}/statefulsets", workload("StatefulSet"))
    target = ScaleTarget(site.login(FULL), kind, NAME)
    scale = target.read()
    assert (scale.replicas, scale.ready) == (2, 0)
    assert scale.scaled_by not in ("", FIELD_MANAGER)
    target.scale_to(np.int64(5), 2, always)  # type: ignore[arg-type]
    scale = target.read()
    assert (scale.replicas, scale.scaled_by) == (5, FIELD_MANAGER)
    site.kubectl("scale", kind, NAME, "--replicas=3")
    scale = target.read()
    assert (scale.replicas, scale.scaled_by) == (3, "kubectl")
    target.scale_to(0, 3, always)
    assert target.read().replicas == 0
    target.scale_to(1, 0, always)
    assert target.read().replicas == 1


def test_a_count_that_was_changed_by_hand_meanwhile_is_not_overwritten(site: Site) -> None:
    target = ScaleTarget(site.login(FULL), "deployment", NAME)
    target.read()
    site.kubectl("scale", "deployment", NAME, "--replicas=7")
    with pytest.raises(ConflictError, match="changed meanwhile"):
        target.scale_to(4, 2, always)
    assert target.read().replicas == 7


def test_another_change_of_the_workload_meanwhile_does_not_hold_up_the_scaling(site: Site) -> None:
    """Its version changes with every pod that starts."""
    target = ScaleTarget(site.login(FULL), "deployment", NAME)
    target.read()
    site.kubectl("annotate", "deployment", NAME, "note=x")
    target.scale_to(4, 2, always)
    assert target.read().replicas == 4


def test_nothing_is_scaled_once_it_is_not_allowed(site: Site) -> None:
    target = ScaleTarget(site.login(FULL), "deployment", NAME)
    target.read()
    with pytest.raises(ConflictError, match="lease"):
        target.scale_to(4, 2, lambda: False)
    assert target.read().replicas == 2


def test_a_missing_workload_is_named_and_how_to_name_another(site: Site) -> None:
    target = ScaleTarget(site.login(FULL), "statefulset", NAME)
    with pytest.raises(MissingError, match=rf"no StatefulSet {site.namespace}/{NAME}.*--target, --name"):
        target.read()


def test_a_right_that_is_lacking_is_named(site: Site) -> None:
    kube = site.login([{**FULL[0], "verbs": ["get"]}])
    target = ScaleTarget(kube, "deployment", NAME)
    scale = target.read()
    assert (scale.replicas, scale.scaled_by) == (2, "")  # without the right to read the workload itself
    with pytest.raises(DeniedError, match=r"cannot patch resource .*deployments/scale"):
        target.scale_to(3, 2, always)
    needed, useful = target.rights(scales=True, pods=True)
    assert [(r.verb, r.resource) for r in lacking(kube, needed)] == [("patch", "deployments/scale")]
    assert [(r.verb, r.resource) for r in lacking(kube, useful)] == [("get", "deployments"), ("list", "pods")]
    leases = KubeLeases(kube, LEASE, CALL_S)
    assert [r.verb for r in lacking(kube, [*leases.rights(), *Events.rights()])] == [
        "get",
        "update",
        "create",
        "create",
    ]


def test_nothing_is_lacking_with_the_whole_role(site: Site) -> None:
    kube = site.login(FULL)
    needed, useful = ScaleTarget(kube, "deployment", NAME).rights(scales=True, pods=True)
    assert lacking(kube, [*needed, *useful, *KubeLeases(kube, LEASE, CALL_S).rights(), *Events.rights()]) == []


def test_a_login_that_is_not_accepted_is_told_as_that(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    config = site.plane.folder / "nobody.kubeconfig"
    config.write_text(site.plane.kubeconfig.read_text().replace("token: ", "token: x"))
    monkeypatch.setenv("KUBECONFIG", str(config))
    with pytest.raises(DeniedError, match="does not accept our login"):
        ScaleTarget(connect(site.namespace), "deployment", NAME).read()


def test_without_a_kubeconfig_it_is_said_what_to_do(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(site.plane.folder / "none"))
    with pytest.raises(SettingsError, match="--target none"):
        connect()


def test_pages_are_those_of_pods_that_run_and_stay(site: Site) -> None:
    kube = site.login(FULL)
    target = ScaleTarget(kube, "deployment", NAME)
    pods = f"/api/v1/namespaces/{site.namespace}/pods"
    labels = {"app": NAME}
    spec = workload("Deployment")["spec"]["template"]["spec"]
    for name, marks, keep in (
        ("runs", labels, []),
        ("six", labels, []),
        ("starts", labels, []),
        ("ends", labels, ["example.com/keep"]),
        ("other", {"app": "other"}, []),
    ):
        meta: dict[str, Any] = {"name": name, "labels": marks, "finalizers": keep}
        site.plane.api.post(pods, {"metadata": meta, "spec": spec})
        address = {"six": "fd00::7"}.get(name, "10.1.2.3")
        if name != "starts":
            site.set_status(name, {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]})
    site.plane.api.delete(f"{pods}/ends", {"gracePeriodSeconds": 0})
    end = time.monotonic() + 10
    wanted = {"runs": "http://10.1.2.3:6066/metrics", "six": "http://[fd00::7]:6066/metrics"}
    while (found := target.pods(6066)) != wanted:  # a list from the API server's cache may be a moment old
        assert time.monotonic() < end, found
        time.sleep(0.1)
    site.plane.api.patch(f"{pods}/ends", {"metadata": {"finalizers": None}}, MERGE)


def test_an_event_is_found_by_kubectl_describe(site: Site) -> None:
    kube = site.login(FULL)
    target = ScaleTarget(kube, "deployment", NAME)
    target.read()
    events = Events(kube, target.reference, "pod-1")
    events("Warning", "HotPartition", "partition 5 alone needs 1.3 workers")
    events("Normal", "ScaleUp", "ä" * 3000)
    described = site.kubectl("describe", "deployment", NAME)
    assert "partition 5 alone needs 1.3 workers" in described
    assert FIELD_MANAGER in described
    found = site.plane.api.get(f"/apis/events.k8s.io/v1/namespaces/{site.namespace}/events")["items"]
    notes = {e["reason"]: e["note"] for e in found}
    assert NOTE_MAX - 5 <= len(notes["ScaleUp"].encode()) <= NOTE_MAX
    assert events.lost == 0


def test_events_that_may_not_be_written_are_logged_once(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    kube = site.login(FULL[:2])
    events = Events(kube, ScaleTarget(kube, "deployment", NAME).reference, "pod-1", clock=lambda: now[0])
    with caplog.at_level(logging.INFO, "fleetwatch.autoscaler"):
        for _ in range(5):
            now[0] += 60
            events("Normal", "ScaleUp", "text")
    assert len(caplog.records) == 1
    assert 'cannot create resource "events"' in caplog.text
    assert events.lost == 5


class Contender:
    """One autoscaler's lease, kept by its own thread."""

    def __init__(self, kube: Kube, name: str, settings: str = "s") -> None:
        self.lease = Lease(KubeLeases(kube, LEASE, LEASE_S / 5), name, LEASE_S, settings)
        self.keeper = Keeper(self.lease, pytest.fail)
        self.keeper.start()


@pytest.fixture
def contend(site: Site) -> Iterator[Callable[[str], Contender]]:
    kube = site.login(FULL)
    started: list[Contender] = []

    def start(name: str, settings: str = "s") -> Contender:
        started.append(Contender(kube, name, settings))
        return started[-1]

    yield start
    for each in started:
        each.keeper.stop(5)


def until(what: Callable[[], bool], timeout_s: float) -> float:
    began_s = time.monotonic()
    while not what():
        assert time.monotonic() - began_s < timeout_s, "it did not come about"
        time.sleep(0.02)
    return time.monotonic() - began_s


def test_one_of_two_leads_and_hands_over(contend: Callable[..., Contender], site: Site) -> None:
    a = contend("a")
    until(a.lease.leading, 5)
    site.kubectl("label", "lease", LEASE, "kept=yes")
    b = contend("b")
    time.sleep(LEASE_S * 1.5)
    assert a.lease.leading()
    assert not b.lease.leading()
    a.keeper.stop(5)
    a.lease.release()
    assert until(b.lease.leading, LEASE_S) < LEASE_S / 2
    found = site.plane.api.get(site.lease)
    assert found["spec"]["holderIdentity"] == "b"
    assert found["spec"]["leaseTransitions"] == 1
    assert found["metadata"]["annotations"] == {SETTINGS: "s"}
    assert found["metadata"]["labels"] == {"kept": "yes"}


def test_a_leader_that_vanishes_is_followed_after_the_lease(contend: Callable[..., Contender]) -> None:
    a = contend("a")
    until(a.lease.leading, 5)
    b = contend("b")
    until(lambda: b.lease.holder == "a", 5)
    a.keeper.stop(5)  # and no release: as if its machine were gone
    took_s = until(b.lease.leading, 3 * LEASE_S)
    assert LEASE_S * (1 - 1 / 5) - 0.2 <= took_s <= LEASE_S * (1 + 2 / 5) + 0.5
    assert not a.lease.leading()


def test_an_api_server_that_hangs_ends_leadership_in_time(contend: Callable[..., Contender], site: Site) -> None:
    a = contend("a")
    until(a.lease.leading, 5)
    b = contend("b")
    until(lambda: b.lease.holder == "a", 5)
    site.plane.freeze_api_server()
    try:
        assert until(lambda: not a.lease.leading(), 2 * LEASE_S) <= LEASE_S * HOLD_SHARE + 0.2
        time.sleep(LEASE_S)
        assert not b.lease.leading()  # nobody may know that it is free
    finally:
        site.plane.thaw_api_server()
    until(lambda: a.lease.leading() or b.lease.leading(), 3 * LEASE_S)
    for _ in range(100):
        assert not (a.lease.leading() and b.lease.leading())
        time.sleep(0.02)


def test_settings_that_differ_are_known_to_both(contend: Callable[..., Contender], site: Site) -> None:
    a = contend("a", "aaa")
    until(a.lease.leading, 5)
    b = contend("b", "bbb")
    until(lambda: "aaa" in b.lease.differing(), 5)
    until(lambda: "bbb" in a.lease.differing(), 5)
    assert a.lease.leading()
    until(lambda: OTHER not in site.plane.api.get(site.lease)["metadata"]["annotations"], 5)


def test_a_call_ends_whether_the_api_server_hangs_or_is_gone(site: Site) -> None:
    target = ScaleTarget(site.login(FULL), "deployment", NAME)
    target.read()
    site.plane.freeze_api_server()
    try:
        began_s = time.monotonic()
        with pytest.raises(AwayError, match="does not answer"):
            target.read()
        assert time.monotonic() - began_s < CALL_S + 1
        with pytest.raises(AwayError):
            target.scale_to(3, 2, always)
    finally:
        site.plane.thaw_api_server()
    until(lambda: target.read().replicas in (2, 3), 10)
    site.plane.stop_api_server()
    try:
        began_s = time.monotonic()
        with pytest.raises(AwayError, match="refused"):
            target.read()
        assert time.monotonic() - began_s < CALL_S
    finally:
        site.plane.start_api_server()
    assert target.read().replicas in (2, 3)
