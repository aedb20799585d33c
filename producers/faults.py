"""The table of fault kinds, and an order's text form. The rule: `variants` name what changes, the cause first.

A new kind of an existing sort is an entry here; a component fault also needs its knob in a model's equations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType

from producers.body import AXLE, LOW_CURRENT, LOW_VOLTAGE, WHEELS
from producers.faulttypes import (
    REPLAY_S,
    ClockFault,
    DropoutFault,
    FaultKind,
    KnobFault,
    NoiseFault,
    OffsetFault,
    ReplayFault,
    Signals,
    StuckFault,
)
from producers.gpu import DEV, PROF
from producers.vehicles import BATTERY, ELECTRIC, ENGINE
from telemetry.errors import SettingsError, nearest

EV, ICE, GPU, PUMP = "vehicle.ev", "vehicle.ice", "gpu.node", "sensor.pump"

_WHEEL_SPEEDS = tuple(f"{AXLE}.{wheel}.Speed" for wheel in WHEELS)
_LEAKS: tuple[Signals, ...] = tuple(
    (f"{AXLE}.{w}.Tire.Pressure", f"{AXLE}.{w}.Tire.Temperature", f"{AXLE}.{w}.Speed") for w in WHEELS
)
_LOW_VOLTAGE: Signals = (LOW_VOLTAGE, LOW_CURRENT)
_PUMP_VIBRATION: Signals = tuple(f"Pump.Vibration.{axis}.Rms" for axis in "XYZ")
_GPU_LOAD: Signals = (
    f"{DEV}.SM_CLOCK",
    f"{DEV}.POWER_USAGE",
    f"{DEV}.GPU_TEMP",
    f"{DEV}.MEMORY_TEMP",
    f"{DEV}.FAN_SPEED",
    "Job.StepTime",
    "Job.Throughput",
    f"{DEV}.MEM_COPY_UTIL",
    f"{PROF}.PIPE_TENSOR_ACTIVE",
    f"{PROF}.PCIE_RX_BYTES",
    f"{PROF}.NVLINK_TX_BYTES",
)
_STEADY = {
    EV: (
        *((f"{AXLE}.{w}.Tire.Temperature",) for w in WHEELS),
        (f"{ELECTRIC}.EngineCoolant.Temperature",),
        (f"{BATTERY}.Temperature.Average",),
        (LOW_VOLTAGE,),
    ),
    ICE: (
        *((f"{AXLE}.{w}.Tire.Temperature",) for w in WHEELS),
        (f"{ENGINE}.EngineCoolant.Temperature",),
        (f"{ENGINE}.EngineOil.Temperature",),
        (LOW_VOLTAGE,),
    ),
    GPU: ((f"{DEV}.GPU_TEMP",), (f"{DEV}.MEMORY_TEMP",), ("Node.InletTemperature",)),
    PUMP: (("Pump.Bearing.Temperature",), ("Pump.Motor.Temperature",), ("Pump.Pressure.Suction",)),
}
_GROUPS = {
    EV: (
        tuple(f"{AXLE}.{w}.Tire.Pressure" for w in WHEELS),
        _WHEEL_SPEEDS,
        (f"{BATTERY}.CurrentVoltage", f"{BATTERY}.CurrentCurrent", f"{BATTERY}.CellVoltage.Min"),
    ),
    ICE: (
        tuple(f"{AXLE}.{w}.Tire.Pressure" for w in WHEELS),
        _WHEEL_SPEEDS,
        (f"{ENGINE}.MAF", f"{ENGINE}.MAP", f"{ENGINE}.TPS"),
    ),
    GPU: ((f"{DEV}.GPU_TEMP", f"{DEV}.MEMORY_TEMP"), (f"{DEV}.POWER_USAGE", f"{DEV}.SM_CLOCK")),
    PUMP: (_PUMP_VIBRATION, ("Pump.Flow", "Pump.Pressure.Discharge")),
}
_LIVELY = {
    EV: (("Vehicle.Speed",), (f"{BATTERY}.CurrentCurrent",)),
    ICE: (("Vehicle.Speed",), (f"{ENGINE}.Speed",)),
    GPU: ((f"{DEV}.POWER_USAGE",),),
    PUMP: (("Pump.Flow",), ("Pump.Motor.Current",)),
}

_ALL = (
    KnobFault(
        "battery_cell_drift",
        "One cell of the pack loses charge and heats: the lowest cell voltage leaves the others.",
        {EV: ((f"{BATTERY}.CellVoltage.Min", f"{BATTERY}.Temperature.Max", f"{BATTERY}.CurrentVoltage"),)},
        magnitude=4.0, unit="mV/s", magnitude_max=100, seen_within_s=60, recovery_s=90, knob="cell_drift_mv_s",
        observable="CellVoltage.Min falls 0.24 V a minute while Max does not; hottest cell + 4 K after 2 minutes.",
    ),
    StuckFault(
        "wheel_speed_stuck",
        "A wheel-speed sensor goes on showing its last value.",
        {c: tuple((name,) for name in _WHEEL_SPEEDS) for c in (EV, ICE)},
        magnitude=1.0, unit="1", magnitude_max=1, seen_within_s=60,
        observable="One wheel's speed does not change while the three others and Vehicle.Speed do.",
    ),
    KnobFault(
        "tyre_leak",
        "A tyre loses air: its pressure falls, it flexes and warms, and being smaller it turns faster.",
        {EV: _LEAKS, ICE: _LEAKS},
        magnitude=1.0, unit="kPa/s", magnitude_max=100, seen_within_s=30, recovery_s=120, knob="leak_kpa_s",
        observable="Pressure leaves its usual band (0.6 kPa of noise) within seconds; wheel + 1 % after a minute.",
    ),
    KnobFault(
        "coolant_loss",
        "Coolant leaks out; below 65 % the pump draws air and everything that is cooled gets warm.",
        {
            EV: ((
                f"{ELECTRIC}.EngineCoolant.Level", f"{ELECTRIC}.Inverter.Temperature", f"{ELECTRIC}.Temperature",
                f"{ELECTRIC}.EngineCoolant.Temperature", f"{BATTERY}.CoolantTemperature",
                f"{BATTERY}.Temperature.Average", f"{BATTERY}.Temperature.Max", f"{BATTERY}.Temperature.Min",
            ),),
            ICE: ((
                f"{ENGINE}.EngineCoolant.Level", f"{ENGINE}.EngineCoolant.Temperature",
                f"{ENGINE}.EngineOil.Temperature", "Vehicle.Powertrain.Transmission.Temperature",
            ),),
        },
        magnitude=0.5, unit="%/s", magnitude_max=20, seen_within_s=30, recovery_s=1200, knob="coolant_leak",
        observable="Level falls 15 % in 30 s; temperatures follow after a minute or two, under load.",
    ),
    KnobFault(
        "inverter_overheating",
        "The inverter wastes power and gives heat away badly; when hot it limits torque and the car gets slow.",
        {EV: ((
            f"{ELECTRIC}.Inverter.Temperature", f"{BATTERY}.CurrentCurrent", f"{BATTERY}.CurrentPower",
            f"{ELECTRIC}.EngineCoolant.Temperature", f"{ELECTRIC}.Torque", f"{ELECTRIC}.Power", "Vehicle.Speed",
        ),)},
        magnitude=2.5, unit="kW", magnitude_max=20, seen_within_s=45, ramp_s=5, recovery_s=600, knob="inverter_kw",
        observable="Inverter + 0.5 to 1 K/s under load; torque limited from 96 degC, after 2 to 5 minutes.",
    ),
    KnobFault(
        "low_voltage_battery",
        "The 12 V converter (alternator) fails: the lead battery carries the loads and goes flat.",
        {EV: (_LOW_VOLTAGE,), ICE: (_LOW_VOLTAGE,)},
        magnitude=1.0, unit="share of the output lost", magnitude_max=1, seen_within_s=15, recovery_s=60,
        knob="charger_loss",
        observable="14 V to 12.3 V in 20 s, then slowly down; the battery current turns to -28 A.",
    ),
    KnobFault(
        "intake_air_leak",
        "Air enters behind the air-mass meter: it reads low and the control adds fuel.",
        {ICE: ((f"{ENGINE}.MAF", "Vehicle.OBD.ShortTermFuelTrim1", "Vehicle.OBD.LongTermFuelTrim1"),)},
        magnitude=0.12, unit="share of the air", magnitude_max=0.3, seen_within_s=20, recovery_s=300,
        knob="air_leak",
        observable="Short-term trim jumps by 13 % and hands over to the long-term trim in a minute.",
    ),
    KnobFault(
        "gpu_thermal_throttling",
        "Cooling gets bad: the GPU heats up to its limit, lowers its clock and the job gets slow.",
        {GPU: ((
            f"{DEV}.GPU_TEMP", f"{DEV}.MEMORY_TEMP", f"{DEV}.FAN_SPEED", f"{DEV}.CLOCK_THROTTLE_REASONS",
            *(name for name in _GPU_LOAD if not name.endswith(("TEMP", "FAN_SPEED"))),
        ),)},
        magnitude=2.0, unit="added thermal resistance, share", magnitude_max=5, seen_within_s=30, ramp_s=10,
        recovery_s=180, knob="heat",
        observable="58 to 85 degC within 45 s; then clock and power fall and the step time grows.",
    ),
    KnobFault(
        "gpu_slow",
        "A straggler: the clock is held down (power brake) while the GPU looks fully used.",
        {GPU: ((_GPU_LOAD[0], f"{DEV}.CLOCK_THROTTLE_REASONS", *_GPU_LOAD[1:]),)},
        magnitude=0.2, unit="share of the clock", magnitude_max=0.9, seen_within_s=20, recovery_s=180, knob="slow",
        observable="1980 to 1584 MHz, 640 to 440 W, step time + 20 %; utilisation stays at 98 %.",
    ),
    KnobFault(
        "ecc_storm",
        "Memory cells fail: corrected errors pour in, sometimes an uncorrected one, pages are remapped.",
        {GPU: ((
            f"{DEV}.ECC_SBE_VOL_TOTAL", f"{DEV}.XID_ERRORS", f"{DEV}.ECC_DBE_VOL_TOTAL",
            *(name for name in _GPU_LOAD if name.startswith(("Job", PROF)) or name.endswith("COPY_UTIL")),
        ),)},
        magnitude=5.0, unit="corrected errors/s", magnitude_max=1000, seen_within_s=10, recovery_s=60,
        knob="ecc_per_s",
        observable="The counter, which stood still, grows by 5 a second; XID 92, later 48; step time + 2 %.",
    ),
    KnobFault(
        "bearing_wear",
        "A bearing is damaged: it vibrates, warms and brakes a little.",
        {PUMP: ((*_PUMP_VIBRATION, "Pump.Bearing.Temperature", "Pump.Motor.Current", "Pump.Motor.Temperature"),)},
        magnitude=4.0, unit="mm/s", magnitude_max=40, seen_within_s=30, ramp_s=60, recovery_s=1500,
        knob="wear_mm_s",
        observable="Vibration from 1.2 to 5 mm/s in a minute; bearing + 6 K in a minute, + 28 K in the end.",
    ),
    KnobFault(
        "pump_cavitation",
        "Vapour in the inlet: suction pressure falls, it rattles, flow and head become low and unsteady.",
        {PUMP: ((
            "Pump.Pressure.Suction", *_PUMP_VIBRATION, "Pump.Flow", "Pump.Pressure.Discharge",
            "Pump.Motor.Current", "Pump.Motor.Temperature",
        ),)},
        magnitude=1.0, unit="1 (0 none, 1 strong)", magnitude_max=2, seen_within_s=15, ramp_s=5, recovery_s=1500,
        knob="vapour",
        observable="Suction - 0.5 bar, vibration + 3.5 mm/s, flow - 25 % within 10 s.",
    ),
    ClockFault(
        "clock_skew",
        "The device's clock runs fast: its time stamps leave true time. Negative: slow.",
        dict.fromkeys((EV, ICE, GPU, PUMP), ((),)),
        magnitude=0.5, unit="s/s", magnitude_max=10, seen_within_s=60, signed=True,
        observable="Time stamps run ahead of the broker's by half a minute a minute; no signal changes.",
    ),
    DropoutFault(
        "signal_dropout",
        "A bus or a sensor unit fails: a group of signals is missing.",
        _GROUPS,
        magnitude=1.0, unit="share of samples", magnitude_max=1, seen_within_s=15, duration_s=300,
        observable="NaN in the group's signals.",
    ),
    ReplayFault(
        "replayed_signal",
        f"A signal shows its last {REPLAY_S:g} s again and again: a frozen buffer, or an attack.",
        _LIVELY,
        magnitude=1.0, unit="1", magnitude_max=1, seen_within_s=60, duration_s=600,
        observable="Plausible, but contradicts the others (wheel speeds, motor); unseen while all is steady.",
    ),
    NoiseFault(
        "noise",
        "A sensor or its wiring gets noisy.",
        _STEADY,
        magnitude=25.0, unit="times the sensor's noise", magnitude_max=1000, seen_within_s=15, duration_s=300,
        observable="A steady signal jitters by 25 times its usual noise.",
    ),
    OffsetFault(
        "sensor_drift",
        "A sensor drifts away from the truth; nothing else changes.",
        _STEADY,
        magnitude=40.0, unit="times the sensor's noise", magnitude_max=1000, seen_within_s=60, ramp_s=120,
        duration_s=900, signed=True,
        observable="About 2.4 K a minute on a temperature that no other signal explains.",
    ),
    KnobFault(
        "firmware_regression",
        "A new firmware does harm, on every device that has it. Cars: the 12 V set-point is 0.5 V too low; GPU "
        "nodes: the clock is capped; pumps: the speed control hunts.",
        {
            EV: (_LOW_VOLTAGE,),
            ICE: (_LOW_VOLTAGE,),
            GPU: (_GPU_LOAD,),
            PUMP: ((
                "Pump.Motor.Speed", "Pump.Flow", "Pump.Pressure.Discharge", "Pump.Motor.Current",
                *_PUMP_VIBRATION,
            ),),
        },
        magnitude=1.0, unit="1 (1 = 0.5 V, 12 % of the clock, 3 % of the speed)", magnitude_max=3,
        seen_within_s=30, recovery_s=180, knob="firmware", fleet_wide=True,
        observable="The same small change on a fifth of the fleet in the same second.",
    ),
)  # fmt: skip

#: All kinds by name.
KINDS: MappingProxyType[str, FaultKind] = MappingProxyType({kind.name: kind for kind in _ALL})


class FaultError(SettingsError):
    """An order names a fault, device or size that does not exist or does not fit; the message says what does."""


@dataclass(frozen=True, slots=True)
class FaultSpec:
    """An order: what, when, to whom.

    at_s : event time since the start of the run; none = now. device : none = a fitting one is chosen.
    magnitude, duration_s : none = the kind's own.
    """

    kind: str
    at_s: float | None = None
    device: str | None = None
    magnitude: float | None = None
    duration_s: float | None = None


_UNITS_S = MappingProxyType({"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0})
_ORDER = re.compile(
    r"(?P<kind>[A-Za-z][A-Za-z0-9_-]*)"
    r"(?:@(?P<at>[^:*+]*))?"
    r"(?::(?P<device>[A-Za-z0-9._:-]{1,64}))?"
    r"(?:\*(?P<magnitude>[^+]*))?"
    r"(?:\+(?P<duration>.*))?"
)
_TIME = re.compile(r"(?P<number>\d+(?:\.\d*)?|\.\d+)(?P<unit>ms|s|m|h|)")


def _seconds(text: str, what: str, order: str) -> float:
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise FaultError(f"fault {order!r}: {what} {text!r} is not a time; write 30s, 2m, 1.5h or plain seconds")
    return float(match["number"]) * _UNITS_S[match["unit"]]


def parse_inject(text: str) -> FaultSpec:
    """An order from ``KIND[@T][:DEVICE][*MAGNITUDE][+DURATION]``, for example ``tyre_leak@30s:veh-000012*2+120s``.

    T counts from the start of the run in event time; without it the fault begins at once.

    Raises
    ------
    FaultError : not of this form, an unknown kind (the nearest are named), a time or size that is none.
    """
    match = _ORDER.fullmatch(text.strip())
    if match is None:
        raise FaultError(f"fault {text!r}: expected KIND[@T][:DEVICE][*MAGNITUDE][+DURATION], as in tyre_leak@30s")
    name = match["kind"].replace("-", "_")
    if name not in KINDS:
        raise FaultError(f"unknown fault kind {name}{nearest(name, KINDS)}")
    magnitude: float | None = None
    if match["magnitude"] is not None:
        try:
            magnitude = float(match["magnitude"])
        except ValueError:
            raise FaultError(f"fault {text!r}: size {match['magnitude']!r} is not a number") from None
    return FaultSpec(
        name,
        None if match["at"] is None else _seconds(match["at"], "start", text),
        match["device"],
        magnitude,
        None if match["duration"] is None else _seconds(match["duration"], "duration", text),
    )


def fault_table() -> str:
    """The kinds as a Markdown table: `docs/simulation.md` holds exactly this."""
    head = (
        "| kind | classes | usual size | ramp, lasts | first signal | seen within | what happens; what to look at |"
    )
    lines = [head, "|---|---|---|---|---|---|---|"]
    for kind in KINDS.values():
        lasts = "to the end" if kind.duration_s is None else f"{kind.duration_s:g} s"
        first = {variants[0][0] if variants[0] else "time stamps" for variants in kind.variants.values()}
        lines.append(
            f"| `{kind.name}` | {', '.join(sorted(kind.variants))} | {kind.magnitude:g} {kind.unit} "
            f"| {kind.ramp_s:g} s, {lasts} | {', '.join(sorted(f'`{name}`' for name in first))} "
            f"| {kind.seen_within_s:g} s | {kind.doc} {kind.observable} |"
        )
    return "\n".join(lines)
