"""`fleetwatch alerts`, `top` and `topics` against a real Kafka."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from fleetwatch.alert_feed import AlertFeed
from fleetwatch.cluster_probe import ClusterProbe
from fleetwatch.top import top as top_command
from fleetwatch.topics_cli import look
from fleetwatch.topics_cli import topics as topics_command
from telemetry import settings as contract
from telemetry.alerts import Alert, AlertState, GuiltySignal, Severity, rfc3339, sentence
from telemetry.clients import consumer, producer
from telemetry.errors import BrokerUnavailableError, TopicError
from telemetry.settings import Settings
from telemetry.topics import ensure, topics

pytestmark = pytest.mark.kafka

SIGNALS = (GuiltySignal("DCGM.FI.DEV.GPU_TEMP", "degC", 91.0, 70.0, 12.0),)


def alert(device: str, state: AlertState, severity: Severity, onset_us: int, span_s: int) -> Alert:
    return Alert(
        id=f"{device}/{rfc3339(onset_us)}",
        device_id=device,
        catalog="gpu.node/1" if device.startswith("gpu") else "vehicle.ev/1",
        kind="shift",
        state=state,
        severity=severity,
        score=12.0,
        confidence=1.0,
        onset_us=onset_us,
        ts_us=onset_us + span_s * 1_000_000,
        window_us=span_s * 1_000_000,
        signals=SIGNALS,
        sentence=sentence(device, "shift", SIGNALS),
        detector="robust",
        detector_version=1,
        topic="telemetry.device",
        partition=0,
        offset_first=1,
        offset_last=2,
    )


ONSET_US = int(time.time() * 1e6) - 600_000_000
STORY = [
    alert("gpu-1", AlertState.OPEN, Severity.MINOR, ONSET_US, 3),
    alert("veh-1", AlertState.OPEN, Severity.MAJOR, ONSET_US + 1_000_000, 3),
    alert("gpu-1", AlertState.UPDATE, Severity.CRITICAL, ONSET_US, 63),
    alert("veh-1", AlertState.RESOLVED, Severity.MAJOR, ONSET_US + 1_000_000, 100),
    alert("gpu-2", AlertState.OPEN, Severity.INFO, ONSET_US + 2_000_000, 200),
]


@pytest.fixture
def cluster(kafka_bootstrap: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings for topics of this test's own, also in the environment, for commands."""
    monkeypatch.setenv("FLEETWATCH_KAFKA__BOOTSTRAP", kafka_bootstrap)
    monkeypatch.setenv("FLEETWATCH_TOPICS__PREFIX", topic_prefix)
    monkeypatch.setenv("FLEETWATCH_TOPICS__PARTITIONS", "3")
    monkeypatch.setenv("FLEETWATCH_PROCESSING__GROUP", topic_prefix)
    return contract.load()


def publish(tree: Settings, alerts: list[Alert], *, junk: bool = False, transaction: str = "") -> None:
    """transaction : commit or abort; empty = none."""
    extra = {"transactional_id": f"{tree.topics.prefix}-{transaction}"} if transaction else {}
    client = producer(tree, **extra)
    name = topics(tree).alerts.name
    if transaction:
        client.init_transactions(20)
        client.begin_transaction()
    for item in alerts:
        key, value, headers = item.to_message()
        client.produce(name, key=key, value=value, headers=headers)
    if junk:
        client.produce(name, key=b"junk", value=b"\x1b[31m not an alert")
        client.produce(name, key=b"junk", value=None)
    assert client.flush(20) == 0
    if transaction:
        client.commit_transaction() if transaction == "commit" else client.abort_transaction()


def run(*args: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fleetwatch", "alerts", *args],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"TZ": "UTC"} | more,
    )


@pytest.fixture
def told(cluster: Settings) -> Settings:
    """The story is in the topic, one event twice."""
    ensure(cluster)
    publish(cluster, [*STORY, STORY[2]])
    return cluster


def test_json_gives_every_event_once(told: Settings) -> None:
    result = run("--format", "json")
    assert (result.returncode, result.stderr) == (0, "")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert sorted(e["id"] for e in events) == sorted(item.event_id for item in STORY)
    assert {e["id"]: e["data"] for e in events} == {item.event_id: item.to_data() for item in STORY}
    assert {e["type"] for e in events} == {item.state.ce_type for item in STORY}


def test_text_is_in_order_of_time(told: Settings) -> None:
    lines = run().stdout.splitlines()
    assert [line.split()[4] for line in lines] == ["gpu-1", "veh-1", "gpu-1", "veh-1", "gpu-2"]
    assert "minor ▲ new    gpu-1      shift   GPU temperature is 21 °C above what was expected" in lines[0]
    assert " CRIT  ● 1m03s  gpu-1 " in lines[2]
    assert " MAJOR ✔ 1m40s  veh-1 " in lines[3]


@pytest.mark.parametrize(
    ("args", "devices"),
    [
        (("--device", "gpu-1"), ["gpu-1", "gpu-1"]),
        (("--class", "vehicle"), ["veh-1", "veh-1"]),
        (("--min-severity", "critical"), ["gpu-1"]),
        (("--state", "open,resolved", "--class", "gpu.node"), ["gpu-1", "gpu-2"]),
        (("--since", "1h", "--limit", "2"), ["veh-1", "gpu-2"]),
        (("--since", "2999-01-01"), []),
    ],
)
def test_choices(told: Settings, args: tuple[str, ...], devices: list[str]) -> None:
    result = run(*args)
    assert result.returncode == 0
    assert [line.split()[4] for line in result.stdout.splitlines()] == devices
    assert ("3 older events are not shown" in result.stderr) is ("--limit" in args)


def test_bad_records_are_counted_and_not_fatal(told: Settings) -> None:
    publish(told, [], junk=True)
    result = run("--format", "json")
    assert result.returncode == 0
    assert len(result.stdout.splitlines()) == len(STORY)
    assert f"2 records are no alert in {topics(told).alerts.name}; the first at partition" in result.stderr
    assert "ce_specversion is missing" in result.stderr


def test_what_was_aborted_is_not_shown(cluster: Settings) -> None:
    ensure(cluster)
    publish(cluster, STORY[:2], transaction="commit")
    publish(cluster, STORY[2:], transaction="abort")
    result = run("--format", "json")
    ids = {json.loads(line)["id"] for line in result.stdout.splitlines()}
    assert ids == {item.event_id for item in STORY[:2]}


def test_an_empty_topic_ends_at_once(cluster: Settings) -> None:
    ensure(cluster)
    assert run().stdout == ""


@pytest.fixture
def following(told: Settings) -> Iterator[subprocess.Popen[str]]:
    """`fleetwatch alerts --follow --since` with its first event read: it is in its stride."""
    with subprocess.Popen(
        [sys.executable, "-m", "fleetwatch", "alerts", "--follow", "--since", "1h", "--format", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for _ in STORY:
            process.stdout.readline()
        yield process
        if process.poll() is None:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_follow_shows_what_comes_and_ends_when_told(
    told: Settings, following: subprocess.Popen[str], number: signal.Signals
) -> None:
    later = dataclasses.replace(STORY[4], state=AlertState.RESOLVED)
    publish(told, [later])
    assert following.stdout is not None
    assert following.stderr is not None
    assert json.loads(following.stdout.readline())["id"] == later.event_id
    following.send_signal(number)
    assert following.wait(10) == 0
    assert following.stderr.read() == ""


def test_a_reader_that_goes_away_ends_it_quietly(told: Settings, following: subprocess.Popen[str]) -> None:
    assert following.stdout is not None
    assert following.stderr is not None
    following.stdout.close()
    publish(told, [dataclasses.replace(STORY[4], state=AlertState.RESOLVED)])
    assert following.wait(10) == 0
    assert following.stderr.read() == ""


def test_follow_stops_after_its_limit_and_begins_with_new_ones(told: Settings) -> None:
    with AlertFeed(told, None) as feed:
        deadline = time.monotonic() + 20
        while not feed.at_end and time.monotonic() < deadline:  # it stands at the end before more is published
            assert feed.read(0.2) == []
        later = dataclasses.replace(STORY[4], state=AlertState.UPDATE)
        publish(told, [later])
        got = []
        while not got and time.monotonic() < deadline:
            got = feed.read(0.2)
        assert [r.alert for r in got] == [later]
    assert len(run("--follow", "--since", "1h", "--limit", "3").stdout.splitlines()) == 3


@pytest.mark.parametrize("colour", [True, False])
def test_a_terminal_gets_colour_and_lines_that_fit(told: Settings, colour: bool) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    plain = {"NO_COLOR": "1"} if not colour else {}
    with subprocess.Popen(
        [sys.executable, "-m", "fleetwatch", "alerts"],
        stdout=theirs,
        stdin=theirs,
        env={k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")} | plain,
    ) as process:
        assert process.wait(30) == 0
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    lines = click.unstyle(shown).splitlines()
    assert len(lines) == len(STORY)
    assert max(map(len, lines)) <= 80
    assert ("\x1b[" in shown) is colour


def test_it_leaves_no_trace(told: Settings) -> None:
    run()
    groups = AdminClient({"bootstrap.servers": told.kafka.bootstrap}).list_consumer_groups().result().valid
    assert not [g.group_id for g in groups if g.group_id.startswith(told.processing.group)]


def test_a_missing_topic_is_said(cluster: Settings) -> None:
    with pytest.raises(TopicError, match="create the topics with"):
        AlertFeed(cluster)
    result = run()
    assert result.returncode == TopicError.exit_code
    assert "fleetwatch topics apply" in result.stderr


def test_a_broker_that_is_away_is_said_with_its_address(cluster: Settings) -> None:
    result = run(FLEETWATCH_KAFKA__BOOTSTRAP="127.0.0.1:1", FLEETWATCH_KAFKA__CONNECT_TIMEOUT_S="2")
    assert result.returncode == BrokerUnavailableError.exit_code
    assert "no Kafka broker answers at 127.0.0.1:1" in result.stderr
    assert len(result.stderr.splitlines()) < 6


def test_topics_are_created_and_listed(cluster: Settings) -> None:
    runner = CliRunner()
    before = {state.spec.name: state.problems() for state in look(cluster)}
    assert set(map(tuple, before.values())) == {("missing",)}
    created = runner.invoke(topics_command, ["create"], catch_exceptions=False).output
    assert created.splitlines() == [f"created {name}" for name in before]
    assert runner.invoke(topics_command, ["create"], catch_exceptions=False).output == "all topics exist\n"
    publish(cluster, STORY)
    states = {state.spec.name: state for state in look(cluster)}
    assert {name: state.problems() for name, state in states.items()} == {name: [] for name in before}
    assert states[topics(cluster).alerts.name].records == len(STORY)
    listed = runner.invoke(topics_command, ["list"], catch_exceptions=False).output
    assert all(name in listed for name in before)
    assert listed.count("as expected") == len(before)


def test_another_shape_is_listed(cluster: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure(cluster)
    monkeypatch.setenv("FLEETWATCH_TOPICS__PARTITIONS", "5")
    monkeypatch.setenv("FLEETWATCH_TOPICS__OUTPUT_RETENTION_HOURS", "1")
    problems = {state.spec.name: state.problems() for state in look(contract.load())}
    t = topics(cluster)
    assert problems[t.vehicle.name] == ["3 partitions, not 5"]
    assert problems[t.alerts.name] == ["3 partitions, not 5", "retention.ms is 604800000, not 3600000"]


def test_the_probe_sees_rates_lag_and_members(cluster: Settings) -> None:
    ensure(cluster)
    probe = ClusterProbe(cluster)
    name = topics(cluster).vehicle.name
    empty = probe.look()
    assert empty.members == ()
    assert empty.inputs[0].lag_records == 0
    sent = producer(cluster)
    for number in range(300):
        sent.produce(name, key=str(number).encode(), value=b"frame")
    assert sent.flush(20) == 0
    worker = consumer(cluster, cluster.processing.group)
    worker.subscribe([name])
    got = 0
    deadline = time.monotonic() + 30
    while got < 100 and time.monotonic() < deadline:
        got += len(worker.consume(100 - got, 1.0))
    assert got == 100
    worker.commit(asynchronous=False)
    seen = probe.look()
    assert seen.group_state == "stable"
    assert [member.partitions for member in seen.members] == [{name: (0, 1, 2)}]
    row = seen.inputs[0]
    assert (row.topic, row.partitions, row.lag_records) == (name, 3, 200)
    assert row.produced_per_s > 0
    assert row.processed_per_s == pytest.approx(row.produced_per_s / 3)
    assert 0 < row.lag.seconds < 60
    assert not row.lag.estimated
    worker.close()


def test_offsets_that_were_never_committed_count_from_what_is_left(cluster: Settings) -> None:
    ensure(cluster)
    name = topics(cluster).device.name
    sent = producer(cluster)
    for number in range(30):
        sent.produce(name, partition=0, value=str(number).encode())
    assert sent.flush(20) == 0
    client = AdminClient({"bootstrap.servers": cluster.kafka.bootstrap})
    client.delete_records([TopicPartition(name, 0, 20)])[TopicPartition(name, 0, 20)].result()
    first = TopicPartition(name, 0)
    assert client.list_offsets({first: OffsetSpec.earliest()})[first].result().offset == 20
    assert ClusterProbe(cluster).look().inputs[1].lag_records == 10


def test_top_prints_one_page(told: Settings) -> None:
    result = CliRunner().invoke(top_command, ["--once", "--interval", "0.5"], catch_exceptions=False)
    assert result.exit_code == 0
    words = " ".join(result.output.split())
    assert "no worker is in the group" in words
    assert "6 alerts 0 dead letters 0 late" in words
    assert "open alerts 2 1 critical 1 info" in words
    assert "GPU temperature 91.0 °C, not 70.0 °C" in words
    assert "veh-1" not in words


def test_top_without_topics_says_which_are_missing(cluster: Settings) -> None:
    result = CliRunner().invoke(top_command, ["--once", "--interval", "0.2"], catch_exceptions=False)
    assert "no such topic:" in result.output
    assert "open alerts" in result.output


def test_top_without_a_broker_ends_with_the_address(cluster: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETWATCH_KAFKA__BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setenv("FLEETWATCH_KAFKA__CONNECT_TIMEOUT_S", "1")
    with pytest.raises(BrokerUnavailableError, match=r"127\.0\.0\.1:1"):
        CliRunner().invoke(top_command, ["--once"], catch_exceptions=False)
