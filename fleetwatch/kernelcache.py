"""Where numba keeps compiled kernels. The rule: machine code of other sources is never run.

numba looks at the file that a kernel is in, not at those of the helpers that were folded into it: after an upgrade
it would go on with old code. Here the folder's name is made of all sources that kernels come from, and of the
compilers.
"""

from __future__ import annotations

import hashlib
import os
from importlib import metadata
from pathlib import Path

from fleetwatch.kafka.paths import cache_dir

PACKAGES = ("detectors", "streams", "telemetry")


def digest() -> str:
    """16 hex digits of the sources and the compilers' versions."""
    root = Path(__file__).resolve().parent.parent
    found = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            found.update(str(path.relative_to(root)).encode())
            found.update(path.read_bytes())
    for name in ("numba", "llvmlite", "numpy"):
        found.update(f"{name} {metadata.version(name)}".encode())
    return found.hexdigest()[:16]


def use() -> Path:
    """Have numba keep its cache by sources, before it is imported; NUMBA_CACHE_DIR, where set, is left as it is."""
    folder = os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_dir() / "kernels" / digest()))
    return Path(folder)
