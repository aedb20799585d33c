"""A simulated consumer group under a scaler. The rule: what the real one costs is in it: starts, pauses, commits.

Each partition is a queue, each worker shares its capacity fairly among its partitions that have a backlog. A
change of membership stops the whole group for the pause of a rebalance (eager protocol); changes at the same
time share one. Offsets are committed every few seconds, so a scaler always sees some lag.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

CAPACITY_PER_S = 1000.0
SLO_S = 30.0
COMMIT_S = 2.8


@njit(cache=True)
def _advance(begin, end, arrived, served, head, owner, capacity, paused_until, busy, done, violated, lag, late):
    """Let the group work for the seconds begin..end; writes into served, head, busy, done, violated, lag, late."""
    partitions, workers = served.shape[0], capacity.shape[0]
    demand = np.empty(partitions)
    for t in range(begin, end):
        if t >= paused_until and workers > 0:
            for w in range(workers):
                left, waiting = capacity[w], 0
                for p in range(partitions):
                    if owner[p] == w:
                        demand[p] = arrived[p, t + 1] - served[p]
                        if demand[p] > 1e-9:
                            waiting += 1
                while waiting > 0 and left > 1e-9:
                    share, moved = left / waiting, False
                    for p in range(partitions):
                        if owner[p] == w and demand[p] > 1e-9 and demand[p] <= share:
                            served[p] += demand[p]
                            left -= demand[p]
                            demand[p] = 0.0
                            waiting -= 1
                            moved = True
                            share = left / waiting if waiting > 0 else 0.0
                    if not moved:
                        for p in range(partitions):
                            if owner[p] == w and demand[p] > 1e-9:
                                served[p] += share
                                demand[p] -= share
                        left = 0.0
                done[w] += capacity[w] - left
                busy[w] += (capacity[w] - left) / capacity[w]
        worst = 0.0
        for p in range(partitions):
            while head[p] < t + 1 and arrived[p, head[p] + 1] <= served[p] + 1e-6:
                head[p] += 1
            age = t + 1 - head[p] if served[p] < arrived[p, t + 1] - 1e-6 else 0.0
            worst = max(worst, age)
            if age > SLO_S:
                late[0] += arrived[p, t + 1] - arrived[p, t]
        lag[t] = worst
        violated[t] = worst > SLO_S


@dataclass(frozen=True, slots=True)
class Traffic:
    """Arrivals by partition and second, and what workers can do.

    arrivals : float64 (partitions, seconds). capacity : float64 (seconds,), share of a worker's usual capacity.
    total_max : records a second that all workers together can do, whatever their number. batching : workers are
    busy for a power of what they use of their capacity: 1 = in proportion, less = small batches cost more a
    record.
    """

    name: str
    arrivals: np.ndarray
    capacity: np.ndarray | None = None
    total_max: float = float("inf")
    batching: float = 1.0

    @property
    def partitions(self) -> int:
        """How many there are."""
        return int(self.arrivals.shape[0])

    @property
    def seconds(self) -> int:
        """How long it is."""
        return int(self.arrivals.shape[1])


@dataclass(frozen=True, slots=True)
class Look:
    """What a scaler may see; busy, done : share and records a second by member since the last look."""

    at_s: float
    ends: np.ndarray
    committed: np.ndarray
    replicas: int
    members: int
    rebalancing: bool
    rebalances: int
    owner: np.ndarray
    busy: np.ndarray
    done: np.ndarray


class World:
    """One run of one traffic. Starts with `replicas` members."""

    def __init__(
        self, traffic: Traffic, replicas: int, *, start_s: int = 20, pause_s: int = 5, seed: int = 1
    ) -> None:
        self.traffic, self.start_s, self.pause_s = traffic, start_s, pause_s
        self._arrived = np.zeros((traffic.partitions, traffic.seconds + 1))
        np.cumsum(traffic.arrivals, axis=1, out=self._arrived[:, 1:])
        self._served = np.zeros(traffic.partitions)
        self._head = np.zeros(traffic.partitions, np.int64)
        self._scale = np.ones(traffic.seconds) if traffic.capacity is None else traffic.capacity
        self._rng = np.random.default_rng(seed)
        self.at_s, self.replicas = 0, replicas
        self.violated = np.zeros(traffic.seconds, np.bool_)
        self.lag = np.zeros(traffic.seconds)
        self.wanted = np.zeros(traffic.seconds, np.int64)
        self._late = np.zeros(1)
        self._members = [self._speed() for _ in range(replicas)]
        self._starting: list[int] = []
        self._paused_until = 0
        self.ups = self.downs = self.rebalances = 0
        self.worker_s = 0.0
        self._busy, self._done, self._since = np.zeros(traffic.partitions), np.zeros(traffic.partitions), 0
        self._committed = np.zeros(traffic.partitions)
        self._commits, self._next_commit = 0, 1
        self._assign()

    def _speed(self) -> float:
        return float(np.clip(self._rng.normal(1, 0.06), 0.8, 1.2))

    def _assign(self) -> None:
        members = len(self._members)
        numbers = np.arange(self.traffic.partitions)
        self._owner = numbers % members if members else np.full(len(numbers), -1)

    def _rebalance(self) -> None:
        self._paused_until = max(self._paused_until, self.at_s + self.pause_s)
        self.rebalances += 1
        self._assign()

    @property
    def scalings(self) -> int:
        """Changes of the replicas."""
        return self.ups + self.downs

    @property
    def late_share(self) -> float:
        """Of the records: came into a partition that was beyond the SLO."""
        return float(self._late[0] / self.traffic.arrivals.sum())

    def scale(self, replicas: int) -> None:
        """Set the replicas: new ones start, the youngest leave."""
        more, self.replicas = replicas - self.replicas, replicas
        if more > 0:
            self.ups += 1
            self._starting += [self.at_s + self.start_s] * more
        elif more < 0:
            self.downs += 1
            unborn = min(-more, len(self._starting))
            del self._starting[len(self._starting) - unborn :]
            if leaving := -more - unborn:
                del self._members[len(self._members) - leaving :]
                self._rebalance()

    def run_to(self, at_s: int) -> None:
        """Let time pass."""
        at_s = min(at_s, self.traffic.seconds)
        while self.at_s < at_s:
            until = min(at_s, self._next_commit, *self._starting)
            if until > self.at_s:
                self._work(until)
            if self.at_s >= self._next_commit:
                self._commits += 1
                self._next_commit = round(1 + self._commits * COMMIT_S)
                if self.at_s >= self._paused_until:
                    self._committed = self._served.copy()
            if ready := sum(1 for due in self._starting if due <= self.at_s):
                self._starting = [due for due in self._starting if due > self.at_s]
                self._members += [self._speed() for _ in range(ready)]
                self._rebalance()

    def _work(self, until: int) -> None:
        capacity = CAPACITY_PER_S * np.array(self._members, np.float64) * self._scale[self.at_s]
        capacity *= min(
            1.0, self.traffic.total_max / max(1.0, capacity.sum())
        )  # waiting for what all share is busy
        _advance(
            self.at_s,
            until,
            self._arrived,
            self._served,
            self._head,
            self._owner,
            capacity,
            self._paused_until,
            self._busy,
            self._done,
            self.violated,
            self.lag,
            self._late,
        )
        self.wanted[self.at_s : until] = self.replicas
        self.worker_s += (len(self._members) + len(self._starting)) * (until - self.at_s)
        self.at_s = until

    def look(self) -> Look:
        """What is to be seen now; figures of the workers since the last look."""
        span_s, members = max(1, self.at_s - self._since), len(self._members)
        found = Look(
            self.at_s,
            self._arrived[:, self.at_s].copy(),
            self._committed.copy(),
            self.replicas,
            members,
            self.at_s < self._paused_until,
            self.rebalances,
            self._owner.copy(),
            (self._busy[:members] / span_s) ** self.traffic.batching,
            self._done[:members] / span_s,
        )
        self._busy[:], self._done[:], self._since = 0, 0, self.at_s
        return found
