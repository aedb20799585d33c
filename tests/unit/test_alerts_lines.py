"""`fleetwatch alerts`' lines and choices: fits the terminal, prints nothing dangerous, shows the newest."""

from __future__ import annotations

import dataclasses
import json
import re
from datetime import UTC, datetime, timedelta

import click
import pytest

from fleetwatch.alert_feed import OpenAlerts, Received
from fleetwatch.alert_text import LineWriter, brief, duration
from fleetwatch.alerts_cli import Since, States, Wanted, newest, structured
from telemetry.alerts import Alert, AlertState, GuiltySignal, Severity, ce_attributes, sentence

NOW = datetime(2023, 11, 14, 23, 0, 0, tzinfo=UTC)
NOW_US = int(NOW.timestamp() * 1_000_000)
SIGNALS = (
    GuiltySignal("Vehicle.Powertrain.TractionBattery.CellVoltage.Min", "V", 3.42, 3.73, 17.25),
    GuiltySignal("Vehicle.Speed", "km/h", 50.0, 51.0, 9.5),
)
ALERT = Alert(
    id="veh-0007/1",
    device_id="veh-0007",
    catalog="vehicle.ev/1",
    kind="shift",
    state=AlertState.OPEN,
    severity=Severity.MAJOR,
    score=17.25,
    confidence=1.0,
    onset_us=NOW_US - 3_000_000,
    ts_us=NOW_US,
    window_us=3_000_000,
    signals=SIGNALS,
    sentence=sentence("veh-0007", "shift", SIGNALS),
    detector="robust",
    detector_version=1,
    topic="telemetry.vehicle",
    partition=3,
    offset_first=100,
    offset_last=104,
)


def received(alert: Alert) -> Received:
    return Received(alert, ce_attributes(alert.to_message()[2]), alert.ts_us // 1000)


def plain_line(alert: Alert, width: int | None = None) -> str:
    return LineWriter(colour=False, width=width, zone=UTC).line(alert, NOW)


def test_a_line_says_all_in_a_pipe() -> None:
    assert plain_line(ALERT) == (
        "23:00:00 MAJOR ▲ new    veh-0007   shift   traction battery cell voltage min is 0.31 V below what was "
        "expected (3.42 V, expected 3.73 V); also speed"
    )


def test_a_line_of_what_is_over_says_how_long_it_was() -> None:
    over = dataclasses.replace(ALERT, state=AlertState.RESOLVED, onset_us=NOW_US - 302_000_000)
    assert plain_line(over).startswith("23:00:00 MAJOR ✔ 5m02s  veh-0007   shift   ")


def test_another_days_alert_shows_its_date() -> None:
    day_us = int(timedelta(days=1).total_seconds() * 1e6)
    assert plain_line(dataclasses.replace(ALERT, ts_us=NOW_US - day_us)).startswith("11-13 23:00:00 ")
    assert plain_line(dataclasses.replace(ALERT, ts_us=NOW_US - 400 * day_us)).startswith("2022-10-10 23:00:00 ")


@pytest.mark.parametrize("width", [70, 80, 100, 120, 200])
def test_a_line_fits(width: int) -> None:
    line = plain_line(ALERT, width)
    assert len(line) <= width
    assert "traction battery" in line


def test_words_go_before_figures() -> None:
    assert plain_line(ALERT, 100).endswith("traction battery cell voltage min 3.42 V, not 3.73 V (+1)")


def test_colour_changes_no_text() -> None:
    for state in AlertState:
        for severity in Severity:
            alert = dataclasses.replace(ALERT, state=state, severity=severity)
            coloured = LineWriter(colour=True, width=100, zone=UTC).line(alert, NOW)
            assert "\x1b[" in coloured
            assert click.unstyle(coloured) == plain_line(alert, 100)


def test_text_from_a_device_cannot_steer_the_terminal() -> None:
    evil = "\x1b]0;owned\x07\nveh\u202e"
    guilty = GuiltySignal(evil, evil, 1.0, 2.0, 3.0)
    alert = dataclasses.replace(
        ALERT, device_id=evil, kind=evil, signals=(guilty,), sentence=sentence(evil, evil, (guilty,))
    )
    for width in (None, 80):
        line = plain_line(alert, width)
        assert line.isprintable()
    assert "\\x1b]0;owned" in plain_line(alert)


@pytest.mark.parametrize(
    ("span_s", "said"),
    [(-5, "0s"), (0, "0s"), (59, "59s"), (60, "1m00s"), (3599, "59m59s"), (3600, "1h00m"), (86_400 * 12, "12d00h")],
)
def test_durations(span_s: int, said: str) -> None:
    assert duration(span_s * 1_000_000) == said
    assert len(said) <= 6


def test_brief_without_signals_is_the_sentence() -> None:
    assert brief(dataclasses.replace(ALERT, signals=())) == ALERT.sentence
    assert (
        brief(dataclasses.replace(ALERT, kind="stuck")) == "traction battery cell voltage min stuck at 3.42 V (+1)"
    )


def test_json_is_a_cloudevent_with_the_data() -> None:
    event = json.loads(structured(received(ALERT)))
    assert event["type"] == "io.fleetwatch.alert.open.v1"
    assert event["subject"] == "veh-0007"
    assert event["data"] == ALERT.to_data()


def test_the_newest_are_kept_in_order_of_event_time() -> None:
    events = [received(dataclasses.replace(ALERT, ts_us=NOW_US + ts)) for ts in (5, 1, 4, 2, 3)]
    kept, left_out = newest(events, 3)
    assert [r.alert.ts_us - NOW_US for r in kept] == [3, 4, 5]
    assert left_out == 2
    assert newest(events, 9)[1] == 0


@pytest.mark.parametrize(
    ("wanted", "passes"),
    [
        (Wanted(), True),
        (Wanted(devices=frozenset({"veh-0007"})), True),
        (Wanted(devices=frozenset({"veh-0008"})), False),
        (Wanted(classes=("vehicle",)), True),
        (Wanted(classes=("vehicle.ev",)), True),
        (Wanted(classes=("vehicle.e", "gpu")), False),
        (Wanted(min_severity=Severity.MAJOR), True),
        (Wanted(min_severity=Severity.CRITICAL), False),
        (Wanted(states=frozenset({AlertState.UPDATE})), False),
    ],
)
def test_choices(wanted: Wanted, passes: bool) -> None:
    assert wanted(received(ALERT)) is passes


def test_spans_and_times_of_since() -> None:
    since = Since()
    now_ms = datetime.now(UTC).timestamp() * 1000
    assert since.convert("1h30m", None, None) == pytest.approx(now_ms - 5_400_000, abs=2000)
    assert since.convert("2023-11-14T23:00:00+00:00", None, None) == NOW_US // 1000
    local = datetime(2023, 11, 14, 23, 0, 0).astimezone()
    assert since.convert("2023-11-14T23:00:00", None, None) == int(local.timestamp() * 1000)
    for wrong in ("yesterday", "10", "10m5", "m", ""):
        with pytest.raises(click.BadParameter, match="neither a span"):
            since.convert(wrong, None, None)


def test_states_name_the_nearest() -> None:
    assert States().convert("open, resolved", None, None) == {AlertState.OPEN, AlertState.RESOLVED}
    with pytest.raises(click.BadParameter, match=re.escape("no state 'opne'; did you mean open?")):
        States().convert("opne", None, None)


def test_open_alerts_follow_the_episodes() -> None:
    book = OpenAlerts()
    minor = dataclasses.replace(ALERT, id="b/1", device_id="b", severity=Severity.MINOR)
    for alert in (minor, ALERT, dataclasses.replace(ALERT, state=AlertState.UPDATE, severity=Severity.CRITICAL)):
        book.apply(received(alert))
    assert [r.alert.id for r in book.urgent_first()] == ["veh-0007/1", "b/1"]
    assert book.urgent_first()[0].alert.severity is Severity.CRITICAL
    book.apply(received(dataclasses.replace(ALERT, state=AlertState.RESOLVED)))
    book.apply(received(dataclasses.replace(ALERT, id="never seen open", state=AlertState.RESOLVED)))
    assert [r.alert.id for r in book.urgent_first()] == ["b/1"]
