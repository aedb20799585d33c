"""Commands that are told to end. The rule: what was interrupted is not called done."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

HANDLED = 1 << signal.SIGTERM - 1


def _handles(pid: int) -> bool:
    """Whether the process has a handler for SIGTERM."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return bool(int(next(line for line in lines if line.startswith("SigCgt")).split()[1], 16) & HANDLED)


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [
        (("topics", "apply"), signal.SIGTERM, -signal.SIGTERM),
        (("topics", "apply"), signal.SIGINT, 130),
        (("alerts", "--follow"), signal.SIGTERM, 0),
    ],
)
def test_a_broker_that_is_waited_for(command: tuple[str, ...], number: signal.Signals, code: int) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(60)
        at = f"127.0.0.1:{silent.getsockname()[1]}"
        environ = {**os.environ, "FLEETWATCH_KAFKA__BOOTSTRAP": at, "FLEETWATCH_KAFKA__CONNECT_TIMEOUT_S": "60"}
        words = [sys.executable, "-m", "fleetwatch", *command]
        with subprocess.Popen(words, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                silent.accept()
                assert _handles(process.pid)
                begun = time.monotonic()
                process.send_signal(number)
                said = process.communicate(timeout=30)
                assert process.returncode == code, said
                assert time.monotonic() - begun < 10
            finally:
                process.kill()
