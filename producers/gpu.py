"""GPU nodes in training jobs. The rule: clock, power and temperature are one loop; the step time follows the clock.

A node alternates between long training phases, with a checkpoint every few minutes, and short idle phases.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from producers.model import Floats, Model, Sensor, between, follow, uniform
from telemetry.catalog import Catalog

DEV = "DCGM.FI.DEV"
PROF = "DCGM.FI.PROF"

CLOCK_MHZ = 1980.0
CLOCK_IDLE_MHZ = 345.0
MEMORY_CLOCK_MHZ = 2619.0
THROTTLE_AT = 84.0
IDLE_BIT, POWER_CAP_BIT, SOFT_THERMAL_BIT, HARD_THERMAL_BIT = 1, 4, 32, 64
CHECKPOINT_S = 6.0

_TEMPERATURE = Sensor(0.15, 0.1)


class GpuModel(Model):
    """gpu.node: one GPU of 700 W with its share of the node."""

    CLASS = "gpu.node"
    PREFIX = "gpu-"
    MODELS = ("H100-SXM5", "H100-SXM5 rev B", "H200-SXM5")
    FIRMWARES = ("96.00.5E", "96.00.74", "96.00.89")
    KNOBS: ClassVar[Mapping[str, int]] = {"heat": 1, "slow": 1, "ecc_per_s": 1, "firmware": 1}
    SENSORS: ClassVar[Mapping[str, Sensor]] = {
        f"{DEV}.GPU_UTIL": Sensor(0.4, 0.1, gated=True, low=0, high=100),
        f"{DEV}.MEM_COPY_UTIL": Sensor(0.6, 0.1, gated=True, low=0, high=100),
        f"{PROF}.PIPE_TENSOR_ACTIVE": Sensor(0.5, 0.1, gated=True, low=0, high=100),
        f"{DEV}.SM_CLOCK": Sensor(2.0, 1.0, low=0),
        f"{DEV}.MEM_CLOCK": Sensor(),
        f"{DEV}.POWER_USAGE": Sensor(2.5, 0.1, low=0),
        f"{DEV}.GPU_TEMP": _TEMPERATURE,
        f"{DEV}.MEMORY_TEMP": _TEMPERATURE,
        f"{DEV}.FAN_SPEED": Sensor(0.3, 0.1, low=0, high=100),
        f"{DEV}.FB_USED": Sensor(quantum=1.0),
        f"{DEV}.ECC_SBE_VOL_TOTAL": Sensor(),
        f"{DEV}.ECC_DBE_VOL_TOTAL": Sensor(),
        f"{DEV}.XID_ERRORS": Sensor(),
        f"{DEV}.CLOCK_THROTTLE_REASONS": Sensor(),
        f"{DEV}.PCIE_REPLAY_COUNTER": Sensor(),
        f"{DEV}.NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL": Sensor(),
        f"{PROF}.PCIE_RX_BYTES": Sensor(12.0, 0.1, low=0),
        f"{PROF}.NVLINK_TX_BYTES": Sensor(1.5, 0.1, gated=True, low=0),
        "Job.StepTime": Sensor(1.2, 0.1, low=0),
        "Job.Throughput": Sensor(2.0, 0.1, gated=True, low=0),
        "Node.InletTemperature": _TEMPERATURE,
        "Node.CpuUtil": Sensor(0.5, 0.1, low=0, high=100),
    }

    def __init__(self, catalog: Catalog, n: int, seed: int) -> None:
        super().__init__(catalog, n, seed)
        self.training = self.draw(0, 1) < 0.97
        self.event = np.zeros(n, np.int64)
        self.phase_left_s = np.where(
            self.training, between(self.draw(0, 2), 600, 3600), between(self.draw(0, 3), 20, 120)
        )
        self.checkpoint_every_s = between(self.draw(0, 4), 240, 420)
        self.checkpoint_in_s = self.checkpoint_every_s * between(self.draw(0, 5), 0.3, 1.0)
        self.step_ms = between(self.draw(0, 6), 380, 520)
        self.batch = 512.0
        self.memory_mib = between(self.draw(0, 7), 62e3, 76e3)
        self.resistance = between(self.draw(0, 8), 0.050, 0.058)  # K/W at the usual fan speed
        self.inlet0 = between(self.draw(0, 9), 21.0, 25.0)
        self.inlet = self.inlet0.copy()
        self.hall = np.zeros(n)
        self.work = np.where(self.training, 1.0, 0.0)
        self.clock = np.where(self.training, CLOCK_MHZ, CLOCK_IDLE_MHZ)
        self.power = np.where(self.training, 640.0, 75.0)
        self.temp = self.inlet + self.resistance * self.power
        self.memory_temp = self.temp + 7.0
        self.fan = np.full(n, 55.0)
        self.swing = np.zeros(n)
        self.last_step_ms = self.step_ms.copy()
        self.corrected = np.floor(between(self.draw(0, 10), 0, 4))
        self.uncorrected = np.zeros(n)
        self.xid = np.zeros(n)
        self.ticks = 0
        self.settle()

    def _plan(self, dt_s: float) -> None:
        self.phase_left_s -= dt_s
        self.checkpoint_in_s -= dt_s
        again = self.checkpoint_in_s < -CHECKPOINT_S
        self.checkpoint_in_s[again] = self.checkpoint_every_s[again]
        due = np.flatnonzero(self.phase_left_s <= 0)
        if due.size:
            self.event[due] += 1
            self.training[due] = ~self.training[due]
            u = uniform(self.seed, due, self.event[due], 20)
            self.phase_left_s[due] = np.where(self.training[due], between(u, 1500, 5400), between(u, 30, 150))
            self.checkpoint_in_s[due] = self.checkpoint_every_s[due]

    def _clock_wanted(self) -> Floats:
        """What the governor allows: thermal limit, faults' caps; the idle clock without work."""
        thermal = CLOCK_MHZ * (1 - 0.045 * np.maximum(self.temp - THROTTLE_AT, 0.0))
        cap = CLOCK_MHZ * (1 - np.clip(self.knobs["slow"], 0, 0.9)) * (1 - 0.12 * self.knobs["firmware"])
        busy = np.minimum(np.maximum(thermal, 0.35 * CLOCK_MHZ), cap)
        return np.where(self.training, busy, CLOCK_IDLE_MHZ)

    def advance(self, dt_s: float) -> None:
        self._plan(dt_s)
        noise = self.rng.standard_normal((2, self.n))
        saving = self.training & (self.checkpoint_in_s < 0)
        wanted = np.where(self.training, np.where(saving, 0.15, 1.0), 0.0)
        self.work += follow(dt_s, 1.5) * (wanted - self.work)
        self.work[np.abs(self.work) < 1e-3] = 0.0
        self.clock += follow(dt_s, 2.0) * (self._clock_wanted() - self.clock)
        self.swing += np.sqrt(2 * follow(dt_s, 8.0)) * 4.0 * noise[0] - follow(dt_s, 8.0) * self.swing
        drawn = 75.0 + 570.0 * self.work * (self.clock / CLOCK_MHZ) ** 2 + self.swing * self.work
        self.power += follow(dt_s, 1.0) * (drawn - self.power)
        self.hall += np.sqrt(2 * follow(dt_s, 600.0)) * 0.5 * noise[1] - follow(dt_s, 600.0) * self.hall
        self.inlet = self.inlet0 + self.hall
        asked = np.clip(35.0 + 1.0 * (self.temp - 38.0), 30.0, 100.0)
        self.fan += follow(dt_s, 8.0) * (asked - self.fan)
        resistance = self.resistance * (1 + self.knobs["heat"]) * np.sqrt(55.0 / self.fan)
        self.temp += follow(dt_s, 22.0) * (self.inlet + resistance * self.power - self.temp)
        self.memory_temp += follow(dt_s, 35.0) * (self.temp + 4.0 + 4.0 * self.work - self.memory_temp)
        remapping = 1 + 0.004 * self.knobs["ecc_per_s"]
        step = self.step_ms * remapping * (0.15 + 0.85 * CLOCK_MHZ / np.maximum(self.clock, 200.0))
        running = self.training & ~saving & (self.work > 0.9)
        self.last_step_ms += running * follow(dt_s, 1.5) * (step - self.last_step_ms)
        self._errors(dt_s)

    def _errors(self, dt_s: float) -> None:
        self.ticks += 1
        rate = self.knobs["ecc_per_s"]
        sick = np.flatnonzero(rate > 0)
        if not sick.size:
            return
        expected = rate[sick] * dt_s
        u = uniform(self.seed, sick, self.ticks, 30)
        self.corrected[sick] += np.floor(expected * (0.5 + u) + uniform(self.seed, sick, self.ticks, 31))
        fatal = uniform(self.seed, sick, self.ticks, 32) < 0.004 * expected
        self.uncorrected[sick] += fatal
        self.xid[sick] = np.where(fatal, 48.0, np.where(self.xid[sick] == 0, 92.0, self.xid[sick]))

    def signals(self) -> tuple[ArrayLike, ...]:
        hot = self.training & (self.temp > THROTTLE_AT + 0.2)
        capped = self.training & (self.knobs["slow"] > 0)
        reasons = np.where(self.training, 0, IDLE_BIT) | np.where(hot, SOFT_THERMAL_BIT, 0)
        reasons |= np.where(hot & (self.temp > THROTTLE_AT + 6), HARD_THERMAL_BIT, 0)
        reasons |= np.where(capped, POWER_CAP_BIT, 0)
        pace = self.work * self.step_ms / self.last_step_ms
        return (
            98.0 * self.work,
            46.0 * pace,
            61.0 * pace,
            self.clock,
            np.full(self.n, MEMORY_CLOCK_MHZ),
            self.power,
            self.temp,
            self.memory_temp,
            self.fan,
            np.where(self.training, self.memory_mib, 520.0),
            self.corrected,
            self.uncorrected,
            self.xid,
            reasons,
            np.zeros(self.n),
            np.zeros(self.n),
            150.0 + 1450.0 * pace,
            155.0 * pace,
            self.last_step_ms,
            np.where(self.work > 0.5, 1000.0 * self.batch * pace / self.step_ms, 0.0),
            self.inlet,
            12.0 + 16.0 * self.work,
        )

    def lasting_s(self) -> Floats:
        return np.where(self.training, self.phase_left_s, 0.0)
