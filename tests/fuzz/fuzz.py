"""Fuzz the decoders: ``python tests/fuzz/fuzz.py --seconds 300``; figures as JSON on stdout.

The work is done in a child process. An input that ends it, or breaks a law of its target, is saved as hex in the
folder --save, and the exit code is 1. ``--input FILE`` runs one saved input again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import mmap
import struct
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

#: How a number of executions or seconds is divided among the targets.
SHARES = {"frames": 0.5, "records": 0.2, "responses": 0.2, "codecs": 0.1}
_HEAD = struct.Struct("<20sI")
_CURRENT_BYTES = 1 << 20


class Current:
    """The input that is being run, in a file that outlives the process."""

    def __init__(self, file: Path, *, create: bool) -> None:
        if create:
            file.write_bytes(bytes(_CURRENT_BYTES))
        with file.open("r+b") as handle:
            self._map = mmap.mmap(handle.fileno(), _CURRENT_BYTES)

    def set(self, target: str, data: bytes) -> None:
        _HEAD.pack_into(self._map, 0, target.encode(), len(data))
        self._map[_HEAD.size : _HEAD.size + len(data)] = data

    def get(self) -> tuple[str, bytes]:
        name, size = _HEAD.unpack_from(self._map, 0)
        return name.rstrip(b"\0").decode(), self._map[_HEAD.size : _HEAD.size + size]


def resident_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE >> 10


def fuzz(name: str, executions: int, seconds: float, seed: int, current: Current) -> dict[str, object]:
    """Run one target; its figures."""
    from fuzz_targets import SIZE_MAX, TARGETS
    from mutate import Mutator

    target = TARGETS[name]()
    for data in target.corpus:  # compiles the kernels, and the seeds themselves must be lawful
        current.set(name, data)
        target.run(data)
    mutate = Mutator(target.corpus, seed, SIZE_MAX)
    began, done, slowest_s, resident = time.monotonic(), 0, 0.0, resident_kib()
    while done < executions and time.monotonic() - began < seconds:
        data = mutate()
        current.set(name, data)
        at = time.thread_time()  # the processor's time: others may have it meanwhile
        mutate.keep_if_new(data, target.run(data))
        slowest_s = max(slowest_s, time.thread_time() - at)
        done += 1
    return {
        "executions": done,
        "seconds": round(time.monotonic() - began, 1),
        "corpus": [len(target.corpus), len(mutate.corpus)],
        "slowest_cpu_ms": round(slowest_s * 1000, 1),
        "resident_growth_kib": resident_kib() - resident,
        "outcomes": dict(sorted(target.reasons.items())),
    }


def child(args: argparse.Namespace, current: Current) -> int:
    if args.input:
        from fuzz_targets import TARGETS

        name, _, text = args.input.read_text().partition("\n")
        current.set(name, bytes.fromhex(text))
        print(TARGETS[name]().run(bytes.fromhex(text)))
        return 0
    figures = {}
    for number, (name, share) in enumerate(SHARES.items()):
        if args.target in (name, "all"):
            part = share if args.target == "all" else 1.0
            figures[name] = fuzz(
                name, int(args.executions * part), args.seconds * part, args.seed * 100 + number, current
            )
    print(json.dumps(figures, indent=1))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executions", type=int, default=10**9, help="in all, divided among the targets")
    parser.add_argument("--seconds", type=float, default=10**9, help="in all, divided among the targets")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", choices=[*SHARES, "all"], default="all")
    parser.add_argument("--save", type=Path, default=Path(".cache/fuzz"))
    parser.add_argument("--input", type=Path, help="run this saved input only")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    args = parse()
    args.save.mkdir(parents=True, exist_ok=True)
    file = args.save / "current"
    if args.child:
        return child(args, Current(file, create=False))
    current = Current(file, create=True)
    code = subprocess.run([sys.executable, *sys.argv, "--child"], check=False).returncode
    name, data = current.get()
    file.unlink()
    if code == 0:
        return 0
    found = args.save / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}.hex"
    found.write_text(f"{name}\n{data.hex()}")
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    print(f"{how} at an input of {name}, saved as {found}; run it with --input {found}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
