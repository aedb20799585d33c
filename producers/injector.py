"""Carries out orders to inject faults and keeps the truth of them. The rule: what was done is what is recorded.

One `Injector` a fleet: it turns the model's knobs before each step, spoils measured values after each frame,
bends clocks, and reports each fault's beginning and end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from producers.faults import KINDS, FaultError, FaultSpec
from producers.faulttypes import REPLAY_S, ClockFault, FaultKind, ReplayFault, SensorContext, SensorFault
from producers.model import Mask, Model, uniform
from telemetry.catalog import Catalog
from telemetry.errors import nearest

SECOND_US = 1_000_000
#: A device is chosen that will be in use and connected for this long after the onset, if there is one.
CALM_S = 120.0
#: No more orders than this in one run.
FAULTS_MAX = 10_000


@dataclass(slots=True, eq=False)
class Fault:
    """One ordered fault of one device; times are event time, microseconds."""

    fault_id: str
    number: int
    kind: FaultKind
    device: int
    variant: int
    signals: tuple[str, ...]
    columns: list[int]
    magnitude: float
    onset_us: int
    end_us: int | None
    record: dict[str, Any]
    begun: bool = False
    past: list[NDArray[np.float32]] = field(default_factory=list)
    held: NDArray[np.float32] | None = None

    def level(self, ts_us: int) -> float:
        if ts_us < self.onset_us or (self.end_us is not None and ts_us >= self.end_us):
            return 0.0
        return self.kind.level(self.magnitude, (ts_us - self.onset_us) / SECOND_US)

    @property
    def gone_us(self) -> int | None:
        """When its last effect is over; none = never."""
        return None if self.end_us is None else self.end_us + round(self.kind.recovery_s * SECOND_US)


class Injector:
    """Orders, knobs, spoilt values and truth of one fleet.

    newest : (n), who has the newest firmware. sigma : float32 (signals), the sensors' noise, catalogue order.
    """

    def __init__(
        self,
        catalog: Catalog,
        model: Model,
        ids: list[str],
        newest: Mask,
        *,
        start_us: int,
        period_us: int,
        seed: int,
    ) -> None:
        self.catalog, self.model, self.ids, self.newest = catalog, model, ids, newest
        self.index = {name: i for i, name in enumerate(ids)}
        self.start_us, self.period_us, self.seed = start_us, period_us, seed
        sensors = model.SENSORS
        self.sigma = np.array([sensors[c].sigma or sensors[c].quantum or 1.0 for c in catalog.columns], np.float32)
        self._count = 0
        self._live: list[Fault] = []
        self._turned: list[tuple[str, int, int]] = []
        self._news: list[dict[str, Any]] = []

    # Orders ---------------------------------------------------------------------------------------------------

    def order(self, spec: FaultSpec, now_us: int, connected_s: NDArray[np.float64]) -> dict[str, Any]:
        """Take an order; returns its truth record (of the first device, if there are many).

        connected_s : (n), for how long from now each device will stay connected.

        Raises
        ------
        FaultError : unknown kind, kind and class or device do not fit, or a size out of range.
        """
        kind = self._kind(spec)
        magnitude = self._magnitude(kind, spec.magnitude)
        duration_s = spec.duration_s if spec.duration_s is not None else kind.duration_s
        if duration_s is not None and not 0 < duration_s < math.inf:
            raise FaultError(f"fault {spec.kind}: the duration must be above 0 s, not {duration_s:g}")
        onset_us = now_us if spec.at_s is None else self.start_us + round(spec.at_s * SECOND_US)
        onset_us = max(onset_us, now_us)
        if isinstance(kind, ReplayFault):  # there must be a past to replay
            onset_us = max(onset_us, now_us + round(REPLAY_S * SECOND_US))
        devices = self._devices(kind, spec, onset_us - now_us, connected_s)
        if len(self._live) + len(devices) > max(FAULTS_MAX, self.model.n):
            raise FaultError(f"there are {len(self._live)} faults already; the limit is {FAULTS_MAX}")
        end_us = None if duration_s is None else onset_us + round(duration_s * SECOND_US)
        faults = [self._fault(kind, device, magnitude, onset_us, end_us, len(devices)) for device in devices]
        self._live += faults
        self._count += 1
        return dict(faults[0].record)

    def _kind(self, spec: FaultSpec) -> FaultKind:
        fitting = [kind.name for kind in KINDS.values() if kind.fits(self.catalog.name)]
        if spec.kind not in KINDS:
            raise FaultError(f"unknown fault kind {spec.kind}{nearest(spec.kind, KINDS)}")
        kind = KINDS[spec.kind]
        if not kind.fits(self.catalog.name):
            raise FaultError(
                f"fault {kind.name} is for {', '.join(sorted(kind.variants))}; this fleet is {self.catalog.name}, "
                f"which can have {', '.join(fitting)}"
            )
        return kind

    def _magnitude(self, kind: FaultKind, given: float | None) -> float:
        magnitude = kind.magnitude if given is None else given
        size = abs(magnitude) if kind.signed else magnitude
        if not 0 < size <= kind.magnitude_max:
            raise FaultError(
                f"fault {kind.name}: the size must be above 0 and at most {kind.magnitude_max:g} ({kind.unit}), "
                f"not {magnitude:g}"
            )
        return magnitude

    def _devices(
        self, kind: FaultKind, spec: FaultSpec, wait_us: int, connected_s: NDArray[np.float64]
    ) -> list[int]:
        if kind.fleet_wide:
            if spec.device is not None:
                raise FaultError(f"fault {kind.name} hits all devices with the newest firmware; name no device")
            return [int(i) for i in np.flatnonzero(self.newest)]
        if spec.device is not None:
            if spec.device not in self.index:
                raise FaultError(f"there is no device {spec.device} in this fleet{nearest(spec.device, self.ids)}")
            return [self.index[spec.device]]
        free = np.ones(self.model.n, np.bool_)
        free[[fault.device for fault in self._live]] = False
        calm_s = wait_us / SECOND_US + CALM_S
        lasting = self.model.lasting_s()
        wishes = (
            free & (lasting > calm_s) & (connected_s > calm_s),
            free & (lasting > 0),
            free,
            np.ones(self.model.n, np.bool_),
        )
        chosen = next(wish for wish in wishes if wish.any())
        candidates = np.flatnonzero(chosen)
        draw = uniform(self.model.seed, self._count, 0, 900)[0]
        return [int(candidates[int(draw * len(candidates))])]

    def _fault(
        self, kind: FaultKind, device: int, magnitude: float, onset_us: int, end_us: int | None, many: int
    ) -> Fault:
        variants = kind.variants[self.catalog.name]
        variant = int(uniform(self.model.seed, self._count, device, 901)[0] * len(variants))
        signals = variants[variant]
        name = self.ids[device]
        params = {"unit": kind.unit, "seed": str(self.seed), "ramp_s": f"{kind.ramp_s:g}"}
        if end_us is not None:
            params["duration_s"] = f"{(end_us - onset_us) / SECOND_US:g}"
            params["recovery_s"] = f"{kind.recovery_s:g}"
        if kind.fleet_wide:
            params["devices"] = str(many)
        fault_id = f"{kind.name}-{self.start_us // SECOND_US}-{self._count}:{name}"
        record = {
            "fault_id": fault_id,
            "device_id": name,
            "catalog": self.catalog.key,
            "kind": kind.name,
            "onset": onset_us,
            "end": None,
            "signals": list(signals),
            "magnitude": float(magnitude),
            "params": params,
        }
        columns = [self.catalog.column(signal) for signal in signals]
        number = self._count
        return Fault(fault_id, number, kind, device, variant, signals, columns, magnitude, onset_us, end_us, record)

    # The run --------------------------------------------------------------------------------------------------

    def turn_knobs(self, ts_us: int) -> None:
        """Set the model's knobs for the step at ts_us; faults on one knob add up."""
        knobs = self.model.knobs
        for knob, variant, device in self._turned:
            values = knobs[knob]
            values[(variant, device) if values.ndim == 2 else device] = 0.0
        self._turned.clear()
        for fault in self._live:
            knob = fault.kind.knob
            level = fault.level(ts_us) if knob else 0.0
            if level:
                values = knobs[knob]
                values[(fault.variant, fault.device) if values.ndim == 2 else fault.device] += level
                self._turned.append((knob, fault.variant, fault.device))

    def spoil(self, frames: NDArray[np.float32], ts_us: int) -> None:
        """Let sensor faults change a frame of all devices in place. frames : float32 (n, steps, signals)."""
        for fault in self._live:
            if isinstance(fault.kind, SensorFault):
                self._spoil_one(fault, fault.kind, frames[fault.device], ts_us)

    def _spoil_one(self, fault: Fault, kind: SensorFault, frame: NDArray[np.float32], ts_us: int) -> None:
        times = [ts_us + k * self.period_us for k in range(len(frame))]
        rows = frame[:, fault.columns]
        if isinstance(kind, ReplayFault):
            first_us = fault.onset_us - round(REPLAY_S * SECOND_US)
            fault.past += [rows[k].copy() for k, t in enumerate(times) if first_us <= t < fault.onset_us]
        level = np.array([fault.level(t) for t in times])
        active = np.flatnonzero(level)
        if not active.size:
            return
        if fault.held is None:
            fault.held = rows[active[0]].copy()
        step0 = -((fault.onset_us - ts_us) // self.period_us)
        context = SensorContext(
            step0=step0,
            seed=self.model.seed + 1009 * (fault.number + 1) + fault.device,
            sigma=self.sigma[fault.columns],
            held=fault.held,
            past=np.array(fault.past, np.float32).reshape(len(fault.past), len(fault.columns)),
        )
        kind.apply(rows, level, context)
        frame[:, fault.columns] = rows

    def bend_clocks(self, offsets_us: NDArray[np.int64], ts_us: int) -> None:
        """Add what clocks are ahead at ts_us. offsets_us : int64 (n), changed in place."""
        for fault in self._live:
            if isinstance(fault.kind, ClockFault):
                offsets_us[fault.device] += round(fault.level(ts_us) * (ts_us - fault.onset_us))

    def settle(self, until_us: int) -> None:
        """Note which faults began or were over before until_us."""
        for fault in self._live:
            if not fault.begun and fault.onset_us < until_us:
                fault.begun = True
                self._news.append(dict(fault.record))
        over = [f for f in self._live if f.gone_us is not None and f.gone_us <= until_us]
        for fault in over:
            self._news.append({**fault.record, "end": fault.gone_us})
            self._live.remove(fault)

    def news(self) -> list[dict[str, Any]]:
        """Truth records of faults that began or ended since the last call, in order."""
        news, self._news = self._news, []
        return news
