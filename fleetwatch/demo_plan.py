"""What the demo does and when: fleet, faults, settings. The rule: every choice of the demo is in this file.

Times are event time since the fleet began. The wall time that is left after the start is divided into the same
event time on every machine, by the fleet's speed, so that the same seed tells the same story.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FleetName = Literal["vehicles", "devices"]

VEHICLES = 200
VEHICLE_CLASS = "vehicle.ev"
NODES = 20
NODE_CLASS = "gpu.node"
WORKERS = 2
SEED = 1

#: Wall seconds of the whole demo, and the least that there is to be for the fleet's own run.
SECONDS = 90.0
RUN_MIN_S = 20.0
#: Wall seconds kept for the end: the last frames, the summary, stopping.
END_S = 10.0

#: Event seconds of the fleet's run, and where in it a worker is killed.
EVENT_S = 720.0
KILL_AT_S = 425.0


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """A fault to inject. size : in the kind's own unit; None = its usual size."""

    fleet: FleetName
    kind: str
    at_s: float
    size: float | None = None

    @property
    def order(self) -> str:
        """As `fleetwatch simulate --inject` takes it."""
        return f"{self.kind}@{self.at_s:g}s" + ("" if self.size is None else f"*{self.size:g}")


#: Five kinds on five devices, of their usual sizes; the worker's own choice of detectors and thresholds finds them.
#: The third begins while a worker is dead. Left out on purpose: what shows only under load (inverter_overheating,
#: coolant_loss) or against the sensor's own noise (noise, sensor_drift), for a short run may miss it by chance.
FAULTS: tuple[PlannedFault, ...] = (
    PlannedFault("devices", "gpu_thermal_throttling", 300.0),
    PlannedFault("vehicles", "tyre_leak", 360.0),
    PlannedFault("vehicles", "battery_cell_drift", 440.0),
    PlannedFault("devices", "gpu_slow", 500.0),
    PlannedFault("vehicles", "low_voltage_battery", 560.0),
)

#: What differs from the worker's own settings, by section; empty = nothing does.
CHANGED: dict[str, Any] = {}
PARTITIONS = 8

#: The recording's own pace is real time; so many times as fast.
REPLAY_SPEED = 4.0
#: A recording of a minute is over before the usual warm-up is.
REPLAY_CHANGED: dict[str, Any] = {"alerts": {"warmup_s": 15.0}}


def speed(run_s: float) -> float:
    """Event seconds a wall second, for a run of `run_s` wall seconds."""
    return EVENT_S / run_s


def sections(
    kafka: dict[str, Any], prefix: str, catalog_paths: tuple[Path, ...], changed: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings file of every process of the demo, as plain data."""
    return {
        "kafka": kafka,
        "topics": {"prefix": prefix, "partitions": PARTITIONS},
        "catalog": {"paths": [str(path.absolute()) for path in catalog_paths]},
        "processing": {"group": prefix, "session_timeout_s": 6.0, "heartbeat_s": 1.0},
        "service": {"log_format": "text"},
        **changed,
    }
