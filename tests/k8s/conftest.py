"""A real cluster for the tests of chart and autoscaler. The rule: started once, skipped only with a reason.

They are minutes and need root: `make k8s-test`, or name a file of this folder; plain `pytest` passes them over.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.k8s import build
from tests.k8s.api import Object
from tests.k8s.control_plane import ControlPlane
from tests.k8s.kubelet.config import Image, NodeConfig
from tests.k8s.kubelet.node import Kubelet, obstacle

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parent.parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Only when asked for: by FLEETWATCH_K8S=1, or by name."""
    named = any(Path(argument.split("::")[0]).resolve().is_relative_to(HERE) for argument in config.args)
    asked = named or os.environ.get("FLEETWATCH_K8S") == "1"
    return True if not asked and collection_path.is_relative_to(HERE) else None


@pytest.fixture(scope="session")
def programs() -> Path:
    """helm, kubectl and the control plane's programs."""
    return build.programs()


@pytest.fixture(scope="session")
def control_plane(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """etcd, API server, controllers, scheduler, with RBAC; no node."""
    with ControlPlane(tmp_path_factory.mktemp("control-plane"), programs) as plane:
        yield plane


@pytest.fixture(scope="session")
def images() -> tuple[Image, ...]:
    """`python` is this one; an image of ours is these sources, its entry point `fleetwatch`, its user nobody."""
    paths: tuple[Path, ...] = (Path(sys.prefix), Path(sys.base_prefix), SOURCES)
    environment = {"PYTHONUNBUFFERED": "1"}
    if kernels := os.environ.get("NUMBA_CACHE_DIR"):  # an image ships them compiled
        environment["NUMBA_CACHE_DIR"] = kernels
        paths += (Path(kernels),)
    command = (sys.executable, "-m", "fleetwatch")
    return (
        Image("python:*", (sys.executable,), {"PYTHONUNBUFFERED": "1"}, paths),
        Image("*fleetwatch*", command, environment, paths, user=65534, workdir=str(SOURCES)),
    )


@pytest.fixture(scope="session")
def kubelet(
    control_plane: ControlPlane, images: tuple[Image, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kubelet]:
    """A node that runs Pods as processes."""
    if why := obstacle():
        pytest.skip(f"a process kubelet cannot run here: {why}")
    folder = tmp_path_factory.mktemp("kubelet")
    with Kubelet(control_plane.admin, NodeConfig(folder, images)) as node:
        yield node


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace that no other test uses; deleted afterwards, with its Pods' processes."""
    name, api = f"t{uuid.uuid4().hex[:8]}", control_plane.api
    created: Object = {"metadata": {"name": name}}
    api.post("/api/v1/namespaces", created)
    api.await_that(
        f"/api/v1/namespaces/{name}/serviceaccounts/default", lambda found: True, 30, "the default ServiceAccount"
    )
    yield name
    api.delete(f"/api/v1/namespaces/{name}")
