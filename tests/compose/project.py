"""The compose file as a project of its own name and ports. The rule: it is taken down whatever happened."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.compose.daemon import Docker, DockerError

ROOT = Path(__file__).resolve().parents[2]
PORTS = ("KAFKA_PORT", "PROMETHEUS_PORT", "ALERTMANAGER_PORT", "GRAFANA_PORT")
DOWN_S = 180
_given = itertools.count()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; from FLEETWATCH_TEST_PORT on, where that is set."""
    if first := int(os.environ.get("FLEETWATCH_TEST_PORT", "0")):
        return [first + next(_given) for _ in range(count)]
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


@dataclass
class Project:
    """One running copy of docker-compose.yml."""

    docker: Docker
    name: str
    tag: str
    ports: dict[str, int]
    files: list[Path] = field(default_factory=lambda: [ROOT / "docker-compose.yml"])

    def compose(
        self, *words: str, timeout_s: float = 300, check: bool = True, profiles: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """`docker-compose WORDS` of this project.

        Raises
        ------
        DockerError : it failed, and `check` is set.
        """
        files = [word for path in self.files for word in ("-f", str(path))]
        folder = ("--project-directory", str(ROOT))
        chosen = [word for profile in profiles for word in ("--profile", profile)]
        done = subprocess.run(
            ["docker-compose", "--ansi", "never", "-p", self.name, *folder, *files, *chosen, *words],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            env=self.docker.environment(
                FLEETWATCH_TAG=self.tag, **{name: str(port) for name, port in self.ports.items()}
            ),
        )
        if check and done.returncode:
            raise DockerError(f"docker-compose {' '.join(words)}: {(done.stdout + done.stderr)[-4000:]}")
        return done

    def containers(self, service: str = "") -> list[dict[str, Any]]:
        """What `docker inspect` says of each, ended ones included."""
        words = ["ps", "-aq", "--filter", f"label=com.docker.compose.project={self.name}"]
        if service:
            words += ["--filter", f"label=com.docker.compose.service={service}"]
        ids = self.docker(*words).stdout.split()
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", *ids).stdout) if ids else []
        return [each for each in found if each["Config"]["Labels"].get("com.docker.compose.oneoff") != "True"]

    def log(self, service: str, tail: str = "all") -> str:
        """What its containers wrote."""
        return "".join(
            (done := self.docker("logs", "--tail", tail, each["Id"])).stdout + done.stderr
            for each in self.containers(service)
        )

    def get(self, port: str, path: str) -> Any:
        """JSON of a page at one of the published ports."""
        url = f"http://127.0.0.1:{self.ports[port]}{path}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.ports['KAFKA_PORT']}"

    def down(self) -> None:
        self.compose(
            *("down", "-v", "--remove-orphans", "-t", "20"),
            profiles=("observability", "replay"),
            timeout_s=DOWN_S,
        )


def await_that(what: str, within_s: float, said: Callable[[], Any], every_s: float = 0.5) -> Any:
    """The first true answer of `said`.

    Raises
    ------
    AssertionError : none came in time; with the last answer, or the error instead of one.
    """
    deadline_s = time.monotonic() + within_s
    last: Any = None
    while True:
        try:
            last = said()
        except (OSError, ValueError, KeyError, IndexError) as exc:
            last = exc
        if last and not isinstance(last, Exception):
            return last
        assert time.monotonic() < deadline_s, f"not within {within_s:g} s: {what} (last: {last!r:.500})"
        time.sleep(every_s)


@contextmanager
def project(docker: Docker, tag: str, *more: Path) -> Iterator[Project]:
    """A project that has not been started yet; containers, networks and volumes are gone afterwards."""
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    made = Project(docker, f"fwt{uuid.uuid4().hex[:6]}", tag, ports)
    made.files += more
    try:
        yield made
    finally:
        made.down()


@contextmanager
def context() -> Iterator[Path]:
    """What git has of this tree, as a build's context; with this machine's authorities for the package index."""
    with tempfile.TemporaryDirectory(prefix="fw-context-") as name:
        folder = Path(name)
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=60
        ).stdout
        for each in filter(None, listed.decode().split("\0")):
            target = folder / each
            if (ROOT / each).is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / each, target)
        authorities = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
        if authorities and Path(authorities).is_file():
            shutil.copy(authorities, folder / "requirements/ca.pem")
        yield folder
