"""Programs of Debian's packages, for tests: from PATH, else fetched by apt into the cache, never installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from fleetwatch.kafka.paths import cache_dir, locked

#: $0 = a folder, $1 = its name below /usr/share, then the program with its arguments
_OWN_SHARE = (
    'mount -t tmpfs tmpfs /usr/share; mkdir -p "/usr/share/$1"; cp -r "$0/." "/usr/share/$1"; shift; exec "$@"'
)


def command(package: str, *, shared: str = "", libraries: Sequence[str] = ()) -> list[str]:
    """What starts the program that is named as its package; append its arguments.

    shared : a folder below /usr/share that it looks for by name. If the package is not installed, the program sees
        an /usr/share of its own that holds nothing else.
    libraries : packages of shared libraries that it needs beyond the C library. If the package is not installed,
        these are from the cache, too.

    Skips the test where neither PATH nor apt has it.
    """
    if found := shutil.which(package):
        return [found]
    folder = _unpacked(package)
    path = folder / "usr/bin" / package
    assert path.is_file(), f"Debian's package {package} has no usr/bin/{package}"
    found_in = [str(each.parent) for name in libraries for each in _unpacked(name).glob("usr/lib/**/*.so.*")]
    start = ["env", f"LD_LIBRARY_PATH={os.pathsep.join(dict.fromkeys(found_in))}"] if found_in else []
    start.append(str(path))
    if not shared:
        return start
    own = [
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-ec",
        _OWN_SHARE,
        str(folder / "usr/share" / shared),
        shared,
    ]
    tried = subprocess.run([*own, "true"], capture_output=True, text=True, check=False, timeout=30)
    if tried.returncode:
        pytest.skip(
            f"{package} is not installed, and cannot be given its /usr/share: {tried.stderr.strip()[-200:]}"
        )
    return [*own, *start]


def _unpacked(package: str) -> Path:
    """The package's files, in the cache."""
    folder = cache_dir() / "debian" / package
    with locked(folder.parent / f"{package}.lock"):
        if not folder.is_dir():
            _unpack(package, folder)
    return folder


def _unpack(package: str, folder: Path) -> None:
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        pytest.skip(f"{package} is not on PATH, and there is no apt-get to fetch it with")
    with tempfile.TemporaryDirectory() as made:
        got = subprocess.run(
            ["apt-get", "download", package], cwd=made, capture_output=True, text=True, check=False, timeout=120
        )
        files = list(Path(made).glob("*.deb"))
        if got.returncode or not files:
            pytest.skip(f"{package} is not on PATH, and `apt-get download` fails: {got.stderr.strip()[-200:]}")
        subprocess.run(["dpkg", "-x", files[0], f"{made}/x"], check=True, timeout=60)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.move(f"{made}/x", folder)
