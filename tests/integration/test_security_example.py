"""The example of docs/security.md, as it is written there: a secured cluster, roles, a worker, frames, alerts."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from real_worker import committed, environment, wait_for

from telemetry import settings as settings_module

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parents[2]
SECTION = "## A whole secured cluster to try"


def commands() -> list[list[str]]:
    """The console lines of the page's example, in order."""
    text = (ROOT / "docs" / "security.md").read_text().partition(SECTION)[2].partition("\n## ")[0]
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [
        shlex.split(line) for line in re.findall(r"^\$ (.*)$", "".join(blocks).replace("\\\n", ""), re.MULTILINE)
    ]


def run(folder: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *words]
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=90, check=False
    )


def test_the_page_s_example_works(tmp_path: Path) -> None:
    broker, apply, access, worker, simulate, alerts, refused = commands()
    script = [sys.executable, str(ROOT / broker[1]), *broker[2:]]
    started: list[subprocess.Popen[str]] = []
    try:
        started.append(subprocess.Popen(script, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment()))
        assert started[0].stdout is not None
        assert "ready" in started[0].stdout.readline()
        for words, expected in ((apply, "allowed User:worker READ group fleetwatch"), (access, "may do the work")):
            done = run(tmp_path, words)
            assert (done.returncode, expected in done.stdout) == (0, True), done.stderr
        assert worker.pop() == "&"
        with (tmp_path / "worker.log").open("w") as log:
            command = [sys.executable, "-m", *worker]
            started.append(subprocess.Popen(command, cwd=tmp_path, stderr=log, text=True, env=environment()))
        done = run(tmp_path, simulate)
        assert done.returncode == 0, done.stderr
        admin = settings_module.load(tmp_path / "secure" / "admin.yaml", environ={})
        wait_for(lambda: committed(admin, "telemetry.vehicle") > 0, 60, "a commit")
        done = run(tmp_path, alerts)
        assert done.returncode == 0, done.stderr
        done = run(tmp_path, refused)
        assert done.returncode == 77
        assert "subscriber may not do the work of a worker; lacking: READ topic telemetry.vehicle" in done.stderr
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
    assert [process.returncode for process in started] == [0, 0], (tmp_path / "worker.log").read_text()[-2000:]
