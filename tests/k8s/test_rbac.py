"""What each ServiceAccount of the chart may do, asked with its own token. The rule: what it needs, no more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.k8s import chart
from tests.k8s.api import Api, Object
from tests.k8s.chart import CHART, EXTERNAL, RELEASE, merge
from tests.k8s.control_plane import ControlPlane

pytestmark = pytest.mark.timeout(300)

WORKER, AUTOSCALER = f"{RELEASE}-fleetwatch-worker", f"{RELEASE}-fleetwatch-autoscaler"
LEASE = f"deployment-{WORKER}-autoscaler"
STATEFUL_LEASE = f"statefulset-{WORKER}-autoscaler"


class Right(NamedTuple):
    verb: str
    group: str
    resource: str
    name: str = ""


#: `resource` may hold a subresource.
LOOKS = {Right("get", "apps", "deployments", WORKER), Right("get", "apps", "deployments/scale", WORKER)}
PODS = {Right("list", "", "pods")}
SCALES = {
    Right("patch", "apps", "deployments/scale", WORKER),
    Right("get", "coordination.k8s.io", "leases", LEASE),
    Right("update", "coordination.k8s.io", "leases", LEASE),
    Right("create", "coordination.k8s.io", "leases"),
    Right("create", "events.k8s.io", "events"),
}
MUST = LOOKS | PODS | SCALES

READ = ("get", "list", "watch")
WRITE = ("create", "update", "patch", "delete", "deletecollection")
ALL = (*READ, *WRITE)
SCALE = ("get", "update", "patch")


def each(verbs: tuple[str, ...], group: str, *resources: str, name: str = "") -> list[Right]:
    return [Right(verb, group, resource, name) for resource in resources for verb in verbs]


MUST_NOT = [
    *each(ALL, "", "secrets", "configmaps", "serviceaccounts"),
    *each(("get", "watch", *WRITE), "", "pods"),
    *each(("get", "create"), "", "pods/exec", "pods/attach", "pods/portforward", "pods/eviction"),
    *each(("get",), "", "pods/log", "pods/proxy"),
    *each(("patch",), "", "pods/ephemeralcontainers"),
    *each(("create",), "", "serviceaccounts/token", "events", "namespaces"),
    *each(("impersonate",), "", "users", "serviceaccounts"),
    *each(("*",), "*", "*"),
    *each(("update", "patch", "delete"), "apps", "deployments", name=WORKER),
    *each(("create", "list", "watch", "deletecollection"), "apps", "deployments"),
    *each(("get", "patch"), "apps", "deployments", name=AUTOSCALER),
    *each(SCALE, "apps", "deployments/scale", name=AUTOSCALER),
    *each(SCALE, "apps", "deployments/scale", name="another"),
    *each(SCALE, "apps", "deployments/scale"),
    *each(("update",), "apps", "deployments/scale", name=WORKER),
    *each(SCALE, "apps", "statefulsets/scale", "replicasets/scale", name=WORKER),
    *each(ALL, "apps", "daemonsets", "statefulsets", "replicasets"),
    *each(("get", "update", "patch", "delete"), "coordination.k8s.io", "leases", name="another"),
    *each(("patch", "delete"), "coordination.k8s.io", "leases", name=LEASE),
    *each(("list", "watch", "deletecollection"), "coordination.k8s.io", "leases"),
    *each(("patch", "update", "delete", *READ), "events.k8s.io", "events"),
    *each(("create",), "batch", "jobs", "cronjobs"),
    *each(READ, "", "nodes", "persistentvolumes"),
    *each(
        ("create", "bind", "escalate"), "rbac.authorization.k8s.io", "roles", "rolebindings", "clusterrolebindings"
    ),
    *each(ALL, "autoscaling", "horizontalpodautoscalers"),
    *each(ALL, "networking.k8s.io", "networkpolicies"),
]


def may(api: Api, namespace: str, right: Right) -> bool:
    """As `kubectl auth can-i` asks."""
    resource, _, sub = right.resource.partition("/")
    asked: Object = {
        "namespace": namespace,
        "verb": right.verb,
        "group": right.group,
        "resource": resource,
        "subresource": sub,
        "name": right.name,
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    answer = api.post(path, {"spec": {"resourceAttributes": asked}})
    return bool(answer["status"]["allowed"])


def rights(plane: ControlPlane, name: str, home: str, namespace: str) -> set[Right]:
    """All that an account of `home` has in a namespace, beside what every account has."""
    return _all(account(plane, home, name), namespace) - _all(account(plane, home, "default"), namespace)


def _all(api: Api, namespace: str) -> set[Right]:
    path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
    answer = api.post(path, {"spec": {"namespace": namespace}})
    return {
        Right(verb, group, resource, name)
        for rule in answer["status"]["resourceRules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames") or [""]
    }


@pytest.fixture
def other_namespace(control_plane: ControlPlane, namespace: str) -> Iterator[str]:
    name = f"{namespace}-other"
    control_plane.api.post("/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    control_plane.api.delete(f"/api/v1/namespaces/{name}")


def install(plane: ControlPlane, namespace: str, folder: Path, *values: chart.Values) -> None:
    path = chart.write(merge(EXTERNAL, *values), folder / "values.yaml")
    plane.helm("install", RELEASE, str(CHART), "--namespace", namespace, "--values", str(path), "--no-hooks")


def account(plane: ControlPlane, namespace: str, name: str) -> Api:
    return Api(plane.access_of(namespace, name))


def test_autoscaler_may_what_it_must_and_nothing_else(
    control_plane: ControlPlane, namespace: str, other_namespace: str, tmp_path: Path
) -> None:
    install(control_plane, namespace, tmp_path)
    api = account(control_plane, namespace, AUTOSCALER)
    assert [right for right in sorted(MUST) if not may(api, namespace, right)] == []
    assert [right for right in MUST_NOT if may(api, namespace, right)] == []
    everywhere = [*MUST, *MUST_NOT]
    assert [
        right for right in everywhere if may(api, other_namespace, right) or may(api, "kube-system", right)
    ] == []
    assert rights(control_plane, AUTOSCALER, namespace, namespace) == MUST
    assert rights(control_plane, AUTOSCALER, namespace, other_namespace) == set()


def test_kubectl_says_the_same(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    install(control_plane, namespace, tmp_path)
    config = control_plane.kubeconfig_of(namespace, AUTOSCALER)

    def can(*asked: str) -> bool:
        done = control_plane.kubectl("auth", "can-i", *asked, "--namespace", namespace, config=config)
        assert done.stdout.strip() in {"yes", "no"}, done.stderr
        return done.stdout.strip() == "yes"

    assert can("patch", f"deployments.apps/{WORKER}", "--subresource=scale")
    assert not can("patch", f"deployments.apps/{AUTOSCALER}", "--subresource=scale")
    assert not can("get", "secrets")
    done = control_plane.kubectl("get", "secrets", "--namespace", namespace, config=config)
    assert done.returncode != 0
    assert "forbidden" in done.stderr


def test_workers_may_nothing_and_hold_no_token(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    install(control_plane, namespace, tmp_path)
    api = account(control_plane, namespace, WORKER)
    assert [right for right in [*MUST, *MUST_NOT] if may(api, namespace, right)] == []
    assert rights(control_plane, WORKER, namespace, namespace) == set()
    worker = control_plane.api.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/{WORKER}")
    assert worker["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


def of_stateful_set(right: Right) -> Right:
    name = STATEFUL_LEASE if right.name == LEASE else right.name
    return Right(right.verb, right.group, right.resource.replace("deployments", "statefulsets"), name)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"autoscaling": {"dryRun": True}}, LOOKS | PODS),
        ({"settings": {"autoscaler": {"metrics": "none"}}}, LOOKS | SCALES),
        ({"worker": {"kind": "StatefulSet"}}, {of_stateful_set(right) for right in MUST}),
    ],
    ids=["dry run", "no metrics of pods", "StatefulSet"],
)
def test_rights_follow_the_values(
    control_plane: ControlPlane, namespace: str, values: chart.Values, expected: set[Right], tmp_path: Path
) -> None:
    install(control_plane, namespace, tmp_path, values)
    assert rights(control_plane, AUTOSCALER, namespace, namespace) == expected


@pytest.mark.parametrize("mode", ["hpa", "none"])
def test_without_our_autoscaler_there_is_no_role(
    control_plane: ControlPlane, namespace: str, mode: str, tmp_path: Path
) -> None:
    install(control_plane, namespace, tmp_path, chart.MODES[mode])
    roles = control_plane.api.get(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles")
    assert roles["items"] == []
