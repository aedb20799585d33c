"""The demo's own processes: started, watched, killed, ended. The rule: by process id, and none outlives the demo.

Each child leads a session of its own, so that Ctrl-C at the terminal reaches the demo alone, which then ends its
children in order. What a child says goes to a file.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from telemetry.errors import FleetwatchError

#: SIGTERM, then so long, then SIGKILL.
PATIENCE_S = 10.0
LOG_TAIL_LINES = 12
_METRICS_LINE = re.compile(r"^worker: (http://\S+)/metrics$", re.MULTILINE)


def sweep(*pairs: tuple[str, str]) -> None:
    """End what was started here and not noted, as an interrupt between the two may have left it.

    Parameters
    ----------
    pairs : two words that follow each other on the command line of the demo's processes and of no other.
    """
    left = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(pair in pairs for pair in itertools.pairwise(words)):
            left.append(process)
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself: what was wanted
                process.kill()
    psutil.wait_procs(left, timeout=PATIENCE_S)


class DemoError(FleetwatchError):
    """A part of the demo failed; the message has the end of its log."""


@dataclass(slots=True)
class Child:
    """One process. name : for people, and of its log file."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def said(self) -> str:
        """Everything it has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def metrics_base(self) -> str | None:
        """A worker's address, once it has told it: http://host:port."""
        found = _METRICS_LINE.search(self.said())
        return found[1] if found else None

    def failure(self, what: str) -> DemoError:
        """The error that says what it did, with the end of its log."""
        tail = self.said().splitlines()[-LOG_TAIL_LINES:]
        text = "\n".join(f"  {line[:300]}" for line in tail) or "  (empty)"
        return DemoError(f"{self.name} (pid {self.pid}) {what}. The end of its log, {self.log}:\n{text}")

    def signal_group(self, number: signal.Signals) -> None:
        """To the process and whatever it started. It leads its group until it is reaped, so the id is its own."""
        if self.running:
            os.killpg(self.process.pid, number)


class Children:
    """Starts `python -m fleetwatch ...` processes; `end` ends those that are left.

    Parameters
    ----------
    environ : their environment. logs : folder of their logs.
    """

    def __init__(self, config: Path, logs: Path, environ: Mapping[str, str]) -> None:
        self._config, self._logs, self._environ = config, logs, dict(environ)
        self.all: list[Child] = []

    def start(self, name: str, arguments: Sequence[str]) -> Child:
        """Start one; its log is a file of that name."""
        log = self._logs / f"{name}.log"
        command = [sys.executable, "-m", "fleetwatch", "--config", str(self._config), *arguments]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=self._environ,
                cwd=self._logs,
            )
        child = Child(name, process, log)
        self.all.append(child)
        return child

    def kill(self, child: Child) -> None:
        """SIGKILL, and wait until it is gone."""
        child.signal_group(signal.SIGKILL)
        child.process.wait(PATIENCE_S)

    def end(self) -> None:
        """SIGTERM to all, SIGKILL to those that are left after `PATIENCE_S`; afterwards none of them runs."""
        for child in self.all:
            child.signal_group(signal.SIGTERM)
        deadline_s = time.monotonic() + PATIENCE_S
        while any(child.running for child in self.all) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        for child in self.all:
            child.signal_group(signal.SIGKILL)
        for child in self.all:
            child.process.wait(PATIENCE_S)
