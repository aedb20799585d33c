"""What every simulated class of devices shares. The rule: a device's life depends on the seed and itself alone.

Physics is vectorised over the fleet. Random events of one device come from a hash of (seed, device, event), so
a fault in one device changes no number of another; measurement noise is drawn for all devices, every step.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from telemetry.catalog import Catalog
from telemetry.errors import CatalogError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: Physics is integrated in steps no longer than this; frames with a longer period take several.
PHYSICS_STEP_MAX_S = 0.5
#: Steps of `PHYSICS_STEP_MAX_S` run before the first frame, so that it does not begin with a transient.
SETTLE_STEPS = 120

SEED_MASK = 2**48 - 1
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64 (Steele, Lea, Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MULTIPLIERS[0])
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MULTIPLIERS[1])
    return x ^ (x >> np.uint64(31))


def uniform(seed: int, device: ArrayLike, event: ArrayLike, stream: int) -> Floats:
    """float64 in [0, 1), a pure function of its arguments; shape of `device` and `event` broadcast, at least 1-d.

    stream : keeps the draws of one event apart.
    """
    who = np.atleast_1d(np.asarray(device)).astype(np.uint64)
    what = np.atleast_1d(np.asarray(event)).astype(np.uint64)
    key = np.full(1, (seed & SEED_MASK) * 0x1000 + stream, np.uint64)
    x = _mix(_mix(_mix(key * _GAMMA) + who * _GAMMA) + what * _GAMMA)
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


def between(u: Floats, low: ArrayLike, high: ArrayLike) -> Floats:
    """Uniform numbers of [0, 1) stretched to [low, high)."""
    lower = np.asarray(low, np.float64)
    return lower + u * (np.asarray(high, np.float64) - lower)


def follow(dt_s: float, tau_s: float) -> float:
    """Share of the way to its target that a first-order lag goes in dt_s, exactly: never overshoots."""
    return float(-np.expm1(-dt_s / tau_s))


@dataclass(frozen=True, slots=True)
class Sensor:
    """How one signal is measured.

    sigma : standard deviation of white noise, the signal's unit. quantum : resolution; 0 = none.
    gated : no noise while the true value is 0 (a wheel that stands still gives no pulses).
    low, high : where the sensor saturates; none = nowhere.
    """

    sigma: float = 0.0
    quantum: float = 0.0
    gated: bool = False
    low: float | None = None
    high: float | None = None


class Model(ABC):
    """A fleet of one class.

    Parameters
    ----------
    catalog : its columns must be exactly those of `SENSORS`, in any order.
    n : number of devices. seed : same seed, same fleet, bit for bit.

    Attributes
    ----------
    knobs : what faults turn: name -> float64 (n) or (variants, n), 0 = healthy.

    Raises
    ------
    CatalogError : the catalogue entry lists other signals than the model has.
    """

    CLASS: ClassVar[str]
    PREFIX: ClassVar[str]
    MODELS: ClassVar[tuple[str, ...]]
    FIRMWARES: ClassVar[tuple[str, ...]]  # oldest first
    SENSORS: ClassVar[Mapping[str, Sensor]]
    KNOBS: ClassVar[Mapping[str, int]]  # name -> variants; 1 = a plain (n) array

    def __init__(self, catalog: Catalog, n: int, seed: int) -> None:
        wrong = sorted(set(catalog.columns) ^ set(self.SENSORS))
        if wrong:
            raise CatalogError(
                f"the model of {self.CLASS} does not fit the entry {catalog.key}: "
                f"only one of them has {', '.join(wrong[:5])}{' ...' if len(wrong) > 5 else ''}"
            )
        self.n = n
        self.seed = (zlib.crc32(self.CLASS.encode()) << 16 ^ seed) & SEED_MASK  # classes differ in their fates
        self.device = np.arange(n)
        self.knobs: dict[str, Floats] = {
            name: np.zeros(n if variants == 1 else (variants, n)) for name, variants in self.KNOBS.items()
        }
        self.rng = np.random.Generator(np.random.SFC64(self.seed))
        order = [catalog.column(name) for name in self.SENSORS]
        self._rows = order
        sensors = tuple(self.SENSORS.values())
        self._sigma = np.zeros((len(order), 1), np.float32)
        self._sigma[order, 0] = [s.sigma for s in sensors]
        pairs = tuple(zip(order, sensors, strict=True))
        self._gated = [row for row, s in pairs if s.gated]
        self._quanta = [(row, np.float32(s.quantum)) for row, s in pairs if s.quantum]
        self._bounds = [(row, s.low, s.high) for row, s in pairs if s.low is not None or s.high is not None]
        self._noise = np.empty((len(order), n), np.float32)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of `signals`, in its order."""
        return tuple(self.SENSORS)

    def draw(self, event: ArrayLike, stream: int) -> Floats:
        """One uniform number a device; shape (n)."""
        return uniform(self.seed, self.device, event, stream)

    def settle(self) -> None:
        """Run for a minute without output: start in the middle of a day."""
        for _ in range(SETTLE_STEPS):
            self.advance(PHYSICS_STEP_MAX_S)

    @abstractmethod
    def advance(self, dt_s: float) -> None:
        """Move all devices on by dt_s <= PHYSICS_STEP_MAX_S."""

    @abstractmethod
    def signals(self) -> tuple[ArrayLike, ...]:
        """True values in the order of `SENSORS`, each (n)."""

    @abstractmethod
    def lasting_s(self) -> Floats:
        """For how long each device will certainly go on being in use, seconds (n); 0 = not in use."""

    def measure(self, out: NDArray[np.float32]) -> None:
        """Write what the sensors show now. out : float32 (signals, n), catalogue order."""
        for row, values in zip(self._rows, self.signals(), strict=True):
            out[row] = values
        noise = self._noise
        self.rng.standard_normal(out=noise, dtype=np.float32)
        noise *= self._sigma
        for row in self._gated:
            noise[row] *= out[row] != 0
        out += noise
        for row, low, high in self._bounds:
            np.clip(out[row], low, high, out=out[row])
        for row, quantum in self._quanta:
            values = out[row]
            values /= quantum
            np.rint(values, out=values)
            values *= quantum
