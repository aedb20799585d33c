"""The peers' environments, in the user's cache. The rule: one is used only when its installation came to its end.

Python's have a virtual environment each, from pinned and hashed requirements; Java's are built by Maven into one
folder, with a repository of its own. What has the same requirements or sources is made once.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers.programs import JAVA, Peer, requirements
from benchmarks.process import environment
from fleetwatch.kafka.paths import cache_dir, locked

INSTALL_S = 1200.0
TELL_S = 10.0
_RUNTIME = re.compile(r"runtime: (.+)$", re.MULTILINE)
_VERSION = re.compile(r'version "([^"]+)"')
Say = Callable[[str], None]


class CannotInstallError(RuntimeError):
    """A peer could not be installed; the message says why and what to do."""


def root() -> Path:
    return cache_dir() / "peers"


def _digest(*files: Path) -> str:
    seen = hashlib.sha256(sys.version.encode())
    for file in files:
        seen.update(f"{file.name}\n".encode() + file.read_bytes())
    return seen.hexdigest()[:12]


def run(command: list[str], log: Path, say: Say, what: str, cwd: Path | None = None) -> None:
    """Run an installer, its output to `log`; tells each 10 s that it still runs. Ended with us, whatever ends us.

    Raises
    ------
    CannotInstallError : it failed, with the end of its log, or took longer than 20 minutes.
    """
    started = told = time.monotonic()
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment(), cwd=cwd)
    try:
        while process.poll() is None:
            time.sleep(0.1)
            now = time.monotonic()
            if now - started > INSTALL_S:
                raise CannotInstallError(f"{what} took longer than {INSTALL_S:.0f} s; its log: {log}")
            if now - told > TELL_S:
                told = now
                say(f"{what}: {now - started:.0f} s")
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
    if process.returncode:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
        raise CannotInstallError(f"{what} ended with code {process.returncode}; the end of {log}:\n{tail}")


def _once(folder: Path, make: Callable[[], None]) -> None:
    """Call `make` unless an earlier call ended well for this folder."""
    with locked(folder.with_name(folder.name + ".lock")):
        if (folder / ".ready").exists():
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make()
        (folder / ".ready").touch()


def python(name: str, say: Say) -> Path:
    """The interpreter of an environment, made if it is not there.

    Raises
    ------
    CannotInstallError
    """
    wanted = requirements(name)
    folder = root() / f"python-{name}-{_digest(wanted)}"
    interpreter = folder / "bin" / "python"

    def make() -> None:
        say(f"installing {wanted.name} into {folder}")
        log = folder.with_name(folder.name + ".log")
        run([sys.executable, "-m", "venv", str(folder)], log, say, f"{name}: python -m venv")
        pip = [str(interpreter), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
        run([*pip, "--require-hashes", "-r", str(wanted)], log, say, f"{name}: pip install")
        run([str(interpreter), "-m", "pip", "check"], log, say, f"{name}: pip check")

    _once(folder, make)
    return interpreter


def maven() -> tuple[str, Path]:
    """Maven, and the JVM that it runs on.

    Raises
    ------
    CannotInstallError : there is none.
    """
    command = shutil.which("mvn")
    if command is None:
        raise CannotInstallError(
            "mvn is not on the PATH: install Maven and a JDK 17 or newer (Debian: apt install maven; macOS: "
            "brew install maven)"
        )
    told = subprocess.run([command, "-version"], capture_output=True, text=True, timeout=60, check=False)
    match = _RUNTIME.search(told.stdout)
    if told.returncode or match is None:
        raise CannotInstallError(f"`mvn -version` does not work: {(told.stderr or told.stdout).strip()[:500]}")
    return command, Path(re.sub(r"\x1b\[[0-9;]*m", "", match[1]).strip()) / "bin" / "java"


def java(module: str, say: Say) -> tuple[Path, Path]:
    """The JVM, and the folder of the built module's jars; built if they are not there.

    Raises
    ------
    CannotInstallError
    """
    command, jvm = maven()
    sources = sorted(file for file in JAVA.rglob("*") if file.suffix in {".java", ".xml"})
    folder = root() / f"java-{_digest(*sources)}"

    def make() -> None:
        say(f"building the Java programs in {folder} (the first time Maven fetches some 200 MB)")
        for file in sources:
            copy = folder / file.relative_to(JAVA)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        build = [command, "-B", "-ntp", f"-Dmaven.repo.local={root() / 'm2'}", "package"]
        run(build, folder.with_name(folder.name + ".log"), say, "mvn package", folder)

    _once(folder, make)
    return jvm, folder / module / "target"


def jvm_version() -> str:
    """Of the JVM that the Java peers run on.

    Raises
    ------
    CannotInstallError
    """
    told = subprocess.run([str(maven()[1]), "-version"], capture_output=True, text=True, timeout=60, check=False)
    match = _VERSION.search(told.stderr)
    return match[1] if match else "unknown"


def command(peer: Peer, say: Say) -> list[str]:
    """How to start a peer, without its arguments; installs it first.

    Raises
    ------
    CannotInstallError
    """
    if not peer.java:
        return [str(python(peer.environment, say)), str(requirements(peer.environment).with_name(peer.main))]
    jvm, target = java(peer.environment, say)
    opened = [f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in ("lang", "util", "time", "nio")]
    options = ["-Xms2g", "-Xmx2g", "-XX:+UseParallelGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", *opened]
    return [str(jvm), *options, "-cp", f"{target / (peer.environment + '-1.jar')}:{target / 'lib'}/*", peer.main]
