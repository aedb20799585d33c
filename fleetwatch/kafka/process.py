"""A broker's process, found again by anyone. The rule: a process is touched only if surely the one we started.

Process ids are used again by the system, so a pid file also holds the process's start time, and the process must
have our properties file on its command line.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil

#: Two readings of a start time differ by the clock's corrections since boot.
START_TIME_TOLERANCE_S = 2.0


def write_atomically(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part-{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def find(pid_file: Path, argument: str) -> psutil.Process | None:
    """The living process that `pid_file` names, or None.

    Parameters
    ----------
    argument : what must stand on its command line.
    """
    try:
        record = json.loads(pid_file.read_text(encoding="utf-8"))
        process = psutil.Process(int(record["pid"]))
        same_start = abs(process.create_time() - float(record["create_time_s"])) < START_TIME_TOLERANCE_S
        if same_start and process.status() != psutil.STATUS_ZOMBIE and argument in process.cmdline():
            return process
    except (FileNotFoundError, psutil.NoSuchProcess, psutil.AccessDenied, ValueError, KeyError, TypeError):
        return None  # never started, ended, another user's, or a damaged file: in no case ours to touch
    return None


def spawn(command: Sequence[str], log: Path, pid_file: Path) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, so that it outlives us and no terminal signal reaches it.

    The log of the start before is kept beside the new one as `<name>.1`.
    """
    if log.exists():
        log.replace(log.with_name(log.name + ".1"))
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=pid_file.parent,
        )
    record = {"pid": child.pid, "create_time_s": psutil.Process(child.pid).create_time()}
    write_atomically(pid_file, json.dumps(record))
    return child


def end(processes: Sequence[psutil.Process], patience_s: float) -> list[psutil.Process]:
    """SIGTERM to all at once, then SIGKILL to those that are left after `patience_s`; returns those killed."""
    for process in processes:
        _signal(process.terminate)
    _, alive = psutil.wait_procs(processes, timeout=patience_s)
    return kill(alive)


def kill(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """SIGKILL and wait until they are gone."""
    for process in processes:
        _signal(process.kill)
    _, alive = psutil.wait_procs(processes, timeout=10)
    if alive:
        raise RuntimeError(f"processes {[process.pid for process in alive]} survive SIGKILL")
    return list(processes)


def _signal(send: object) -> None:
    assert callable(send)
    try:
        send()
    except psutil.NoSuchProcess:
        return  # it ended by itself: what was wanted
