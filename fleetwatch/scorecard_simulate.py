"""Simulated fleets through the worker's own core, faults and all, without Kafka. The rule: a seed tells all of it.

Faults of every kind begin at random times on random devices that are in use and well; a device rests between two.
Devices with the newest firmware are kept for the fault that hits them all, where that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from detectors.registry import DETECTORS, rate_of
from fleetwatch.scorecard import SECOND_US, Card, Event, Exposure, Fault, Rules, Scorer
from fleetwatch.scorecard_feed import fault_of
from producers.faults import KINDS, FaultSpec
from producers.faulttypes import FaultKind
from producers.fleet import MODELS, Fleet, Outgoing, make_fleet
from streams.core.core import Core
from streams.core.effects import Effects
from streams.core.records import Part
from streams.wiring import make_core
from telemetry import catalog
from telemetry.codec import zigzag
from telemetry.errors import SettingsError
from telemetry.settings import Settings

#: Event time at which runs begin: fixed, so that the same seed gives the same card.
START_US = 1_790_000_000_000_000
#: No fault begins in a run's first seconds, while what is normal is learnt (unless the plan says otherwise), nor in
#: its last ones.
WARM_S, LAST_S = 300.0, 300.0
#: How long a fault lasts whose kind does not say so, and a device's rest until its next one.
LASTING_S, REST_S = 600.0, 300.0
#: A fault goes to a device that will be in use for so long, if there is one.
IN_USE_S = 120.0
#: Event time that the core is given at once; where batches are cut changes nothing.
CHUNK_US = 10 * SECOND_US
_NULL = zigzag(0)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. fleets : devices by class. kinds : of faults. each : orders of a kind, class and seed.

    warm_s : no fault begins earlier; with `LAST_S` it must be shorter than the run.
    """

    fleets: Mapping[str, int]
    kinds: frozenset[str]
    hours: float
    seeds: Sequence[int]
    each: int = 3
    warm_s: float = WARM_S

    @property
    def event_us(self) -> int:
        """Of one run."""
        return round(self.hours * 3600 * SECOND_US)

    @property
    def total_us(self) -> int:
        """Of all runs."""
        return self.event_us * len(self.fleets) * len(self.seeds)

    def orders(self, device_class: str, seed: int) -> list[tuple[float, FaultKind]]:
        """Seconds since the start and kind, in order of time. A kind that hits all devices is ordered once."""
        rng = np.random.default_rng([seed, *device_class.encode()])
        found = []
        for name in sorted(self.kinds):
            kind = KINDS[name]
            if kind.fits(device_class):
                times = rng.uniform(
                    self.warm_s, self.hours * 3600 - LAST_S, min(1, self.each) if kind.fleet_wide else self.each
                )
                found += [(float(at_s), kind) for at_s in times]
        return sorted(found, key=lambda order: (order[0], order[1].name))


class Schedule:
    """Gives a fleet its faults, each at its time and on a device that is well and rested, or as soon as one is."""

    def __init__(self, fleet: Fleet, orders: Sequence[tuple[float, FaultKind]], seed: int, last_us: int) -> None:
        self._fleet, self._waiting, self._last_us = fleet, list(orders), last_us
        self._rng = np.random.default_rng([seed, 1])
        self._well_us = np.full(len(fleet.ids), fleet.start_us)
        self._index = {name: i for i, name in enumerate(fleet.ids)}
        kept = np.array([device["firmware"] == fleet.model.FIRMWARES[-1] for device in fleet.devices()])
        wide = any(kind.fleet_wide for _, kind in orders)
        self._open = ~kept if wide and not kept.all() else np.ones(len(kept), np.bool_)
        self.truth: dict[str, Fault] = {}

    @property
    def left(self) -> int:
        """Orders that found no device."""
        return len(self._waiting)

    def look(self) -> None:
        """Before a step: order what is due."""
        now_us = self._fleet.now_us
        if now_us > self._last_us:
            return
        for order in tuple(self._waiting):
            at_s, kind = order
            if self._fleet.start_us + at_s * SECOND_US > now_us:
                break
            duration_s = kind.duration_s or LASTING_S
            spec = FaultSpec(kind.name, duration_s=duration_s)
            if not kind.fleet_wide:
                device = self._choose(now_us)
                if device < 0:
                    continue
                self._well_us[device] = now_us + (duration_s + kind.recovery_s + REST_S) * SECOND_US
                spec = replace(spec, device=self._fleet.ids[device])
            self._fleet.inject(spec)
            self._waiting.remove(order)

    def _choose(self, now_us: int) -> int:
        """A device, at random; -1 = none is well and rested."""
        well = self._open & (self._well_us <= now_us)
        in_use = well & (self._fleet.model.lasting_s() > IN_USE_S)
        candidates = np.flatnonzero(in_use if in_use.any() else well)
        return int(self._rng.choice(candidates)) if candidates.size else -1

    def hear(self) -> None:
        """After a step: what began or ended."""
        for record in self._fleet.truth():
            self.truth[record["fault_id"]] = fault_of(record)


def part_of(frames: Sequence[Outgoing], base_offset: int, ts_ms: int) -> Part:
    """The records section of a Kafka batch that holds these frames."""
    out = bytearray()
    for number, frame in enumerate(frames):
        body = b"".join(
            (b"\0", _NULL, zigzag(number), zigzag(len(frame.key)), frame.key, zigzag(len(frame.value)), frame.value)
        )
        out += zigzag(len(body) + 1) + body + b"\0"
    return Part(bytes(out), 0, len(out), len(frames), base_offset, ts_ms)


@dataclass(slots=True)
class Gathered:
    """What all runs gave. events : by the settings' name of the line-up, "" = as the settings have it."""

    faults: list[Fault] = field(default_factory=list)
    events: dict[str, list[Event]] = field(default_factory=dict)
    exposure: Exposure = field(default_factory=Exposure)
    event_us: int = 0
    left: int = 0
    refused: int = 0
    complete: bool = False

    def card(self, rules: Rules, name: str = "") -> Card:
        """The scorecard of one line-up."""
        scorer = Scorer(self.faults, rules)
        for event in self.events.get(name, ()):
            scorer.add(event)
        return scorer.card(self.exposure)


def line_ups(settings: Settings, each_detector: bool) -> dict[str, Settings]:
    """The settings to run by: as they are (""), and each detector that may alert alone.

    Left out is what costs time and has no say in alerts: detectors of whole windows, and what is published.
    """
    quiet = settings.outputs.model_copy(update={"features": False, "scores": False, "late": False})
    detectors = tuple(d for d in settings.detectors if d.name not in DETECTORS or rate_of(d.name) != "window")
    settings = settings.model_copy(update={"outputs": quiet, "detectors": detectors})
    found = {"": settings}
    if each_detector:
        alerting = [d for d in detectors if d.alerts != "never"]
        for number, wanted in enumerate(alerting):
            twins = sum(d.name == wanted.name for d in alerting) > 1
            alone = (wanted.model_copy(update={"alerts": "always"}),)
            found[f"{wanted.name}#{number + 1}" if twins else wanted.name] = settings.model_copy(
                update={"detectors": alone}
            )
    return found


class Evaluation:
    """Runs a plan. What was gathered is there at any time, also when a run is interrupted."""

    def __init__(self, settings: Settings, plan: Plan, *, each_detector: bool = False) -> None:
        self._settings, self._plan = settings, plan
        self._catalogs = catalog.load(settings.catalog.paths)
        self._line_ups = line_ups(settings, each_detector)
        self.gathered = Gathered(events={name: [] for name in self._line_ups})

    def run(self, tell: Callable[[str], None]) -> None:
        """All runs. tell : hears how it gets on, often.

        Raises
        ------
        SettingsError : a detector cannot be made by these settings; the message says whose line-up it was.
        """
        for seed in self._plan.seeds:
            for device_class, count in self._plan.fleets.items():
                for event_us in self._run(device_class, count, seed):
                    done = (self.gathered.event_us + event_us) / self._plan.total_us
                    tell(
                        f"{100 * done:3.0f} %  seed {seed}, {count:,} x {device_class}: "
                        f"{event_us / 60e6:,.0f} of {self._plan.hours * 60:,.0f} min of event time, "
                        f"{len(self.gathered.faults):,} faults, {len(self.gathered.events['']):,} alert events"
                    )
                self.gathered.event_us += self._plan.event_us
        self.gathered.complete = True

    def _cores(self) -> dict[str, Core]:
        cores = {}
        for name, settings in self._line_ups.items():
            try:
                cores[name] = make_core(settings)
            except SettingsError as exc:
                raise SettingsError(f"{name} alone: {exc}" if name else str(exc)) from exc
        return cores

    def _run(self, device_class: str, count: int, seed: int) -> Iterator[int]:
        """One fleet of one class; gives the event time that it has behind it, chunk by chunk."""
        plan, gathered, cores = self._plan, self.gathered, self._cores()
        fleet = make_fleet(
            device_class, count, self._catalogs, seed=seed, start_us=START_US,
            id_prefix=f"s{seed}-{MODELS[device_class].PREFIX}",
        )  # fmt: skip
        end_us = START_US + plan.event_us
        last_us = end_us - round(LAST_S * SECOND_US)
        for core in cores.values():
            core.declare(fleet.devices())
        schedule = Schedule(fleet, plan.orders(device_class, seed), fleet.model.seed, last_us)
        topic = 0 if fleet.catalog.kind == "vehicle" else 1
        offset, pending, due_us = 0, list[Outgoing](), START_US + CHUNK_US
        try:
            while fleet.now_us < end_us:
                schedule.look()
                pending += fleet.step()
                schedule.hear()
                if pending and (fleet.now_us >= due_us or fleet.now_us >= end_us):
                    self._process(cores, topic, part_of(pending, offset, fleet.now_us // 1000), fleet.now_us)
                    offset += len(pending)
                    pending.clear()
                    due_us = fleet.now_us + CHUNK_US
                    yield fleet.now_us - START_US
        finally:
            gathered.faults += schedule.truth.values()
            gathered.left += schedule.left
            for device in fleet.ids:
                gathered.exposure.see(device, device_class, START_US, fleet.now_us - START_US)

    def _process(self, cores: Mapping[str, Core], topic: int, part: Part, now_us: int) -> None:
        for name, core in cores.items():
            effects = Effects()
            core.process(core.topics[topic], 0, [part], part.base_offset, now_us, effects)
            self.gathered.events[name] += map(Event.of, effects.alerts)
            self.gathered.refused += len(effects.dead) if name == "" else 0
