"""The short form of `make fuzz`, in a process of its own; and proof that it would notice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).with_name("fuzz.py")
SUPPORT = Path(__file__).parents[1] / "support"
EXECUTIONS = 200_000

OVER_READ = """
import ctypes, sys
sys.path[:0] = [{support!r}, {fuzz!r}]
import fuzz, fuzz_targets

class Faulty(fuzz_targets.FrameTarget):
    def run(self, data):
        if len(data) == 66:  # some mutant is
            ctypes.string_at(self._memory.at_end(data), len(data) + 1)
        return super().run(data)

fuzz_targets.TARGETS["frames"] = Faulty
sys.exit(fuzz.main())
"""


@pytest.mark.timeout(240)
def test_no_input_crashes_reads_outside_or_is_judged_differently(tmp_path):
    command = [sys.executable, str(FUZZ), "--executions", str(EXECUTIONS), "--save", str(tmp_path / "found")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = "".join(file.read_text()[:2000] for file in (tmp_path / "found").glob("*.hex"))
    assert done.returncode == 0, done.stderr[-3000:] + found
    figures = json.loads(done.stdout)
    assert sum(part["executions"] for part in figures.values()) == EXECUTIONS
    assert sum(part["resident_growth_kib"] for part in figures.values()) < 64 << 10
    for name in ("frames", "records"):
        assert figures[name]["slowest_cpu_ms"] < 50
        assert figures[name]["outcomes"]["ok"] > 1000
        assert len(figures[name]["outcomes"]) > 10
        assert figures[name]["corpus"][1] > 100 + figures[name]["corpus"][0]
    assert {"frames", "batch_corrupt", "batch_crc", "batch_codec", "batch_too_large"} <= set(
        figures["responses"]["outcomes"]
    )


@pytest.mark.parametrize("read", ["at_end(b'x' * 100), 101", "at_begin(b'x' * 100) - 1, 1"])
def test_the_guards_are_there(read):
    code = (
        f"import sys, ctypes; sys.path.insert(0, {str(SUPPORT)!r})\n"
        "from guarded import GuardedMemory\n"
        "memory = GuardedMemory(2)\n"
        "assert ctypes.string_at(memory.at_end(b'x' * 100), 100) == b'x' * 100\n"
        "assert bytes(memory.view(b'y' * 9)) == b'y' * 9\n"
        f"ctypes.string_at(memory.{read})\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGSEGV


def test_an_over_read_is_found_and_its_input_is_saved(tmp_path):
    script = tmp_path / "faulty.py"
    script.write_text(OVER_READ.format(support=str(SUPPORT), fuzz=str(FUZZ.parent)))
    command = [sys.executable, str(script), "--target", "frames", "--executions", "50000", "--save", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "signal 11 at an input of frames" in done.stderr
    (saved,) = tmp_path.glob("frames-*.hex")
    name, _, text = saved.read_text().partition("\n")
    assert (name, len(bytes.fromhex(text))) == ("frames", 66)
    again = [sys.executable, str(FUZZ), "--input", str(saved), "--save", str(tmp_path / "again")]
    assert subprocess.run(again, capture_output=True, check=False).returncode == 0  # the real decoder does not
