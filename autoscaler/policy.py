"""How many workers, from what was seen. The rule: a pure function of what was seen, the limits and the memory.

Replicas go up at once when the busiest worker would have more to do than `utilisation_max` of what one can, the
backlog's share over `catch_up_s` included; they go down to the most that was needed in a window, late and
seldom. Each change costs a rebalance. Whoever calls it may be a standby: what was scaled is read from the
replicas seen, not from what was decided.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from autoscaler import words
from autoscaler.capacity import Capacity, learn
from autoscaler.effect import BLOCK_S, History, Trial
from autoscaler.limits import FIELD_MANAGER, Limits
from autoscaler.observation import Array, Decision, Note, Observation
from autoscaler.packing import busiest, fewest, spread
from autoscaler.rates import FAST_S, SLOW_S, Arrivals

#: A change that needs half as many again does not wait for the last one to land.
LARGE = 1.5
#: A scaling that has not landed after this many times its expected time is not waited for.
PATIENCE = 4
#: A start that took longer than this many times the expected was waiting for something, a node perhaps.
START_FACTOR = 5
#: Backlog that a scale-down puts up with, as a share of what comes in during the SLO.
REST = 0.02
#: No decision by rates over less than this: commits and fetches come in lumps.
RATES_S = 10.0
#: Share by which arrivals may be growing, within the time that a scaling takes, when they are called calm.
CALM = 0.1
#: So many changes by another hand within FIGHT_S are another owner of the replicas.
FIGHT_CHANGES, FIGHT_S = 3, 900.0


@dataclass(frozen=True, slots=True)
class Memory:
    """What is known from earlier looks. Nothing in it is changed in place.

    need : (when, workers that would have been enough), the last window's, oldest first.
    idle_s : since when nothing waits and nothing comes. apart_s : since when members differ from the replicas.
    blocked_s : until when more workers are no answer. foreign : when others have set the replicas, and who last.
    start_s : measured, from new replicas to members; 0 = not yet.
    """

    arrivals: Arrivals = field(default_factory=Arrivals)
    capacity: Capacity = field(default_factory=Capacity)
    history: History = field(default_factory=History)
    need: tuple[tuple[float, int], ...] = ()
    trial: Trial | None = None
    blocked_s: float = float("-inf")
    idle_s: float | None = None
    apart_s: float | None = None
    grown_s: float | None = None
    start_s: float = 0.0
    replicas: int | None = None
    at_s: float = float("-inf")
    foreign: tuple[float, ...] = ()

    def landing_s(self, limits: Limits) -> float:
        """From new replicas to their share of the work."""
        return (self.start_s or limits.start_s) + limits.rebalance_s


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be done. Each array : float64 (partitions,), records a second, or records.

    rising : expected when a scaling would have landed. steady : by the slow rate. backlog : records that wait.
    caught_up : no backlog to speak of. calm : and no more than a tenth will have been added by then.
    """

    total_per_s: float
    rising: Array
    steady: Array
    backlog: Array
    lag_s: float
    caught_up: bool
    calm: bool

    def with_backlog(self, arrivals: Array, within_s: float) -> Array:
        """Arrivals, and the backlog's share if it is to be gone in time."""
        return arrivals + self.backlog / within_s


@dataclass(frozen=True, slots=True)
class View:
    """One look, evaluated.

    most : replicas allowed. unit : records a second of a worker; 0 = not known. hot : partitions whose arrivals
    alone are more than a worker may be used for.
    """

    seen: Observation
    limits: Limits
    load: Load
    unit: float
    most: int
    in_flight: bool
    hot: tuple[int, ...]

    def fewest(self, load: Array, utilisation: float) -> int:
        """See `packing.fewest`."""
        return fewest(load, utilisation * self.unit, self.most, by_ladder=self.limits.ladder)

    def cheap(self, load: Array) -> int:
        """Workers wanted: a little hotter where the next count that helps costs half as much again."""
        wanted = self.fewest(load, self.limits.utilisation)
        hotter = self.fewest(load, self.limits.utilisation_soft)
        return hotter if wanted >= LARGE * hotter else wanted

    def at_ease(self, known: Capacity) -> bool:
        """Every worker's page says that it waits most of the time, and no record does: capacity is not the matter.

        Of a few records a second most of the busy time is the worker's own, and a capacity by it far too low.
        """
        busy = [w.busy for w in self.seen.workers]
        if not busy or len(busy) < min(self.seen.members, self.seen.replicas) or not self.load.caught_up:
            return False
        return known.curve.share(max(busy) / known.ceiling) < self.limits.utilisation

    def used(self, workers: int) -> float:
        """Share of its capacity that the busiest of so many would use; NaN = not known."""
        if not self.unit or not workers:
            return float("nan")
        load = self.load.with_backlog(self.load.rising, self.limits.catch_up_s)
        return busiest(load, spread(len(load), workers)) / self.unit


def decide(memory: Memory, seen: Observation, limits: Limits) -> tuple[Decision, Memory]:
    """How many replicas after one more look, and what to remember.

    Call it once a look, in order of time. The replicas decided on may be left unapplied.
    """
    memory, notes = _remember(memory, seen, limits)
    view = _view(memory, seen, limits)
    decision, memory = _decide(memory, view)
    notes += words.notes(view, memory, decision)
    decision = replace(decision, notes=tuple(notes), figures=words.figures(view, memory, decision))
    return decision, replace(memory, replicas=seen.replicas, at_s=seen.at_s)


# -- what is known ------------------------------------------------------------------------------------------------


def _remember(memory: Memory, seen: Observation, limits: Limits) -> tuple[Memory, list[Note]]:
    notes: list[Note] = []
    arrivals = memory.arrivals.add(seen.at_s, seen.ends)
    if len(arrivals.seen) == 1 and memory.arrivals.seen:
        notes.append(words.anew(memory.arrivals.seen[-1][1], seen.ends))
        memory = replace(memory, need=(), trial=None, capacity=replace(memory.capacity, track=()))
    backlog = _backlog(arrivals, seen, limits)
    capacity = learn(memory.capacity, seen, backlog, limits)
    memory = replace(memory, arrivals=arrivals, capacity=capacity)
    memory, changed = _changes(memory, seen, limits)
    memory, judged = _judge(_started(memory, seen, limits), seen, float(backlog.sum()), limits)
    return memory, notes + changed + judged


def _backlog(arrivals: Arrivals, seen: Observation, limits: Limits) -> Array:
    waiting: Array = np.maximum(0.0, seen.ends - seen.committed)
    return np.maximum(0.0, waiting - arrivals.rate(FAST_S) * limits.commit_s)


def _changes(memory: Memory, seen: Observation, limits: Limits) -> tuple[Memory, list[Note]]:
    """Replicas that are not as they were: by us at the last look, or by somebody else."""
    before = memory.replicas
    if before is None or before == seen.replicas:
        return memory, []
    history = memory.history.changed(memory.at_s, before, seen.replicas, limits)
    memory = replace(memory, history=history, grown_s=memory.at_s if seen.replicas > before else None)
    if seen.replicas > before > 0:
        known = memory.capacity
        unit = known.per_s if known.source in ("busy", "full") else 0.0
        trial = Trial(before, seen.replicas, seen.at_s, _processed_per_s(known), unit)
        memory = replace(memory, trial=trial)
    elif seen.replicas < before:
        memory = replace(memory, trial=None)
    if seen.scaled_by in ("", FIELD_MANAGER):
        return memory, []
    foreign = (*(t for t in memory.foreign if t >= seen.at_s - FIGHT_S), seen.at_s)
    return replace(memory, foreign=foreign), [words.foreign(before, seen)]


def _processed_per_s(capacity: Capacity) -> float:
    """By all workers over the last FAST_S of this assignment, at least; 0 = it is younger."""
    if not capacity.track:
        return 0.0
    last = capacity.track[-1]
    begins = [p for p in capacity.track if last.at_s - p.at_s >= FAST_S]
    return float((last.committed - begins[-1].committed).sum()) / (last.at_s - begins[-1].at_s) if begins else 0.0


def _started(memory: Memory, seen: Observation, limits: Limits) -> Memory:
    """How long new replicas took to become members; since when members differ from the replicas."""
    if seen.members == seen.replicas:
        if memory.grown_s is None:
            return replace(memory, apart_s=None)
        took = min(seen.at_s - memory.grown_s, START_FACTOR * limits.start_s)
        start_s = took if not memory.start_s else memory.start_s + 0.3 * (took - memory.start_s)
        return replace(memory, apart_s=None, grown_s=None, start_s=start_s)
    return replace(memory, apart_s=seen.at_s) if memory.apart_s is None else memory


def _patience_s(memory: Memory, limits: Limits) -> float:
    return PATIENCE * memory.landing_s(limits) + 2 * limits.interval_s


def _judge(memory: Memory, seen: Observation, backlog: float, limits: Limits) -> tuple[Memory, list[Note]]:
    if memory.trial is None:
        return memory, []
    settled = seen.members == seen.replicas == memory.trial.workers and not seen.rebalancing
    processed = float(seen.committed.sum())
    rate = _processed_per_s(memory.capacity)
    trial = memory.trial.watch(seen.at_s, processed, backlog, rate, settled=settled)
    if trial.reached_s is None and seen.at_s - trial.began_s > _patience_s(memory, limits):
        return replace(memory, trial=None), []
    if not trial.over(seen.at_s):
        return replace(memory, trial=trial), []
    if not trial.futile(seen.at_s, processed, backlog, memory.capacity.per_s):
        return replace(memory, trial=None), []
    return replace(memory, trial=None, blocked_s=seen.at_s + BLOCK_S), [words.futile(trial, processed, seen.at_s)]


def _view(memory: Memory, seen: Observation, limits: Limits) -> View:
    arrivals = memory.arrivals
    fast, slow = arrivals.rate(FAST_S), arrivals.rate(SLOW_S)
    total = max(float(fast.sum()), float(slow.sum()))
    horizon_s = memory.landing_s(limits) + limits.interval_s
    growth = arrivals.growth() * horizon_s
    rising = (total + growth) * arrivals.shares()
    backlog = _backlog(arrivals, seen, limits)
    waiting = np.maximum(0.0, seen.ends - seen.committed)
    estimate = np.divide(waiting, rising, out=np.zeros(seen.partitions), where=rising > 0)
    lag_s = float(np.where(np.isnan(seen.lag_s), estimate, seen.lag_s).max(initial=0.0))
    caught_up = float(backlog.sum()) < REST * max(1.0, total) * limits.lag_slo_s
    calm = caught_up and growth < CALM * total
    load = Load(total, rising, float(slow.sum()) * arrivals.shares(), backlog, lag_s, caught_up, calm)
    overdue = memory.apart_s is not None and seen.at_s - memory.apart_s > _patience_s(memory, limits)
    in_flight = not overdue and (seen.rebalancing or seen.members != seen.replicas)
    unit = max(memory.capacity.per_s, memory.trial.unit_per_s if memory.trial else 0.0)
    hot = tuple(int(p) for p in np.flatnonzero(load.steady > limits.utilisation_max * unit)) if unit else ()
    return View(seen, limits, load, unit, limits.most(seen.partitions), in_flight, hot)


# -- what to do ---------------------------------------------------------------------------------------------------


def _hold(view: View, code: str, text: str) -> Decision:
    return Decision(view.seen.replicas, code, text)


def _decide(memory: Memory, view: View) -> tuple[Decision, Memory]:
    seen, limits = view.seen, view.limits
    current, allowed = seen.replicas, limits.within(seen.replicas, seen.partitions)
    if len(memory.foreign) >= FIGHT_CHANGES:
        return _hold(view, "TwoOwners", words.two_owners(view, len(memory.foreign))), memory
    quiet = bool((seen.ends <= seen.committed).all()) and not view.load.total_per_s
    memory = replace(memory, idle_s=(memory.idle_s if memory.idle_s is not None else seen.at_s) if quiet else None)
    if current == 0:
        return (
            _asleep(view) if limits.replicas_min == 0 else Decision(allowed, "Minimum", words.bounds(view))
        ), memory
    if allowed != current:
        return Decision(allowed, "Minimum" if allowed > current else "Maximum", words.bounds(view)), memory
    if quiet and limits.replicas_min == 0 and seen.at_s - (memory.idle_s or seen.at_s) >= limits.idle_s:
        return Decision(0, "Idle", words.idle(view)), memory
    if memory.arrivals.span_s < max(2 * limits.interval_s * 0.9, RATES_S):
        return _hold(view, "Learning", "rates are not known yet"), memory
    if not view.unit:
        return _hold(view, "Learning", words.learning(view)), memory
    memory = _note_need(memory, view)
    work = view.load.with_backlog(view.load.rising, limits.catch_up_s)
    if view.fewest(work, limits.utilisation_max) > current:
        return _grow(memory, view, work), memory
    if view.in_flight:
        return _hold(view, "InFlight", words.in_flight(view)), memory
    if view.hot and view.load.lag_s > limits.lag_slo_s:
        return _hold(view, "HotPartition", words.hot(view)), memory
    return _shrink(memory, view), memory


def _asleep(view: View) -> Decision:
    waiting = float(np.maximum(0.0, view.seen.ends - view.seen.committed).sum())
    if not waiting:
        return _hold(view, "Asleep", "no records wait: no workers are needed")
    wanted = 1
    if view.unit:
        wanted = view.cheap(view.load.with_backlog(view.load.rising, view.limits.catch_up_s))
    wanted = max(1, view.limits.within(wanted, view.seen.partitions))
    return Decision(wanted, "Wake", words.wake(view, waiting, wanted))


def _note_need(memory: Memory, view: View) -> Memory:
    """Remember what would have been enough now: by the slow rate, so that noise does not hold replicas."""
    enough = view.cheap(view.load.with_backlog(view.load.steady, view.limits.catch_up_s))
    at_s, window_s = view.seen.at_s, memory.history.window(view.limits)
    need = (*(n for n in memory.need if n[0] >= at_s - window_s), (at_s, enough))
    return replace(memory, need=need, history=memory.history.calmer(at_s, view.limits))


def _grow(memory: Memory, view: View, work: Array) -> Decision:
    limits, seen = view.limits, view.seen
    pause = view.load.rising * limits.rebalance_s / limits.catch_up_s
    wanted = view.cheap(work + pause)
    if (
        view.load.calm
    ):  # slow growth has passed the line: what is enough for long, not what a peak of noise asks for
        wanted = max(view.cheap(view.load.steady), view.fewest(work, limits.utilisation_soft))
    wanted = limits.within(wanted, seen.partitions)
    large = wanted >= LARGE * seen.replicas
    if wanted <= seen.replicas:
        if view.hot:
            return _hold(view, "HotPartition", words.hot(view))
        return _hold(view, "AtMaximum" if seen.replicas >= view.most else "Steady", words.full(view))
    if memory.trial and view.fewest(view.load.rising, limits.utilisation_max) <= seen.replicas:
        return _hold(view, "InFlight", words.on_trial(view, memory.trial))
    if view.at_ease(memory.capacity):
        return _hold(view, "Steady", words.at_ease(view))
    if seen.at_s < memory.blocked_s:
        return _hold(view, "Blocked", words.blocked(view, memory.blocked_s, wanted))
    if not large and (view.in_flight or seen.at_s - memory.history.up_s < memory.landing_s(limits)):
        return _hold(view, "InFlight", words.in_flight(view))
    return Decision(wanted, "ScaleUp", words.up(view, wanted))


def _shrink(memory: Memory, view: View) -> Decision:
    limits, seen, history = view.limits, view.seen, memory.history
    at_s, window_s = seen.at_s, history.window(limits)
    enough = limits.within(max(n for _, n in memory.need), seen.partitions)
    if enough >= seen.replicas:
        return _hold(view, "Steady", words.steady(view))
    if memory.trial:
        return _hold(view, "InFlight", words.on_trial(view, memory.trial))
    work = view.load.with_backlog(view.load.rising, limits.catch_up_s)
    if view.fewest(work, limits.utilisation_max) > enough:
        return _hold(view, "Steady", words.rising(view, enough))
    if not view.load.caught_up:
        return _hold(view, "CatchingUp", words.catching_up(view))
    waits = (
        memory.need[0][0] + window_s - limits.interval_s,
        history.down_s + limits.down_cooldown_s,
        history.up_s + limits.down_window_s,
    )
    if at_s < max(waits):
        return _hold(view, "CoolingDown", words.cooling(view, enough, max(waits) - at_s))
    return Decision(enough, "ScaleDown", words.down(view, enough, window_s))
