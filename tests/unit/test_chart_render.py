"""What helm makes of the chart, in all modes. Needs helm, nothing else: `python -m tests.k8s.build` makes one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import chart
import pytest
import yaml
from kubernetes import client

from autoscaler.events import Events
from autoscaler.kube import Kube, Right
from autoscaler.lease_store import KubeLeases
from autoscaler.service import lease_name
from autoscaler.target import ScaleTarget
from telemetry.settings import Settings, load
from telemetry.topics import topics

pytestmark = pytest.mark.skipif(chart.helm() is None, reason="no helm: `python -m tests.k8s.build` makes one")

FLEET = {"name": "cars", "kind": "vehicles", "count": 20, "rate": 2, "seed": 7}
ALL = {
    "producers.fleets": [FLEET],
    "forwarder.enabled": True,
    "forwarder.url": "https://alerts.example:9094/x",
    "forwarder.to": "webhook",
    "forwarder.hmac.existingSecret": "hook",
}
SASL = {
    "kafka.securityProtocol": "SASL_SSL",
    "kafka.username": "fleet",
    "kafka.existingSecret": "login",
    "kafka.ca.existingConfigMap": "authority",
}
MTLS = {
    "kafka.securityProtocol": "SSL",
    "kafka.existingSecret": "login",
    "kafka.secretKeys": {"certificate": "user.crt", "key": "user.key"},
    "kafka.ca.existingSecret": "authority",
}
DESIRED = {"autoscaling.mode": "keda", "autoscaling.keda.source": "desired"}
MONITORED = {f"monitoring.{name}.enabled": True for name in ("podMonitor", "prometheusRule", "dashboards")}
CASES: dict[str, dict[str, Any]] = {
    "builtin": {},
    "dry run": {"autoscaling.dryRun": True},
    "none": {"autoscaling.mode": "none"},
    "hpa": {"autoscaling.mode": "hpa"},
    "keda": {"autoscaling.mode": "keda"},
    "keda, desired": DESIRED | {"autoscaling.minReplicas": 0},
    "keda, SASL": {"autoscaling.mode": "keda"} | SASL,
    "StatefulSet": {"worker.kind": "StatefulSet"},
    "all roles": ALL | MONITORED,
    "SASL": SASL | ALL,
    "mTLS": MTLS | ALL,
    "Strimzi": {"strimzi.enabled": True, "strimzi.cluster.tls": True} | ALL,
    "no cache": {"worker.cacheDir": ""},
    "kernels, service monitor": {"worker.cacheFrom": "/opt/kernels", "monitoring.serviceMonitor.enabled": True},
}
every_case = pytest.mark.parametrize("values", CASES.values(), ids=CASES)


@every_case
def test_the_same_values_give_the_same_objects(values: dict[str, Any]) -> None:
    found = chart.objects(values)
    again = [one for one in yaml.safe_load_all(chart.template(values)) if one]
    assert found == again
    names = [(one["kind"], one["metadata"]["name"]) for one in found]
    assert len(names) == len(set(names))
    assert all(one["metadata"]["namespace"] == "fleet" for one in found)
    assert all(one["metadata"]["labels"]["app.kubernetes.io/instance"] == "fleetwatch" for one in found)


@every_case
def test_exactly_one_owns_the_number_of_workers(values: dict[str, Any]) -> None:
    found = chart.objects(values)
    kind = values.get("worker.kind", "Deployment")
    (worker,) = [one for one in chart.of_kind(found, kind) if one["metadata"]["name"] == "fleetwatch-worker"]
    scaling = [one for one in chart.of_kind(found, "Role") if "patch" in json.dumps(one["rules"])]
    owners = [*chart.of_kind(found, "ScaledObject"), *chart.of_kind(found, "HorizontalPodAutoscaler"), *scaling]
    by_hand = values.get("autoscaling.mode") == "none" or values.get("autoscaling.dryRun", False)
    assert len(owners) == (0 if by_hand else 1)
    assert ("replicas" in worker["spec"]) == (values.get("autoscaling.mode") == "none")
    for owner in owners:
        if target := owner.get("spec", {}).get("scaleTargetRef"):
            assert target == {"apiVersion": "apps/v1", "kind": kind, "name": "fleetwatch-worker"}
    if kind == "Deployment":
        rolling = worker["spec"]["strategy"]["rollingUpdate"]
        assert rolling == {"maxSurge": 0, "maxUnavailable": 1}, "never more workers than partitions"


def _settings(container: Any, spec: Any, found: list[chart.Object], folder: Path) -> Settings:
    """As the product would read them in that container, of files that are there."""
    folder.mkdir(exist_ok=True)
    config, environ = None, dict[str, str]()
    for variable in container["env"]:
        value = str(variable.get("value", "from-elsewhere"))
        for mount in ("kafka", "receiver"):
            if value.startswith(f"/etc/fleetwatch/{mount}/"):
                (folder / mount).mkdir(parents=True, exist_ok=True)
                path = folder / mount / Path(value).name
                path.write_text("0123456789abcdef")
                value = str(path)
                assert any(m["mountPath"] == f"/etc/fleetwatch/{mount}" for m in container["volumeMounts"])
        environ[variable["name"]] = value
    if "FLEETWATCH_CONFIG" in environ:
        del environ["FLEETWATCH_CONFIG"]
        (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "settings"]
        (item,) = volume["configMap"]["items"]
        (held,) = [
            one
            for one in chart.of_kind(found, "ConfigMap")
            if one["metadata"]["name"] == volume["configMap"]["name"]
        ]
        config = folder / "settings.yaml"
        config.write_text(held["data"][item["key"]])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():  # where the settings are read from
            patch.setenv(name, value)
        return load(config)


@every_case
def test_the_product_takes_the_settings_of_every_pod(values: dict[str, Any], tmp_path: Path) -> None:
    own = {
        "settings.windows.size_s": 20,
        "settings.processing.devices_max": 2_000_000,
        "settings.autoscaler.lag_slo_s": 20,
    }
    found = chart.objects(values | own)
    for name, _, spec in chart.pods(found):
        (container,) = spec["containers"]
        if container["image"].startswith("fleetwatch"):
            settings = _settings(container, spec, found, tmp_path / name)
            assert settings.topics.partitions == 24, name
            assert settings.kafka.bootstrap.endswith(":9092"), name
            if name == "fleetwatch-worker":
                assert settings.windows.size_s == 20
                assert settings.processing.devices_max == 2_000_000
            if name == "fleetwatch-autoscaler":
                assert settings.autoscaler.lag_slo_s == 20
                assert settings.autoscaler.name == "fleetwatch-worker"
                assert settings.autoscaler.target == values.get("worker.kind", "Deployment").lower()
                assert lease_name(settings) == lease_name(load(environ={}).model_copy(
                    update={"autoscaler": settings.autoscaler.model_copy(update={"lease": ""})}
                )), "the lease is named as the product names it"  # fmt: skip


@every_case
def test_every_pod_is_restricted(values: dict[str, Any]) -> None:
    for name, labels, spec in chart.pods(chart.objects(values)):
        assert spec["enableServiceLinks"] is False, "Kubernetes' variables would be refused as settings"
        assert spec["automountServiceAccountToken"] is (labels["app.kubernetes.io/component"] == "autoscaler"), name
        pod, (container, *first) = spec["securityContext"], (*spec["containers"], *spec.get("initContainers", ()))
        assert all(one["securityContext"] == container["securityContext"] for one in first)
        assert pod["runAsNonRoot"]
        assert pod["runAsUser"] > 0
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        own = container["securityContext"]
        assert own == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"], name
        volumes = {volume["name"] for volume in spec["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes, name


def _allowed(role: Any, right: Right) -> bool:
    return any(
        right.group in rule["apiGroups"]
        and right.resource in rule["resources"]
        and right.verb in rule["verbs"]
        and rule.get("resourceNames", [right.name]) == [right.name]
        for rule in role["rules"]
    )


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
@pytest.mark.parametrize("scales", [True, False], ids=["scales", "dry run"])
def test_the_role_has_the_rights_that_the_autoscaler_asks_for_and_no_others(kind: str, scales: bool) -> None:
    (role,) = chart.of_kind(chart.objects({"worker.kind": kind, "autoscaling.dryRun": not scales}), "Role")
    groups = SimpleNamespace(apps=client.AppsV1Api(), coordination=client.CoordinationV1Api(), namespace="fleet")
    kube = cast("Kube", groups)
    needed, useful = ScaleTarget(kube, kind.lower(), "fleetwatch-worker").rights(scales=scales, pods=True)
    asked = [*needed, *useful]
    if scales:
        asked += KubeLeases(kube, f"{kind.lower()}-fleetwatch-worker-autoscaler", 1.0).rights() + Events.rights()
    assert not [str(right) for right in asked if not _allowed(role, right)]
    given = sum(len(r["apiGroups"]) * len(r["resources"]) * len(r["verbs"]) for r in role["rules"])
    assert given == len(asked)
    assert "*" not in json.dumps(role["rules"])


@pytest.mark.parametrize(
    "given",
    [
        {"partitions": 24, "replication": 3},
        {"partitions": 6, "replication": 1, "prefix": "fleet.a", "input_retention_hours": 0.5},
        {"partitions": 12, "replication": 2, "output_retention_hours": 720.25},
    ],
    ids=["default", "prefix", "retention"],
)
def test_strimzis_topics_are_those_of_the_product(given: dict[str, Any]) -> None:
    found = chart.objects({"strimzi.enabled": True, "settings.topics": given})
    made = {
        one["metadata"]["name"]: (one["spec"]["partitions"], one["spec"]["replicas"], one["spec"].get("config", {}))
        for one in chart.of_kind(found, "KafkaTopic")
    }
    settings = load(environ={}, topics=given)
    assert made == {
        spec.name: (spec.partitions, settings.topics.replication, dict(spec.config))
        for spec in topics(settings).all()
    }
    assert not chart.of_kind(found, "Job")
    (kafka,) = chart.of_kind(found, "Kafka")
    assert kafka["spec"]["kafka"]["config"]["auto.create.topics.enable"] is False


def test_the_topics_hook_needs_nothing_of_the_release(tmp_path: Path) -> None:
    values = SASL | {"settings.processing.group": "g1", "topicsJob.kafka.existingSecret": "admin"}
    found = chart.objects(values)
    (job,) = chart.of_kind(found, "Job")
    notes = job["metadata"]["annotations"]
    assert notes["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert notes["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
    spec = job["spec"]["template"]["spec"]
    assert "serviceAccountName" not in spec
    ours = {one["metadata"]["name"] for one in found if one["kind"] in ("ConfigMap", "Secret")}
    assert ours
    assert not [name for name in re.findall(r'"name": "([^"]+)"', json.dumps(spec["volumes"])) if name in ours]
    assert '"admin"' in json.dumps(spec["volumes"])
    (container,) = spec["containers"]
    assert _settings(container, spec, found, tmp_path).processing.group == "g1"


@every_case
def test_hooks_are_cleared_away(values: dict[str, Any]) -> None:
    for one in chart.objects(values):
        notes = one["metadata"].get("annotations", {})
        if "helm.sh/hook" in notes:
            assert "before-hook-creation" in notes["helm.sh/hook-delete-policy"]


def test_a_change_restarts_only_the_roles_that_it_concerns() -> None:
    def sums(values: dict[str, Any]) -> dict[str, str]:
        return {
            one["metadata"]["name"]: one["spec"]["template"]["metadata"]["annotations"]["checksum/settings"]
            for one in chart.of_kind(chart.objects(values), "Deployment")
        }

    before = sums(ALL)
    assert len(before) == 4
    scaler = sums(ALL | {"settings.autoscaler.lag_slo_s": 20})
    assert {name for name in before if before[name] != scaler[name]} == {"fleetwatch-autoscaler"}
    worker = sums(ALL | {"settings.windows.size_s": 20})
    assert {name for name in before if before[name] != worker[name]} == {"fleetwatch-worker"}
    none = sums(ALL | {"settings.detectors": []})
    assert none["fleetwatch-worker"] != before["fleetwatch-worker"], "an empty list is a setting"


def test_network_policies_let_each_role_reach_what_it_must() -> None:
    found = chart.objects(ALL | {"kafka.bootstrap": "a.example:9093,b.example:9095"})
    ports = {
        policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]: {
            port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]
        }
        for policy in chart.of_kind(found, "NetworkPolicy")
    }
    kafka, names = {9093, 9095}, {53, 5353}
    assert ports == {
        "worker": kafka | names,
        "autoscaler": kafka | names | {443, 6443, 6066},
        "producers": kafka | names,
        "forwarder": kafka | names | {9094},
    }


def test_rules_are_rendered_with_their_runbooks() -> None:
    values = ALL | MONITORED | {
        "monitoring.runbookBase": "https://wiki.example/r",
        "monitoring.prometheusRule.disabled": ["FleetwatchNoData"],
        "monitoring.prometheusRule.severities": {"FleetwatchNoWorkers": "page"},
        "settings.autoscaler.lag_slo_s": 12,
    }  # fmt: skip
    (rule,) = chart.of_kind(chart.objects(values), "PrometheusRule")
    text = json.dumps(rule["spec"])
    assert not re.search(r"\$(selector|lag_slo_s|lag_budget)", text)
    assert "> bool 12" in text
    rules = {r["alert"]: r for group in rule["spec"]["groups"] for r in group["rules"] if "alert" in r}
    assert set(rules) == {r["alert"] for r in chart.alerts()} - {"FleetwatchNoData"}
    assert rules["FleetwatchNoWorkers"]["labels"]["severity"] == "page"
    for name, one in rules.items():
        assert one["annotations"]["runbook_url"] == f"https://wiki.example/r#{name.lower()}"
        assert 'namespace=\\"fleet\\",app_kubernetes_io_instance=\\"fleetwatch\\"' in json.dumps(one) or (
            "absent" in one["expr"] and "fleetwatch" in one["expr"]
        )


def test_dashboards_arrive_as_they_are() -> None:
    found = chart.of_kind(chart.objects(MONITORED), "ConfigMap")
    boards = {name: text for one in found for name, text in one["data"].items() if name.endswith(".json")}
    assert len(boards) == 3
    for name, text in boards.items():
        path = chart.CHART / "dashboards" / name.removeprefix("fleetwatch-")
        assert json.loads(text) == json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kafka.bootstrap": ""}, "say where Kafka is"),
        ({"kafka.securityProtocol": "SASL_SSL"}, "needs a Secret with the password"),
        ({"kafka.username": "u"}, "is not used with kafka.securityProtocol PLAINTEXT"),
        (SASL | {"kafka.securityProtocol": "SASL_PLAINTEXT", "kafka.saslMechanism": "PLAIN"}, "in clear"),
        ({"kafka.ca.existingSecret": "a"}, "nothing would be encrypted"),
        (MTLS | {"kafka.secretKeys.key": ""}, "are needed together"),
        ({"autoscaling.minReplicas": 5, "autoscaling.maxReplicas": 3}, "is above the most there can be, 3"),
        ({"autoscaling.maxReplicas": 25}, "above settings.topics.partitions 24"),
        ({"autoscaling.mode": "none", "worker.replicas": 25}, "above settings.topics.partitions 24"),
        ({"autoscaling.mode": "hpa", "autoscaling.minReplicas": 0}, "cannot wake workers"),
        ({"autoscaling.mode": "keda", "autoscaling.dryRun": True}, "is of autoscaling.mode builtin"),
        ({"monitoring.podMonitor.enabled": True, "monitoring.serviceMonitor.enabled": True}, "enable one"),
        ({"worker.cacheDir": "", "worker.cacheFrom": "/opt/kernels"}, "which is empty"),
        ({"forwarder.enabled": True}, "say where alerts are to be sent"),
        ({"topicsJob.acls": True}, "topicsJob.principals"),
        ({"checkCapabilities": True, "autoscaling.mode": "keda"}, "no keda.sh/v1alpha1/ScaledObject"),
        ({"worker.replica": 3}, "additional properties 'replica' not allowed"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_contradictions_are_refused_with_what_to_do(values: dict[str, Any], said: str) -> None:
    with pytest.raises(chart.RefusedError, match=re.escape(said)):
        chart.template(values)


def test_two_releases_in_one_namespace_do_not_meet() -> None:
    first, second = chart.objects(ALL, "fleetwatch"), chart.objects(ALL, "fleetwatch-b")
    names = [{(one["kind"], one["metadata"]["name"]) for one in found} for found in (first, second)]
    assert not names[0] & names[1]


def test_helm_lints_it_strictly() -> None:
    assert "1 chart(s) linted, 0 chart(s) failed" in chart.lint()
