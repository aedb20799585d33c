"""What an alert by the rules says was broken: from the declarations, through the core, to the sentence."""

import numpy as np
import pytest
from batches import part

from detectors.protocol import DetectorSpec
from detectors.rules import Rules
from streams.core.alerting import kind_of
from streams.core.effects import Effects
from streams.wiring import make_core
from telemetry import codec, settings
from telemetry.alerts import AlertState, GuiltySignal

T0 = 1_790_000_000_000_000
PERIOD_US = 500_000
STEPS = 10
BOAT = """
name: boat
version: 1
kind: vehicle
period_ms: 500
signals:
  - {name: Boat.Heading, nature: position, rate_max: 0.001, stuck_after_s: 1}
  - {name: Boat.Speed, unit: km/h, min: 0, max: 90, rate_max: 10}
  - {name: Boat.Heat, unit: degC, max: 120, stuck_after_s: 20}
  - {name: Boat.Roll}
  - {name: Boat.Pitch}
  - {name: Boat.Bumps, nature: counter, min: 0, max: 100, rate_max: 1, stuck_after_s: 5}
"""
HEADING, SPEED, HEAT, _, _, BUMPS = range(6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("boats")
    (path / "boat.yaml").write_text(BOAT, encoding="utf-8")
    return path


def health(rows):
    rng = np.random.default_rng(1)
    values = rng.uniform(40.0, 41.0, (rows, 6))
    values[:, HEADING] = 0.0
    values[:, BUMPS] = 7 * np.arange(rows)
    return values


def opened(folder, values, period_us=PERIOD_US, **alerts):
    """The alerts that rows of one device open; `period_us` from row 500 on."""
    wanted = settings.load(
        environ={},
        catalog={"paths": [str(folder)]},
        detectors=[{"name": "rules"}],
        alerts={"open_surprise": 8.0, "close_surprise": 4.0, "warmup_s": 30, **alerts},
    )
    core = make_core(wanted)
    records, ts_us = [], T0
    for seq, first in enumerate(range(0, len(values), STEPS)):
        step_us = PERIOD_US if first < 500 else period_us
        frame = codec.Frame("b-1", "boat/1", seq, ts_us, step_us, values[first : first + STEPS].astype(np.float32))
        records.append((b"b-1", codec.encode_frame(frame)))
        ts_us += max(STEPS * step_us, 1)
    effects = Effects()
    core.process(core.topics[0], 0, [part(records)], 0, ts_us, effects)
    assert not effects.dead
    return [a for a in effects.alerts if a.state is AlertState.OPEN]


def test_a_healthy_boat_breaks_no_rule(folder):
    assert opened(folder, health(1000)) == []


def dropout(values):
    values[500:, HEAT] = np.nan


def impossible(values):
    values[500:, SPEED] = 95.0


def jump(values):
    values[500:, SPEED] -= 40.0


def stuck(values):
    values[500:, HEAT] = values[500, HEAT]


@pytest.mark.parametrize(
    ("spoil", "kind", "signal", "sentence"),
    [
        (dropout, "dropout", "Boat.Heat", "heat stopped reporting"),
        (impossible, "range", "Boat.Speed", "speed is 95 km/h, which is impossible (at most 90 km/h)"),
        (jump, "rate", "Boat.Speed", "speed fell faster than is possible (to 0."),
        (stuck, "stuck", "Boat.Heat", "heat is stuck at 40."),
    ],
)
@pytest.mark.parametrize("mode", ["episodes", "frames"])
def test_an_alert_says_which_rule_was_broken(folder, spoil, kind, signal, sentence, mode):
    values = health(1000)
    spoil(values)
    alerts = opened(folder, values, mode=mode)
    assert {a.kind for a in alerts} == {kind}
    assert alerts[0].signals[0].signal == signal
    assert alerts[0].sentence.removeprefix("boat ").startswith(sentence)
    assert alerts[0].detector == "rules"


def test_a_flood_names_the_device_alone(folder):
    alerts = opened(folder, health(1000), period_us=1000)
    assert [(a.kind, a.signals, a.sentence) for a in alerts] == [
        ("flood", (), "b-1 sends far more often than its class does")
    ]


def test_of_a_missing_value_every_detector_says_dropout():
    gone = GuiltySignal("Boat.Heat", "degC", float("nan"), 40.0, 9.0)
    rules = Rules(("Boat.Heat",), limits=[(0.0, 90.0)]).spec
    for spec in (rules, DetectorSpec("robust", 1, "sample", ("Boat.Heat",))):
        assert kind_of(spec, (gone,)) == "dropout"
    assert kind_of(DetectorSpec("mine", 1, "sample", ("Boat.Heat",)), ()) == "pattern"
    there = GuiltySignal("Boat.Heat", "degC", 41.0, 40.0, 9.0)
    assert kind_of(DetectorSpec("robust", 1, "sample", ("Boat.Heat",)), (there,)) == "shift"
