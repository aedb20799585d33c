"""Processes and ports: only what is surely ours is touched, and a taken port is named."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import psutil
import pytest
from click.testing import CliRunner

from fleetwatch.kafka import network, paths, process
from fleetwatch.kafka.cli import kafka
from fleetwatch.kafka.cluster import EmbeddedKafka
from fleetwatch.kafka.config import Ports
from telemetry.errors import SettingsError


@pytest.fixture
def bystander():
    """A process of somebody else, with a word of its command line."""
    code = "import time; print('here', flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code, "a-word"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()  # before that its command line may still be ours
    yield child
    child.kill()
    child.communicate()


def _pid_file(path, pid, create_time_s):
    path.write_text(json.dumps({"pid": pid, "create_time_s": create_time_s}), encoding="utf-8")
    return path


def test_our_process_is_found(tmp_path, bystander):
    created_s = psutil.Process(bystander.pid).create_time()
    found = process.find(_pid_file(tmp_path / "pid", bystander.pid, created_s), "a-word")
    assert found is not None
    assert found.pid == bystander.pid


def test_a_recycled_pid_is_not_ours(tmp_path, bystander):
    created_s = psutil.Process(bystander.pid).create_time()
    assert process.find(_pid_file(tmp_path / "pid", bystander.pid, created_s - 60), "a-word") is None
    assert process.find(_pid_file(tmp_path / "pid", bystander.pid, created_s), "another-word") is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pid": "x", "create_time_s": 1}', '{"pid": 2}'])
def test_a_damaged_pid_file_names_no_process(tmp_path, text):
    (tmp_path / "pid").write_text(text, encoding="utf-8")
    assert process.find(tmp_path / "pid", "a-word") is None


def test_stop_leaves_the_new_owner_of_a_recycled_pid_alive(tmp_path, bystander):
    broker = tmp_path / "broker-0"
    broker.mkdir()
    spec = {"cluster_id": "x", "ports": [{"client": 1, "controller": 2}], "heap_mb": 512}
    (tmp_path / "cluster.json").write_text(json.dumps(spec), encoding="utf-8")
    _pid_file(broker / "pid.json", bystander.pid, psutil.Process(bystander.pid).create_time())
    cluster = EmbeddedKafka(tmp_path)
    assert not cluster.status().running
    assert cluster.stop() is False
    assert bystander.poll() is None


def test_a_process_that_ignores_sigterm_is_killed_after_the_patience():
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child.stdout.readline()
    killed = process.end([psutil.Process(child.pid)], patience_s=0.2)
    assert [each.pid for each in killed] == [child.pid]
    child.stdout.close()
    child.wait()
    assert not psutil.pid_exists(child.pid)


def test_a_spawned_process_keeps_the_log_before(tmp_path):
    log = tmp_path / "a.log"
    for word in ("one", "two"):
        command = [sys.executable, "-c", f"print('{word}')"]
        assert process.spawn(command, log, tmp_path / "pid.json").wait() == 0
    assert log.read_text(encoding="utf-8") == "two\n"
    assert (tmp_path / "a.log.1").read_text(encoding="utf-8") == "one\n"


def test_a_taken_port_is_named_with_its_process():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert not network.is_free(port)
        with pytest.raises(network.PortTakenError) as caught:
            network.require_free((Ports(port, port),))
    assert caught.value.exit_code == 73
    assert f"port {port} on 127.0.0.1 is in use by " in str(caught.value)
    assert f"(pid {os.getpid()})" in str(caught.value)
    assert network.is_free(port)


def test_a_start_on_a_taken_port_fails_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEETWATCH_CACHE_DIR", str(tmp_path / "cache"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(network.PortTakenError):
            EmbeddedKafka(tmp_path / "k", port=listener.getsockname()[1]).start()
    assert not (tmp_path / "cache").exists()


def test_free_ports_are_distinct_and_free():
    found = network.free_ports(3)
    numbers = [port for each in found for port in (each.client, each.controller)]
    assert len(set(numbers)) == 6
    assert all(network.is_free(port) for port in numbers)
    assert not any(network.answers(port) for port in numbers)


def test_folders_follow_the_environment(tmp_path, monkeypatch):
    for name in ("FLEETWATCH_CACHE_DIR", "FLEETWATCH_STATE_DIR", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.cache_dir() == tmp_path / ".cache" / "fleetwatch"
    assert paths.default_cluster_dir() == tmp_path / ".local/state" / "fleetwatch" / "kafka"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert paths.cache_dir() == tmp_path / "x" / "fleetwatch"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert paths.cache_dir() == tmp_path / ".cache" / "fleetwatch"
    monkeypatch.setenv("FLEETWATCH_CACHE_DIR", str(tmp_path / "own"))
    assert paths.cache_dir() == tmp_path / "own"


def test_status_of_nothing_is_not_running_with_exit_3(tmp_path):
    result = CliRunner().invoke(kafka, ["status", "--dir", str(tmp_path), "--format", "json"])
    assert result.exit_code == 3
    assert json.loads(result.stdout)["state"] == "not running"


def test_logs_of_a_broker_that_never_ran_are_refused_by_path(tmp_path):
    result = CliRunner().invoke(kafka, ["logs", "--dir", str(tmp_path), "--broker", "2"])
    assert isinstance(result.exception, SettingsError)
    assert str(tmp_path / "broker-2" / "broker.log") in str(result.exception)


def test_stop_of_nothing_is_no_error_and_makes_no_folder(tmp_path):
    result = CliRunner().invoke(kafka, ["stop", "--dir", str(tmp_path / "k")])
    assert result.exit_code == 0
    assert not (tmp_path / "k").exists()


def test_following_a_log_goes_on_into_the_file_of_the_next_start(tmp_path):
    log = EmbeddedKafka(tmp_path).log_path(0)
    log.parent.mkdir()
    log.write_text("old\nlast\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "fleetwatch",
        "kafka",
        "logs",
        "--follow",
        "--lines",
        "1",
        "--dir",
        str(tmp_path),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout.readline() == "last\n"
        with log.open("a", encoding="utf-8") as file:
            file.write("appended\n")
        assert reader.stdout.readline() == "appended\n"
        log.replace(log.with_name("broker.log.1"))
        log.write_text("new start\n", encoding="utf-8")
        assert reader.stdout.readline() == "new start\n"
        reader.terminate()
