"""Power trains: battery-electric and combustion. The rule: energy that is not motion is heat somewhere.

Electric: demand -> motor torque -> battery current -> voltage and charge; losses heat motor, inverter, battery.
Combustion: demand -> gear, engine speed, torque -> air and fuel; waste heat into coolant, oil, catalyst.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from producers.body import CHASSIS_KNOBS, CHASSIS_SENSORS, REFILL_RATE, CarModel
from producers.drive import PARKED, WHEEL_RADIUS_M
from producers.model import Floats, Mask, Sensor, between, follow
from telemetry.catalog import Catalog

RPM = 60.0 / (2 * np.pi)
ELECTRIC = "Vehicle.Powertrain.ElectricMotor"
BATTERY = "Vehicle.Powertrain.TractionBattery"
ENGINE = "Vehicle.Powertrain.CombustionEngine"
_TEMPERATURE = Sensor(0.12, 0.1)


def cooling_share(level: Floats) -> Floats:
    """Share of the coolant flow that is left at a tank level in percent: the pump draws air below 65 %."""
    return np.clip((level - 15.0) / 50.0, 0.03, 1.0)


class CoolantTank:
    """Level in percent; a leak empties it, its end refills it."""

    def __init__(self, full: Floats) -> None:
        self.full = full
        self.level = full.copy()

    def advance(self, dt_s: float, leak: Floats) -> None:
        """leak : percent a second."""
        refilled = np.minimum(self.level + 100 * REFILL_RATE * dt_s, self.full)
        self.level = np.where(leak > 0, np.maximum(self.level - leak * dt_s, 0.0), refilled)


class ElectricModel(CarModel):
    """vehicle.ev: one motor, 96 cells in series, 78 kWh."""

    CLASS = "vehicle.ev"
    PREFIX = "veh-"
    MODELS = ("Aurora 60", "Aurora 78", "Borealis Van")
    FIRMWARES = ("4.1.2", "4.2.0", "5.0.1")
    MASS_KG = (1750.0, 2250.0)
    KNOBS: ClassVar[Mapping[str, int]] = {
        **CHASSIS_KNOBS,
        "cell_drift_mv_s": 1,
        "coolant_leak": 1,
        "inverter_kw": 1,
    }
    SENSORS: ClassVar[Mapping[str, Sensor]] = {
        **CHASSIS_SENSORS,
        f"{ELECTRIC}.Speed": Sensor(1.5, 1.0, gated=True, low=0),
        f"{ELECTRIC}.Torque": Sensor(0.4, 0.1, gated=True),
        f"{ELECTRIC}.Power": Sensor(0.05, 0.01, gated=True),
        f"{ELECTRIC}.Temperature": _TEMPERATURE,
        f"{ELECTRIC}.Inverter.Temperature": _TEMPERATURE,
        f"{ELECTRIC}.EngineCoolant.Temperature": _TEMPERATURE,
        f"{ELECTRIC}.EngineCoolant.Level": Sensor(0.25, 0.1, low=0, high=100),
        f"{BATTERY}.StateOfCharge.Current": Sensor(quantum=0.01, low=0, high=100),
        f"{BATTERY}.CurrentVoltage": Sensor(0.08, 0.01),
        f"{BATTERY}.CurrentCurrent": Sensor(0.15, 0.01),
        f"{BATTERY}.CurrentPower": Sensor(0.05, 0.001),
        f"{BATTERY}.Temperature.Average": _TEMPERATURE,
        f"{BATTERY}.Temperature.Max": _TEMPERATURE,
        f"{BATTERY}.Temperature.Min": _TEMPERATURE,
        f"{BATTERY}.CellVoltage.Min": Sensor(0.0012, 0.0001),
        f"{BATTERY}.CellVoltage.Max": Sensor(0.0012, 0.0001),
        f"{BATTERY}.CoolantTemperature": _TEMPERATURE,
        f"{BATTERY}.Charging.IsCharging": Sensor(),
    }
    GEAR = 9.1
    CELLS = 96
    TORQUE_MAX = 340.0
    POWER_MAX_W = 140e3
    REGEN_W = 55e3
    CHARGE_W = 11e3
    FAST_CHARGE_W = 60e3
    CAPACITY_AH = 215.0

    def __init__(self, catalog: Catalog, n: int, seed: int) -> None:
        super().__init__(catalog, n, seed)
        self.coolant_temp = self.ambient + 3.0
        self.inverter_temp = self.coolant_temp + 1.5 + 0.1 * self.drive.speed
        self.motor_temp = self.coolant_temp + 2.0 + 0.22 * self.drive.speed
        self.battery_temp = between(self.draw(0, 110), 22.0, 30.0)
        self.battery_coolant = self.battery_temp - 1.5
        self.tank = CoolantTank(between(self.draw(0, 111), 84.0, 92.0))
        self.soc = between(self.draw(0, 112), 35.0, 92.0)
        self.resistance = between(self.draw(0, 113), 0.085, 0.105)
        self.cell_spread = between(self.draw(0, 114), 0.004, 0.012)
        self.auxiliary_w = between(self.draw(0, 115), 500.0, 1500.0)
        self.cell_drift = np.zeros(n)
        self.cell_heat = np.zeros(n)
        self.charging = np.zeros(n, np.bool_)
        self.charge_w = np.zeros(n)
        self.power_w = np.zeros(n)
        self.motor_w = np.zeros(n)
        self.current = np.zeros(n)
        self.voltage = self._open_voltage()
        self.settle()

    def _open_voltage(self) -> Floats:
        s = self.soc / 100.0
        return self.CELLS * (3.42 + 0.55 * s + 0.18 * s**4 - 0.22 * np.exp(-s / 0.06)) - self.cell_drift

    def must_park(self) -> Mask:
        return self.soc < 14.0

    def advance(self, dt_s: float) -> None:
        drive = self.drive
        drive.plan(dt_s, self.must_park())
        nominal = np.minimum(self.TORQUE_MAX * self.GEAR / WHEEL_RADIUS_M, self.POWER_MAX_W / (drive.speed + 0.1))
        derating = np.clip((118.0 - self.inverter_temp) / 22.0, 0.08, 1.0)
        regen = np.minimum(self.REGEN_W / (drive.speed + 0.1), 4500.0)
        regen *= np.clip((drive.speed - 1.0) / 4.0, 0.0, 1.0) * np.clip((97.0 - self.soc) / 5.0, 0.0, 1.0)
        drive.advance(dt_s, nominal * derating, regen * derating, nominal)
        self.body(dt_s)
        self._electrics(dt_s)
        self._heat(dt_s)

    def _electrics(self, dt_s: float) -> None:
        drive = self.drive
        self.motor_w = drive.force_drive * drive.speed
        losses = 0.05 * np.abs(self.motor_w) + 120.0 * ~drive.standing
        parked = (drive.phase == PARKED) & drive.standing
        self.charging = parked & (self.soc < np.where(self.charging, 88.0, 60.0))
        fast = np.where(self.soc < 25.0, self.FAST_CHARGE_W, self.CHARGE_W)
        wanted_w = np.where(self.charging, fast, 0.0)
        self.charge_w += follow(dt_s, 5.0) * (wanted_w - self.charge_w)
        wasted = 1000.0 * self.knobs["inverter_kw"] * np.minimum(np.abs(self.motor_w) / 8e3, 1.0)
        self.power_w = self.motor_w + losses + wasted + self.auxiliary_w - self.charge_w
        drift = self.knobs["cell_drift_mv_s"] / 1000.0
        self.cell_drift = np.where(
            drift > 0, np.minimum(self.cell_drift + drift * dt_s, 0.9), self.cell_drift * (1 - follow(dt_s, 5.0))
        )
        resistance = self.resistance * (1 + 0.01 * (25.0 - self.battery_temp).clip(-15, 40))
        emf = self._open_voltage()
        discriminant = np.maximum(emf**2 - 4 * resistance * self.power_w, 0.25 * emf**2)
        self.voltage = 0.5 * (emf + np.sqrt(discriminant))
        self.current = -self.power_w / self.voltage  # positive = into the battery
        self.soc = np.clip(self.soc + self.current * dt_s / (36.0 * self.CAPACITY_AH), 0.0, 100.0)

    def _heat(self, dt_s: float) -> None:
        drive, power = self.drive, np.abs(self.motor_w)
        self.tank.advance(dt_s, self.knobs["coolant_leak"])
        flow = cooling_share(self.tank.level)
        extra = self.knobs["inverter_kw"]
        motor_out = 70.0 * flow * (self.motor_temp - self.coolant_temp) + 8.0 * (self.motor_temp - self.ambient)
        inverter_out = (85.0 * flow / (1 + extra) + 4.0) * (self.inverter_temp - self.coolant_temp)
        inverter_in = 0.02 * power + 60.0 + 1000.0 * extra * np.minimum(power / 8e3, 1.0)
        fan = 250.0 * np.clip((self.coolant_temp - 40.0) / 10.0, 0.0, 1.0)
        radiator = (110.0 + 14.0 * drive.speed + fan) * flow * (self.coolant_temp - self.ambient)
        self.motor_temp += dt_s / 22e3 * (0.035 * power + 60.0 * ~drive.standing - motor_out)
        self.inverter_temp += dt_s / 2400.0 * (inverter_in - inverter_out)
        self.coolant_temp += dt_s / 24e3 * (motor_out + inverter_out - radiator)
        cells_in = self.resistance * self.current**2
        cells_out = 160.0 * flow * (self.battery_temp - self.battery_coolant)
        excess = np.maximum(self.battery_coolant - 24.0, 0.0) + np.minimum(self.battery_coolant - 18.0, 0.0)
        chiller = 260.0 * flow * excess
        stagnant = (1 - flow) * 25.0 * np.maximum(self.coolant_temp + 10.0 - self.battery_coolant, 0.0)
        self.battery_temp += dt_s / 180e3 * (cells_in - cells_out)
        soaked = (1 - flow) * 400.0 * np.maximum(self.coolant_temp - self.battery_temp, 0)
        self.battery_temp += dt_s / 180e3 * soaked
        self.battery_coolant += dt_s / 14e3 * (cells_out - chiller + stagnant)
        self.cell_heat += follow(dt_s, 60.0) * (16.0 * self.cell_drift - self.cell_heat)

    def signals(self) -> tuple[ArrayLike, ...]:
        cell = (self.voltage + self.cell_drift) / self.CELLS
        unequal = self.cell_spread * (1 + np.abs(self.current) / 400.0)
        spread = 1.0 + 60.0 * self.cell_spread
        return (
            *self.chassis_signals(),
            self.drive.speed / WHEEL_RADIUS_M * self.GEAR * RPM,
            self.drive.force_drive * WHEEL_RADIUS_M / self.GEAR,
            self.motor_w / 1000.0,
            self.motor_temp,
            self.inverter_temp,
            self.coolant_temp,
            self.tank.level,
            self.soc,
            self.voltage,
            self.current,
            -self.power_w / 1000.0,
            self.battery_temp + self.cell_heat / self.CELLS,
            self.battery_temp + spread + self.cell_heat,
            self.battery_temp - spread,
            cell - unequal - self.cell_drift,
            cell + unequal,
            self.battery_coolant,
            self.charging,
        )


class CombustionModel(CarModel):
    """vehicle.ice: 2.0 l petrol engine, six gears."""

    CLASS = "vehicle.ice"
    PREFIX = "car-"
    MODELS = ("Meridian 2.0", "Meridian Estate", "Transit Cargo")
    FIRMWARES = ("11.3", "11.4", "12.0")
    MASS_KG = (1450.0, 1900.0)
    KNOBS: ClassVar[Mapping[str, int]] = {**CHASSIS_KNOBS, "coolant_leak": 1, "air_leak": 1}
    SENSORS: ClassVar[Mapping[str, Sensor]] = {
        **CHASSIS_SENSORS,
        f"{ENGINE}.Speed": Sensor(6.0, 1.0, low=0),
        f"{ENGINE}.Torque": Sensor(0.6, 0.1),
        f"{ENGINE}.Power": Sensor(0.06, 0.01, low=0),
        f"{ENGINE}.EngineCoolant.Temperature": _TEMPERATURE,
        f"{ENGINE}.EngineCoolant.Level": Sensor(0.25, 0.1, low=0, high=100),
        f"{ENGINE}.EngineOil.Temperature": _TEMPERATURE,
        f"{ENGINE}.EOP": Sensor(2.5, 0.5, low=0),
        f"{ENGINE}.MAF": Sensor(0.08, 0.01, low=0),
        f"{ENGINE}.MAP": Sensor(0.3, 0.1, low=10),
        f"{ENGINE}.TPS": Sensor(0.1, 0.1, low=0, high=100),
        "Vehicle.Powertrain.Transmission.CurrentGear": Sensor(),
        "Vehicle.Powertrain.Transmission.Temperature": _TEMPERATURE,
        "Vehicle.Powertrain.FuelSystem.RelativeLevel": Sensor(quantum=0.1, low=0, high=100),
        "Vehicle.OBD.FuelRate": Sensor(0.02, 0.01, low=0),
        "Vehicle.OBD.IntakeTemp": _TEMPERATURE,
        "Vehicle.OBD.ShortTermFuelTrim1": Sensor(0.15, 0.1),
        "Vehicle.OBD.LongTermFuelTrim1": Sensor(quantum=0.1),
        "Vehicle.OBD.CatalystTemperature": Sensor(0.8, 0.1),
    }
    FINAL_DRIVE = 3.9
    RATIOS = np.array([3.6, 3.6, 2.05, 1.38, 1.03, 0.82, 0.68])  # [0] neutral: only so that nothing divides by 0
    SHIFT_UP_MPS = np.array([0.3, 5.0, 9.5, 14.0, 19.0, 25.0])
    IDLE_RPM = 780.0
    TORQUE_MAX = 260.0
    POWER_MAX_W = 115e3
    TANK_L = 55.0

    def __init__(self, catalog: Catalog, n: int, seed: int) -> None:
        super().__init__(catalog, n, seed)
        self.gear = np.searchsorted(self.SHIFT_UP_MPS, self.drive.speed, side="right")
        self.rpm = np.full(n, self.IDLE_RPM)
        self.torque = np.zeros(n)
        self.load = np.full(n, 0.12)
        self.air = np.full(n, 3.0)
        self.coolant_temp = between(self.draw(0, 120), 88.0, 92.0)
        self.oil_temp = self.coolant_temp + between(self.draw(0, 121), 2.0, 8.0)
        self.gearbox_temp = self.coolant_temp - 12.0
        self.intake_temp = self.ambient + 8.0
        self.catalyst = np.full(n, 560.0)
        self.tank = CoolantTank(between(self.draw(0, 122), 82.0, 90.0))
        self.fuel = between(self.draw(0, 123), 35.0, 98.0)
        self.filling = np.zeros(n, np.bool_)
        self.trim_base = between(self.draw(0, 124), -3.0, 3.0)
        self.long_trim = self.trim_base.copy()
        self.short_trim = np.zeros(n)
        self.trim_noise = np.zeros(n)
        self.fuel_lph = np.zeros(n)
        self.settle()

    def must_park(self) -> Mask:
        return self.fuel < 8.0

    def advance(self, dt_s: float) -> None:
        drive = self.drive
        drive.plan(dt_s, self.must_park())
        nominal = np.minimum(9000.0, 0.92 * self.POWER_MAX_W / (drive.speed + 0.1))
        braking = np.minimum(350.0 + 15.0 * self.RATIOS[self.gear] * 10.0, 900.0) * (drive.speed > 2.0)
        drive.advance(dt_s, nominal, braking, nominal)
        self.body(dt_s)
        self._engine(dt_s)
        self._heat(dt_s)

    def _engine(self, dt_s: float) -> None:
        drive = self.drive
        up = np.searchsorted(self.SHIFT_UP_MPS, drive.speed, side="right")
        down = np.searchsorted(self.SHIFT_UP_MPS, drive.speed + 1.5, side="right")
        gear = np.clip(self.gear, up, down)
        self.gear = np.where(drive.standing, 0, gear)
        ratio = self.RATIOS[self.gear] * self.FINAL_DRIVE
        driven = drive.speed / WHEEL_RADIUS_M * ratio * RPM
        self.rpm += follow(dt_s, 0.4) * (np.maximum(driven, self.IDLE_RPM) - self.rpm)
        wanted = np.clip(drive.force_drive * WHEEL_RADIUS_M / (0.92 * ratio), -60.0, self.TORQUE_MAX)
        self.torque += follow(dt_s, 0.3) * (wanted - self.torque)
        load = np.clip(0.12 + 0.88 * self.torque / self.TORQUE_MAX, 0.05, 1.0)
        self.load += follow(dt_s, 0.3) * (load - self.load)
        self.air = self.rpm / 120.0 * 2.0 * 1.18 * 0.92 * self.load
        leak = np.clip(self.knobs["air_leak"], 0.0, 0.3)
        noise = self.rng.standard_normal(self.n)
        self.trim_noise += np.sqrt(2 * follow(dt_s, 3.0)) * 0.8 * noise - follow(dt_s, 3.0) * self.trim_noise
        missing = 100.0 * leak / (1 - leak) + self.trim_base - self.long_trim
        self.short_trim += follow(dt_s, 2.0) * (missing - self.short_trim)
        self.long_trim += follow(dt_s, 45.0) * (self.short_trim + 0.4 * self.trim_noise)
        self.fuel_lph = self.air / 14.7 * 3600.0 / 745.0
        self.fuel -= self.fuel_lph * dt_s / 36.0 / self.TANK_L
        low = np.where(self.filling, 90.0, 20.0)  # filled from below 20 % to 90 %
        self.filling = (drive.phase == PARKED) & drive.standing & (self.fuel < low)
        self.fuel = np.clip(self.fuel + np.where(self.filling, 1.2 * dt_s, 0.0), 0.0, 100.0)

    def _heat(self, dt_s: float) -> None:
        drive = self.drive
        self.tank.advance(dt_s, self.knobs["coolant_leak"])
        flow = cooling_share(self.tank.level)
        burnt_w = self.fuel_lph / 3600.0 * 32e6
        opened = np.clip((self.coolant_temp - 86.0) / 9.0, 0.0, 1.0)
        fan = 500.0 * np.clip((self.coolant_temp - 93.0) / 5.0, 0.0, 1.0)
        radiator = (14.0 + opened * (90.0 + 24.0 * drive.speed + fan)) * flow * (self.coolant_temp - self.ambient)
        self.coolant_temp += dt_s / 45e3 * (0.26 * burnt_w - radiator)
        self.coolant_temp = np.minimum(self.coolant_temp, 138.0)  # it boils; what is left cannot get hotter
        oil = self.coolant_temp + 3.0 + 0.003 * self.rpm
        self.oil_temp += follow(dt_s, 220.0) * (oil - self.oil_temp)
        gearbox = self.coolant_temp - 14.0 + 0.3 * drive.speed
        self.gearbox_temp += follow(dt_s, 400.0) * (gearbox - self.gearbox_temp)
        self.intake_temp += follow(dt_s, 90.0) * (self.ambient + 22.0 - 0.5 * drive.speed - self.intake_temp)
        self.catalyst += follow(dt_s, 45.0) * (480.0 + 420.0 * np.sqrt(self.load) - self.catalyst)

    def signals(self) -> tuple[ArrayLike, ...]:
        viscosity = np.clip(1.9 - 0.01 * self.oil_temp, 0.5, 1.9)
        return (
            *self.chassis_signals(),
            self.rpm,
            self.torque,
            np.maximum(self.torque, 0.0) * self.rpm / RPM / 1000.0,
            self.coolant_temp,
            self.tank.level,
            self.oil_temp,
            (90.0 + 0.075 * self.rpm) * viscosity,
            self.air * (1 - np.clip(self.knobs["air_leak"], 0.0, 0.3)),
            20.0 + 78.0 * self.load,
            8.0 + 85.0 * self.load**1.3,
            self.gear,
            self.gearbox_temp,
            self.fuel,
            self.fuel_lph,
            self.intake_temp,
            self.short_trim + self.trim_noise,
            self.long_trim,
            self.catalyst,
        )
