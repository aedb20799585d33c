"""A group of workers with a hand-moved clock, for stories of the scaling policy. The rule: the test says all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from autoscaler.limits import FIELD_MANAGER, Limits
from autoscaler.observation import Decision, Observation
from autoscaler.policy import Memory, decide
from benchmarks.autoscaler.ours import observe
from benchmarks.autoscaler.world import Look

START_LOOKS = 3


class Story:
    """Moves time look by look; what the test does not change stays as it is.

    arrivals : records a second by partition. capacity : of a worker. batching : busy is this power of
    what it uses. obey : replicas follow the decisions; new ones
    are members START_LOOKS looks later.
    """

    def __init__(self, limits: Limits, *, partitions: int = 12, replicas: int = 2, arrivals: float = 100.0) -> None:
        self.limits, self.memory = limits, Memory()
        self.at_s = 1000.0
        self.arrivals = np.full(partitions, arrivals)
        self.ends, self.committed = np.full(partitions, 5000.0), np.full(partitions, 5000.0)
        self.capacity, self.total_max, self.batching = 1000.0, float("inf"), 1.0
        self.replicas = self.members = replicas
        self.epoch, self.rebalancing, self.pages = 0, False, True
        self.scaled_by = FIELD_MANAGER
        self.obey, self._starting = True, 0
        self.decisions: list[Decision] = []

    @property
    def owner(self) -> np.ndarray:
        """Even, by number."""
        count = len(self.ends)
        return np.arange(count) % self.members if self.members else np.full(count, -1)

    def _work(self, seconds: float) -> tuple[np.ndarray, np.ndarray]:
        """(done, busy) by worker, records a second and share."""
        self.ends = self.ends + np.floor(self.arrivals * seconds)
        waiting, owner = self.ends - self.committed, self.owner
        done = np.zeros(self.members)
        each = min(self.capacity, self.total_max / max(1, self.members))
        for worker in range(self.members):
            mine = owner == worker
            total = waiting[mine].sum()
            share = min(1.0, each * seconds / total) if total else 0.0
            self.committed[mine] += np.floor(waiting[mine] * share)
            done[worker] = total * share / seconds
        return done, (done / each) ** self.batching

    def look(self) -> Observation:
        """What is seen once ten seconds have passed."""
        self.at_s += self.limits.interval_s
        self.committed = self.committed.copy()
        done, busy = self._work(self.limits.interval_s)
        seen = Look(
            self.at_s,
            self.ends,
            self.committed,
            self.replicas,
            self.members,
            self.rebalancing,
            self.epoch,
            self.owner,
            busy,
            done,
        )
        return replace(observe(seen, pages=self.pages), scaled_by=self.scaled_by)

    def turn(self) -> Decision:
        """One look and one decision."""
        seen = self.look()
        decision, self.memory = decide(self.memory, seen, self.limits)
        self.decisions.append(decision)
        if self.obey:
            self._starting = START_LOOKS if decision.replicas > self.replicas else max(0, self._starting - 1)
            self.replicas = decision.replicas
            joined = self.replicas if not self._starting else min(self.members, self.replicas)
            if joined != self.members:
                self.members, self.epoch = joined, self.epoch + 1
        return decision

    def go(self, seconds: float) -> list[Decision]:
        """Decisions over a span."""
        return [self.turn() for _ in range(round(seconds / self.limits.interval_s))]

    def until(self, code: str, seconds: float = 3600.0) -> Decision:
        """The first decision of a kind.

        Raises
        ------
        AssertionError : there was none in time.
        """
        for _ in range(round(seconds / self.limits.interval_s)):
            decision = self.turn()
            if decision.code == code:
                return decision
        raise AssertionError(f"no {code} within {seconds:.0f} s; {sorted({d.code for d in self.decisions})}")

    def limit(self, **changed: float) -> None:
        """Other limits from now on."""
        self.limits = replace(self.limits, **changed)


def noted(decisions: list[Decision]) -> dict[str, str]:
    """The first text of each note's code."""
    found: dict[str, str] = {}
    for decision in decisions:
        for note in decision.notes:
            found.setdefault(note.code, note.text)
    return found
