"""A simulated fleet of one class: model, connectivity, clocks, frames. The rule: same seed, same bytes.

`Fleet.step` advances all devices by one frame and gives what reaches the network: the frames of the connected
devices, and, in order, what a device stored while it was away.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from producers.faults import FaultSpec
from producers.gpu import GpuModel
from producers.injector import Injector
from producers.model import PHYSICS_STEP_MAX_S, Model, uniform
from producers.sensors import PumpModel
from producers.vehicles import CombustionModel, ElectricModel
from telemetry.catalog import Catalog, CatalogSet
from telemetry.codec import FRAME_BYTES_MAX, FrameEncoder
from telemetry.errors import CatalogError, SettingsError, nearest

SECOND_US = 1_000_000
#: Frames that a device stores while it is away; then the oldest are lost.
STORED_MAX = 2048
COUNT_MAX = 10_000_000
#: A connection that would last longer lasts this long: its end fits an int64 of microseconds.
WAIT_MAX_S = 1e9
#: The share of each firmware in the fleet, oldest first.
FIRMWARE_SHARES = (0.3, 0.5, 0.2)

MODELS: dict[str, type[Model]] = {m.CLASS: m for m in (ElectricModel, CombustionModel, GpuModel, PumpModel)}
#: What `make_fleet` understands besides the classes' names.
ALIASES = {"vehicles": ElectricModel.CLASS, "devices": GpuModel.CLASS}


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One encoded frame. ts_us : time of the first step by the device's clock."""

    key: bytes
    value: bytes
    ts_us: int


class Connectivity:
    """When each device is away. Gaps come at random (exponential waits and lengths), by device and seed."""

    def __init__(self, n: int, seed: int, start_us: int, rate_per_hour: float, mean_s: float) -> None:
        self.seed, self.rate_per_hour, self.mean_s = seed, rate_per_hour, mean_s
        self.event = np.zeros(n, np.int64)
        self.begin_us = np.full(n, np.iinfo(np.int64).max // 2)
        self.end_us = np.full(n, start_us, np.int64)
        self._schedule(np.arange(n))

    def _schedule(self, devices: NDArray[np.int64]) -> None:
        if self.rate_per_hour <= 0 or self.mean_s <= 0:
            return
        self.event[devices] += 1
        wait_s, gap_s = (-np.log1p(-uniform(self.seed, devices, self.event[devices], s)) for s in (910, 911))
        wait_s = np.minimum(wait_s * (3600.0 / self.rate_per_hour), WAIT_MAX_S)
        gap_s *= self.mean_s
        self.begin_us[devices] = self.end_us[devices] + (wait_s * SECOND_US).astype(np.int64)
        self.end_us[devices] = self.begin_us[devices] + (gap_s * SECOND_US).astype(np.int64)

    def away(self, now_us: int) -> NDArray[np.int64]:
        """Indices of the devices that are away at now_us; call with growing times."""
        over = np.flatnonzero((self.end_us <= now_us) & (self.begin_us <= now_us))
        if over.size:
            self._schedule(over)
        return np.flatnonzero((self.begin_us <= now_us) & (now_us < self.end_us))

    def connected_s(self, now_us: int) -> NDArray[np.float64]:
        """For how long from now each device stays connected; 0 = away."""
        return np.maximum(self.begin_us - now_us, 0) / SECOND_US


class Fleet:
    """`count` devices of one class.

    Parameters
    ----------
    start_us : event time of the first step. id_prefix : default by class (``veh-``); ids are prefix + number.
    clock_offset_max_s : each device's clock is off by a constant within +- this.
    gap_rate_per_hour, gap_mean_s : losses of connection a device.
    period_us, steps_per_frame : default from the catalogue entry.

    Attributes
    ----------
    now_us : event (true) time of the next frame's first step. lost : frames that no store had room for.

    Raises
    ------
    CatalogError : there is no model for this entry. SettingsError : a number out of range.
    """

    def __init__(
        self,
        catalog: Catalog,
        count: int,
        *,
        seed: int,
        start_us: int,
        id_prefix: str | None = None,
        clock_offset_max_s: float = 0.5,
        gap_rate_per_hour: float = 1.0,
        gap_mean_s: float = 20.0,
        period_us: int | None = None,
        steps_per_frame: int | None = None,
    ) -> None:
        if catalog.name not in MODELS:
            raise CatalogError(f"there is no model of {catalog.name}{nearest(catalog.name, MODELS)}")
        model_class = MODELS[catalog.name]
        self.catalog = catalog
        self.steps = catalog.steps_per_frame if steps_per_frame is None else steps_per_frame
        self.period_us = round(catalog.period_ms * 1000) if period_us is None else period_us
        self._check(count, clock_offset_max_s)
        self.model = model_class(catalog, count, seed)
        prefix = model_class.PREFIX if id_prefix is None else id_prefix
        self.ids = [f"{prefix}{i:06d}" for i in range(count)]
        self.start_us = self.now_us = start_us
        self.frame_period_us = self.steps * self.period_us
        self.lost = 0
        self._seq = 0
        self._substeps = max(1, math.ceil(self.period_us / SECOND_US / PHYSICS_STEP_MAX_S))
        device = np.arange(count)
        self._offset_us = np.rint((2 * uniform(seed, device, 0, 920) - 1) * clock_offset_max_s * SECOND_US).astype(
            np.int64
        )
        self._model_names = (uniform(seed, device, 0, 921) * len(model_class.MODELS)).astype(int)
        self._firmware = np.searchsorted(np.cumsum(FIRMWARE_SHARES)[:-1], uniform(seed, device, 0, 922), "right")
        newest = self._firmware == len(FIRMWARE_SHARES) - 1
        newest[0] |= not newest.any()
        self._firmware[newest] = len(FIRMWARE_SHARES) - 1
        self._links = Connectivity(count, seed, start_us, gap_rate_per_hour, gap_mean_s)
        self._stored: dict[int, deque[Outgoing]] = {}
        self.write_with(None)
        self._keys = [name.encode() for name in self.ids]
        self._frames = np.empty((count, self.steps, len(catalog.signals)), np.float32)
        self._step = np.empty((len(catalog.signals), count), np.float32)
        self._injector = Injector(
            catalog, self.model, self.ids, newest, start_us=start_us, period_us=self.period_us, seed=seed
        )

    def write_with(self, header: bytes | None) -> None:
        """The header of the frames from now on: see `FrameEncoder`."""
        step_us = self.period_us if self.steps > 1 else 0
        self._encoders = [FrameEncoder(name, self.catalog.key, step_us, header).encode for name in self.ids]

    def _check(self, count: int, clock_offset_max_s: float) -> None:
        if not 1 <= count <= COUNT_MAX:
            raise SettingsError(f"a fleet has 1 to {COUNT_MAX} devices, not {count}")
        if self.steps < 1 or self.period_us < 1000:
            raise SettingsError("a frame has at least 1 step, and steps are at least 1000 us apart")
        if self.steps * len(self.catalog.signals) * 4 > FRAME_BYTES_MAX - 256:
            raise SettingsError(f"{self.steps} steps of {self.catalog.key} do not fit {FRAME_BYTES_MAX} bytes")
        if not 0 <= clock_offset_max_s <= 3600:
            raise SettingsError(f"clocks are off by 0 to 3600 s, not {clock_offset_max_s:g}")

    def step(self) -> list[Outgoing]:
        """Advance by one frame period; returns the frames that reach the network, per device in order."""
        t0, model, injector, frames = self.now_us, self.model, self._injector, self._frames
        dt_s = self.period_us / SECOND_US / self._substeps
        for k in range(self.steps):
            injector.turn_knobs(t0 + k * self.period_us)
            for _ in range(self._substeps):
                model.advance(dt_s)
            model.measure(self._step)
            frames[:, k, :] = self._step.T
        injector.spoil(frames, t0)
        offsets = self._offset_us + t0
        injector.bend_clocks(offsets, t0)
        seq = self._seq
        out = [
            Outgoing(key, encode(seq, ts_us, values), ts_us)
            for key, encode, ts_us, values in zip(self._keys, self._encoders, offsets.tolist(), frames, strict=True)
        ]
        self._seq += 1
        self.now_us += self.frame_period_us
        injector.settle(self.now_us)
        away = self._links.away(self.now_us)
        return self._through_links(out, away) if away.size or self._stored else out

    def _through_links(self, frames: list[Outgoing], away: NDArray[np.int64]) -> list[Outgoing]:
        absent = {int(i) for i in away}
        for i in absent:
            store = self._stored.setdefault(i, deque(maxlen=STORED_MAX))
            self.lost += len(store) == STORED_MAX
            store.append(frames[i])
        back = {i: self._stored.pop(i) for i in list(self._stored) if i not in absent}
        out: list[Outgoing] = []
        for i, frame in enumerate(frames):
            if i in absent:
                continue
            if i in back:
                out.extend(back[i])
            out.append(frame)
        return out

    def inject(self, spec: FaultSpec) -> dict[str, Any]:
        """Order a fault: it begins at the spec's time, or now if that is over; returns the truth record.

        Raises
        ------
        FaultError : unknown kind, kind and class or device do not fit, or a size out of range.
        """
        return self._injector.order(spec, self.now_us, self._links.connected_s(self.now_us))

    def truth(self) -> list[dict[str, Any]]:
        """Truth records of faults that began or ended since the last call."""
        return self._injector.news()

    def devices(self) -> list[dict[str, Any]]:
        """What each device declares, as records of the schema "device"."""
        return [
            {
                "device_id": name,
                "catalog": self.catalog.key,
                "model": self.model.MODELS[self._model_names[i]],
                "firmware": self.model.FIRMWARES[self._firmware[i]],
                "since": self.start_us,
                "attributes": {"simulated": "true", "class": self.catalog.name},
            }
            for i, name in enumerate(self.ids)
        ]


def make_fleet(kind_or_catalog_key: str, count: int, catalogs: CatalogSet, **kw: Any) -> Fleet:
    """A fleet by alias (``vehicles``, ``devices``), class (``sensor.pump``) or entry (``vehicle.ice/1``).

    Raises
    ------
    CatalogError : no such alias, class or entry, or no model for it; the message names the nearest.
    """
    name = ALIASES.get(kind_or_catalog_key, kind_or_catalog_key)
    if "/" in name:
        return Fleet(catalogs[name], count, **kw)
    known = {c.name for c in catalogs.values()} | set(ALIASES)
    if name not in known:
        raise CatalogError(f"unknown fleet {name}{nearest(name, known)}")
    return Fleet(catalogs.latest(name), count, **kw)
