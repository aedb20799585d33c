"""Fuzz one target guided by coverage: ``python tests/fuzz/guided.py frames CORPUS_DIR -max_total_time=300``.

For whoever has atheris, which is no dependency of the project. libFuzzer sees which lines of the plain-Python twins
an input reaches; the compiled code, which it cannot see into, must agree with the twins on each. Arguments after
the target are libFuzzer's.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import atheris

with atheris.instrument_imports(include=["frame_twin"]):
    import frame_twin  # noqa: F401

from fuzz_targets import TARGETS


def main() -> None:
    target = TARGETS[sys.argv.pop(1)]()
    folders = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")]
    for folder in folders[:1]:
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(target.corpus):
            (folder / f"seed-{number:04}").write_bytes(seed)
            target.run(seed)
    atheris.Setup(sys.argv, target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
