"""Faults against alerts: what counts as found, as a miss, as a false alarm."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetwatch.alert_feed import Received
from fleetwatch.demo_score import Injected, judge, percentile
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


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 1))
def test_percentile_is_numpys(values, q):
    assert percentile(values, q) == pytest.approx(float(np.quantile(values, q)), rel=1e-9, abs=1e-9)


def test_percentile_of_nothing():
    assert math.isnan(percentile([], 0.5))
