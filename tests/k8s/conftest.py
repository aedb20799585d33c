"""A real cluster for the tests of chart and autoscaler. The rule: started once, skipped only with a reason.

They are minutes and need root: `make k8s-test`, or name a file of this folder; plain `pytest` passes them over.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetwatch import kernelcache
from tests.k8s import build
from tests.k8s.api import Object
from tests.k8s.control_plane import ControlPlane
from tests.k8s.kubelet.config import Image, NodeConfig
from tests.k8s.kubelet.inputs import PATH
from tests.k8s.kubelet.node import Kubelet, obstacle

KERNELS = "/opt/kernels"
HERE = Path(__file__).resolve().parent
SOURCES = HERE.parent.parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Only when asked for by name."""
    named = any(Path(argument.split("::")[0]).resolve().is_relative_to(HERE) for argument in config.args)
    return True if not named and collection_path.is_relative_to(HERE) else None


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
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What this machine has compiled, where a container's user may add to it, too."""
    folder = tmp_path_factory.mktemp("image") / "kernels"
    compiled = kernelcache.use()
    compiled.mkdir(parents=True, exist_ok=True)
    command = (sys.executable, "-m", "fleetwatch", "worker", "--compile-only")  # else each Pod would, slowly
    subprocess.run(command, check=True, cwd=SOURCES, timeout=600)
    shutil.copytree(compiled, folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    return folder


@pytest.fixture(scope="session")
def images(kernels: Path) -> tuple[Image, ...]:
    """`python` is this one; an image of ours is these sources with their kernels."""
    paths = (Path(sys.prefix), Path(sys.base_prefix), SOURCES)
    environment = {"PYTHONUNBUFFERED": "1", "PATH": f"{sys.prefix}/bin:{PATH}"}
    ours = environment | {"NUMBA_CACHE_DIR": KERNELS}
    return (
        Image("python:*", (sys.executable,), environment, paths),
        Image("*fleetwatch*", ("fleetwatch",), ours, paths, {KERNELS: kernels}, user=65534),
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
