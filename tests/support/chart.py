"""The Helm chart as tests look at it, and the helm program, where there is one."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from autoscaler.metrics import AutoscalerMetrics
from fleetwatch.forward_metrics import ForwardMetrics
from fleetwatch.kafka.paths import cache_dir
from streams.metrics import WorkerMetrics

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "fleetwatch"
Object = dict[str, Any]
_SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "info": ("_info",),
    "unknown": ("",),
}


@functools.cache
def helm() -> str | None:
    """On PATH, in FLEETWATCH_K8S_BIN, or as `python -m tests.k8s.build` left it."""
    given = [Path(os.environ["FLEETWATCH_K8S_BIN"]) / "helm"] if "FLEETWATCH_K8S_BIN" in os.environ else []
    for path in (*given, *sorted(cache_dir().glob("k8s-*/bin/helm"))):
        if os.access(path, os.X_OK):
            return str(path)
    return shutil.which("helm")


class RefusedError(Exception):
    """Helm refused the values; the text is what it says."""


def flags(values: Mapping[str, Any]) -> list[str]:
    """Values by their path, as in ``{"worker.kind": "StatefulSet"}``."""
    return [part for path, value in values.items() for part in ("--set-json", f"{path}={json.dumps(value)}")]


def template(values: Mapping[str, Any], name: str = "fleetwatch", *extra: str) -> str:
    """What helm renders, as text.

    Raises
    ------
    RefusedError : it does not.
    """
    program = helm()
    assert program is not None
    given = {"kafka.bootstrap": "kafka.example:9092", "checkCapabilities": False} | dict(values)
    command = [program, "template", name, str(CHART), "--namespace", "fleet", *flags(given), *extra]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise RefusedError(done.stderr)
    return done.stdout


def lint() -> str:
    """Helm's own opinion.

    Raises
    ------
    RefusedError : it found something.
    """
    program = helm()
    assert program is not None
    command = [program, "lint", "--strict", str(CHART), *flags({"kafka.bootstrap": "kafka.example:9092"})]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise RefusedError(done.stdout + done.stderr)
    return done.stdout


@functools.cache
def _rendered(values: str, name: str) -> str:
    return template(json.loads(values), name)


def objects(values: Mapping[str, Any], name: str = "fleetwatch") -> list[Object]:
    """What helm renders, once for the same values."""
    text = _rendered(json.dumps(values), name)
    return [found for found in yaml.load_all(text, yaml.CSafeLoader) if found]


def of_kind(found: Iterable[Object], kind: str) -> list[Object]:
    return [one for one in found if one["kind"] == kind]


def pods(found: Iterable[Object]) -> Iterator[tuple[str, Object, Object]]:
    """(name, labels, pod spec) of everything that makes pods."""
    for one in found:
        if one["kind"] == "Pod":
            yield one["metadata"]["name"], one["metadata"]["labels"], one["spec"]
        elif "template" in one.get("spec", {}):
            made = one["spec"]["template"]
            yield one["metadata"]["name"], made["metadata"]["labels"], made["spec"]


def default_values() -> Object:
    values: Object = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    return values


def rule_groups() -> dict[str, list[Object]]:
    """File name -> groups, placeholders as they are."""
    return {
        path.name: yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
        for path in sorted((CHART / "rules").glob("*.yaml"))
    }


def alerts() -> list[Object]:
    """Every alert of the chart."""
    return [
        rule for groups in rule_groups().values() for group in groups for rule in group["rules"] if "alert" in rule
    ]


@functools.cache
def metric_names() -> frozenset[str]:
    """Every sample name on the pages of worker, autoscaler and forwarder."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    WorkerMetrics(registry)
    scaler, forwarder = CollectorRegistry(), CollectorRegistry()
    AutoscalerMetrics(scaler)
    ForwardMetrics(forwarder)
    return frozenset(
        family.name + suffix
        for found in (registry, scaler, forwarder)
        for family in found.collect()
        for suffix in _SUFFIXES[family.type]
    )
