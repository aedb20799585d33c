"""Sorts of faults. The rule: a fault is a cause, physics does the rest.

A fault of a component turns a knob of the model (`producers.model.Model.knobs`) and its consequences follow from
the equations; a fault of a sensor changes the measured values; a fault of a clock changes the time stamps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from producers.model import uniform

#: What a sensor fault needs of the past to replay it, seconds.
REPLAY_S = 30.0

Signals = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A kind of fault.

    Parameters
    ----------
    name, doc : what it is and what happens, in plain words.
    variants : by device class: the choices there are (which wheel, which signal), each a tuple of the signals
        that change, the cause first. A seeded choice is made for each fault.
    magnitude, unit : the usual size, and what it is measured in.
    ramp_s : time from onset to full size, linear. 0 = at once.
    duration_s : how long it lasts unless the order says otherwise; none = to the end of the run.
    recovery_s : after the end (a repair), its consequences are gone within this time.
    seen_within_s : expected time to detect by a decent per-signal detector, device in use.
    observable : what to look at, for people.
    knob : the model's input that it turns; empty for faults of sensors and clocks.
    signed : the size may be negative.
    fleet_wide : hits all devices with the newest firmware at once.
    """

    name: str
    doc: str
    variants: Mapping[str, tuple[Signals, ...]]
    magnitude: float
    unit: str
    seen_within_s: float
    observable: str
    ramp_s: float = 0.0
    duration_s: float | None = None
    recovery_s: float = 0.0
    knob: str = ""
    magnitude_max: float = 1e6
    signed: bool = False
    fleet_wide: bool = False

    def fits(self, class_name: str) -> bool:
        return class_name in self.variants

    def level(self, magnitude: float, since_s: float) -> float:
        """Size at a time after the onset."""
        if since_s < 0:
            return 0.0
        return magnitude if self.ramp_s <= 0 else magnitude * min(since_s / self.ramp_s, 1.0)


class KnobFault(FaultKind):
    """Turns a knob of the model; everything else follows from the model's equations."""

    __slots__ = ()


class ClockFault(FaultKind):
    """The device's clock runs too fast (or, negative, too slow)."""

    __slots__ = ()


class SensorFault(FaultKind, ABC):
    """Changes measured values of the variant's signals.

    `apply` gets the rows of one device and one frame, float32 (steps, signals of the variant), changed in place.
    held : what the first faulty step showed. past : the last `REPLAY_S` before the onset, oldest first.
    """

    __slots__ = ()

    @abstractmethod
    def apply(self, rows: NDArray[np.float32], level: NDArray[np.float64], context: SensorContext) -> None:
        """See the class's text."""


@dataclass(slots=True)
class SensorContext:
    """What a sensor fault may look at.

    step0 : number of the frame's first step since onset, negative before it. seed : the fault's own.
    sigma : float32 (signals), the sensors' noise. held, past : see `SensorFault`.
    """

    step0: int
    seed: int
    sigma: NDArray[np.float32]
    held: NDArray[np.float32]
    past: NDArray[np.float32]

    def draws(self, shape: tuple[int, int], stream: int) -> NDArray[np.float64]:
        """Uniform numbers for (steps, signals), the same however the steps are cut into frames."""
        steps = self.step0 + np.arange(shape[0])
        cells = steps[:, None] * 4096 + np.arange(shape[1])[None, :]
        return uniform(self.seed, cells.ravel(), 0, stream).reshape(shape)


class StuckFault(SensorFault):
    """The sensor goes on showing the value of the onset."""

    __slots__ = ()

    def apply(self, rows: NDArray[np.float32], level: NDArray[np.float64], context: SensorContext) -> None:
        rows[level > 0] = context.held


class DropoutFault(SensorFault):
    """A share of the samples is missing: NaN."""

    __slots__ = ()

    def apply(self, rows: NDArray[np.float32], level: NDArray[np.float64], context: SensorContext) -> None:
        one_a_step = context.draws((rows.shape[0], 1), 1)
        rows[(one_a_step < level[:, None])[:, 0]] = np.nan


class NoiseFault(SensorFault):
    """White noise on top, in multiples of the healthy sensor's."""

    __slots__ = ()

    def apply(self, rows: NDArray[np.float32], level: NDArray[np.float64], context: SensorContext) -> None:
        radius = np.sqrt(-2 * np.log(1 - context.draws(rows.shape, 2)))
        normal = radius * np.cos(2 * np.pi * context.draws(rows.shape, 3))
        rows += (normal * level[:, None] * context.sigma).astype(np.float32)


class OffsetFault(SensorFault):
    """The sensor drifts away from the truth, in multiples of its noise."""

    __slots__ = ()

    def apply(self, rows: NDArray[np.float32], level: NDArray[np.float64], context: SensorContext) -> None:
        rows += (level[:, None] * context.sigma).astype(np.float32)


class ReplayFault(SensorFault):
    """Shows the time before the onset again and again."""

    __slots__ = ()

    def apply(self, rows: NDArray[np.float32], level: NDArray[np.float64], context: SensorContext) -> None:
        if len(context.past):
            steps = (context.step0 + np.arange(len(rows))) % len(context.past)
            replayed = context.past[steps]
            rows[level > 0] = replayed[level > 0]
