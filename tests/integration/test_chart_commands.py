"""What the chart's hooks run, as rendered, against a real Kafka: topics are made once, and `helm test` tells."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import chart
import pytest

from fleetwatch.topics_cli import look
from telemetry.settings import load

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.skipif(chart.helm() is None, reason="no helm: `python -m tests.k8s.build` makes one"),
]


@pytest.fixture
def values(kafka_bootstrap: str) -> dict[str, Any]:
    """Topics of this test's own; no worker need run."""
    return {
        "kafka.bootstrap": kafka_bootstrap,
        "settings.topics": {"prefix": f"t{uuid.uuid4().hex[:8]}", "partitions": 3, "replication": 1},
        "autoscaling.minReplicas": 0,
        "tests.readyTimeoutSeconds": 1,
    }


def run(name: str, values: dict[str, Any], folder: Path, **other: str) -> subprocess.CompletedProcess[str]:
    """The container of a pod, its settings file where the chart would have mounted it."""
    found = chart.objects(values)
    (spec,) = [spec for made, _, spec in chart.pods(found) if made == name]
    (container,) = spec["containers"]
    environ = {v["name"]: v["value"] for v in container["env"] if "value" in v} | {"HOME": str(folder)} | other
    environ["FLEETWATCH_CACHE_DIR"] = str(folder / "cache")
    if "FLEETWATCH_CONFIG" in environ:
        (held,) = [one for one in chart.of_kind(found, "ConfigMap") if one["metadata"]["name"] == "fleetwatch"]
        (folder / "settings.yaml").write_text(held["data"]["worker.yaml"])
        environ["FLEETWATCH_CONFIG"] = str(folder / "settings.yaml")
    environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [*container["command"], *container.get("args", ())]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)


def test_the_topics_job_makes_them_once_and_the_test_says_so(values: dict[str, Any], tmp_path: Path) -> None:
    before = run("fleetwatch-test", values, tmp_path)
    assert before.returncode == 1
    assert "does not exist" in before.stderr

    made = run("fleetwatch-topics", values, tmp_path)
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("created ") == 12
    settings = load(topics=values["settings.topics"], kafka={"bootstrap": values["kafka.bootstrap"]})
    assert not [state for state in look(settings) if state.problems()]
    again = run("fleetwatch-topics", values, tmp_path)
    assert (again.returncode, again.stdout) == (0, "all topics exist\n"), again.stderr

    after = run("fleetwatch-test", values, tmp_path)
    assert after.returncode == 0, after.stderr
    assert "as expected" in after.stdout
    assert "none need run" in after.stdout


def test_the_test_fails_while_no_worker_is_ready(values: dict[str, Any], tmp_path: Path) -> None:
    assert run("fleetwatch-topics", values, tmp_path).returncode == 0
    done = run("fleetwatch-test", values | {"autoscaling.minReplicas": 1}, tmp_path)
    assert done.returncode == 1
    assert "worker: not ready within 1 s: http://fleetwatch-worker.fleet.svc:6066/readyz" in done.stderr


def test_the_topics_job_refuses_another_shape(values: dict[str, Any], tmp_path: Path) -> None:
    assert run("fleetwatch-topics", values, tmp_path).returncode == 0
    grown = values | {"settings.topics": values["settings.topics"] | {"partitions": 4}}
    done = run("fleetwatch-topics", grown, tmp_path)
    assert done.returncode == 78
    assert "has 3 partitions, the setting topics.partitions says 4" in done.stderr
