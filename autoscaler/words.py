"""Decisions in words and figures. The rule: every number that decided is in the text, with its unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from autoscaler.effect import BLOCK_S, Trial
from autoscaler.observation import Array, Decision, Note, Observation

if TYPE_CHECKING:
    from autoscaler.policy import Memory, View

#: Every code of a decision, and what it means.
CODES = {
    "Asleep": "No replicas, and nothing to do.",
    "AtMaximum": "More replicas are needed than are allowed.",
    "Blocked": "More replicas gained nothing: something else is the bottleneck.",
    "CatchingUp": "Fewer replicas would do, once the backlog is gone.",
    "CoolingDown": "Fewer replicas would do, and will be set after a while.",
    "HotPartition": "One partition needs more than a worker: more replicas cannot help.",
    "Idle": "Nothing has come for long: no replicas are needed.",
    "InFlight": "The last scaling, or a rebalance, is still under way.",
    "Learning": "Rates, or what a worker can do, are not known yet.",
    "Maximum": "There were more replicas than are allowed.",
    "Minimum": "There were fewer replicas than are wanted at least.",
    "ScaleDown": "Fewer replicas are enough.",
    "ScaleUp": "More replicas are needed.",
    "Steady": "The replicas are as many as are needed.",
    "TwoOwners": "Somebody else sets the replicas, too.",
    "Wake": "Records wait, and there are no replicas.",
}
#: Every code of a note, and what it means.
NOTES = {
    "AtMaximum": "The limits keep replicas from being added.",
    "HotPartition": "A partition alone needs more than a worker may do.",
    "IneffectiveScaleUp": "A scale-up gained nothing.",
    "MembersDiffer": "The group's members are not the workload's replicas, for long.",
    "OffsetsWentBack": "A topic was made anew.",
    "PartitionsChanged": "There are more, or fewer, partitions than before.",
    "ReplicasChanged": "Somebody else has set the replicas.",
    "Slowdown": "A worker does clearly less than it did.",
}


def count(value: float) -> str:
    """A figure as it is read: 2,900 or 4.2."""
    return f"{value:,.0f}" if abs(value) >= 10 or value == round(value) else f"{value:.1f}"


def _percent(share: float) -> str:
    return "?" if math.isnan(share) else f"{100 * share:.0f} %"


def _partitions(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(n) for n in numbers[:5]) + (", ..." if len(numbers) > 5 else "")
    return f"partition {shown}" if len(numbers) == 1 else f"partitions {shown}"


def _arrivals(view: View) -> str:
    waiting = float(view.load.backlog.sum())
    text = f"{count(view.load.total_per_s)} records/s come in"
    return text + (f" and {count(waiting)} wait" if waiting >= 1 else "")


def _busiest(view: View, workers: int) -> str:
    return f"the busiest of {workers} to {_percent(view.used(workers))}"


def up(view: View, wanted: int) -> str:
    """Why replicas are added."""
    current, limits = view.seen.replicas, view.limits
    return (
        f"{current} -> {wanted} replicas: {_arrivals(view)}, which takes {_busiest(view, current)} of the "
        f"{count(view.unit)} records/s that a worker can do (at most {_percent(limits.utilisation_max)}), and "
        f"{_busiest(view, wanted)}"
    )


def down(view: View, enough: int, window_s: float) -> str:
    """Why replicas are taken away."""
    return (
        f"{view.seen.replicas} -> {enough} replicas: no more were needed in the last {window_s:.0f} s; "
        f"{_arrivals(view)}, which takes {_busiest(view, enough)} of {count(view.unit)} records/s"
    )


def wake(view: View, waiting: float, wanted: int) -> str:
    """Why the first replicas are started."""
    del view
    return f"0 -> {wanted} replicas: {count(waiting)} records wait"


def idle(view: View) -> str:
    """Why the last replicas are taken away."""
    return f"{view.seen.replicas} -> 0 replicas: no record has come for {view.limits.idle_s:.0f} s, and none waits"


def bounds(view: View) -> str:
    """Why replicas are brought within the limits."""
    limits, seen = view.limits, view.seen
    low, high = limits.within(0, seen.partitions), view.most
    why = f" ({seen.partitions} partitions)" if high == seen.partitions else ""
    return f"{seen.replicas} replicas are not within {low} to {high}{why}"


def steady(view: View) -> str:
    """Why nothing changes."""
    current = view.seen.replicas
    return f"{_arrivals(view)}: this takes {_busiest(view, current)} of {count(view.unit)} records/s"


def at_ease(view: View) -> str:
    """Why no replicas are added though the estimate would have it."""
    busiest = max(w.busy for w in view.seen.workers)
    return f"{_arrivals(view)}, and the busiest worker is busy for {_percent(busiest)} of its time: that is enough"


def rising(view: View, enough: int) -> str:
    """Why fewer replicas are not set though they were enough for long."""
    return f"{enough} were enough, but no longer: {_arrivals(view)}, which takes {_busiest(view, enough)}"


def full(view: View) -> str:
    """Why nothing changes though there is more to do than is wished."""
    return f"{steady(view)}; {view.seen.replicas} of at most {view.most} replicas are there"


def learning(view: View) -> str:
    """Why nothing can be decided."""
    return f"{_arrivals(view)}; what a worker can process is not known yet"


def in_flight(view: View) -> str:
    """What is waited for."""
    seen = view.seen
    if seen.rebalancing:
        return "the group is being rebalanced"
    if seen.members != seen.replicas:
        return f"{seen.members} of {seen.replicas} replicas are members of the group so far"
    return "the last scale-up has not had its time yet"


def on_trial(view: View, trial: Trial) -> str:
    """Why no more replicas are added for a backlog."""
    change = f"{trial.workers_before} -> {trial.workers} replicas"
    return f"{_arrivals(view)}: {change} is to show first whether it works the backlog off"


def catching_up(view: View) -> str:
    """Why fewer replicas have to wait."""
    return f"{count(float(view.load.backlog.sum()))} records wait: they are worked off first"


def cooling(view: View, enough: int, left_s: float) -> str:
    """Why fewer replicas have to wait."""
    del view
    return f"{enough} would be enough; to be set in {left_s:.0f} s if it stays so"


def blocked(view: View, until_s: float, wanted: int) -> str:
    """Why no replicas are added."""
    left_s = until_s - view.seen.at_s
    return (
        f"{wanted} replicas would be needed, but the last ones gained nothing: something else than the workers "
        f"is the bottleneck (broker, network, the nodes' cores?); to be tried again in {left_s:.0f} s"
    )


def hot(view: View) -> str:
    """Why more replicas would not help."""
    steady, unit = view.load.steady, view.unit
    worst = max(view.hot, key=lambda p: float(steady[p]))
    need = float(steady[worst]) / unit
    alone = f"needs {need:.1f} workers" if need > 1 else f"takes {_percent(need)} of a worker"
    others = f" ({_partitions(view.hot)} are alike)" if len(view.hot) > 1 else ""
    return (
        f"partition {worst} alone {alone}{others}: more replicas cannot help; more partitions, or keys that spread "
        "better, would"
    )


def two_owners(view: View, changes: int) -> str:
    """Why nothing is decided."""
    return (
        f"{view.seen.scaled_by or 'somebody else'} has set the replicas {changes} times in a quarter of an hour: "
        "there must be one owner of them (is there an HPA or a ScaledObject, or a manifest with spec.replicas?)"
    )


# -- notes --------------------------------------------------------------------------------------------------------


def anew(before: Array, now: Array) -> Note:
    """Offsets that do not go on from those before."""
    if len(before) != len(now):
        text = f"{len(now)} partitions, {len(before)} before: rates are measured anew"
        return Note("PartitionsChanged", text)
    back = [int(p) for p in np.flatnonzero(now < before)]
    return Note("OffsetsWentBack", f"{_partitions(back)}: the topic was made anew, rates are measured anew")


def foreign(before: int, seen: Observation) -> Note:
    """A change by somebody else."""
    text = f"{before} -> {seen.replicas} replicas, set by {seen.scaled_by}: taken as it is"
    return Note("ReplicasChanged", text)


def futile(trial: Trial, processed: float, at_s: float) -> Note:
    """A scale-up that gained nothing worth it."""
    assert trial.reached_s is not None
    after = (processed - trial.processed) / (at_s - trial.reached_s)
    hoped = trial.before_per_s * trial.workers / trial.workers_before
    text = (
        f"{trial.workers_before} -> {trial.workers} replicas did not help: {count(trial.before_per_s)} records/s "
        f"were processed before and {count(after)} are now, where {count(hoped)} could be, and the backlog does "
        f"not shrink. No more are added for {BLOCK_S / 60:.0f} minutes; look for another bottleneck (broker, "
        "network, the nodes' cores)"
    )
    return Note("IneffectiveScaleUp", text)


def notes(view: View, memory: Memory, decision: Decision) -> list[Note]:
    """What an operator should know beside the decision."""
    found = []
    # workers that all wait for what they share make a partition look hot
    waiting = memory.capacity.slow and view.seen.at_s < memory.blocked_s
    if view.hot and not waiting and decision.code != "HotPartition":
        found.append(Note("HotPartition", hot(view)))
    if memory.capacity.slow:
        known = memory.capacity
        less = _percent(1 - known.firm_per_s / known.best_per_s)
        text = (
            f"a worker now does {count(known.firm_per_s)} records/s, {less} less than "
            f"the {count(known.best_per_s)} of the last hours: scaling hides it, its cause is elsewhere"
        )
        found.append(Note("Slowdown", text))
    if (
        decision.code != "AtMaximum"
        and decision.replicas >= view.most
        and view.used(view.most) > 1
        and not view.hot
    ):
        found.append(Note("AtMaximum", full(view)))
    seen = view.seen
    if memory.apart_s is not None and not view.in_flight and not seen.rebalancing:
        text = (
            f"{seen.members} members in the group, {seen.replicas} replicas, for "
            f"{seen.at_s - memory.apart_s:.0f} s: are pods failing, or do workers run elsewhere?"
        )
        found.append(Note("MembersDiffer", text))
    return found


def figures(view: View, memory: Memory, decision: Decision) -> dict[str, float]:
    """What was decided from, by name; NaN = not known."""
    nan = float("nan")
    return {
        "arrivals_per_s": view.load.total_per_s,
        "backlog_records": float(view.load.backlog.sum()),
        "capacity_per_s": view.unit or nan,
        "busy_ceiling": memory.capacity.ceiling,
        "busy_exponent": memory.capacity.curve.exponent,
        "utilisation": view.used(view.seen.replicas),
        "utilisation_wanted": view.used(decision.replicas),
        "replicas_needed": float(memory.need[-1][1]) if memory.need else nan,
        "down_window_s": memory.history.window(view.limits),
        "start_s": memory.start_s or view.limits.start_s,
    }
