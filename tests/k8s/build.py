"""The control plane's programs, found or built. The rule: built once for each set of sources, outside of the tree.

`python -m tests.k8s.build` prints the folder with etcd, kube-apiserver, kube-controller-manager, kube-scheduler,
kubectl and helm. Nine minutes on two idle cores when Go has built nothing of it before, seconds after that.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fleetwatch.kafka.paths import cache_dir, locked

SOURCES = Path(__file__).resolve().parent / "cluster"
HELM = "helm.sh/helm/v4/cmd/helm"
MULTI_CALL = "testcluster"
LINKS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
#: A folder with all programs in it, where they are not to be built.
GIVEN = "K8S_TEST_BIN"
TELL_EVERY_S = 15.0
TAIL_LINES = 15

Tell = Callable[[str], None]


class BuildError(Exception):
    """The programs are not there; the text says what to do."""


def _tell(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def programs(tell: Tell = _tell) -> Path:
    """The folder that holds them all; builds them if need be.

    Raises
    ------
    BuildError : no Go, no modules, or an error of the compiler.
    """
    if given := os.environ.get(GIVEN):
        return _checked(Path(given))
    go = shutil.which("go")
    if go is None:
        raise BuildError(
            "go is not on PATH: install Go 1.26 or newer (the programs of the control plane are built from source, "
            f"once), or set {GIVEN} to a folder with {', '.join((*LINKS, 'helm'))}"
        )
    command = _command(go)
    target = cache_dir() / f"k8s-{_key(go, command)}"
    if not target.exists():
        with locked(target.with_suffix(".lock")):
            if not target.exists():  # another process may have built it while this one waited
                _build(command, target, tell)
    return target / "bin"


def _checked(folder: Path) -> Path:
    missing = [name for name in (*LINKS, "helm") if not os.access(folder / name, os.X_OK)]
    if missing:
        raise BuildError(f"{GIVEN}={folder} does not hold {', '.join(missing)}")
    return folder


def _command(go: str) -> list[str]:
    found = re.search(r"k8s\.io/kubernetes (v(\d+)\.(\d+)\.\d+)", (SOURCES / "go.mod").read_text())
    assert found, "go.mod names no version of k8s.io/kubernetes"
    stamps = zip(("gitVersion", "gitMajor", "gitMinor"), found.groups(), strict=True)
    stamped = " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in stamps)
    return [go, "build", "-v", "-trimpath", "-buildvcs=false", "-ldflags", f"-s -w {stamped}"]


def _key(go: str, command: list[str]) -> str:
    version = subprocess.run([go, "version"], capture_output=True, text=True, check=True, cwd=SOURCES).stdout
    found = hashlib.sha256()
    for part in (version, *command[1:]):
        found.update(part.encode() + b"\0")
    for name in ("go.mod", "go.sum", "main.go"):
        found.update((SOURCES / name).read_bytes())
    return found.hexdigest()[:16]


def _build(command: list[str], target: Path, tell: Tell) -> None:
    free = shutil.disk_usage(target.parent).free
    tell(f"building the control plane into {target}: once, minutes, up to 5 GB ({free / 1e9:.0f} GB are free)")
    part = target.with_name(f"{target.name}.part-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    (part / "bin").mkdir(parents=True)
    try:
        _run([*command, "-o", f"{part / 'bin'}/", ".", HELM], tell)
        for name in LINKS:
            (part / "bin" / name).symlink_to(MULTI_CALL)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _run(command: list[str], tell: Tell) -> None:
    began = told = time.monotonic()
    lines: list[str] = []
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"}
    with subprocess.Popen(
        command, cwd=SOURCES, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            lines.append(line.rstrip())
            if time.monotonic() > told + TELL_EVERY_S:
                told = time.monotonic()
                tell(f"  {told - began:4.0f} s: {len(lines)} steps, now {lines[-1]}")
    if process.returncode:
        raise BuildError(
            f"go build ended with {process.returncode}; modules come from GOPROXY (see `go env GOPROXY`):\n"
            + "\n".join(lines[-TAIL_LINES:])
        )
    tell(f"built in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    try:
        print(programs())
    except BuildError as error:
        sys.exit(str(error))
