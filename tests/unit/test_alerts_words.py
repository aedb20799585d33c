"""The sentence of an alert: signal names in words, figures that show the difference, missing and stuck."""

from __future__ import annotations

import math

import pytest

from telemetry import catalog
from telemetry.alerts import GuiltySignal, sentence
from telemetry.words import figure, humanise

CELL = "Vehicle.Powertrain.TractionBattery.CellVoltage.Min"


def guilty(signal: str, unit: str, observed: float, expected: float) -> GuiltySignal:
    return GuiltySignal(signal, unit, observed, expected, 12.0)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (CELL, "traction battery cell voltage min"),
        ("Vehicle.Chassis.Axle.Row1.Wheel.Left.Speed", "front left wheel speed"),
        ("Vehicle.Chassis.Axle.Row2.Wheel.Right.Tire.Pressure", "rear right tyre pressure"),
        ("Vehicle.Powertrain.CombustionEngine.EngineCoolant.Temperature", "combustion engine coolant temperature"),
        ("Vehicle.LowVoltageBattery.CurrentVoltage", "low voltage battery voltage"),
        ("Vehicle.Powertrain.TractionBattery.CurrentCurrent", "traction battery current"),
        ("Pump.Motor.Current", "pump motor current"),
        ("DCGM.FI.DEV.GPU_TEMP", "GPU temperature"),
        ("DCGM.FI.DEV.CLOCK_THROTTLE_REASONS", "clock throttle reasons"),
        ("Vehicle.Speed", "speed"),
        ("Vehicle", "vehicle"),
        ("x", "x"),
    ],
)
def test_names(name: str, said: str) -> None:
    assert humanise(name) == said


@pytest.mark.parametrize("key", catalog.load())
def test_no_two_signals_of_an_entry_read_the_same(key: str) -> None:
    columns = catalog.load()[key].columns
    assert len({humanise(name) for name in columns}) == len(columns)


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (3.4211, "V", "3.42 V"),
        (91.0, "%", "91%"),
        (71.46, "degC", "71.5 °C"),
        (12.0, "deg", "12°"),
        (12345.6, "rpm", "12,346 rpm"),
        (7.0, "", "7"),
        (0.0, "V", "0 V"),
        (0.000_000_2, "A", "2e-07 A"),
        (math.nan, "V", "missing"),
        (-math.inf, "V", "minus infinite"),
    ],
)
def test_figures(value: float, unit: str, said: str) -> None:
    assert figure(value, unit) == said


@pytest.mark.parametrize(
    ("kind", "observed", "expected", "said"),
    [
        ("shift", 3.4211, 3.7307, "is 0.31 V below what was expected (3.42 V, expected 3.73 V)"),
        ("shift", 13.02, 12.99, "is 0.03 V above what was expected (13.02 V, expected 12.99 V)"),
        ("spike", -1.0, 2.0, "is 3 V below what was expected (-1.00 V, expected 2.00 V)"),
        ("spike", 3.4, math.nan, "is 3.4 V, which is unusual"),
        ("spike", math.inf, 3.4, "is infinite, which is unusual"),
        ("pattern", 3.4, 3.4, "is 3.4 V, as expected, but behaves unusually"),
        ("stuck", 3.4211, 3.73, "is stuck at 3.42 V"),
        ("dropout", math.nan, 3.73, "stopped reporting"),
        ("range", 4.6, 4.3, "is 4.6 V, which is impossible (at most 4.3 V)"),
        ("range", 2.1, 2.4, "is 2.1 V, which is impossible (at least 2.4 V)"),
        ("rate", 4.2, 3.9, "rose faster than is possible (to 4.20 V, at most 3.90 V)"),
        ("rate", 3.0, 3.4, "fell faster than is possible (to 3.00 V, at least 3.40 V)"),
    ],
)
def test_sentences(kind: str, observed: float, expected: float, said: str) -> None:
    told = sentence("veh-1", kind, (guilty(CELL, "V", observed, expected),))
    assert told == f"traction battery cell voltage min {said}"


def test_a_gap_between_percentages_is_in_points() -> None:
    told = sentence("gpu-1", "shift", (guilty("DCGM.FI.DEV.GPU_UTIL", "%", 30, 70),))
    assert told == "GPU utilisation is 40 points below what was expected (30.0%, expected 70.0%)"


def test_other_signals_are_named_and_none_is_the_device_itself() -> None:
    told = sentence("gpu-1", "spike", (guilty("A.B", "", 2, 1), guilty("Vehicle.Speed", "km/h", 1, 2)))
    assert told == "a b is 1 above what was expected (2.00, expected 1.00); also speed"
    assert sentence("gpu-1", "pattern", ()) == "gpu-1 behaves unlike itself (pattern)"
    assert sentence("gpu-1", "flood", ()) == "gpu-1 sends far more often than its class does"


@pytest.mark.parametrize(
    ("others", "said"),
    [(17, "what the other 17 signals imply"), (1, "what the other signal implies"), (0, "what was expected")],
)
def test_a_relation_is_told_by_those_who_imply_it(others, said):
    low = GuiltySignal("Vehicle.Powertrain.TractionBattery.CellVoltage.Min", "V", 3.42, 3.73, 9.0)
    told = sentence("veh-1", "relation", [low], others)
    assert told == f"traction battery cell voltage min is 0.31 V below {said} (3.42 V, expected 3.73 V)"


def test_an_alert_of_a_new_device_says_that_it_is_new():
    low = GuiltySignal("Vehicle.Speed", "km/h", 3.0, 4.0, 9.0)
    assert sentence("veh-1", "shift", [low], warming=True).endswith(
        "expected 4.00 km/h); still warming to this device"
    )
