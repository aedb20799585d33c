"""A process that stands still. The rule: it does so when `freeze` returns, not only soon."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

STOP_S = 10.0


def _states(pid: int) -> set[str]:
    """Of its threads, in the kernel's letters."""
    tasks = Path(f"/proc/{pid}/task").glob("*/stat")
    return {task.read_text(encoding="utf-8").rpartition(")")[2].split()[0] for task in tasks}


def freeze(process: psutil.Process) -> None:
    """SIGSTOP, and wait until each thread has heard it: on a busy machine one goes on to answer what is asked then.

    Raises
    ------
    TimeoutError : a thread runs on.
    """
    process.suspend()
    end = time.monotonic() + STOP_S
    while (states := _states(process.pid)) != {"T"}:
        if time.monotonic() > end:
            raise TimeoutError(f"threads of {process.pid} are {states} {STOP_S:.0f} s after SIGSTOP")
        time.sleep(0.001)
