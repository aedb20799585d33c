"""The demo's processes: what they say is kept, a failure tells it, and none is left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from fleetwatch.demo_children import Child, Children, sweep
from fleetwatch.demo_run import sent
from telemetry.errors import FleetwatchError


@pytest.fixture
def children(tmp_path: Path):
    some = Children(tmp_path / "settings.yaml", tmp_path, os.environ)
    yield some
    some.end()


def sleeper(tmp_path: Path, name: str, code: str = "pass") -> Child:
    """A process that says something and stays."""
    log = tmp_path / f"{name}.log"
    program = (
        f"import signal, sys, time; {code}; print('worker: http://127.0.0.1:1/metrics', flush=True); time.sleep(99)"
    )
    with log.open("wb") as output:
        command = [sys.executable, "-c", program, "--config", str(tmp_path)]
        process = subprocess.Popen(command, stdout=output, start_new_session=True)
    return Child(name, process, log)


def until_it_speaks(child: Child) -> None:
    while child.metrics_base() is None:
        assert child.running


def test_a_child_that_fails_tells_the_end_of_its_log(children, tmp_path):
    (tmp_path / "settings.yaml").write_text("{}")
    child = children.start("wrong", ["no-such-command"])
    child.process.wait(60)
    with pytest.raises(FleetwatchError, match=r"wrong \(pid \d+\) ended with exit code 2[^$]*no-such-command"):
        sent(child)


def test_what_was_sent_is_read_from_the_last_line(tmp_path):
    child = sleeper(tmp_path, "a")
    child.process.kill()
    child.process.wait(10)
    child.process.returncode = 0
    child.log.write_text("run x\nsent 71,977 frames (13,271,625 samples), acknowledged 71,976\n")
    assert (sent(child).frames, sent(child).samples, sent(child).acknowledged) == (71977, 13271625, 71976)
    child.log.write_text("sent 1 frame (1 sample), acknowledged 1\n")
    assert sent(child).frames == 1
    child.log.write_text("nothing of the kind\n")
    with pytest.raises(FleetwatchError, match="did not say what it sent"):
        sent(child)


def test_metrics_address(tmp_path):
    child = sleeper(tmp_path, "a")
    try:
        until_it_speaks(child)
        assert child.metrics_base() == "http://127.0.0.1:1"
    finally:
        child.process.kill()
        child.process.wait(10)


def test_end_leaves_nothing_even_of_the_deaf(children, tmp_path, monkeypatch):
    monkeypatch.setattr("fleetwatch.demo_children.PATIENCE_S", 0.5)
    polite = sleeper(tmp_path, "polite")
    deaf = sleeper(tmp_path, "deaf", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    children.all += [polite, deaf]
    for child in children.all:
        until_it_speaks(child)
    children.end()
    assert polite.process.returncode == -signal.SIGTERM
    assert deaf.process.returncode == -signal.SIGKILL


def test_sweep_ends_what_nobody_noted(tmp_path):
    forgotten = sleeper(tmp_path, "forgotten")
    until_it_speaks(forgotten)
    sweep(("--config", str(tmp_path / "another")), ("--other", str(tmp_path)))
    assert forgotten.running
    sweep(("--config", str(tmp_path)))
    assert not psutil.pid_exists(forgotten.pid)
