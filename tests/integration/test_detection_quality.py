"""The shipped models and settings on a simulated fleet: each fault is found in time, healthy devices keep quiet.

Everything from the fleet's frames to the alerts is real, but for the broker between them.
"""

from __future__ import annotations

import math
from functools import cache

import pytest
from batches import part

from producers.faults import parse_inject
from producers.fleet import make_fleet
from streams.core.effects import Effects
from streams.wiring import make_core
from telemetry import catalog, settings
from telemetry.alerts import AlertState

START_US = 1_790_000_000_000_000
SEED = 5
RUN_S = 600
FOUND_WITHIN_S = 60
FLEETS = {"vehicle.ev/1": 30, "gpu.node/1": 10}
#: Fault, and the kind of alert that it should be.
FAULTS = {
    "tyre_leak": "relation",
    "battery_cell_drift": "relation",
    "coolant_loss": "relation",
    "wheel_speed_stuck": "relation",
    "inverter_overheating": "relation",
    "signal_dropout": "dropout",
    "gpu_thermal_throttling": "relation",
    "ecc_storm": "relation",
}
GPU_FAULTS = ("gpu_thermal_throttling", "ecc_storm")


@cache
def played(key):
    """(alerts, truth by fault) of one fleet's run."""
    wanted = settings.load(environ={})
    core = make_core(wanted)
    fleet = make_fleet(key, FLEETS[key], catalog.load(), seed=SEED, start_us=START_US)
    topic = core.topics[0 if fleet.catalog.kind == "vehicle" else 1]
    mine = [f for f in FAULTS if (f in GPU_FAULTS) == (key == "gpu.node/1")]
    for i, fault in enumerate(mine):
        fleet.inject(parse_inject(f"{fault}@{300 + 20 * i}s"))
    alerts, truth, offset = [], {}, 0
    for _ in range(math.ceil(RUN_S * 1e6 / fleet.frame_period_us)):
        frames = fleet.step()
        for record in fleet.truth():
            truth.setdefault(record["kind"], record)
        if frames:
            effects = Effects()
            batch = part([(f.key, f.value) for f in frames], offset)
            core.process(topic, 0, [batch], offset, START_US + RUN_S * 1_000_000, effects)
            offset += len(frames)
            alerts += effects.alerts
            assert not effects.dead
    assert core.counters()["samples"] > FLEETS[key] * RUN_S
    return alerts, truth


def key_of(fault):
    return "gpu.node/1" if fault in GPU_FAULTS else "vehicle.ev/1"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_in_time_and_the_right_signal_named(fault):
    alerts, truth = played(key_of(fault))
    record = truth[fault]
    opened = [a for a in alerts if a.device_id == record["device_id"] and a.state is AlertState.OPEN]
    after = [a for a in opened if a.ts_us >= record["onset"]]
    assert after, f"{fault} on {record['device_id']} was not found"
    found = after[0]
    assert (found.ts_us - record["onset"]) / 1e6 <= FOUND_WITHIN_S
    assert found.signals[0].signal in record["signals"], found.sentence
    assert found.kind == FAULTS[fault], found.sentence
    assert len(opened) == len(after), f"an alert before the onset: {opened[0].sentence}"


def test_a_counters_alert_compares_totals():
    alerts, truth = played("gpu.node/1")
    mine = [a for a in alerts if a.device_id == truth["ecc_storm"]["device_id"] and a.state is AlertState.OPEN]
    guilty = mine[0].signals[0]
    assert guilty.signal == "DCGM.FI.DEV.ECC_SBE_VOL_TOTAL"
    assert 0 <= guilty.expected < guilty.observed
    assert guilty.observed - guilty.expected <= 10 * truth["ecc_storm"]["magnitude"]


@pytest.mark.parametrize("key", FLEETS)
def test_healthy_devices_keep_quiet(key):
    alerts, truth = played(key)
    sick = {record["device_id"] for record in truth.values()}
    assert len(sick) == len(truth), "two faults on one device"
    opened = [a.sentence for a in alerts if a.device_id not in sick and a.state is AlertState.OPEN]
    assert len(opened) <= 1, opened
