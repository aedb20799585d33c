"""The policies to compare with, by their published rules. The rule: their defaults, or the tuning that a name says.

Sources: KEDA's Kafka scaler (docs/scalers/apache-kafka, `getTotalLag`), Kubernetes' HorizontalPodAutoscaler v2
(algorithm details and default behaviour), Flink Kubernetes operator's autoscaler (docs, FLIP-271; Kalavri et
al., OSDI 2018).
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from benchmarks.autoscaler.world import CAPACITY_PER_S, Look

TOLERANCE = 0.1
SYNC_S = 15


class Scaler(Protocol):
    """What decides. period_s : between two looks."""

    name: str
    period_s: int

    def decide(self, seen: Look) -> int:
        """Replicas wanted."""
        ...


class _Hpa:
    """HPA v2 behaviour: up by 4 or by 100 % in 15 s, down to the highest recommendation of 300 s."""

    period_s = SYNC_S
    window_s = 300

    def __init__(self, most: int) -> None:
        self.most = most
        self._recommended: list[tuple[int, int]] = []
        self._added: list[tuple[int, int]] = []

    def _settle(self, seen: Look, wanted: int) -> int:
        at_s, current = seen.at_s, seen.replicas
        self._recommended = [r for r in self._recommended if r[0] > at_s - self.window_s] + [(at_s, wanted)]
        if wanted < current:
            wanted = min(current, max(r for _, r in self._recommended))
        elif wanted > current:
            base = current - sum(n for t, n in self._added if t > at_s - SYNC_S)
            wanted = min(wanted, max(base + 4, 2 * base))
        wanted = max(1, min(self.most, wanted))
        self._added = [a for a in self._added if a[0] > at_s - 60]
        if wanted > current:
            self._added.append((at_s, wanted - current))
        return wanted


class Keda(_Hpa):
    """KEDA's Kafka scaler: total lag by a threshold, through the HPA.

    even : its ensureEvenDistributionOfPartitions, counts that divide the partitions.
    """

    def __init__(self, threshold: int, most: int, *, even: bool = False) -> None:
        super().__init__(most)
        self.threshold, self.even = threshold, even
        self.name = f"KEDA lagThreshold {threshold:,}" + (", even" if even else "")

    def decide(self, seen: Look) -> int:
        total = float(np.maximum(0, seen.ends - seen.committed).sum())
        if self.even:
            divisors = (n for n in range(1, self.most + 1) if self.most % n == 0)
            total = next((n for n in divisors if n * self.threshold >= total), self.most) * self.threshold
        if total // self.threshold > self.most:  # whole numbers, as it is there
            total = self.most * self.threshold
        ratio = total / (self.threshold * seen.replicas)
        wanted = seen.replicas if abs(1 - ratio) <= TOLERANCE else math.ceil(total / self.threshold)
        return self._settle(seen, wanted)


class HpaCpu(_Hpa):
    """HPA on the pods' CPU; a worker at rest uses 5 %, and pods that are not ready count as 0 on the way up."""

    def __init__(self, target: float, most: int) -> None:
        super().__init__(most)
        self.target, self.name = target, f"HPA CPU {target:.0%}"

    def decide(self, seen: Look) -> int:
        used = np.minimum(1.0, 0.95 * seen.busy + 0.05)
        if not len(used):
            return seen.replicas
        ratio, missing = float(used.mean()) / self.target, seen.replicas - len(used)
        if abs(1 - ratio) <= TOLERANCE:
            return self._settle(seen, seen.replicas)
        if missing > 0 and ratio > 1:
            ratio = float(used.sum()) / seen.replicas / self.target
            wanted = seen.replicas if ratio < 1 + TOLERANCE else math.ceil(ratio * seen.replicas)
            return self._settle(seen, wanted)
        return self._settle(seen, math.ceil(ratio * len(used)))


class Flink:
    """The Flink operator's autoscaler: true processing rates; catch-up and restart times in the target.

    Defaults: metrics window 15 min, stabilisation 5 min, utilisation 0.7 +- 0.3, catch-up 30 min, scale-down
    interval 1 h. restart_s is what a restart costs here.
    """

    period_s = 60

    def __init__(
        self,
        most: int,
        name: str = "Flink autoscaler",
        *,
        window_s: int = 900,
        stable_s: int = 300,
        catch_up_s: int = 1800,
        down_s: int = 3600,
        boundary: float = 0.3,
        restart_s: int = 25,
    ) -> None:
        self.most, self.name = most, name
        self.window_s, self.stable_s, self.catch_up_s = window_s, stable_s, catch_up_s
        self.down_s, self.boundary, self.restart_s = down_s, boundary, restart_s
        self._capacity = CAPACITY_PER_S
        self._seen: list[tuple[int, float, float]] = []
        self._scaled_s = -(1 << 30)
        self._low: tuple[int, int] | None = None

    def decide(self, seen: Look) -> int:
        at_s, current = seen.at_s, seen.replicas
        working = seen.busy > 0.05
        rate = float(np.median(seen.done[working] / seen.busy[working])) if working.any() else math.nan
        self._seen = [s for s in self._seen if s[0] >= at_s - self.window_s] + [
            (at_s, float(seen.ends.sum()), rate)
        ]
        if len(self._seen) < 3:
            return current
        arrivals = (self._seen[-1][1] - self._seen[0][1]) / (at_s - self._seen[0][0])
        rates = [r for _, _, r in self._seen if not math.isnan(r)]
        self._capacity = sum(rates) / len(rates) if rates else self._capacity
        lag = float((seen.ends - seen.committed).sum())
        target = lag / self.catch_up_s + arrivals * self.restart_s / self.catch_up_s + arrivals / 0.7
        behind = lag / max(arrivals, 1) > 300
        high, low = (1.0, 0.0) if behind else (0.7 + self.boundary, 0.7 - self.boundary)
        wanted = self._aligned(max(1, min(self.most, math.ceil(target / self._capacity))))
        if at_s - self._scaled_s < self.stable_s:
            return current
        if arrivals + lag / self.catch_up_s > high * current * self._capacity and wanted > current:
            self._scaled_s, self._low = at_s, None
            return wanted
        return self._lower(at_s, current, wanted, arrivals / (current * self._capacity) < low)

    def _lower(self, at_s: int, current: int, wanted: int, idle: bool) -> int:
        if not idle or wanted >= current:
            self._low = None
            return current
        since, highest = self._low or (at_s, wanted)
        self._low = (since, max(highest, wanted))
        if at_s - since < self.down_s:
            return current
        wanted, self._low, self._scaled_s = max(self._low[1], math.ceil(0.4 * current)), None, at_s
        return wanted

    def _aligned(self, wanted: int) -> int:
        """As few as give each worker the partitions that `wanted` would."""
        before = math.ceil(self.most / max(1, wanted - 1))
        counts = range(wanted, self.most + 1)
        return next((k for k in counts if math.ceil(self.most / k) < before or k == wanted), wanted)


class Fixed:
    """As many workers as there are partitions, always."""

    period_s = 60

    def __init__(self, replicas: int) -> None:
        self.replicas, self.name = replicas, f"fixed {replicas}"

    def decide(self, seen: Look) -> int:
        del seen
        return self.replicas


def all_peers(most: int) -> list[Scaler]:
    """With the defaults, and as they are usually tuned."""
    return [
        Keda(10, most),
        Keda(1000, most),
        Keda(5000, most),
        Keda(5000, most, even=True),
        HpaCpu(0.7, most),
        HpaCpu(0.5, most),
        Flink(most),
        Flink(most, "Flink, tuned fast", window_s=120, stable_s=60, catch_up_s=300, down_s=600, boundary=0.15),
        Fixed(most),
    ]
