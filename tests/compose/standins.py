"""Images where none can be pulled: of Debian's packages and Maven's jars. The rule: a real image is never replaced.

Each is built once, as fleetwatch-stand-in/NAME:KEY, where the key is that of all that goes into it, and has the
real one's name only during the test.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from fleetwatch.kafka import artifacts
from fleetwatch.kafka.manifest import KAFKA_VERSION
from tests.compose.daemon import Docker

ROOT = Path(__file__).resolve().parents[2]
IMAGES = Path(__file__).resolve().parent / "images"
SUITE = "bookworm"
DEBOOTSTRAP_S = 1800
BUILD_S = 1800
PULL_S = 600
NICE = ("nice", "-n", "15")
#: of a mirror whose lists are older than they say they are valid
APT = 'Acquire::Check-Valid-Until "false";\nAcquire::Check-Date "false";\nAcquire::Languages "none";\n'


class NoStandInError(RuntimeError):
    """An image can neither be pulled nor made here."""


def wanted() -> dict[str, str]:
    """Name of a folder in images/ -> the real image's name; what is built on and what the compose file names."""
    services: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    named = {name: services[name]["image"] for name in ("kafka", "prometheus", "alertmanager")}
    bases = {line.split()[1] for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("FROM ")}
    (python,) = bases
    return {"python": python, **named}


def key(name: str) -> str:
    """12 hex digits of what a stand-in is made from; `base`: of what all are made on."""
    found = hashlib.sha256(f"{SUITE} {APT}".encode())
    if name == "kafka":
        found.update(KAFKA_VERSION.encode())
    for path in sorted((IMAGES / name).glob("*")):
        found.update(f"{path.name}\0".encode() + path.read_bytes())
    return found.hexdigest()[:12]


def mirror() -> str:
    """Where this machine's apt has the suite from.

    Raises
    ------
    NoStandInError : its apt does not know the suite.
    """
    words = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)"]
    if shutil.which("apt-get"):
        listed = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout
        for line in listed.splitlines():
            if line.split()[1:] == [SUITE, "main"]:
                return line.split()[0]
    raise NoStandInError(f"stand-ins are made of Debian's {SUITE}, which this machine's apt does not know")


def _base(docker: Docker, tag: str) -> None:
    """Debian's smallest system."""
    source = mirror()
    with tempfile.TemporaryDirectory(prefix="fw-debootstrap-") as name:
        tree = Path(name) / "root"
        made = subprocess.run(
            [*NICE, "debootstrap", "--variant=minbase", SUITE, str(tree), source],
            capture_output=True,
            text=True,
            check=False,
            timeout=DEBOOTSTRAP_S,
        )
        if made.returncode:
            raise NoStandInError(f"debootstrap: {(made.stdout + made.stderr)[-1500:]}")
        (tree / "etc/apt/apt.conf.d/90stand-in").write_text(APT)
        # the machine's own authorities and apt settings are not its business; its name servers are
        archive = Path(name) / "root.tar"
        subprocess.run(
            ["tar", "-C", str(tree), "--exclude=./var/cache/apt/archives/*.deb", "-cf", str(archive), "."],
            check=True,
            timeout=600,
        )
        docker("import", str(archive), tag, timeout_s=600)


def _build(docker: Docker, name: str, base: str, tag: str) -> None:
    with tempfile.TemporaryDirectory(prefix="fw-image-") as folder:
        context = Path(folder) / name
        shutil.copytree(IMAGES / name, context)
        if name == "kafka":
            (context / "jars").mkdir()
            for jar in artifacts.class_path():
                shutil.copy(jar, context / "jars")
        docker(
            *("build", "--network", "host", "--build-arg", f"BASE={base}", "-t", tag, str(context)),
            timeout_s=BUILD_S,
        )


def _left_behind(docker: Docker, name: str, real: str) -> bool:
    """The real one's name is a stand-in's, of a run that was killed."""
    found = docker("images", "-q", "--no-trunc", real).stdout.split()
    ours = docker("images", "-q", "--no-trunc", f"fleetwatch-stand-in/{name}").stdout.split()
    return bool(set(found) & set(ours))


def _pulled(docker: Docker, real: str) -> bool:
    return docker("pull", "-q", real, check=False, timeout_s=PULL_S).returncode == 0


@contextmanager
def in_place(docker: Docker) -> Iterator[list[str]]:
    """All base images under their names: those that are there or can be pulled, stand-ins for the others.

    Yields the names of those that are stand-ins.
    """
    base = f"fleetwatch-stand-in/base:{key('base')}"
    placed: list[str] = []
    try:
        for name, real in wanted().items():
            own = f"fleetwatch-stand-in/{name}:{key(name)}"
            left = _left_behind(docker, name, real)
            if not left and (docker.has(real) or _pulled(docker, real)):
                continue
            if not docker.has(own):
                if not docker.has(base):
                    _base(docker, base)
                _build(docker, name, base, own)
            docker("tag", own, real)
            placed.append(real)
        yield placed
    finally:
        for real in placed:
            docker("rmi", "--no-prune", real, check=False)
