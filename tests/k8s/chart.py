"""The chart as an operator uses it: values in, objects out. The rule: helm renders, the API server judges."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.k8s.api import Object
from tests.k8s.control_plane import ControlPlane

CHART = Path(__file__).resolve().parents[2] / "helm" / "fleetwatch"
RELEASE = "fleet"
Values = dict[str, Any]


def merge(*parts: Values) -> Values:
    """Later ones win, key by key."""
    found: Values = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, dict) and isinstance(found.get(key), dict)
            found[key] = merge(found[key], value) if both else value
    return found


EXTERNAL: Values = {"kafka": {"bootstrap": "kafka-0.example:9092,kafka-1.example:9092"}}
SECURED: Values = {
    "kafka": {
        "bootstrap": "kafka.example:9093",
        "securityProtocol": "SASL_SSL",
        "username": "worker",
        "existingSecret": "kafka-login",
        "ca": {"existingConfigMap": "kafka-ca"},
    }
}
STRIMZI: Values = {"strimzi": {"enabled": True, "cluster": {"tls": True}}}
MONITORED: Values = {
    "monitoring": {
        "labels": {"release": "prometheus"},
        "podMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "dashboards": {"enabled": True},
    }
}
EXTRAS: Values = {
    "producers": {"fleets": [{"name": "cars", "kind": "vehicles", "count": 100}]},
    "forwarder": {"enabled": True, "url": "http://alertmanager.example:9093"},
}

KAFKAS = {"external": EXTERNAL, "secured": SECURED, "strimzi": STRIMZI}
MODES: dict[str, Values] = {
    "builtin": {"autoscaling": {"mode": "builtin"}},
    "keda": {"autoscaling": {"mode": "keda"}},
    "keda-desired": {"autoscaling": {"mode": "keda", "keda": {"source": "desired"}}},
    "hpa": {"autoscaling": {"mode": "hpa"}},
    "none": {"autoscaling": {"mode": "none"}},
}


def combinations() -> Iterator[tuple[str, Values]]:
    """Every combination of the main values, by a name that says which."""
    choices: list[dict[str, Values]] = [
        KAFKAS,
        MODES,
        {"not monitored": {}, "monitored": MONITORED},
        {"workers only": {}, "all roles": EXTRAS},
        {"open": {"networkPolicy": {"enabled": False}}, "fenced": {"networkPolicy": {"enabled": True}}},
    ]
    for names in itertools.product(*choices):
        if names[0] == "secured" and names[2:] != ("monitored", "all roles", "fenced"):
            continue  # who logs in, and how, does not depend on the others
        yield ", ".join(names), merge(*(choice[name] for choice, name in zip(choices, names, strict=True)))


def write(values: Values, path: Path) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def render(plane: ControlPlane, namespace: str, values: Path, *more: str) -> str:
    """What the chart makes of the values, with the cluster's own kinds.

    Raises
    ------
    ControlPlaneError : refused.
    """
    command = ("template", RELEASE, str(CHART), "--namespace", namespace, "--values", str(values))
    return plane.helm(*command, "--dry-run=server", *more)


def objects(text: str) -> list[Object]:
    return [found for found in yaml.safe_load_all(text) if found]
