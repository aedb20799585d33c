"""Industrial pumps with their sensors. The rule: the affinity laws (flow ~ n, head ~ n^2, power ~ n^3) hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from producers.model import Floats, Model, Sensor, between, follow, uniform
from telemetry.catalog import Catalog

RATED_RPM = 1480.0

_TEMPERATURE = Sensor(0.12, 0.1)


class PumpModel(Model):
    """sensor.pump: a centrifugal pump on a variable-speed drive; its set-point changes every few minutes."""

    CLASS = "sensor.pump"
    PREFIX = "pump-"
    MODELS = ("CP-65", "CP-80")
    FIRMWARES = ("2.7", "2.8", "3.0")
    KNOBS: ClassVar[Mapping[str, int]] = {"wear_mm_s": 1, "vapour": 1, "firmware": 1}
    SENSORS: ClassVar[Mapping[str, Sensor]] = {
        "Pump.Vibration.X.Rms": Sensor(0.04, 0.001, low=0),
        "Pump.Vibration.Y.Rms": Sensor(0.04, 0.001, low=0),
        "Pump.Vibration.Z.Rms": Sensor(0.03, 0.001, low=0),
        "Pump.Bearing.Temperature": _TEMPERATURE,
        "Pump.Motor.Current": Sensor(0.12, 0.01, low=0),
        "Pump.Motor.Temperature": _TEMPERATURE,
        "Pump.Motor.Speed": Sensor(0.8, 0.1, low=0),
        "Pump.Flow": Sensor(0.25, 0.01, low=0),
        "Pump.Pressure.Discharge": Sensor(0.015, 0.001, low=0),
        "Pump.Pressure.Suction": Sensor(0.006, 0.001, low=0),
        "Pump.Ambient.Temperature": _TEMPERATURE,
    }

    def __init__(self, catalog: Catalog, n: int, seed: int) -> None:
        super().__init__(catalog, n, seed)
        self.event = np.zeros(n, np.int64)
        self.segment_left_s = between(self.draw(0, 1), 60, 600)
        self.target = between(self.draw(0, 2), 0.82, 1.0)
        self.ratio = self.target.copy()  # speed over rated speed
        self.base_vibration = between(self.draw(0, 3), 1.1, 1.9)
        self.rated_flow = between(self.draw(0, 4), 60, 110)
        self.rated_bar = between(self.draw(0, 5), 5.0, 8.0)
        self.rated_amps = between(self.draw(0, 6), 28, 48)
        self.suction0 = between(self.draw(0, 7), 1.2, 1.8)
        self.ambient0 = between(self.draw(0, 8), 14, 28)
        self.hunt_phase = np.zeros(n)
        self.demand = np.zeros(n)
        self.rough = np.zeros((3, n))
        self.weather = np.zeros(n)
        self.ambient = self.ambient0.copy()
        self.flow = self.rated_flow * self.ratio
        self.torque = self.ratio**2
        self.vibration = np.stack([self.base_vibration * share for share in (1.0, 0.9, 0.6)])
        self.bearing = self.ambient + 26.0 * self.ratio
        self.motor_temp = self.ambient + 38.0 * self.ratio**2
        self.settle()

    def advance(self, dt_s: float) -> None:
        self.segment_left_s -= dt_s
        due = np.flatnonzero(self.segment_left_s <= 0)
        if due.size:
            self.event[due] += 1
            self.target[due] = between(uniform(self.seed, due, self.event[due], 20), 0.82, 1.0)
            self.segment_left_s[due] = between(uniform(self.seed, due, self.event[due], 21), 240, 900)
        noise = self.rng.standard_normal((5, self.n))
        wear, vapour, hunting = self.knobs["wear_mm_s"], self.knobs["vapour"], 0.1 * self.knobs["firmware"]
        self.hunt_phase += dt_s * 2 * np.pi / 9.0
        wanted = self.target * (1 + hunting * np.sin(self.hunt_phase))
        self.ratio += follow(dt_s, 4.0) * (wanted - self.ratio)
        self.demand += np.sqrt(2 * follow(dt_s, 20.0)) * 0.008 * noise[0] - follow(dt_s, 20.0) * self.demand
        surge = 0.25 * vapour * noise[1]
        flow = self.rated_flow * self.ratio * (1 + self.demand) * (1 - 0.25 * vapour + 0.3 * surge)
        self.flow += follow(dt_s, 1.5) * (flow - self.flow)
        self.torque = self.ratio**2 * (1 + 0.6 * self.demand) * (1 - 0.15 * vapour) + 0.012 * wear
        self.rough += np.sqrt(2 * follow(dt_s, 6.0)) * 0.04 * noise[2:5] - follow(dt_s, 6.0) * self.rough
        share = np.array([[1.0], [0.9], [0.6]])
        running = self.base_vibration * self.ratio**2 * (1 + self.rough)
        self.vibration = share * (running + 3.5 * vapour * (1 + surge)) + np.array([[1.0], [0.8], [0.35]]) * wear
        self.weather += np.sqrt(2 * follow(dt_s, 900.0)) * 0.5 * noise[0] - follow(dt_s, 900.0) * self.weather
        self.ambient = self.ambient0 + self.weather
        self.bearing += follow(dt_s, 240.0) * (self.ambient + 26.0 * self.ratio + 7.0 * wear - self.bearing)
        self.motor_temp += follow(dt_s, 500.0) * (self.ambient + 38.0 * self.torque - self.motor_temp)

    def signals(self) -> tuple[ArrayLike, ...]:
        vapour = self.knobs["vapour"]
        per_rated = self.flow / self.rated_flow
        return (
            *self.vibration,
            self.bearing,
            self.rated_amps * (0.25 + 0.75 * self.torque * self.ratio),
            self.motor_temp,
            RATED_RPM * self.ratio,
            self.flow,
            self.rated_bar * (1.25 * self.ratio**2 - 0.25 * per_rated**2) * (1 - 0.12 * vapour),
            self.suction0 - 0.25 * per_rated**2 - 0.5 * np.minimum(vapour, 1.5),
            self.ambient,
        )

    def lasting_s(self) -> Floats:
        return np.full(self.n, np.inf)
