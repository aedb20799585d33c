"""One worker as its users run it, seen from outside. The rule: CPU is user + system of that process alone."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from benchmarks.job import PARTITIONS, Variant
from detectors.ewma import EwmaZ
from telemetry import settings as settings_module
from telemetry.settings import Settings

_LIBC = ctypes.CDLL(None)

Z = 6.0
START_S = 120.0
_URL = re.compile(r"worker: (http\S+)")
_TOTAL = re.compile(r"^fleetwatch_(\w+)_total (\S+)", re.MULTILINE)
_DEVICES = re.compile(r"^fleetwatch_devices\{[^}]*\} (\S+)", re.MULTILINE)
_OWNED = re.compile(r"^fleetwatch_lag_records\{([^}]*)\}", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')

#: Sections of the settings, and what is changed in each.
Changes = Mapping[str, Mapping[str, Any]]


def sections(
    bootstrap: str, variant: Variant, prefix: str, group: str, changes: Changes | None = None
) -> dict[str, Any]:
    """The job's settings for the worker, with `changes` made to them."""
    wanted: dict[str, Any] = {
        "kafka": {"bootstrap": bootstrap},
        "topics": {"prefix": prefix, "partitions": PARTITIONS},
        "processing": {
            "group": group,
            "commit_interval_ms": 1000,
            "fetch_max_bytes": 4 << 20,
            "check_crcs": True,
        },
        "windows": {
            "size_s": 10,
            "hop_s": 10,
            "grace_s": 0,
            "features": ["count", "mean", "std", "min", "max", "last"],
        },
        "detectors": [{"name": "ewma"}],
        "alerts": {"mode": "frames", "open_surprise": EwmaZ(variant.catalog.columns).surprise_at_z(Z)},
        "outputs": {"scores": False},
        "service": {"log_level": "WARNING"},
    }
    for section, values in (changes or {}).items():
        wanted[section] = wanted[section] | values
    return wanted


def write_settings(path: Path, wanted: dict[str, Any]) -> Settings:
    """The settings file (JSON is YAML), and what the worker will read from it."""
    path.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
    return settings_module.load(path, environ={})


def environment() -> dict[str, str]:
    """Ours without settings of a fleetwatch that may run beside."""
    return {k: v for k, v in os.environ.items() if not k.startswith("FLEETWATCH_") or k == "FLEETWATCH_CACHE_DIR"}


class Process:
    """A child process, ended on leaving: SIGTERM, then SIGKILL."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self.log = log
        with log.open("w", encoding="utf-8") as out:
            self._popen = subprocess.Popen(
                [sys.executable, *arguments], stdout=out, stderr=out, env=environment(), cwd=log.parent
            )
        self._process = psutil.Process(self._popen.pid)

    def check(self) -> None:
        """Raises RuntimeError with the end of its log if it has ended."""
        if (code := self._popen.poll()) is not None:
            tail = "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
            raise RuntimeError(f"the process ended with code {code}:\n{tail}")

    def cpu_s(self) -> float:
        """User and system seconds since its start, of all its threads, also of those that have ended."""
        if hasattr(_LIBC, "clock_getcpuclockid"):  # to the nanosecond; psutil's counters tick each 10 ms
            clock = ctypes.c_int()
            if code := _LIBC.clock_getcpuclockid(self._popen.pid, ctypes.byref(clock)):
                raise ProcessLookupError(code, os.strerror(code))
            return time.clock_gettime(clock.value)
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def rss_bytes(self) -> int:
        return int(self._process.memory_info().rss)

    def kill(self) -> None:
        """SIGKILL, at this moment."""
        self._popen.kill()

    def freeze(self) -> None:
        """SIGSTOP."""
        self._popen.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._popen.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL; nothing if it has ended."""
        if self._popen.poll() is not None:
            return
        self._popen.send_signal(signal.SIGTERM)
        try:
            self._popen.wait(30)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait(10)

    def wait(self, timeout_s: float) -> None:
        """Return when it has ended by itself, well.

        Raises
        ------
        RuntimeError : it ended otherwise. subprocess.TimeoutExpired : it runs on.
        """
        if self._popen.wait(timeout_s) != 0:
            self.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class WorkerProcess(Process):
    """`fleetwatch worker` with these settings, or another module that takes its place."""

    def __init__(self, config: Path, log: Path, module: str = "fleetwatch") -> None:
        super().__init__(["-m", module, "--config", str(config), "worker", "--port", "0"], log)
        self._url = ""

    def _page(self) -> str | None:
        """The metrics page, or None while there is none yet."""
        if not self._url:
            match = _URL.search(self.log.read_text(encoding="utf-8", errors="replace"))
            if match is None:
                return None
            self._url = match.group(1)
        try:
            with urllib.request.urlopen(self._url, timeout=5) as response:
                text: str = response.read().decode()
        except OSError:
            return None
        return text

    def totals(self) -> dict[str, float]:
        """The worker's counters without a label, by their short names; empty while it starts."""
        return {name: float(value) for name, value in _TOTAL.findall(self._page() or "")}

    def devices(self) -> int:
        """Devices held, of all classes; 0 while it starts."""
        return sum(int(float(value)) for value in _DEVICES.findall(self._page() or ""))

    def owned(self) -> set[tuple[str, int]]:
        """(topic, partition) of the inputs that it works on now; empty while it starts."""
        labels = [dict(_LABEL.findall(text)) for text in _OWNED.findall(self._page() or "")]
        return {(found["topic"], int(found["partition"])) for found in labels}

    def wait_owned(self, count: int, timeout_s: float = START_S) -> None:
        """Return once it works on so many input partitions.

        Raises
        ------
        RuntimeError : it ended. TimeoutError : it took longer.
        """
        end = time.monotonic() + timeout_s
        while len(owned := self.owned()) != count:
            self.check()
            if time.monotonic() > end:
                raise TimeoutError(f"the worker has {len(owned)} partitions, not {count}, after {timeout_s:.0f} s")
            time.sleep(0.1)

    def frames(self) -> int:
        """Frames accepted so far; 0 while it starts."""
        return int(self.totals().get("frames", 0))

    def wait_frames(self, at_least: int, timeout_s: float, pause_s: float) -> int:
        """Return once it has accepted so many frames: how many they are.

        Raises
        ------
        RuntimeError : it ended. TimeoutError : it took longer.
        """
        end = time.monotonic() + timeout_s
        while (frames := self.frames()) < at_least:
            self.check()
            if time.monotonic() > end:
                raise TimeoutError(f"{frames:,} of {at_least:,} frames within {timeout_s:.0f} s")
            time.sleep(pause_s)
        return frames
