"""Compiled kernels of other sources are never run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import fleetwatch.kernelcache as kernelcache

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from fleetwatch import kernelcache
print(kernelcache.use())
import numpy as np
from telemetry.partitioner import partitions_of
print(partitions_of(np.frombuffer(b"abc", np.uint8)[None, :], 7)[0])
"""


def run(root: Path, cache: Path) -> list[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "PYTHONPATH")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(root)],
        capture_output=True,
        text=True,
        env=environment | {"FLEETWATCH_CACHE_DIR": str(cache)},
        cwd=root,
        check=True,
    )
    return done.stdout.split()


def test_a_helper_that_changes_is_compiled_anew(tmp_path):
    """The helper is in another file than the kernel, and folded into it: numba alone would not notice."""
    root, here = tmp_path / "release", Path(kernelcache.__file__).parent.parent
    root.mkdir()
    for package in (*kernelcache.PACKAGES, "fleetwatch"):
        shutil.copytree(here / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    first, answer = run(root, tmp_path / "cache")
    assert int(answer) == 479470107 % 7 and any(Path(first).rglob("*.nbi"))
    assert run(root, tmp_path / "cache") == [first, answer]
    memory = root / "telemetry" / "rawmem.py"
    changed = memory.read_text().replace(
        "load_u8, store_u8 = _pair(lambda: ir.IntType(8), types.uint8)",
        "load_u8, store_u8 = _pair(lambda: ir.IntType(8), types.uint8)\nload_u32x = None",
    )
    assert changed != memory.read_text()
    memory.write_text(changed)
    second, again = run(root, tmp_path / "cache")
    assert second != first and again == answer


def test_a_folder_that_was_chosen_is_left(monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert kernelcache.use() == tmp_path
