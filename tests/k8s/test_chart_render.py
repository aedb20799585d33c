"""The chart's objects, each judged by a real API server. The rule: strict, a field that is none is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.k8s import chart, crds
from tests.k8s.api import Object
from tests.k8s.chart import CHART, EXTERNAL, EXTRAS, MONITORED, RELEASE, merge
from tests.k8s.control_plane import ControlPlane

pytestmark = pytest.mark.timeout(600)


def all_established(found: Object) -> bool:
    kinds = found["items"]
    told = [{c["type"]: c["status"] for c in kind.get("status", {}).get("conditions") or []} for kind in kinds]
    return bool(kinds) and all(each.get("Established") == "True" for each in told)


@pytest.fixture(scope="module")
def knowing(control_plane: ControlPlane) -> ControlPlane:
    """With KEDA's, the Prometheus operator's and Strimzi's kinds."""
    folder = crds.definitions()
    done = control_plane.kubectl("apply", "--server-side", "-f", str(folder))
    assert done.returncode == 0, done.stderr
    control_plane.api.await_that(
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", all_established, 60, "their kinds being served"
    )
    return control_plane


def test_lint_is_strict(control_plane: ControlPlane, tmp_path: Path) -> None:
    values = chart.write(merge(EXTERNAL, MONITORED, EXTRAS, {"checkCapabilities": False}), tmp_path / "values.yaml")
    said = control_plane.helm("lint", "--strict", str(CHART), "--values", str(values))
    assert "0 chart(s) failed" in said


@pytest.mark.parametrize(("kafka", "count"), [("external", 40), ("strimzi", 40), ("secured", 5)])
def test_every_combination_is_taken_by_the_server(
    knowing: ControlPlane, namespace: str, kafka: str, count: int, tmp_path: Path
) -> None:
    wrong: list[str] = []
    checked = 0
    for number, (name, values) in enumerate(chart.combinations()):
        if not name.startswith(f"{kafka},"):
            continue
        text = chart.render(knowing, namespace, chart.write(values, tmp_path / f"{number}.yaml"))
        done = knowing.kubectl(
            "apply", "--namespace", namespace, "--dry-run=server", "--validate=strict", "-f", "-", stdin=text
        )
        checked += 1
        if done.returncode or "Warning" in done.stderr:
            wrong.append(f"{name}: {done.stderr.strip()[:600]}")
    assert checked == count
    assert not wrong, "\n".join(wrong)


def test_strict_check_finds_what_is_not_a_field(knowing: ControlPlane, namespace: str, tmp_path: Path) -> None:
    """The check above can fail: for our own kinds and for an operator's."""
    values = merge(EXTERNAL, chart.MODES["keda"])
    text = chart.render(knowing, namespace, chart.write(values, tmp_path / "values.yaml"))
    for right, typo in (("livenessProbe:", "livenesProbe:"), ("pollingInterval:", "pollingIntervall:")):
        assert right in text
        spoilt = text.replace(right, typo)
        done = knowing.kubectl(
            "apply", "--namespace", namespace, "--dry-run=server", "--validate=strict", "-f", "-", stdin=spoilt
        )
        assert done.returncode != 0
        assert typo.rstrip(":") in done.stderr


def test_restricted_pod_security_takes_all_pods(knowing: ControlPlane, namespace: str, tmp_path: Path) -> None:
    label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    warn = {"metadata": {"labels": {"pod-security.kubernetes.io/warn": "restricted"}}}
    knowing.api.patch(f"/api/v1/namespaces/{namespace}", merge(label, warn))
    text = chart.render(knowing, namespace, chart.write(merge(EXTERNAL, EXTRAS), tmp_path / "values.yaml"))
    done = knowing.kubectl("apply", "--namespace", namespace, "--dry-run=server", "-f", "-", stdin=text)
    assert done.returncode == 0, done.stderr
    assert "PodSecurity" not in done.stderr


def test_two_renders_are_equal(knowing: ControlPlane, namespace: str, tmp_path: Path) -> None:
    """As Argo CD needs it: it renders again and again, without the cluster, and compares."""
    values = chart.write(merge(EXTERNAL, MONITORED, EXTRAS), tmp_path / "values.yaml")
    command = ("template", RELEASE, str(CHART), "--namespace", namespace, "--values", str(values))
    away = ("--set", "checkCapabilities=false")
    first = knowing.helm(*command, *away)
    assert first == knowing.helm(*command, *away)
    kinds = sorted({found["kind"] for found in chart.objects(first)})
    there = {found["kind"] for found in chart.objects(chart.render(knowing, namespace, values))}
    assert there == set(kinds), "what is rendered must not depend on the cluster"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"worker": {"replica": 3}}, "replica"),
        ({"autoscaling": {"mode": "magic"}}, "mode"),
        ({"autoscalling": {}}, "autoscalling"),
        ({"kafka": {"bootstrap": ""}}, "kafka.bootstrap"),
        ({"autoscaling": {"minReplicas": 30}}, "autoscaling.minReplicas"),
        ({"monitoring": {"podMonitor": {"enable": True}}}, "enable"),
        ({"networkPolicy": {"kafkaPorts": ["many"]}}, "kafkaPorts"),
    ],
)
def test_typos_are_refused_by_name(
    control_plane: ControlPlane, namespace: str, values: chart.Values, named: str, tmp_path: Path
) -> None:
    path = chart.write(merge(EXTERNAL, values), tmp_path / "values.yaml")
    command = ("template", RELEASE, str(CHART), "--namespace", namespace, "--values", str(path))
    done = control_plane.try_helm(*command)
    assert done.returncode != 0
    assert named in done.stderr


def test_kinds_that_the_cluster_lacks_are_named(control_plane: ControlPlane, tmp_path: Path) -> None:
    """Without their operators: a message, not a half-made release."""
    values = chart.write(merge(EXTERNAL, chart.MODES["keda"]), tmp_path / "values.yaml")
    command = ("template", RELEASE, str(CHART), "--namespace", "default", "--values", str(values))
    done = control_plane.try_helm(*command)  # does not ask the cluster, and so knows no ScaledObject
    assert done.returncode != 0
    assert "keda.sh/v1alpha1/ScaledObject" in done.stderr
