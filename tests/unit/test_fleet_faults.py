"""Faults: orders in text, consequences in the signals, truth, and nothing in the other devices."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from producers.body import LOW_VOLTAGE
from producers.faults import KINDS, FaultError, FaultSpec, fault_table, parse_inject
from producers.faulttypes import ClockFault, KnobFault
from producers.fleet import MODELS, Fleet, Outgoing
from producers.vehicles import BATTERY, ELECTRIC, ENGINE
from telemetry.catalog import load
from telemetry.codec import decode, decode_frame, encode
from telemetry.errors import FleetwatchError

START_US = 1_700_000_000_000_000
COUNT = 24
ONSET_S = 60
SECONDS = 400
CASES = [(kind.name, name) for kind in KINDS.values() for name in sorted(kind.variants)]
CATALOGS = load()


def fleet_of(name: str, **kw: float) -> Fleet:
    options = {"gap_rate_per_hour": 0.0, "clock_offset_max_s": 0.0, **kw}
    return Fleet(CATALOGS.latest(name), COUNT, seed=4, start_us=START_US, **options)


def run(fleet: Fleet, seconds: float) -> tuple[NDArray[np.float32], list[list[Outgoing]]]:
    """float32 (devices, steps, signals) of a gapless fleet, and the frames themselves."""
    row = {name.encode(): i for i, name in enumerate(fleet.ids)}
    parts, sent = [], []
    while fleet.now_us < START_US + seconds * 1e6:
        frames = np.empty((COUNT, fleet.steps, len(fleet.catalog.signals)), np.float32)
        out = fleet.step()
        for frame in out:
            frames[row[frame.key]] = decode_frame(frame.value, frames.shape[2]).values
        parts.append(frames)
        sent.append(out)
    return np.concatenate(parts, axis=1), sent


@cache
def healthy(name: str) -> NDArray[np.float32]:
    return run(fleet_of(name), SECONDS)[0]


@cache
def faulty(kind: str, name: str, magnitude: float | None = None) -> tuple[Fleet, dict, NDArray[np.float32]]:
    fleet = fleet_of(name)
    record = fleet.inject(FaultSpec(kind, ONSET_S, magnitude=magnitude))
    return fleet, record, run(fleet, SECONDS)[0]


def change(kind: str, name: str, signal: str, magnitude: float | None = None) -> NDArray[np.float32]:
    """Faulty minus healthy values of a signal of the faulty device, from the onset on."""
    fleet, record, values = faulty(kind, name, magnitude)
    device = fleet.ids.index(record["device_id"])
    column = fleet.catalog.column(signal)
    first = int(ONSET_S * 1e6 / fleet.period_us)
    return values[device, first:, column] - healthy(name)[device, first:, column]


def hit(fleet: Fleet, record: dict) -> list[int]:
    if not KINDS[record["kind"]].fleet_wide:
        return [fleet.ids.index(record["device_id"])]
    return [i for i, d in enumerate(fleet.devices()) if d["firmware"] == fleet.model.FIRMWARES[-1]]


@pytest.mark.parametrize(("kind", "name"), CASES)
class TestEveryKind:
    def test_other_devices_and_the_past_are_untouched(self, kind: str, name: str) -> None:
        fleet, record, values = faulty(kind, name)
        others = [i for i in range(COUNT) if i not in hit(fleet, record)]
        assert np.array_equal(values[others], healthy(name)[others])
        before = int(ONSET_S * 1e6 / fleet.period_us)
        assert np.array_equal(values[:, :before], healthy(name)[:, :before])

    def test_named_signals_change(self, kind: str, name: str) -> None:
        fleet, record, values = faulty(kind, name)
        for device in hit(fleet, record):
            changed = [
                c
                for j, c in enumerate(fleet.catalog.columns)
                if not np.array_equal(values[device, :, j], healthy(name)[device, :, j], equal_nan=True)
            ]
            late = {  # only when hot, or only by chance, within these minutes
                "inverter_overheating": {"Vehicle.Speed", f"{ELECTRIC}.Torque", f"{ELECTRIC}.Power"},
                "ecc_storm": {"DCGM.FI.DEV.ECC_DBE_VOL_TOTAL"},
            }.get(kind, set())
            assert set(record["signals"]) - set(changed) <= late
            if not isinstance(KINDS[kind], KnobFault):
                assert set(changed) == set(record["signals"])

    def test_truth(self, kind: str, name: str) -> None:
        fleet = fleet_of(name)
        ordered = fleet.inject(FaultSpec(kind, 35, duration_s=10))
        assert fleet.truth() == []
        gone_s = 45 + KINDS[kind].recovery_s
        fleet_records: list[dict] = []
        while fleet.now_us < START_US + (gone_s + 10) * 1e6:
            fleet.step()
            fleet_records += fleet.truth()
        begun = [r for r in fleet_records if r["end"] is None]
        ended = [r for r in fleet_records if r["end"] is not None]
        assert begun[0] == ordered
        assert ordered["onset"] == START_US + 35_000_000
        assert {r["end"] for r in ended} == {round(START_US + gone_s * 1e6)}
        assert [r["fault_id"] for r in begun] == [r["fault_id"] for r in ended]
        for record in fleet_records:
            assert decode("truth", encode("truth", record)) == record


class TestPhysics:
    """What the causes do, by the numbers."""

    def test_tyre_leak(self) -> None:
        signals = faulty("tyre_leak", "vehicle.ev")[1]["signals"]
        assert signals[0].endswith("Tire.Pressure")
        fall = change("tyre_leak", "vehicle.ev", signals[0])
        assert -35 < fall[60] < -20  # after 30 s
        assert fall[-1] < -120
        assert change("tyre_leak", "vehicle.ev", signals[1])[-1] > 0.5
        assert change("tyre_leak", "vehicle.ev", signals[2])[-60:].max() > 0.5

    def test_size_matters(self) -> None:
        signal = faulty("tyre_leak", "vehicle.ev")[1]["signals"][0]
        slow, fast = (change("tyre_leak", "vehicle.ev", signal, size)[60] for size in (1.0, 3.0))
        assert fast < 2 * slow

    def test_coolant_loss_warms(self) -> None:
        assert change("coolant_loss", "vehicle.ev", f"{ELECTRIC}.EngineCoolant.Level")[60] < -12
        for part in (f"{ELECTRIC}.Inverter", ELECTRIC):
            assert change("coolant_loss", "vehicle.ev", f"{part}.Temperature")[-1] > 1
        assert change("coolant_loss", "vehicle.ice", f"{ENGINE}.EngineCoolant.Temperature")[-1] > 3

    def test_inverter_heats_then_limits(self) -> None:
        heat = change("inverter_overheating", "vehicle.ev", f"{ELECTRIC}.Inverter.Temperature")
        assert heat[:121].max() > 5
        assert heat.max() > 25
        assert change("inverter_overheating", "vehicle.ev", f"{BATTERY}.CurrentCurrent").min() < -2

    def test_an_inverter_far_too_hot_makes_the_car_slow(self) -> None:
        assert change("inverter_overheating", "vehicle.ev", "Vehicle.Speed", 15.0).min() < -3

    def test_cell_drift(self) -> None:
        low = change("battery_cell_drift", "vehicle.ev", f"{BATTERY}.CellVoltage.Min")
        assert -0.3 < low[120] < -0.2
        assert np.abs(change("battery_cell_drift", "vehicle.ev", f"{BATTERY}.CellVoltage.Max")).max() < 0.02
        assert change("battery_cell_drift", "vehicle.ev", f"{BATTERY}.Temperature.Max")[-1] > 5

    def test_low_voltage(self) -> None:
        for name in ("vehicle.ev", "vehicle.ice"):
            assert change("low_voltage_battery", name, LOW_VOLTAGE)[40] < -1.2

    def test_thermal_throttling(self) -> None:
        kind, name = "gpu_thermal_throttling", "gpu.node"
        assert change(kind, name, "DCGM.FI.DEV.GPU_TEMP")[40:].min() > 10
        assert np.median(change(kind, name, "DCGM.FI.DEV.SM_CLOCK")[90:]) < -100
        assert np.median(change(kind, name, "DCGM.FI.DEV.POWER_USAGE")[90:]) < -50
        assert np.median(change(kind, name, "Job.StepTime")[90:]) > 20

    def test_slow_gpu_is_cool_and_busy(self) -> None:
        assert np.median(change("gpu_slow", "gpu.node", "Job.StepTime")) > 50
        assert np.median(change("gpu_slow", "gpu.node", "DCGM.FI.DEV.GPU_TEMP")[60:]) < -5
        assert (change("gpu_slow", "gpu.node", "DCGM.FI.DEV.GPU_UTIL") == 0).all()

    def test_ecc_counter_only_grows(self) -> None:
        counted = change("ecc_storm", "gpu.node", "DCGM.FI.DEV.ECC_SBE_VOL_TOTAL")
        assert (np.diff(counted) >= 0).all()
        assert 800 < counted[-1] < 2600

    def test_bearing(self) -> None:
        assert 3.5 < change("bearing_wear", "sensor.pump", "Pump.Vibration.X.Rms")[-1] < 4.5
        assert change("bearing_wear", "sensor.pump", "Pump.Bearing.Temperature")[-1] > 10

    def test_air_leak_moves_from_short_to_long_trim(self) -> None:
        short = change("intake_air_leak", "vehicle.ice", "Vehicle.OBD.ShortTermFuelTrim1")
        long = change("intake_air_leak", "vehicle.ice", "Vehicle.OBD.LongTermFuelTrim1")
        assert short[10] > 9
        assert short[-1] < 2
        assert long[-1] > 11


class TestSensors:
    def test_stuck_holds_its_value(self) -> None:
        fleet, record, values = faulty("wheel_speed_stuck", "vehicle.ev")
        device, column = fleet.ids.index(record["device_id"]), fleet.catalog.column(record["signals"][0])
        after = values[device, int(ONSET_S * 1e6 / fleet.period_us) :, column]
        assert (after == after[0]).all()

    def test_dropout_is_nan_until_its_end(self) -> None:
        fleet, record, values = faulty("signal_dropout", "gpu.node")
        device = fleet.ids.index(record["device_id"])
        for signal in record["signals"]:
            missing = np.isnan(values[device, :, fleet.catalog.column(signal)])
            assert missing[ONSET_S : ONSET_S + 300].all()
            assert not missing[:ONSET_S].any()
            assert not missing[ONSET_S + 300 :].any()

    def test_partial_dropout(self) -> None:
        fleet, record, values = faulty("signal_dropout", "sensor.pump", 0.3)
        device, column = fleet.ids.index(record["device_id"]), fleet.catalog.column(record["signals"][0])
        assert 0.2 < np.isnan(values[device, ONSET_S : ONSET_S + 300, column]).mean() < 0.4

    def test_replay_repeats_the_time_before(self) -> None:
        fleet, record, values = faulty("replayed_signal", "vehicle.ev")
        device, column = fleet.ids.index(record["device_id"]), fleet.catalog.column(record["signals"][0])
        onset, steps = int(ONSET_S * 1e6 / fleet.period_us), int(30e6 / fleet.period_us)
        past = values[device, onset - steps : onset, column]
        assert np.array_equal(values[device, onset : onset + steps, column], past)
        assert np.array_equal(values[device, onset + steps : onset + 2 * steps, column], past)

    def test_noise_has_its_size(self) -> None:
        fleet, record, _ = faulty("noise", "vehicle.ev")
        signal = record["signals"][0]
        sigma = fleet.model.SENSORS[signal].sigma
        assert np.std(change("noise", "vehicle.ev", signal)[:400]) == pytest.approx(25 * sigma, rel=0.15)

    def test_where_frames_are_cut_does_not_matter(self) -> None:
        seen = []
        for steps in (1, 5):
            catalog = CATALOGS.latest("vehicle.ev")
            fleet = Fleet(catalog, COUNT, seed=4, start_us=START_US, steps_per_frame=steps, gap_rate_per_hour=0)
            for text in (
                "noise@12s:veh-000003",
                "signal_dropout@12s:veh-000003*0.5",
                "replayed_signal@31s:veh-000003",
            ):
                fleet.inject(parse_inject(text))
            seen.append(run(fleet, 50)[0][3, :100])
        assert np.array_equal(*seen, equal_nan=True)


class TestClock:
    def test_time_stamps_run_ahead_and_values_do_not_change(self) -> None:
        fleet = fleet_of("vehicle.ev")
        record = fleet.inject(parse_inject("clock_skew@20s:veh-000005*0.5"))
        values, sent = run(fleet, 120)
        assert isinstance(KINDS[record["kind"]], ClockFault)
        assert np.array_equal(values, healthy("vehicle.ev")[:, : values.shape[1]])
        ahead = [next(f.ts_us for f in out if f.key == b"veh-000005") - out[0].ts_us for out in sent]
        assert ahead[7] == 0
        assert ahead[-1] == pytest.approx(0.5 * (117.5 - 20) * 1e6, rel=1e-6)


class TestOrders:
    @pytest.mark.parametrize(
        ("text", "spec"),
        [
            ("tyre_leak@30s", FaultSpec("tyre_leak", 30.0)),
            ("tyre_leak", FaultSpec("tyre_leak")),
            ("tyre-leak@2m", FaultSpec("tyre_leak", 120.0)),
            ("noise@1.5h", FaultSpec("noise", 5400.0)),
            ("noise@45", FaultSpec("noise", 45.0)),
            ("noise@500ms:gpu-000001", FaultSpec("noise", 0.5, "gpu-000001")),
            ("gpu_slow:gpu-000001*0.3", FaultSpec("gpu_slow", None, "gpu-000001", 0.3)),
            ("tyre_leak@30s:veh-000012*2+120s", FaultSpec("tyre_leak", 30.0, "veh-000012", 2.0, 120.0)),
            ("clock_skew@0*-0.5+1m", FaultSpec("clock_skew", 0.0, None, -0.5, 60.0)),
        ],
    )
    def test_parse(self, text: str, spec: FaultSpec) -> None:
        assert parse_inject(text) == spec

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("tire_leak@30s", "did you mean tyre_leak"),
            ("ecc_strom@30s", "did you mean ecc_storm"),
            ("tyre_leak@soon", "'soon' is not a time"),
            ("tyre_leak@30s*big", "'big' is not a number"),
            ("tyre_leak@30s+ever", "'ever' is not a time"),
            ("@30s", "expected KIND"),
            ("tyre leak", "expected KIND"),
        ],
    )
    def test_parse_errors(self, text: str, message: str) -> None:
        with pytest.raises(FaultError, match=message) as caught:
            parse_inject(text)
        assert isinstance(caught.value, FleetwatchError)
        assert caught.value.exit_code == 78

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("vehicle.ev", "gpu_slow@30s", r"is for gpu\.node; this fleet is vehicle\.ev"),
            ("vehicle.ev", "tyre_leak@30s:veh-000099", "no device veh-000099 in this fleet; did you mean"),
            ("vehicle.ev", "tyre_leak@30s*-1", "the size must be above 0 and at most 100"),
            ("vehicle.ev", "tyre_leak@30s*nan", "the size must be"),
            ("vehicle.ev", "tyre_leak@30s+0s", "the duration must be above 0"),
            ("gpu.node", "firmware_regression@3s:gpu-000001", "name no device"),
        ],
    )
    def test_orders_that_do_not_fit(self, name: str, text: str, message: str) -> None:
        with pytest.raises(FaultError, match=message):
            fleet_of(name).inject(parse_inject(text))

    def test_unknown_kind_in_a_spec(self) -> None:
        with pytest.raises(FaultError, match="did you mean bearing_wear"):
            fleet_of("sensor.pump").inject(FaultSpec("bearing_ware"))

    def test_a_time_that_is_over_means_now(self) -> None:
        fleet = fleet_of("vehicle.ev")
        run(fleet, 60)
        assert fleet.inject(parse_inject("tyre_leak@10s"))["onset"] == fleet.now_us
        assert fleet.inject(parse_inject("tyre_leak"))["onset"] == fleet.now_us

    def test_the_chosen_device_is_in_use_and_each_fault_gets_its_own(self) -> None:
        fleet = fleet_of("vehicle.ev")
        chosen = [fleet.inject(parse_inject("tyre_leak@30s"))["device_id"] for _ in range(5)]
        assert len(set(chosen)) == 5
        speed = run(fleet, 120)[0][:, -60:, fleet.catalog.column("Vehicle.Speed")]
        assert (speed[[fleet.ids.index(c) for c in chosen[:2]]].max(axis=1) > 5).all()

    def test_faults_on_one_knob_add_up_and_end(self) -> None:
        fleet = fleet_of("vehicle.ev")
        for text in ("low_voltage_battery@5s:veh-000001*0.2", "low_voltage_battery@5s:veh-000001*0.3+20s"):
            fleet.inject(parse_inject(text))
        run(fleet, 15)
        assert fleet.model.knobs["charger_loss"][1] == pytest.approx(0.5)
        run(fleet, 40)
        assert fleet.model.knobs["charger_loss"][1] == pytest.approx(0.2)


def test_kinds_are_complete() -> None:
    assert len(KINDS) >= 14
    for kind in KINDS.values():
        assert set(kind.variants) <= set(MODELS)
        assert kind.doc
        assert kind.observable
        for name, variants in kind.variants.items():
            columns = CATALOGS.latest(name).columns
            assert all(signal in columns for variant in variants for signal in variant)
            assert not kind.knob or kind.knob in MODELS[name].KNOBS


def test_the_documented_table_is_this_one() -> None:
    text = (Path(__file__).parents[2] / "docs" / "simulation.md").read_text(encoding="utf-8")
    assert fault_table() in text
