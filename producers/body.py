"""What every car has besides its power train: tyres, low-voltage system, cabin, position. The rule: gas law first.

`CarModel` joins these with `producers.drive`; the power trains in `producers.vehicles` complete it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from producers.drive import CITY, PARKED, STEERING_RATIO, WHEELBASE_M, Drive
from producers.model import Floats, Mask, Model, Sensor, between, follow
from telemetry.catalog import Catalog

KELVIN = 273.15
AMBIENT_KPA = 101.3
#: Temperature at which a tyre is filled to its nominal pressure, degC.
FILLED_AT = 20.0
#: A refilled tyre or coolant tank gains this share a second.
REFILL_RATE = 0.02

WHEELS = ("Row1.Wheel.Left", "Row1.Wheel.Right", "Row2.Wheel.Left", "Row2.Wheel.Right")
AXLE = "Vehicle.Chassis.Axle"
LOW_VOLTAGE = "Vehicle.LowVoltageBattery.CurrentVoltage"
LOW_CURRENT = "Vehicle.LowVoltageBattery.CurrentCurrent"

_TEMPERATURE = Sensor(0.12, 0.1)

CHASSIS_SENSORS: Mapping[str, Sensor] = {
    "Vehicle.Speed": Sensor(0.05, 0.01, gated=True, low=0),
    "Vehicle.Acceleration.Longitudinal": Sensor(0.03, 0.001),
    "Vehicle.Acceleration.Lateral": Sensor(0.03, 0.001),
    "Vehicle.AngularVelocity.Yaw": Sensor(0.08, 0.01),
    "Vehicle.Chassis.Accelerator.PedalPosition": Sensor(quantum=0.4, low=0, high=100),
    "Vehicle.Chassis.Brake.PedalPosition": Sensor(quantum=0.4, low=0, high=100),
    "Vehicle.Chassis.SteeringWheel.Angle": Sensor(0.05, 0.1),
    **{f"{AXLE}.{w}.Speed": Sensor(0.06, 0.01, gated=True, low=0) for w in WHEELS},
    **{f"{AXLE}.{w}.Tire.Pressure": Sensor(0.6, 0.1, low=0) for w in WHEELS},
    **{f"{AXLE}.{w}.Tire.Temperature": _TEMPERATURE for w in WHEELS},
    LOW_VOLTAGE: Sensor(0.012, 0.001),
    LOW_CURRENT: Sensor(0.15, 0.01),
    "Vehicle.Exterior.AirTemperature": _TEMPERATURE,
    "Vehicle.Cabin.HVAC.AmbientAirTemperature": _TEMPERATURE,
    "Vehicle.CurrentLocation.Latitude": Sensor(2e-6),
    "Vehicle.CurrentLocation.Longitude": Sensor(3e-6),
    "Vehicle.CurrentLocation.Heading": Sensor(quantum=0.1, low=0, high=360),
    "Vehicle.TraveledDistance": Sensor(quantum=0.001),
}

CHASSIS_KNOBS: Mapping[str, int] = {"leak_kpa_s": 4, "charger_loss": 1, "firmware": 1}


class Tyres:
    """Four tyres a car, arrays (4, n): gas (1 = as filled), temperature degC, pressure kPa above ambient."""

    def __init__(self, nominal_kpa: Floats, ambient: Floats, speed: Floats) -> None:
        self.filled_abs = nominal_kpa + AMBIENT_KPA
        self.gas = np.ones_like(nominal_kpa)
        self.temperature = ambient + 0.5 * speed * np.ones((4, 1))
        self.nominal = nominal_kpa
        self.pressure = self._pressure()

    def _pressure(self) -> Floats:
        absolute = self.filled_abs * self.gas * (self.temperature + KELVIN) / (FILLED_AT + KELVIN)
        return np.maximum(absolute - AMBIENT_KPA, 0.0)

    @property
    def flatness(self) -> Floats:
        """0 = as it should be, 1 = no pressure at all."""
        return np.clip(1 - self.gas, 0.0, 1.0)

    @property
    def radius(self) -> Floats:
        """Rolling radius relative to nominal: a flat tyre's is 12 % smaller."""
        return 1 - 0.12 * self.flatness

    def advance(self, dt_s: float, leak_kpa_s: Floats, ambient: Floats, speed: Floats) -> None:
        """leak_kpa_s : (4, n), at nominal pressure; less as the pressure falls. 0 refills the tyre."""
        outflow = leak_kpa_s / self.filled_abs * np.clip(self.pressure / self.nominal, 0.0, 1.0)
        self.gas = np.where(
            leak_kpa_s > 0, self.gas - outflow * dt_s, np.minimum(self.gas + REFILL_RATE * dt_s, 1.0)
        )
        flexing = 0.55 * speed + 90.0 * self.flatness * np.minimum(speed / 15.0, 1.5)
        self.temperature += follow(dt_s, 300.0) * (ambient + flexing - self.temperature)
        self.pressure = self._pressure()


class LowVoltage:
    """12 V system: a converter (or alternator) carries the loads and keeps the lead battery full."""

    def __init__(self, start: Floats) -> None:
        self.setpoint = between(start, 13.9, 14.3)
        self.voltage = self.setpoint.copy()
        self.current = np.full_like(start, 1.5)
        self.charge = np.ones_like(start)
        self.load = np.zeros_like(start)

    def advance(self, dt_s: float, noise: Floats, loss: Floats, drop_v: Floats) -> None:
        """loss : share of the converter's output that fails, 0 to 1. drop_v : how much too low it regulates, V."""
        self.load += np.sqrt(2 * follow(dt_s, 30.0)) * 2.0 * noise - follow(dt_s, 30.0) * self.load
        load = 28.0 + self.load
        carried = np.clip(loss, 0.0, 1.0) * load
        regulated = self.setpoint - drop_v - 0.004 * load
        resting = 10.4 + 2.2 * self.charge
        fed = regulated * (1 - np.clip(loss, 0, 1)) + (resting - 0.008 * carried) * np.clip(loss, 0, 1)
        self.voltage += follow(dt_s, 6.0) * (fed - self.voltage)
        accepted = np.clip(1.5 - 9.0 * drop_v, -4.0, 1.5)
        self.current += follow(dt_s, 3.0) * (accepted * (1 - np.clip(loss, 0, 1)) - carried - self.current)
        spent = np.maximum(-self.current, 0.0) * dt_s / (18.0 * 3600)
        back = np.where(carried > 0, 0.0, REFILL_RATE * dt_s)
        self.charge = np.clip(self.charge - spent + back * (1 - self.charge), 0.0, 1.0)


class CarModel(Model):
    """Chassis, tyres, 12 V, cabin and position of a fleet of cars; a power train is added by subclasses."""

    MASS_KG: ClassVar[tuple[float, float]]

    def __init__(self, catalog: Catalog, n: int, seed: int) -> None:
        super().__init__(catalog, n, seed)
        self.mass_kg = between(self.draw(0, 100), *self.MASS_KG)
        self.drive = Drive(n, self.seed, self.rng, self.mass_kg)
        self.ambient0 = between(self.draw(0, 101), 8.0, 24.0)
        self.ambient = self.ambient0.copy()
        nominal = np.stack([between(self.draw(0, 102), 240, 260)] * 4) + between(self.draw(0, 103), -4, 4)
        self.tyres = Tyres(nominal, self.ambient, self.drive.speed)
        self.low = LowVoltage(self.draw(0, 104))
        self.cabin = between(self.draw(0, 105), 20.5, 22.5)
        self.wanted_cabin = self.cabin.copy()
        self.weather = np.zeros(n)

    def must_park(self) -> Mask:
        """Out of energy: the next phase is a stop to refill."""
        return np.zeros(self.n, np.bool_)

    def body(self, dt_s: float) -> None:
        """Move everything but the power train on; call after `drive.advance`."""
        noise = self.rng.standard_normal((3, self.n))
        self.weather += np.sqrt(2 * follow(dt_s, 900.0)) * 0.6 * noise[0] - follow(dt_s, 900.0) * self.weather
        self.ambient = self.ambient0 + self.weather
        self.cabin += follow(dt_s, 120.0) * (self.wanted_cabin + 0.2 * noise[1] - self.cabin)
        self.tyres.advance(dt_s, self.knobs["leak_kpa_s"], self.ambient, self.drive.speed)
        self.low.advance(dt_s, noise[2], self.knobs["charger_loss"], 0.5 * self.knobs["firmware"])

    def chassis_signals(self) -> tuple[ArrayLike, ...]:
        """In the order of `CHASSIS_SENSORS`."""
        drive, tyres = self.drive, self.tyres
        return (
            drive.speed * 3.6,
            drive.accel,
            drive.speed * drive.yaw,
            np.degrees(drive.yaw),
            100.0 * drive.force_wanted,
            drive.brake_pedal,
            np.degrees(np.arctan(WHEELBASE_M * drive.curvature)) * STEERING_RATIO,
            *(drive.wheel_speeds(tyres.radius) * 3.6),
            *tyres.pressure,
            *tyres.temperature,
            self.low.voltage,
            self.low.current,
            self.ambient,
            self.cabin,
            drive.latitude(),
            drive.longitude(),
            np.degrees(drive.heading),
            drive.distance / 1000.0,
        )

    def lasting_s(self) -> Floats:
        steady = np.maximum(self.drive.phase_left_s, 1.0)
        return np.select(
            (self.drive.phase == PARKED, self.drive.phase == CITY), (0.0, np.minimum(steady, 15.0)), steady
        )
