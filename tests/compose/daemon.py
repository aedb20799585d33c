"""Docker for the compose test. The rule: what we start ends with us; a daemon that ran before is left as it was.

An own daemon has its data in the user's cache, so that images and build steps are there the next time.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fleetwatch.kafka.paths import cache_dir, locked

PACKAGES = {"dockerd": "docker.io", "docker-compose": "docker-compose", "debootstrap": "debootstrap"}
START_S = 60
STOP_S = 60


class DockerError(RuntimeError):
    """A command failed; what it said is the message."""


@dataclass(frozen=True)
class Docker:
    """Commands to one daemon."""

    host: str | None

    def environment(self, **more: str) -> dict[str, str]:
        mine = {"DOCKER_HOST": self.host} if self.host else {}
        return {**os.environ, **mine, "DOCKER_BUILDKIT": "0", **more}

    def __call__(
        self, *words: str, timeout_s: float = 120, check: bool = True, data: bytes | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`docker WORDS`.

        Raises
        ------
        DockerError : it failed, and `check` is set.
        """
        done = subprocess.run(
            ["docker", *words],
            input=data.decode() if data else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            env=self.environment(),
        )
        if check and done.returncode:
            raise DockerError(f"docker {' '.join(words)[:200]}: {(done.stdout + done.stderr)[-3000:]}")
        return done

    def has(self, image: str) -> bool:
        return self("image", "inspect", image, check=False).returncode == 0


def install_missing() -> str | None:
    """Debian's packages, where programs are missing; the reason why that cannot be."""
    missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    if not missing:
        return None
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return f"needs {', '.join(missing)}, and this is not root on Debian, who could install them"
    command = ["apt-get", "install", "-y", "--no-install-recommends", "iptables", *missing]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )
    return f"{' '.join(command)}: {done.stderr[-500:]}" if done.returncode else None


@contextmanager
def daemon() -> Iterator[Docker]:
    """The daemon that runs, or one of ours until the end.

    Raises
    ------
    DockerError : none runs and none can be started; its last lines.
    """
    found = Docker(None)
    if found("version", check=False).returncode == 0:
        yield found
        return
    home = cache_dir() / "compose-test"
    with locked(home / "daemon.lock"), tempfile.TemporaryDirectory(prefix="fwd-") as name:
        folder = Path(name)
        mine = Docker(f"unix://{folder}/s")
        log = home / "dockerd.log"
        words = ["dockerd", "--data-root", f"{home}/docker", "--exec-root", f"{folder}/x", "-p", f"{folder}/pid"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*words, "-H", str(mine.host)], stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            _await(mine, process, log)
            yield mine
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _unmount(folder)


def _unmount(folder: Path) -> None:
    """A daemon leaves its network namespace mounted."""
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        if (where := line.split()[1]).startswith(f"{folder}/"):
            subprocess.run(["umount", "-l", where], check=True, timeout=30)


def _await(docker: Docker, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while docker("version", check=False).returncode:
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise DockerError(f"dockerd does not start: {log.read_text(errors='replace')[-1500:]}")
        time.sleep(0.5)
