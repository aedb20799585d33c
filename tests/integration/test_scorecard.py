"""`fleetwatch scorecard`: on a real Kafka's topics, and on simulated fleets without one."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from batches import part
from click.testing import CliRunner

from fleetwatch.scorecard_cli import scorecard
from fleetwatch.scorecard_simulate import START_US, Evaluation, Plan, line_ups, part_of
from producers.fleet import make_fleet
from streams.core.effects import Effects
from streams.wiring import make_core
from telemetry import catalog, codec
from telemetry import settings as contract
from telemetry.alerts import Alert, AlertState, GuiltySignal, Severity
from telemetry.clients import producer
from telemetry.errors import BrokerUnavailableError, TopicError
from telemetry.settings import Settings
from telemetry.topics import ensure, topics

SECOND = 1_000_000
T0 = 1_790_000_000_000_000
HOUR_S = 3600


def alert(device: str, at_s: int, state: AlertState = AlertState.OPEN, opened_s: int | None = None) -> Alert:
    opened_us = T0 + (at_s if opened_s is None else opened_s) * SECOND
    return Alert(
        id=f"{device}/{opened_us}", device_id=device, catalog="gpu.node/1", kind="shift", state=state,
        severity=Severity.MAJOR, score=12.0, confidence=1.0, onset_us=opened_us, ts_us=T0 + at_s * SECOND,
        window_us=SECOND, signals=(GuiltySignal("DCGM.FI.DEV.GPU_TEMP", "degC", 91.0, 70.0, 12.0),), sentence="",
        detector="some detector", detector_version=1, topic="t", partition=0, offset_first=0, offset_last=0,
    )  # fmt: skip


def truth(
    device: str, at_s: int, end_s: int | None = None, kind: str = "gpu_thermal_throttling"
) -> dict[str, object]:
    return {
        "fault_id": f"{kind}-{device}-{at_s}", "device_id": device, "catalog": "gpu.node/1", "kind": kind,
        "onset": T0 + at_s * SECOND, "end": None if end_s is None else T0 + end_s * SECOND,
        "signals": ["DCGM.FI.DEV.GPU_TEMP"], "magnitude": 1.0, "params": {},
    }  # fmt: skip


def window(device: str, at_s: int) -> dict[str, object]:
    return {
        "device_id": device, "catalog": "gpu.node/1", "window_start": T0 + at_s * SECOND, "window_us": 10 * SECOND,
        "hop_us": 10 * SECOND, "rows": 10, "mean": [1.0] * 22, "hist": [0.0] * 352,
    }  # fmt: skip


@pytest.fixture
def cluster(kafka_bootstrap: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings for topics of this test's own, also in the environment, for commands."""
    monkeypatch.setenv("FLEETWATCH_KAFKA__BOOTSTRAP", kafka_bootstrap)
    monkeypatch.setenv("FLEETWATCH_TOPICS__PREFIX", topic_prefix)
    monkeypatch.setenv("FLEETWATCH_TOPICS__PARTITIONS", "3")
    monkeypatch.setenv("FLEETWATCH_PROCESSING__GROUP", topic_prefix)
    return contract.load()


def publish(tree: Settings, messages: list[tuple[str, str, bytes, list[tuple[str, bytes]]]], how: str = "") -> None:
    """how : commit or abort a transaction; empty = none."""
    client = producer(tree, **({"transactional_id": f"{tree.topics.prefix}-{how}"} if how else {}))
    if how:
        client.init_transactions(20)
        client.begin_transaction()
    for topic, key, value, headers in messages:
        client.produce(topic, key=key.encode(), value=value, headers=headers)
    assert client.flush(20) == 0
    if how:
        client.commit_transaction() if how == "commit" else client.abort_transaction()


def alert_messages(tree: Settings, alerts: list[Alert]) -> list[tuple[str, str, bytes, list[tuple[str, bytes]]]]:
    return [(topics(tree).alerts.name, a.device_id, *a.to_message()[1:]) for a in alerts]


def run(*args: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fleetwatch", "scorecard", *args],
        check=False, capture_output=True, text=True, timeout=100, env=os.environ | more,
    )  # fmt: skip


@pytest.mark.kafka
def test_the_topics_are_scored(cluster: Settings) -> None:
    ensure(cluster)
    names = topics(cluster)
    told = [truth("g1", 600), truth("g1", 600, 1200), truth("g2", 600), truth("g3", 900, kind="gpu_slow")]
    messages = [(names.truth.name, str(t["device_id"]), codec.encode("truth", t), []) for t in told]
    messages.append((names.truth.name, "junk", b"\x1b[31mno truth", []))
    for device in ("g1", "g2", "g3", "g4"):
        spans = [*range(0, HOUR_S, 10), *range(HOUR_S - 100, HOUR_S, 10)]  # the last ones come twice
        windows = (codec.encode("window_features", window(device, at_s)) for at_s in spans)
        messages += [(names.features.name, device, value, []) for value in windows]
    found = [
        alert("g1", 620), alert("g1", 1300, AlertState.RESOLVED, 620),  # it outlasts its fault
        alert("g1", 2000),  # after it
        alert("g3", 500), alert("g4", 700), alert("g4", 700),
    ]  # fmt: skip
    publish(cluster, messages)
    publish(cluster, alert_messages(cluster, found), "commit")
    publish(cluster, alert_messages(cluster, [alert("g2", 610)]), "abort")

    result = run("--json")
    assert result.returncode == 0, result.stderr
    assert f"1 records are no truth in {names.truth.name}" in result.stderr
    card = json.loads(result.stdout)
    everything = card["all"]
    assert (everything["injected"], everything["found"], everything["masked"]) == (3, 1, 1)
    assert everything["time_to_detect_s"]["median"] == 20.0
    assert (everything["alerts"], everything["false_alarms"]) == (4, 3)
    assert card["kinds"]["gpu_thermal_throttling"]["recall"]["value"] == 0.5
    assert card["detectors"]["some detector"]["found"] == 1
    (of_class,) = card["classes"].values()
    assert of_class["device_days"] == pytest.approx(4 / 24, rel=1e-4)
    sick_s = (1200 + 60 - 600) + (HOUR_S - 600) + (HOUR_S - 900)
    assert of_class["healthy_device_days"] == pytest.approx((4 * HOUR_S - sick_s) / 86_400, rel=1e-4)

    text = run("--no-exposure").stdout
    assert "unknown exposure" in text
    assert "gpu_slow" in text
    assert json.loads(run("--since", "1h", "--json").stdout)["all"] == everything
    assert run("--since", "2999-01-01").returncode == TopicError.exit_code


@pytest.mark.kafka
def test_what_is_missing_is_said_and_what_to_do(cluster: Settings) -> None:
    result = run()
    assert (result.returncode, result.stdout) == (TopicError.exit_code, "")
    assert "does not exist" in result.stderr
    assert "fleetwatch topics apply" in result.stderr
    ensure(cluster)
    result = run()
    assert (result.returncode, result.stdout) == (TopicError.exit_code, "")
    assert "holds no fault" in result.stderr
    assert "--simulate" in result.stderr
    publish(cluster, [(topics(cluster).truth.name, "g1", codec.encode("truth", truth("g1", 600)), [])])
    result = run()
    assert result.returncode == 0
    assert "holds no alert: does a worker run?" in result.stderr
    assert "holds no window" in result.stderr


def test_a_broker_that_is_away_is_said() -> None:
    result = run(FLEETWATCH_KAFKA__BOOTSTRAP="127.0.0.1:1", FLEETWATCH_KAFKA__CONNECT_TIMEOUT_S="1")
    assert result.returncode == BrokerUnavailableError.exit_code
    assert "no Kafka broker answers at 127.0.0.1:1" in result.stderr


# -- without Kafka ----------------------------------------------------------------------------------------------

SMALL = (
    "--simulate",
    "--class",
    "sensor.pump=8",
    "--hours",
    "0.4",
    "--faults",
    "pump_cavitation,noise",
    "--each",
    "2",
)


def test_a_small_simulation_is_scored_and_its_seed_tells_all() -> None:
    first, again = (CliRunner().invoke(scorecard, [*SMALL, "--json"], catch_exceptions=False) for _ in range(2))
    assert first.exit_code == 0
    assert first.stdout == again.stdout
    card = json.loads(first.stdout)
    assert card["complete"]
    assert {kind: row["injected"] for kind, row in card["kinds"].items()} == {"pump_cavitation": 2, "noise": 2}
    assert card["kinds"]["pump_cavitation"]["found"] >= 1
    assert card["classes"]["sensor.pump"]["device_days"] == pytest.approx(8 * 0.4 / 24, rel=1e-3)
    assert card["detectors"]


def test_faults_begin_and_end_within_the_run_on_devices_of_their_own() -> None:
    plan = Plan({"sensor.pump": 8}, frozenset({"noise", "pump_cavitation", "firmware_regression"}), 0.5, (1, 2), 2)
    evaluation = Evaluation(contract.load(environ={}), plan)
    evaluation.run(lambda text: None)
    gathered = evaluation.gathered
    assert gathered.complete
    assert gathered.refused == 0
    assert {f.kind for f in gathered.faults} == plan.kinds
    by_device: dict[str, list[tuple[int, int]]] = {}
    for fault in gathered.faults:
        assert START_US + 300 * SECOND <= fault.onset_us <= START_US + 1500 * SECOND
        by_device.setdefault(fault.device, []).append((fault.onset_us, fault.end_us or START_US + 1800 * SECOND))
    for spans in by_device.values():
        spans.sort()
        assert all(end < start for (_, end), (start, _) in itertools.pairwise(spans))


def test_no_faults_are_only_healthy_days() -> None:
    arguments = ["--simulate", "--class", "sensor.pump=3", "--hours", "0.25", "--each", "0", "--json"]
    card = json.loads(CliRunner().invoke(scorecard, arguments, catch_exceptions=False).stdout)
    assert card["all"]["injected"] == 0
    assert card["classes"]["sensor.pump"]["device_days"] == card["classes"]["sensor.pump"]["healthy_device_days"]


def test_each_detector_alone() -> None:
    tree = contract.load(environ={})
    names = line_ups(tree, each_detector=True)
    alerting = [d for d in tree.detectors if d.alerts != "never"]
    assert len(names) == 1 + len({*names} - {""})
    assert len(names) <= 1 + len(alerting)
    assert all(len(alone.detectors) == 1 for name, alone in names.items() if name)
    result = CliRunner().invoke(scorecard, [*SMALL, "--each-detector"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    alone = [line.split()[0] for line in result.stdout.split("alone", 1)[1].split("\n\n")[0].splitlines()[1:]]
    assert alone == [name for name in names if name]


def test_its_batches_are_kafkas() -> None:
    fleet = make_fleet("sensor.pump", 5, catalog.load(), seed=1, start_us=T0)
    frames = [frame for _ in range(40) for frame in fleet.step()]
    counts = []
    for made in (part_of(frames, 7, 1_760_000_000_000), part([(f.key, f.value) for f in frames], 7)):
        core, effects = make_core(contract.load(environ={})), Effects()
        core.process(core.topics[1], 0, [made], 7, T0 + 100 * SECOND, effects)
        assert not effects.dead
        counts.append((core.counters(), [m["value"] for m in effects.features]))
    assert counts[0] == counts[1]
    assert counts[0][0]["frames"] == len(frames)


def test_ctrl_c_shows_what_there_is(tmp_path: Path) -> None:
    arguments = [*SMALL[:3], "--hours", "500", "--json"]
    with (tmp_path / "err").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "fleetwatch", "scorecard", *arguments],
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
        )
    try:
        deadline = time.monotonic() + 60
        while " min of event time" not in (tmp_path / "err").read_text():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted" in (tmp_path / "err").read_text()
    assert json.loads(said)["complete"] is False


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--simulate", "--class", "sensor.pumb"], "did you mean sensor.pump"),
        (["--simulate", "--class", "sensor.pump=0"], "the count must be 1 to"),
        (["--simulate", "--faults", "noize"], "did you mean noise"),
        (["--simulate", "--hours", "0.1"], "--hours"),
        (["--simulate", "--since", "1h"], "--since is for topics"),
        (["--hours", "2"], "--hours needs --simulate"),
        (["--class", "sensor.pump"], "--class needs --simulate"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], text: str) -> None:
    result = CliRunner().invoke(scorecard, arguments)
    assert result.exit_code == 2
    assert text in result.output
