"""Lag in seconds from offsets alone. The rule: what was not observed is an estimate, and says so.

The end of a partition, observed now and then, says when each offset was written. The age of the oldest record
that waits is the time since the end was where the group's committed offset is now.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LagSeconds:
    """seconds : NaN = nobody can say; estimated : the records that wait are older than what was observed."""

    seconds: float
    estimated: bool


class OffsetHistory:
    """Ends of one partition over time, oldest first; keeps `points_max` of them."""

    def __init__(self, points_max: int = 600) -> None:
        self._at_s: deque[float] = deque(maxlen=points_max)
        self._ends: deque[int] = deque(maxlen=points_max)

    def add(self, at_s: float, end: int) -> None:
        """One observation. An end that went back (the topic was made anew) forgets those before it."""
        if self._ends and end < self._ends[-1]:
            self._at_s.clear()
            self._ends.clear()
        self._at_s.append(at_s)
        self._ends.append(end)

    def lag(self, committed: int, now_s: float) -> LagSeconds:
        """How long the record at `committed` has waited."""
        if not self._ends or committed >= self._ends[-1]:
            return LagSeconds(0.0, estimated=False)
        after = bisect_left(self._ends, committed + 1)  # the first observation with that record in it
        if after > 0:
            before = after - 1
            share = (committed - self._ends[before]) / (self._ends[after] - self._ends[before])
            written_s = self._at_s[before] + share * (self._at_s[after] - self._at_s[before])
            return LagSeconds(max(now_s - written_s, 0.0), estimated=False)
        span_s, records = self._at_s[-1] - self._at_s[0], self._ends[-1] - self._ends[0]
        if records <= 0:
            return LagSeconds(math.nan, estimated=True)
        older_s = (self._ends[0] - committed) * span_s / records
        return LagSeconds(now_s - self._at_s[0] + older_s, estimated=True)


class Rate:
    """Growth of a counter over the last `span_s` seconds of observations."""

    def __init__(self, span_s: float = 10.0) -> None:
        self._span_s = span_s
        self._points: deque[tuple[float, float]] = deque()

    def add(self, at_s: float, total: float) -> None:
        """One observation. A total that went back (a process restarted) forgets those before it."""
        if self._points and total < self._points[-1][1]:
            self._points.clear()
        self._points.append((at_s, total))
        while len(self._points) > 2 and self._points[1][0] <= at_s - self._span_s:
            self._points.popleft()

    @property
    def growth(self) -> float:
        """Of the total, over the observations held."""
        return self._points[-1][1] - self._points[0][1] if self._points else 0.0

    @property
    def per_s(self) -> float:
        """NaN before the second observation."""
        if len(self._points) < 2 or self._points[-1][0] <= self._points[0][0]:
            return math.nan
        return self.growth / (self._points[-1][0] - self._points[0][0])
