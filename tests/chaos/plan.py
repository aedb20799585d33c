"""The schedule of a run: which fault when. The rule: it follows from the seed and the wishes, from nothing else."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.fault import Fault
from tests.chaos.faults import FAULTS

#: A long run's kills, which the faults' shares are made for.
KILLS, BROKER_KILLS = 100, 20
#: Share of the worker kills that the next fault does not wait for; and of the other faults that hold for a while,
#: in how many a worker is killed as well.
HASTY, ALSO_KILL = 0.3, 0.4


@dataclass(frozen=True)
class Step:
    """One fault of the schedule.

    Parameters
    ----------
    seed : of the fault's own draws: whom it hits, for how long.
    wait : the next step comes when all has recovered; else after the pause alone.
    pause_s : then so long nothing.
    also_kill : while the fault holds, a worker is killed.
    """

    fault: str
    seed: int
    wait: bool
    pause_s: float
    also_kill: bool


def _kind(fault: type[Fault]) -> str:
    return "worker" if fault.worker_kills else "broker" if fault.broker_kills else "other"


def counts(kills: int, broker_kills: int, names: Sequence[str]) -> dict[str, int]:
    """How often each fault comes. The kills are at least as many as were asked for, where a fault that kills is
    among the names; all others in proportion, once at least."""
    scale = {"worker": kills / KILLS, "broker": broker_kills / BROKER_KILLS}
    scale["other"] = (scale["worker"] + scale["broker"]) / 2
    found = {}
    for name in names:
        fault = FAULTS[name]
        factor = scale[_kind(fault)]
        found[name] = max(1, round(fault.share * factor)) if factor > 0 else 0
    for kind, wanted, one in (("worker", kills, "worker-kill"), ("broker", broker_kills, "broker-kill")):
        done = sum(
            n * (FAULTS[name].worker_kills if kind == "worker" else FAULTS[name].broker_kills)
            for name, n in found.items()
        )
        if one in found:
            found[one] = max(0, found[one] + max(0, wanted - done))
    return found


def schedule(seed: int, kills: int, broker_kills: int, names: Sequence[str]) -> list[Step]:
    """All steps, in a random order that the seed fixes."""
    rng = random.Random(f"schedule {seed}")
    order = [name for name, n in counts(kills, broker_kills, names).items() for _ in range(n)]
    rng.shuffle(order)
    steps: list[Step] = []
    for name in order:
        fault = FAULTS[name]
        hasty = bool(fault.worker_kills) and rng.random() < HASTY
        pause_s = rng.uniform(0.5, 6.0) if hasty else rng.uniform(0.0, 2.0)
        also = fault.hold[1] > 0 and not fault.worker_kills and rng.random() < ALSO_KILL
        steps.append(Step(name, rng.randrange(1 << 62), not hasty, pause_s, also and "worker-kill" in names))
    return _without_surplus(steps, kills)


def _without_surplus(steps: list[Step], kills: int) -> list[Step]:
    """Leave out single worker kills that the kills within other faults make needless."""
    surplus = sum(FAULTS[step.fault].worker_kills + step.also_kill for step in steps) - kills
    kept = []
    for step in steps:
        if step.fault == "worker-kill" and surplus > 0:
            surplus -= 1
        else:
            kept.append(step)
    return kept
