"""A healthy fleet: physics that hangs together, and values that keep to what the catalogue declares."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from producers.body import AXLE, WHEELS
from producers.fleet import MODELS, Fleet, make_fleet
from producers.vehicles import BATTERY, ELECTRIC, ENGINE
from telemetry.catalog import Catalog, CatalogSet, load
from telemetry.codec import decode_frame
from telemetry.errors import CatalogError, SettingsError

START_US = 1_700_000_000_000_000
MINUTES = 10
COUNT = 80


@pytest.fixture(scope="module")
def catalogs() -> CatalogSet:
    return load()


def record(fleet: Fleet, seconds: float) -> NDArray[np.float32]:
    """What reaches the network, as float32 (devices, steps, signals); the fleet must be gapless."""
    row = {name.encode(): i for i, name in enumerate(fleet.ids)}
    parts = []
    while fleet.now_us < fleet.start_us + seconds * 1e6:
        frames = np.empty((len(fleet.ids), fleet.steps, len(fleet.catalog.signals)), np.float32)
        for out in fleet.step():
            frames[row[out.key]] = decode_frame(out.value, frames.shape[2]).values
        parts.append(frames)
    return np.concatenate(parts, axis=1)


def gapless(catalog: Catalog, count: int = COUNT, seed: int = 11) -> Fleet:
    return Fleet(catalog, count, seed=seed, start_us=START_US, gap_rate_per_hour=0)


@pytest.fixture(scope="module")
def runs(catalogs: CatalogSet) -> dict[str, tuple[Catalog, NDArray[np.float32]]]:
    """Ten minutes of every class."""
    entries = {name: catalogs.latest(name) for name in MODELS}
    return {name: (entry, record(gapless(entry), 60 * MINUTES)) for name, entry in entries.items()}


@pytest.mark.parametrize("name", sorted(MODELS))
class TestDeclared:
    """The rules watch the declared limits: a healthy device must never break one."""

    def test_range(self, runs: dict[str, tuple[Catalog, NDArray[np.float32]]], name: str) -> None:
        catalog, values = runs[name]
        assert np.isfinite(values).all()
        low, high = catalog.limits().T
        bad = ((values < low) | (values > high)).any(axis=(0, 1))
        assert [c for c, wrong in zip(catalog.columns, bad, strict=True) if wrong] == []

    def test_rate(self, runs: dict[str, tuple[Catalog, NDArray[np.float32]]], name: str) -> None:
        catalog, values = runs[name]
        rate = np.abs(np.diff(values, axis=1)).max(axis=(0, 1)) / (catalog.period_ms / 1000)
        bad = [s.name for s, r in zip(catalog.signals, rate, strict=True) if s.rate_max and r > s.rate_max]
        assert bad == []

    def test_not_stuck(self, runs: dict[str, tuple[Catalog, NDArray[np.float32]]], name: str) -> None:
        catalog, values = runs[name]
        bad = []
        for column, signal in enumerate(catalog.signals):
            if signal.stuck_after_s is None:
                continue
            steps = int(signal.stuck_after_s / (catalog.period_ms / 1000))
            moves = np.cumsum(np.diff(values[:, :, column], axis=1) != 0, axis=1)
            if (moves[:, steps:] == moves[:, :-steps]).any():
                bad.append(signal.name)
        assert bad == []

    def test_alive(self, runs: dict[str, tuple[Catalog, NDArray[np.float32]]], name: str) -> None:
        """Most signals differ between devices or move: the model is no row of constants."""
        catalog, values = runs[name]
        constant = [c for j, c in enumerate(catalog.columns) if np.ptp(values[:, :, j]) == 0]
        assert len(constant) <= 6, constant


class TestCar:
    @pytest.fixture(params=["vehicle.ev", "vehicle.ice"])
    def car(
        self, runs: dict[str, tuple[Catalog, NDArray[np.float32]]], request: pytest.FixtureRequest
    ) -> tuple[Catalog, NDArray[np.float32]]:
        return runs[request.param]

    def test_wheels_agree_with_speed(self, car: tuple[Catalog, NDArray[np.float32]]) -> None:
        catalog, values = car
        wheels = values[:, :, [catalog.column(f"{AXLE}.{w}.Speed") for w in WHEELS]]
        speed = values[:, :, catalog.column("Vehicle.Speed")]
        assert np.abs(wheels.mean(axis=2) - speed).max() < 0.02 * speed.max()
        straight = np.abs(values[:, :, catalog.column("Vehicle.AngularVelocity.Yaw")]) < 0.3
        assert np.abs(wheels - speed[:, :, None])[straight].max() < 1.5
        assert (wheels[speed == 0] < 0.5).all()
        halted = (speed[:, :-4] == 0) & (speed[:, 4:] == 0) & (speed[:, 2:-2] == 0)
        assert (wheels[:, 2:-2][halted] < 0.2).all()
        assert (wheels[:, 2:-2][halted] == 0).mean() > 0.99

    def test_inner_wheels_are_slower(self, car: tuple[Catalog, NDArray[np.float32]]) -> None:
        catalog, values = car
        yaw = values[:, :, catalog.column("Vehicle.AngularVelocity.Yaw")]
        left, right = (values[:, :, catalog.column(f"{AXLE}.Row2.Wheel.{s}.Speed")] for s in ("Left", "Right"))
        turning = np.abs(yaw) > 3
        assert turning.any()
        assert (np.sign(right - left) == np.sign(yaw))[turning].mean() > 0.99

    def test_distance_is_speed_summed(self, car: tuple[Catalog, NDArray[np.float32]]) -> None:
        catalog, values = car
        odometer = values[:, :, catalog.column("Vehicle.TraveledDistance")]
        speed = values[:, :, catalog.column("Vehicle.Speed")].astype(np.float64)
        driven = speed[:, 1:].sum(axis=1) * catalog.period_ms / 1000 / 3600
        assert np.abs(odometer[:, -1] - odometer[:, 0] - driven).max() < 0.05

    def test_pressure_follows_temperature(self, car: tuple[Catalog, NDArray[np.float32]]) -> None:
        catalog, values = car
        pressure = values[:, :, catalog.column(f"{AXLE}.{WHEELS[0]}.Tire.Pressure")] + 101.3
        kelvin = values[:, :, catalog.column(f"{AXLE}.{WHEELS[0]}.Tire.Temperature")] + 273.15
        amount = pressure / kelvin
        assert (np.ptp(amount, axis=1) / amount.mean(axis=1)).max() < 0.03

    def test_some_drive_and_some_stand(self, car: tuple[Catalog, NDArray[np.float32]]) -> None:
        catalog, values = car
        speed = values[:, :, catalog.column("Vehicle.Speed")]
        assert 0.05 < (speed == 0).mean() < 0.6
        assert speed.max() > 90


class TestElectric:
    def test_charge_falls_while_power_is_drawn(self, runs: dict[str, tuple[Catalog, NDArray[np.float32]]]) -> None:
        catalog, values = runs["vehicle.ev"]
        charge = values[:, :, catalog.column(f"{BATTERY}.StateOfCharge.Current")]
        current = values[:, :, catalog.column(f"{BATTERY}.CurrentCurrent")]
        drawn = current[:, 1:] < -1
        assert drawn.any()
        assert (np.diff(charge, axis=1)[drawn] <= 1e-4).all()

    def test_power_is_voltage_times_current(self, runs: dict[str, tuple[Catalog, NDArray[np.float32]]]) -> None:
        catalog, values = runs["vehicle.ev"]
        voltage, current, power = (
            values[:, :, catalog.column(f"{BATTERY}.{c}")]
            for c in ("CurrentVoltage", "CurrentCurrent", "CurrentPower")
        )
        assert np.abs(voltage * current / 1000 - power).max() < 1.0

    def test_motor_turns_with_the_wheels(self, runs: dict[str, tuple[Catalog, NDArray[np.float32]]]) -> None:
        catalog, values = runs["vehicle.ev"]
        rpm = values[:, :, catalog.column(f"{ELECTRIC}.Speed")]
        speed = values[:, :, catalog.column("Vehicle.Speed")]
        fast = speed > 20
        ratio = rpm[fast] / speed[fast]
        assert np.ptp(ratio) / ratio.mean() < 0.03

    def test_cells_add_up_to_the_pack(self, runs: dict[str, tuple[Catalog, NDArray[np.float32]]]) -> None:
        catalog, values = runs["vehicle.ev"]
        low, high, pack = (
            values[:, :, catalog.column(f"{BATTERY}.{c}")]
            for c in ("CellVoltage.Min", "CellVoltage.Max", "CurrentVoltage")
        )
        assert (low * 96 < pack + 1.5).all()
        assert (high * 96 > pack - 1.5).all()


def test_combustion_air_makes_fuel(runs: dict[str, tuple[Catalog, NDArray[np.float32]]]) -> None:
    catalog, values = runs["vehicle.ice"]
    air = values[:, :, catalog.column(f"{ENGINE}.MAF")]
    fuel = values[:, :, catalog.column("Vehicle.OBD.FuelRate")]
    busy = air > 5
    ratio = fuel[busy] / air[busy]
    assert np.ptp(ratio) / ratio.mean() < 0.2


def test_gpu_power_heats(runs: dict[str, tuple[Catalog, NDArray[np.float32]]]) -> None:
    catalog, values = runs["gpu.node"]
    power, temp, inlet = (
        values[:, :, catalog.column(c)]
        for c in ("DCGM.FI.DEV.POWER_USAGE", "DCGM.FI.DEV.GPU_TEMP", "Node.InletTemperature")
    )
    steady = np.percentile(values[:, :, catalog.column("DCGM.FI.DEV.GPU_UTIL")], 10, axis=1) > 90
    rise = np.median((temp - inlet)[steady], axis=1) / np.median(power[steady], axis=1)
    assert steady.any()
    assert ((rise > 0.045) & (rise < 0.065)).all()
    assert temp.max() < 80


class TestMakeFleet:
    def test_names(self, catalogs: CatalogSet) -> None:
        kw = {"seed": 1, "start_us": START_US}
        assert make_fleet("vehicles", 2, catalogs, **kw).catalog.key == "vehicle.ev/1"
        assert make_fleet("devices", 2, catalogs, **kw).catalog.key == "gpu.node/1"
        assert make_fleet("vehicle.ice/1", 2, catalogs, **kw).ids == ["car-000000", "car-000001"]
        assert make_fleet("sensor.pump", 1, catalogs, id_prefix="p-", **kw).ids == ["p-000000"]

    def test_unknown_names_the_nearest(self, catalogs: CatalogSet) -> None:
        with pytest.raises(CatalogError, match=r"did you mean .*vehicle\.ev"):
            make_fleet("vehicle.evs", 1, catalogs, seed=1, start_us=START_US)

    def test_entry_without_a_model(self, catalogs: CatalogSet) -> None:
        with pytest.raises(CatalogError, match="no model of"):
            make_fleet("bench.single", 1, catalogs, seed=1, start_us=START_US)

    def test_entry_with_other_signals(self, catalogs: CatalogSet) -> None:
        entry = catalogs.latest("sensor.pump")
        fewer = entry.model_copy(update={"signals": entry.signals[1:], "version": 2})
        with pytest.raises(CatalogError, match=r"Pump\.Vibration\.X"):
            gapless(fewer, 1)

    @pytest.mark.parametrize(
        "kw", [{"count": 0}, {"steps_per_frame": 0}, {"period_us": 10}, {"steps_per_frame": 1000}]
    )
    def test_numbers_out_of_range(self, catalogs: CatalogSet, kw: dict[str, int]) -> None:
        with pytest.raises(SettingsError):
            Fleet(catalogs.latest("vehicle.ev"), **{"count": 1, "seed": 1, "start_us": START_US, **kw})

    def test_columns_may_come_in_any_order(self, catalogs: CatalogSet) -> None:
        entry = catalogs.latest("sensor.pump")
        turned = entry.model_copy(update={"signals": entry.signals[::-1], "version": 2})
        assert np.ptp(record(gapless(turned, 2), 5)[:, :, turned.column("Pump.Flow")]) > 0
        assert record(gapless(turned, 2), 5)[:, :, turned.column("Pump.Motor.Speed")].min() > 1000


def test_long_steps_stay_stable(catalogs: CatalogSet) -> None:
    """A step of 20 s is integrated in short ones."""
    catalog = catalogs.latest("vehicle.ev")
    fleet = Fleet(catalog, 20, seed=2, start_us=START_US, gap_rate_per_hour=0, period_us=20_000_000)
    values = record(fleet, 3600)
    low, high = catalog.limits().T
    assert ((values >= low) & (values <= high)).all()


def test_devices_declare_models_and_firmware(catalogs: CatalogSet) -> None:
    records = gapless(catalogs.latest("vehicle.ev"), 300).devices()
    assert len({r["device_id"] for r in records}) == 300
    assert len({r["model"] for r in records}) == 3
    newest = [r for r in records if r["firmware"] == "5.0.1"]
    assert 0.1 < len(newest) / 300 < 0.3
