"""Faults against alerts: what counts as found, as a miss, as a false alarm."""

import io
import math
from dataclasses import replace

import pytest
from rich.console import Console

from fleetwatch.alert_feed import Received
from fleetwatch.demo_page import SUMMARY_COLUMNS, Figures, Page, summary
from fleetwatch.demo_score import Injected, judge
from fleetwatch.scorecard import DAY_US, Exposure
from telemetry.alerts import Alert, AlertState, GuiltySignal, Severity

T0 = 1_760_000_000_000_000
SECOND = 1_000_000


def alert(device: str, at_s: float, state: AlertState = AlertState.OPEN, signal: str = "A") -> Received:
    """An event at T0 + at_s that the broker has half a second later."""
    ts_us = T0 + round(at_s * SECOND)
    event = Alert(
        id=f"{device}-{at_s}", device_id=device, catalog="vehicle.ev/1", kind="shift", state=state,
        severity=Severity.MAJOR, score=20.0, confidence=1.0, onset_us=ts_us, ts_us=ts_us, window_us=10 * SECOND,
        signals=(GuiltySignal(signal, "", 1.0, 2.0, 20.0),), sentence="", detector="d", detector_version=1,
        topic="t", partition=0, offset_first=0, offset_last=0,
    )  # fmt: skip
    return Received(event, {}, ts_us // 1000 + 500)


def fault(device: str, at_s: float, kind: str = "tyre_leak") -> Injected:
    onset_us = T0 + round(at_s * SECOND)
    return Injected(kind, device, onset_us, onset_us // 1000, frozenset({"A"}))


def test_the_first_alert_after_the_onset_finds_it():
    result = judge([fault("a", 10)], [alert("a", 12), alert("a", 30)], SECOND)
    (verdict,) = result.verdicts
    assert verdict.alert is not None
    assert (verdict.event_s, verdict.wall_s, verdict.named) == (2.0, 2.5, True)
    assert result.missed == ()
    assert result.false_alarms == ()


def test_an_alert_that_names_other_signals_finds_it_but_does_not_name_it():
    (verdict,) = judge([fault("a", 10)], [alert("a", 12, signal="B")], SECOND).verdicts
    assert verdict.alert is not None
    assert not verdict.named


def test_an_alert_before_the_onset_is_a_false_alarm_and_the_fault_missed():
    result = judge([fault("a", 10)], [alert("a", 5)], SECOND)
    assert [v.fault.device for v in result.missed] == ["a"]
    assert math.isnan(result.verdicts[0].event_s)
    assert [r.alert.ts_us for r in result.false_alarms] == [T0 + 5 * SECOND]


def test_a_clock_that_is_behind_is_forgiven_up_to_the_tolerance():
    at_9_6 = [alert("a", 9.6)]
    (forgiven,) = judge([fault("a", 10)], at_9_6, SECOND // 2).verdicts
    assert forgiven.event_s == 0.0
    assert judge([fault("a", 10)], at_9_6, SECOND // 4).missed


@pytest.mark.parametrize("state", [AlertState.UPDATE, AlertState.RESOLVED])
def test_only_opening_counts(state):
    result = judge([fault("a", 10)], [alert("a", 12, state), alert("b", 12, state)], SECOND)
    assert len(result.missed) == 1
    assert result.false_alarms == ()


def test_an_alert_on_a_healthy_device_is_a_false_alarm():
    result = judge([fault("a", 10)], [alert("a", 12), alert("b", 12)], SECOND)
    assert [r.alert.device_id for r in result.false_alarms] == ["b"]


def test_verdicts_stand_in_the_order_of_onset():
    faults = [fault("b", 20), fault("a", 10), replace(fault("c", 15), kind="gpu_slow")]
    assert [v.fault.device for v in judge(faults, [], SECOND).verdicts] == ["a", "c", "b"]


def test_the_card_is_of_the_same_verdicts():
    result = judge([fault("a", 10), fault("b", 20)], [alert("a", 12), alert("c", 12)], SECOND)
    assert (result.card.all.injected, result.card.all.found, result.card.all.named) == (2, 1, 1)
    assert (result.card.episodes().matched, result.card.episodes().false) == (1, len(result.false_alarms))


# -- the closing summary ----------------------------------------------------------------------------------------

FIGURES = Figures(
    fleet="200 x vehicle.ev, 20 x gpu.node", run_s=60.0, event_s=720.0, frames=2000, acknowledged=2000,
    samples=9000, processed=2000, windows=200, steady_s=[0.1, 0.2], failover_s=[],
    late_rows=0, dead_letters=0, duplicates=0, read_again=0, windows_repeated=0, alerts_repeated=0, takeover_s=7.0,
)  # fmt: skip
KINDS = ("gpu_thermal_throttling", "tyre_leak", "battery_cell_drift", "gpu_slow", "low_voltage_battery")


def shown(faults, alerts, exposure=None):
    out = io.StringIO()
    page = Page(Console(file=out, width=160, highlight=False, markup=False, emoji=False))
    summary(page, FIGURES, judge(faults, alerts, SECOND // 2, exposure))
    return out.getvalue().splitlines()


def test_the_table_is_in_the_summary_and_fits():
    exposure = Exposure()
    for n in range(5):
        exposure.see(f"dev{n}", "vehicle.ev", fault("", 0).onset_us, DAY_US)
    faults = [fault(f"dev{n}", 10 + n, kind) for n, kind in enumerate(KINDS)]
    lines = shown(faults, [alert(f"dev{n}", 15 + n) for n in range(4)] + [alert("other", 20)], exposure)
    text = "\n".join(lines)
    table = lines[next(n for n, line in enumerate(lines) if line.lstrip().startswith("fault ")) :]
    assert "5 injected, 4 found, 4 with a signal that the fault changes" in text
    assert all(any(line.split()[:1] == [kind] for line in table) for kind in KINDS)
    assert "missed: low_voltage_battery on dev4" in text
    assert "median 5.00 s, longest 5.00 s (event time)" in text
    assert "false alarms   1 on 1 device (other)" in text
    assert "per 1,000 device-days" in text
    assert max(len(line) for line in table if line.startswith("    ")) <= SUMMARY_COLUMNS
    before = 1 + len(KINDS) + 2  # a line a fault, time to detect, false alarms
    assert len(lines) - len(shown([], [])) <= before + 8


def test_nothing_found_has_no_times():
    text = "\n".join(shown([fault("a", 10)], []))
    assert "1 injected, 0 found" in text
    assert "time to detect" not in text
    assert "false alarms   none" in text
