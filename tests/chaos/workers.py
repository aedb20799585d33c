"""Real workers, started again when they end, as by a supervisor. The rule: every end is noted with its cause."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

RESTART_DELAY_S = 0.5
#: A worker that ends with this has wrong settings or topics: a supervisor does not start it again.
EXIT_CONFIG = 78
#: Told to end, and not finished.
EXIT_UNFINISHED = 75
#: So long a worker may be starting on a loaded machine.
STARTING_S = 20.0
TERM_PATIENCE_S = 30.0
WEB_PORT = 6066


@dataclass(frozen=True)
class WorkerEnd:
    """One end of a worker's process. cause : "killed", "told" (SIGTERM), or its last error line."""

    worker: str
    at_s: float
    code: int
    cause: str

    @property
    def ours(self) -> bool:
        """We ended it, and it ended as it should; SIGTERM ends a process that has only just begun by itself."""
        return (self.cause, self.code) in {("killed", -signal.SIGKILL), ("told", 0), ("told", -signal.SIGTERM)}


@dataclass
class Slot:
    """One worker of the group: its name stays, its processes come and go."""

    name: str
    prefix: tuple[str, ...]
    address: str
    log: Path
    process: subprocess.Popen[bytes] | None = None
    told: str = ""  # what we did to the present process
    started_at_s: float = 0.0  # monotonic
    restart_at_s: float = 0.0
    starts: int = 0
    ends: list[WorkerEnd] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def state(self) -> str:
        """Linux's letter for the process's state: T = stopped; empty = there is none."""
        if self.process is None:
            return ""
        try:
            return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return ""


class Workers:
    """Starts, watches and restarts the workers; faults reach them through it."""

    def __init__(self, folder: Path, config: Path, places: Sequence[tuple[str, tuple[str, ...], str]]) -> None:
        """places : (name, command prefix, address of the web page) of each worker; no address = any free port."""
        self._folder, self._config = folder, config
        self.slots = [Slot(name, prefix, at, folder / f"{name}.log") for name, prefix, at in places]
        self._lock = threading.RLock()
        self._keep_running = False
        self.problems: list[str] = []
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    def start(self) -> None:
        self._keep_running = True
        for slot in self.slots:
            self._launch(slot)
        self._thread.start()

    def _launch(self, slot: Slot) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith("FLEETWATCH_")}
        env["FLEETWATCH_SERVICE__NAME"] = slot.name
        if slot.address:
            env["FLEETWATCH_SERVICE__HOST"] = slot.address
        port = str(WEB_PORT if slot.address else 0)
        command = [*slot.prefix, sys.executable, "-m", "fleetwatch", "--config", str(self._config), "worker"]
        with slot.log.open("ab") as output:
            slot.process = subprocess.Popen(
                [*command, "--port", port],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=env, cwd=self._folder, start_new_session=True,
            )  # fmt: skip
        slot.told, slot.starts, slot.started_at_s = "", slot.starts + 1, time.monotonic()

    def _supervise(self) -> None:
        while self._keep_running:
            with self._lock:
                for slot in self.slots:
                    self._look_after(slot)
            time.sleep(0.1)

    def _look_after(self, slot: Slot) -> None:
        now = time.monotonic()
        if slot.process is not None and (code := slot.process.poll()) is not None:
            slot.ends.append(WorkerEnd(slot.name, time.time(), code, slot.told or last_error(slot.log)))
            slot.process = None
            slot.restart_at_s = now + RESTART_DELAY_S
        refused = bool(slot.ends) and slot.ends[-1].code == EXIT_CONFIG
        if slot.process is None and self._keep_running and not refused and now >= slot.restart_at_s:
            self._launch(slot)

    # -- faults

    def send(self, slot: Slot, number: signal.Signals) -> bool:
        """Send a signal to the slot's process; returns whether there was one."""
        with self._lock:
            if slot.process is None or slot.process.poll() is not None:
                return False
            slot.told = {signal.SIGKILL: "killed", signal.SIGTERM: "told"}.get(number, slot.told)
            slot.process.send_signal(number)
            return True

    def terminate(self, slot: Slot) -> int:
        """SIGTERM, and wait for the end; a worker that does not heed it is a problem, and killed. The exit code."""
        process = slot.process
        if process is None or not self.send(slot, signal.SIGTERM):
            return 0  # it had ended
        try:
            return process.wait(TERM_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.problems.append(f"{slot.name} did not end within {TERM_PATIENCE_S:.0f} s of SIGTERM")
            self.send(slot, signal.SIGKILL)
            return process.wait(10)

    def await_living(self, slot: Slot, timeout_s: float = 30.0) -> bool:
        end = time.monotonic() + timeout_s
        while not slot.alive and time.monotonic() < end:
            time.sleep(0.1)
        return slot.alive

    @property
    def ends(self) -> list[WorkerEnd]:
        return sorted((end for slot in self.slots for end in slot.ends), key=lambda end: end.at_s)

    def stop(self) -> None:
        """SIGTERM to all, no restarts; what does not end as it should is a problem.

        A worker that was still starting has nothing in hand, and may say that it could not leave in time.
        """
        self._stop_supervising()
        starting = {slot.name for slot in self.slots if time.monotonic() - slot.started_at_s < STARTING_S}
        for slot in self.slots:
            self.send(slot, signal.SIGTERM)
        for slot in self.slots:
            if slot.process is None:
                continue
            try:
                code = slot.process.wait(TERM_PATIENCE_S)
            except subprocess.TimeoutExpired:
                slot.process.kill()
                code = slot.process.wait(10)
                self.problems.append(f"{slot.name} did not end within {TERM_PATIENCE_S:.0f} s of SIGTERM")
            unfinished = code == EXIT_UNFINISHED and slot.name in starting
            if not unfinished and code not in (0, -signal.SIGKILL, -signal.SIGTERM):
                self.problems.append(f"{slot.name} ended with {code} after SIGTERM: {last_error(slot.log)}")
            slot.process = None

    def _stop_supervising(self) -> None:
        self._keep_running = False
        if self._thread.is_alive():
            self._thread.join(10)

    def close(self) -> None:
        """End what still runs, at once."""
        self._stop_supervising()
        for slot in self.slots:
            if slot.process is not None and slot.process.poll() is None:
                slot.process.kill()
                slot.process.wait(10)


def last_error(log: Path) -> str:
    """The last line of a log that says why: of JSON lines the message of the last error, else the last line."""
    last = said = "(no log)"
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-300:]:
        if line.startswith("{"):
            entry = json.loads(line)
            if entry["level"] in ("critical", "error"):
                said = f"{entry['logger']}: {entry['message']}"
        elif line.strip():
            last = line
    return (said if said != "(no log)" else last)[:300]
