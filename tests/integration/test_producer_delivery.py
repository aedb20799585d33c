"""The producing commands against a real broker: what is counted is what is there."""

from __future__ import annotations

import logging
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from confluent_kafka.admin import NewTopic
from real_worker import read_all

from producers import cli
from producers.control import NoAnswerError, send_order
from producers.mapping import RecordingError
from producers.sink import KafkaSink
from telemetry import catalog, clients, codec
from telemetry import settings as settings_of
from telemetry.errors import BrokerUnavailableError, CatalogError, DeliveryError
from telemetry.partitioner import partitions_of
from telemetry.settings import Settings
from telemetry.topics import ensure, topics

pytestmark = pytest.mark.kafka
CATALOGS = catalog.load()


@pytest.fixture
def settings(kafka_bootstrap: str, topic_prefix: str) -> Settings:
    return settings_of.load(
        environ={}, kafka={"bootstrap": kafka_bootstrap}, topics={"prefix": topic_prefix, "partitions": 4}
    )


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    """Commands set logging up for a process of their own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def environment(settings: Settings) -> dict[str, str]:
    return {
        "FLEETWATCH_KAFKA__BOOTSTRAP": settings.kafka.bootstrap,
        "FLEETWATCH_TOPICS__PREFIX": settings.topics.prefix,
        "FLEETWATCH_TOPICS__PARTITIONS": str(settings.topics.partitions),
    }


def run(command: Any, settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, env=environment(settings))


def succeed(command: Any, settings: Settings, *arguments: str) -> Result:
    result = run(command, settings, *arguments)
    if result.exception is not None:
        raise result.exception
    return result


def test_simulated_frames_are_all_there_in_order(settings: Settings) -> None:
    arguments = ("vehicles", "--count", "5", "--seconds", "60", "--speed", "0", "--gap-rate", "0")
    result = succeed(cli.simulate, settings, *arguments, "--inject", "tyre_leak@20s:veh-000002")
    assert "sent 120 frames (27,000 samples), acknowledged 120" in result.output
    names = topics(settings)
    messages = read_all(settings, names.vehicle.name)
    assert len(messages) == 120
    by_device: dict[str, list[int]] = {}
    for message in messages:
        frame = codec.decode_frame(message.value(), 45)
        assert message.key().decode() == frame.device_id
        assert message.partition() == partitions_of(np.frombuffer(message.key(), np.uint8)[None, :], 4)[0]
        assert abs(message.timestamp()[1] / 1000 - time.time()) < 120  # when it was sent
        assert frame.ts_us <= time.time_ns() // 1000 + 600_000  # not ahead of the clock (but for the device's)
        by_device.setdefault(frame.device_id, []).append(frame.seq)
    assert by_device == {f"veh-{i:06d}": list(range(24)) for i in range(5)}
    declared = {codec.decode("device", m.value())["device_id"] for m in read_all(settings, names.devices.name)}
    assert declared == set(by_device)
    truths = [codec.decode("truth", m.value()) for m in read_all(settings, names.truth.name)]
    assert [(t["kind"], t["device_id"], t["end"]) for t in truths] == [("tyre_leak", "veh-000002", None)]


def test_same_seed_and_start_give_the_same_frames(settings: Settings) -> None:
    start = ("--start", "2026-05-01T00:00:00Z", "--speed", "0", "--seconds", "30", "--seed", "7")
    for _ in range(2):
        succeed(cli.simulate, settings, "devices", "--class", "sensor.pump", "--count", "3", *start)
    values = Counter(m.value() for m in read_all(settings, topics(settings).device.name))
    assert set(values.values()) == {2}


def test_the_replayed_sample_arrives_whole(settings: Settings) -> None:
    result = succeed(cli.replay, settings, "--sample", "--speed", "0", "--loop", "2")
    frames = [codec.decode_frame(m.value(), 6) for m in read_all(settings, topics(settings).vehicle.name)]
    assert sum(len(frame.values) for frame in frames) == 2 * 1199
    assert [frame.seq for frame in frames] == list(range(len(frames)))
    assert f"sent {len(frames)} frames (14,388 samples), acknowledged {len(frames)}" in result.output


@pytest.fixture
def broken_trip(tmp_path: Path) -> Path:
    path = tmp_path / "trip.csv"
    names = "time_s,speed_mps,steering_angle_deg,wheel_fl_mps,wheel_fr_mps,wheel_rl_mps,wheel_rr_mps"
    good = [f"{t / 20:.2f},1,2,3,4,5,6" for t in range(40)]
    lines = [names, *good[:20], "1.00,1,x\xff,3,4,5,6", *good[20:], "half a ro"]
    path.write_bytes("\n".join(lines).encode("latin-1") + b"\n")
    return path


def test_malformed_rows_become_dead_letters(settings: Settings, broken_trip: Path) -> None:
    result = succeed(cli.replay, settings, str(broken_trip), "--speed", "0")
    assert "acknowledged 4, 2 bad rows" in result.output
    assert "trip.csv:22: bad_value" in result.output
    letters = read_all(settings, topics(settings).dlq.name)
    assert {m.value() for m in letters} == {b"1.00,1,x\xff,3,4,5,6\n", b"half a ro\n"}
    assert {m.key() for m in letters} == {b"sample-trip"}
    headers = [dict(m.headers() or []) for m in letters]
    assert {h["x-reason"] for h in headers} == {b"bad_value", b"wrong_cells"}
    assert {h["__connect.errors.stage"] for h in headers} == {b"replay"}
    assert {h["__connect.errors.topic"] for h in headers} == {topics(settings).vehicle.name.encode()}
    assert {h["x-line"] for h in headers} == {b"22", b"43"}
    assert all(h["__connect.errors.exception.message"].startswith(b"trip.csv:") for h in headers)


def test_malformed_rows_may_be_skipped_or_end_the_replay(settings: Settings, broken_trip: Path) -> None:
    skipped = succeed(cli.replay, settings, str(broken_trip), "--speed", "0", "--bad-rows", "skip")
    assert "2 bad rows" in skipped.output
    assert read_all(settings, topics(settings).dlq.name) == []
    failed = run(cli.replay, settings, str(broken_trip), "--speed", "0", "--bad-rows", "fail")
    assert isinstance(failed.exception, RecordingError)
    assert "trip.csv:22" in str(failed.exception)
    assert "sent 1 frame (60 samples), acknowledged 1" in failed.output  # what came before is delivered and counted


def test_load_writes_every_frame_once_and_where_the_partitioner_would(settings: Settings) -> None:
    result = succeed(cli.load, settings, "--devices", "500", "--frames", "20250")
    assert "sent 20,250 frames (1,012,500 samples), acknowledged 20,250" in result.output
    messages = read_all(settings, topics(settings).vehicle.name)
    frames = Counter((m.key(), codec.decode_frame(m.value(), 10).seq) for m in messages)
    assert len(messages) == len(frames) == 20_250
    where = {m.key(): m.partition() for m in messages}
    with_partitioner = KafkaSink(settings)
    for key in where:
        with_partitioner.send(topics(settings).device.name, key, b"x")
    with_partitioner.close()
    assert {m.key(): m.partition() for m in read_all(settings, topics(settings).device.name)} == where


def test_load_keeps_to_its_rate(settings: Settings) -> None:
    began_s = time.monotonic()
    succeed(cli.load, settings, "--devices", "100", "--frames", "2000", "--rate", "1000")
    assert 1.8 <= time.monotonic() - began_s < 8


@pytest.mark.parametrize("reports", ["every", "failures"])
def test_a_full_queue_waits_and_drops_nothing(settings: Settings, reports: Any) -> None:
    ensure(settings)
    topic = topics(settings).vehicle.name
    sink = KafkaSink(settings, reports=reports, queue_buffering_max_messages=100)
    for i in range(3_000):
        sink.send(topic, b"a", str(i).encode())
    batch = [{"key": b"b", "value": str(i).encode()} for i in range(3_000)]
    sink.send_batch(topic, 0, batch)
    sink.close()
    assert (sink.sent, sink.acknowledged, sink.failed, sink.queued) == (6_000, 6_000, 0, 0)
    found = Counter((m.key(), m.value()) for m in read_all(settings, topic))
    assert found == Counter((key, str(i).encode()) for key in (b"a", b"b") for i in range(3_000))


def small_topic(settings: Settings) -> None:
    """An input topic that takes no frame of a car."""
    spec = topics(settings).vehicle
    new = NewTopic(spec.name, spec.partitions, 1, config={"max.message.bytes": "300"})
    admin = clients.admin(settings)
    admin.create_topics([new])[spec.name].result(30)


def test_refused_records_end_with_the_numbers(settings: Settings) -> None:
    small_topic(settings)
    result = run(cli.simulate, settings, "vehicles", "--count", "2", "--seconds", "10", "--speed", "0")
    assert isinstance(result.exception, DeliveryError)
    assert result.exit_code != 0
    assert "sent 8 records, acknowledged 0, failed 8 (first: " in str(result.exception)
    assert "sent 8 frames (1,800 samples), acknowledged 0" in result.output


@pytest.mark.parametrize("reports", ["every", "failures"])
def test_the_sink_counts_what_client_and_broker_refuse(settings: Settings, reports: Any) -> None:
    small_topic(settings)
    ensure(settings)
    names = topics(settings)
    sink = KafkaSink(settings, reports=reports, linger_ms=0)
    sink.send(names.device.name, b"k", b"good")
    sink.send(names.vehicle.name, b"k", bytes(5_000))
    sink.send(names.device.name, b"k", bytes(5_000_000))
    sink.send_batch(
        names.device.name, 0, [{"key": b"k", "value": bytes(5_000_000)}, {"key": b"k", "value": b"good"}]
    )
    with pytest.raises(DeliveryError, match="sent 5 records, acknowledged 2, failed 3"):
        sink.close()


def test_an_absent_broker_is_named_within_ten_seconds(settings: Settings) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        environ = environment(settings) | {"FLEETWATCH_KAFKA__BOOTSTRAP": address}
        # the default patience for the first command, little for the others, which ask in the same way
        for command, arguments in (
            (cli.simulate, ["vehicles"]),
            (cli.replay, ["--sample"]),
            (cli.load, []),
            (cli.inject, ["noise"]),
        ):
            began_s = time.monotonic()
            result = CliRunner().invoke(command, arguments, env=environ)
            assert isinstance(result.exception, BrokerUnavailableError)
            assert address in str(result.exception)
            assert time.monotonic() - began_s < 10
            environ["FLEETWATCH_KAFKA__CONNECT_TIMEOUT_S"] = "0.5"


def test_a_class_of_the_other_kind_is_refused(settings: Settings) -> None:
    result = run(cli.simulate, settings, "vehicles", "--class", "gpu.node")
    assert isinstance(result.exception, CatalogError)
    assert "simulate devices" in str(result.exception)


def test_an_order_nobody_hears(settings: Settings) -> None:
    with pytest.raises(NoAnswerError, match="no running simulation answered within 1 s"):
        send_order(settings, "noise", None, 1.0)


class Running:
    """`fleetwatch simulate` in a process of its own."""

    def __init__(self, settings: Settings, port: int, *arguments: str) -> None:
        self.port = port
        code = "from producers.cli import simulate; simulate()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments, "--metrics-port", str(port)],
            env=environment(settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert line.startswith("run "), line + self.process.stderr.read()

    def stop(self, number: int = signal.SIGINT) -> tuple[str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return out, err


@pytest.fixture
def pumps(settings: Settings) -> Iterator[Running]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    arguments = ("devices", "--class", "sensor.pump", "--count", "3", "--run-id", "r1", "--gap-rate", "0")
    running = Running(settings, port, *arguments)
    yield running
    if running.process.poll() is None:
        running.process.kill()
        running.process.communicate()


def test_inject_round_trip_and_a_drained_stop(settings: Settings, pumps: Running) -> None:
    names = topics(settings)
    answer = send_order(settings, "bearing_wear:pump-000001", "r1", 20.0)
    assert [(a["run"], a["injected"]["kind"], a["injected"]["device_id"]) for a in answer] == [
        ("r1", "bearing_wear", "pump-000001")
    ]
    with pytest.raises(NoAnswerError, match=r"run r1: .*did you mean"):
        send_order(settings, "bearing_wear:pump-00001", None, 20.0)
    with pytest.raises(NoAnswerError, match=r"run r1: .*is for gpu\.node"):
        send_order(settings, "gpu_slow", None, 20.0)
    with pytest.raises(NoAnswerError, match="no running simulation with the id other"):
        send_order(settings, "bearing_wear", "other", 1.0)
    later = send_order(settings, "noise@1h:pump-000002", None, 20.0)[0]["injected"]
    assert later["onset"] / 1e6 - time.time() == pytest.approx(3600, abs=30)
    deadline_s = time.monotonic() + 20
    while not (truths := read_all(settings, names.truth.name)) and time.monotonic() < deadline_s:
        time.sleep(0.2)
    assert [codec.decode("truth", m.value())["fault_id"] for m in truths] == [answer[0]["injected"]["fault_id"]]

    url = f"http://127.0.0.1:{pumps.port}/metrics"
    metrics = urllib.request.urlopen(url, timeout=10).read().decode()
    assert re.search(r"^fleetwatch_producer_faults_injected_total 1\.0$", metrics, re.MULTILINE)
    assert re.search(r"^fleetwatch_producer_frames_sent_total [1-9]", metrics, re.MULTILINE)

    out, err = pumps.stop()
    assert pumps.process.returncode == 0, err
    counts = re.search(r"sent (\d+) frames \([\d,]+ samples\), acknowledged (\d+)", out)
    assert counts is not None, out
    assert int(counts[1]) == int(counts[2]) == len(read_all(settings, names.device.name)) > 0


def test_control_ignores_what_is_not_an_order(settings: Settings, pumps: Running) -> None:
    sink = KafkaSink(settings, linger_ms=0)
    for value in (
        b"",
        b"{",
        b"[1]",
        b'{"order": 1, "inject": "noise"}',
        b'{"order": "x", "inject": 3}',
        b"\xff" * 99,
    ):
        sink.send(topics(settings).control.name, b"", value)
    sink.close()
    assert send_order(settings, "noise:pump-000000", None, 20.0)[0]["injected"]["device_id"] == "pump-000000"
    out, _ = pumps.stop(signal.SIGTERM)
    assert pumps.process.returncode == 0
    assert "acknowledged" in out
