"""What the commands refuse before anything starts, and what they print."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from producers import cli
from producers.driver import Progress, Status, StatusCollector, Stop
from producers.faults import KINDS, FaultError
from producers.mapping import RecordingError
from producers.options import DeviceIdType, DurationType, InstantType
from producers.pacing import Pacer
from producers.sink import KafkaSink
from telemetry import settings as settings_of
from telemetry.errors import CatalogError


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5h", 5400), ("2m", 120), ("250ms", 0.25), (" 3s ", 3)]
)
def test_durations(text: str, seconds: float) -> None:
    assert DurationType().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["0", "-1", "1d", "s", "nan", "1e3"])
def test_wrong_durations(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a time"):
        DurationType().convert(text, None, None)


@pytest.mark.parametrize("text", ["2026-05-01T00:00:00Z", "2026-05-01T02:00:00+02:00", "2026-05-01"])
def test_instants(text: str) -> None:
    assert InstantType().convert(text, None, None) == 1_777_593_600_000_000


@pytest.mark.parametrize("text", ["yesterday", "1969-12-31", ""])
def test_wrong_instants(text: str) -> None:
    with pytest.raises(click.BadParameter):
        InstantType().convert(text, None, None)


@pytest.mark.parametrize("text", ["", "a b", "x" * 65, "ä"])
def test_wrong_device_ids(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a device id"):
        DeviceIdType().convert(text, None, None)


@pytest.mark.parametrize("command", [cli.simulate, cli.inject, cli.replay, cli.load])
def test_help_teaches_with_examples_of_itself(command: click.Command) -> None:
    result = CliRunner().invoke(command, ["--help"])
    assert result.exit_code == 0
    examples = re.findall(rf"^ +fleetwatch {command.name} .*$", result.output, re.MULTILINE)
    assert len(examples) >= 2


def test_the_faults_are_listed_with_what_to_look_at() -> None:
    for command, arguments in ((cli.simulate, ["--list-faults"]), (cli.inject, ["--list"])):
        result = CliRunner().invoke(command, arguments)
        assert result.exit_code == 0
        for kind in KINDS.values():
            assert kind.name in result.output
            assert kind.observable in result.output


def test_files_or_the_sample_but_not_both(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("t\n")
    for arguments in ([], ["--sample", str(path)]):
        result = CliRunner().invoke(cli.replay, arguments)
        assert result.exit_code == 2
        assert "give FILES, or --sample" in result.output


@pytest.mark.parametrize(
    ("command", "arguments", "error", "message"),
    [
        (cli.simulate, ["vehicles", "--inject", "tyre_lek@3s"], FaultError, "tyre_leak"),
        (cli.simulate, ["vehicles", "--class", "vehicle.ew"], CatalogError, r"vehicle\.ev"),
        (cli.simulate, ["devices", "--class", "vehicle.ice/1"], CatalogError, "simulate vehicles"),
        (cli.inject, ["gpu_slw"], FaultError, "gpu_slow"),
        (cli.load, ["--class", "bench.frame"], CatalogError, r"bench\.frames"),
        (cli.replay, ["--sample", "--mapping", "comma"], RecordingError, "comma2k19"),
    ],
)
def test_wrong_names_are_refused_with_the_nearest_before_any_broker_is_asked(
    command: click.Command,
    arguments: list[str],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("telemetry.log.setup", lambda *_: None)
    result = CliRunner().invoke(command, arguments, env={"FLEETWATCH_KAFKA__BOOTSTRAP": "127.0.0.1:1"})
    assert isinstance(result.exception, error)
    assert re.search(message, str(result.exception))


def test_the_first_signal_stops_and_the_second_aborts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Stop().installed() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture
def sink() -> KafkaSink:
    """A sink whose broker is away: what is sent stays in its queue."""
    return KafkaSink(settings_of.load(environ={}, kafka={"bootstrap": "127.0.0.1:1"}))


def test_progress_shows_a_line_every_ten_seconds_without_a_terminal(
    sink: KafkaSink, capsys: pytest.CaptureFixture[str]
) -> None:
    now_s = 0.0
    status = Status(event_us=1_777_593_600_000_000)
    progress = Progress(status, sink, Pacer(1), clock=lambda: now_s)
    for now_s in range(31):  # noqa: B007 - the clock reads it
        status.frames += 200
        progress.tick()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "event time 2026-05-01 00:00:00" in lines[-1]
    assert "200/s" in lines[-1]
    assert "failed" not in lines[-1]


def test_metrics_come_from_the_runs_own_counts(sink: KafkaSink) -> None:
    for _ in range(3):
        sink.send("t", b"k", b"v")
    status = Status(frames=3, samples=30, faults=2, bad_rows=1)
    found = {
        sample.name: sample.value
        for metric in StatusCollector(status, sink, Pacer(1)).collect()
        for sample in metric.samples
    }
    assert found["fleetwatch_producer_frames_sent_total"] == 3
    assert found["fleetwatch_producer_samples_sent_total"] == 30
    assert found["fleetwatch_producer_frames_acknowledged_total"] == 0
    assert found["fleetwatch_producer_queue_frames"] == 3
    assert found["fleetwatch_producer_faults_injected_total"] == 2
    assert found["fleetwatch_producer_rows_refused_total"] == 1
