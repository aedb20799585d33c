"""Arrivals by partition from ends of partitions over time. The rule: a rate over less than was asked for is one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from autoscaler.observation import Array

#: Spans of the rates, s: quick enough to act on, long enough to scale down on, and how much is kept.
FAST_S, SLOW_S, KEPT_S = 30.0, 120.0, 300.0
#: Between the centres of the fast and the slow span.
_APART_S = (SLOW_S - FAST_S) / 2
_TREND_MIN_S = 110.0
_SHARE_STEP = 0.1


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Ends seen in the last KEPT_S, oldest first, and how the partitions share the arrivals (None = no arrival)."""

    seen: tuple[tuple[float, Array], ...] = ()
    share: Array | None = None

    def add(self, at_s: float, ends: Array) -> Arrivals:
        """One look. Ends of another shape, or that went back, are those of a topic made anew: all begins anew."""
        if self.seen and (len(ends) != len(self.seen[-1][1]) or bool((ends < self.seen[-1][1]).any())):
            return Arrivals(((at_s, ends),))
        kept = tuple(point for point in self.seen if point[0] >= at_s - KEPT_S)
        now = replace(self, seen=(*kept, (at_s, ends)))
        slow = now.rate(SLOW_S)
        if now.rate(KEPT_S).sum() <= 0:
            return now
        share = slow / max(float(slow.sum()), 1e-9)
        return replace(now, share=share if self.share is None else self.share + _SHARE_STEP * (share - self.share))

    @property
    def span_s(self) -> float:
        """Between the oldest and the newest look."""
        return self.seen[-1][0] - self.seen[0][0] if self.seen else 0.0

    def rate(self, span_s: float) -> Array:
        """Records a second by partition over the last `span_s`, or what there is of it; 0 after one look only."""
        at_s, ends = self.seen[-1]
        began_s, began = next(point for point in self.seen if point[0] >= at_s - span_s)
        return (ends - began) / max(1.0, at_s - began_s) if at_s > began_s else np.zeros(len(ends))

    def shares(self) -> Array:
        """float64 (partitions,), sums to 1; even where nothing has arrived."""
        count = len(self.seen[-1][1])
        return np.full(count, 1 / count) if self.share is None else self.share

    def growth(self) -> float:
        """By how much the arrivals grow, records a second per second; 0 where they fall or it is too early."""
        if self.span_s < _TREND_MIN_S:
            return 0.0
        return max(0.0, float(self.rate(FAST_S).sum() - self.rate(SLOW_S).sum()) / _APART_S)
