"""The shipped policy in the simulated world. The rule: it is fed with what the collector would see, no more.

Nothing of the world's inside gets through: offsets, members, and, unless it is to do without, workers' pages.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from autoscaler.limits import FIELD_MANAGER, Limits
from autoscaler.observation import Decision, Observation, WorkerLoad
from autoscaler.policy import Memory, decide
from benchmarks.autoscaler.world import CAPACITY_PER_S, Look

LIMITS = Limits(capacity_per_s=CAPACITY_PER_S)


def observe(seen: Look, *, pages: bool = True) -> Observation:
    """As the collector would put it."""
    workers = ()
    if pages:
        workers = tuple(
            WorkerLoad(str(w), tuple(int(p) for p in np.flatnonzero(seen.owner == w)), float(done), float(busy))
            for w, (done, busy) in enumerate(zip(seen.done, seen.busy, strict=True))
        )
    return Observation(
        at_s=float(seen.at_s),
        ends=seen.ends,
        committed=seen.committed,
        lag_s=np.full(len(seen.ends), np.nan),
        replicas=seen.replicas,
        ready=seen.members,
        members=seen.members,
        epoch=str(seen.rebalances),
        rebalancing=seen.rebalancing,
        owner=seen.owner.astype(np.int64),
        workers=workers,
        scaled_by=FIELD_MANAGER,
    )


class Ours:
    """As a `peers.Scaler`.

    hint : times the true capacity; 0 = none is given. decisions : (second, decision) of each look.
    """

    period_s = 10

    def __init__(
        self, name: str = "fleetwatch", *, hint: float = 1.0, pages: bool = True, limits: Limits = LIMITS
    ) -> None:
        self.name, self.pages = name, pages
        self.limits = replace(limits, capacity_per_s=hint * CAPACITY_PER_S)
        self.memory = Memory()
        self.decisions: list[tuple[int, Decision]] = []

    def decide(self, seen: Look) -> int:
        decision, self.memory = decide(self.memory, observe(seen, pages=self.pages), self.limits)
        self.decisions.append((seen.at_s, decision))
        return decision.replicas
