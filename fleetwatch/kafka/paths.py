"""Where the embedded Kafka keeps things. The rule: nothing is ever written into the source tree.

Jars and class archives can be made again: they go to the user's cache. A cluster's data is state.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def _xdg(own: str, variable: str, fallback: str) -> Path:
    if os.environ.get(own):
        return Path(os.environ[own]).expanduser().absolute()
    base = os.environ.get(variable)
    # XDG: a relative path is to be ignored
    root = Path(base) if base and Path(base).is_absolute() else Path.home() / fallback
    return root / "fleetwatch"


def cache_dir() -> Path:
    """FLEETWATCH_CACHE_DIR, or `fleetwatch` in XDG_CACHE_HOME (default ~/.cache)."""
    return _xdg("FLEETWATCH_CACHE_DIR", "XDG_CACHE_HOME", ".cache")


def default_cluster_dir() -> Path:
    """`kafka` in FLEETWATCH_STATE_DIR, or in `fleetwatch` in XDG_STATE_HOME (default ~/.local/state)."""
    return _xdg("FLEETWATCH_STATE_DIR", "XDG_STATE_HOME", ".local/state") / "kafka"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`, over processes; ends with the process that holds it, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
