"""The image by itself: who it runs as, what is in it, what it says when it cannot."""

from __future__ import annotations

import json
import signal

import pytest

from tests.compose.daemon import Docker
from tests.compose.project import await_that

pytestmark = pytest.mark.timeout(3600)

#: Of the image, less its base; 0.9 GB is numba, pyarrow, the Kubernetes client, a JVM and scipy.
OURS_MAX_BYTES = 1_000_000_000


def shell(docker: Docker, image: str, script: str) -> str:
    """What a read-only container of the image without network prints."""
    words = ("run", "--rm", "--read-only", "--network", "none", "--entrypoint", "sh", f"fleetwatch:{image}")
    return docker(*words, "-c", script).stdout


def test_it_is_labelled_and_bounded(docker: Docker, image: str) -> None:
    (found,) = json.loads(docker("image", "inspect", f"fleetwatch:{image}").stdout)
    labels = found["Config"]["Labels"]
    for name in ("title", "description", "licenses", "version", "revision", "base.name"):
        assert labels[f"org.opencontainers.image.{name}"]
    assert found["Config"]["User"] == "10001:10001" and found["Config"]["Entrypoint"] == ["fleetwatch"]
    assert found["Config"]["Healthcheck"]["Test"] == ["CMD", "fleetwatch", "health"]
    (base,) = json.loads(docker("image", "inspect", labels["org.opencontainers.image.base.name"][18:]).stdout)
    ours = found["Size"] - base["Size"]
    print(f"image {found['Size'] / 1e6:.0f} MB, ours {ours / 1e6:.0f} MB")
    assert ours < OURS_MAX_BYTES


def test_no_compiler_cache_or_authority_of_the_build_is_in_it(docker: Docker, image: str) -> None:
    script = "command -v gcc cc ld hatchling; ls -d /build /opt/build; find / -xdev -name ca.pem"
    found = shell(docker, image, f"({script}) 2>/dev/null; true")
    assert found.strip() == ""
    assert int(shell(docker, image, "find /opt/fleetwatch -xdev -name '*.nbc' | wc -l")) > 20


def test_it_is_process_1_and_not_root(docker: Docker, image: str) -> None:
    assert shell(docker, image, "id -u; id -g").split() == ["10001", "10001"]
    named = f"fleetwatch-{image}"
    docker("run", "-d", "--name", named, "--read-only", f"fleetwatch:{image}", "worker")
    try:
        words = docker("exec", named, "sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline").stdout.split()
        assert words[-2:] == ["/opt/fleetwatch/bin/fleetwatch", "worker"]
    finally:
        docker("rm", "-f", named)


def test_as_process_1_it_hears_sigterm(docker: Docker, image: str) -> None:
    """Linux keeps from a first process the signals that it has no handler for."""
    named = f"fleetwatch-{image}"
    patient = ("-e", "FLEETWATCH_KAFKA__CONNECT_TIMEOUT_S=60")
    docker("run", "-d", "--name", named, "--read-only", *patient, f"fleetwatch:{image}", "topics", "apply")
    try:
        status = ("exec", named, "grep", "SigCgt", "/proc/1/status")
        await_that(
            "it has a handler", 30, lambda: int(docker(*status).stdout.split()[1], 16) & 1 << signal.SIGTERM - 1
        )
        docker("stop", "-t", "30", named)
        assert docker("inspect", "-f", "{{.State.ExitCode}}", named).stdout.strip() == "143"
    finally:
        docker("rm", "-f", named)


def test_kernels_are_not_compiled_again(docker: Docker, image: str) -> None:
    """Also without any volume: /dev/shm can be written even then. numba adds to a cache what it had to compile."""
    before, after = (f"find {folder} -name '*.nbc' | wc -l" for folder in ("/opt/fleetwatch/image", "/dev/shm"))
    script = f"{before}; fleetwatch worker --compile-only >&2; {after}"
    counts = [int(word) for word in shell(docker, image, script).split()]
    assert counts[0] == counts[1] > 20


def test_without_a_place_to_write_it_says_which_to_mount(docker: Docker, image: str) -> None:
    words = ("run", "--rm", "--read-only", "--tmpfs", "/dev/shm:ro", f"fleetwatch:{image}", "worker")
    done = docker(*words, check=False)
    assert done.returncode == 73 and "--tmpfs /tmp" in done.stderr.splitlines()[-1], done.stderr
