"""The image and a running project for the tests of this folder. The rule: everything real, and gone afterwards.

They are minutes and need root and Docker: `make compose-test`, or name a file of this folder; plain `pytest` passes
them over.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose import standins
from tests.compose.daemon import Docker, daemon, install_missing
from tests.compose.project import Project, await_that, context, project

HERE = Path(__file__).resolve().parent
BUILD_S = 2400


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Only when asked for by name."""
    named = any(Path(argument.split("::")[0]).resolve().is_relative_to(HERE) for argument in config.args)
    return True if not named and collection_path.is_relative_to(HERE) else None


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    """A daemon that has, or can build, all base images."""
    if why := install_missing():
        pytest.skip(f"no Docker here: {why}")
    with daemon() as found, standins.in_place(found) as made:
        print(f"stand-ins for: {', '.join(made) or 'none'}")
        yield found


@pytest.fixture(scope="session")
def image(docker: Docker) -> Iterator[str]:
    """Tag of the project's image, by the project's Dockerfile from what git has."""
    tag = f"test-{uuid.uuid4().hex[:6]}"
    with context() as folder:
        docker(
            *("build", "--network", "host", "--build-arg", f"REVISION={tag}"),
            *("-t", f"fleetwatch:{tag}", str(folder)),
            timeout_s=BUILD_S,
        )
    yield tag
    docker("rmi", "--no-prune", f"fleetwatch:{tag}", check=False)


@pytest.fixture(scope="session")
def up(docker: Docker, image: str) -> Iterator[Project]:
    """`docker-compose up -d`, and nothing else."""
    with project(docker, image) as made:
        made.compose("up", "-d", timeout_s=300)
        yield made


@pytest.fixture(scope="session")
def observed(up: Project) -> Project:
    """... with Prometheus, Alertmanager, forwarder and autoscaler beside it."""
    up.compose(
        *("up", "-d", "prometheus", "alertmanager", "forwarder", "autoscaler"),
        profiles=("observability",),
        timeout_s=300,
    )
    await_that("Prometheus answers", 60, lambda: up.get("PROMETHEUS_PORT", "/api/v1/status/runtimeinfo"))
    return up
