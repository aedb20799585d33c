"""Shares and rates of few events, with their intervals. The rule: what cannot be known is NaN, never 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: The standard normal's quantile of two-sided 95 %.
Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Rate:
    """A share or a rate with its 95 % interval; all NaN = unknown."""

    value: float
    low: float
    high: float


UNKNOWN = Rate(math.nan, math.nan, math.nan)


def wilson(hits: int, n: int) -> Rate:
    """hits of n, with Wilson's score interval (Wilson 1927)."""
    if n == 0:
        return UNKNOWN
    p, zz = hits / n, Z95 * Z95
    middle = p + zz / (2 * n)
    half = Z95 * math.sqrt(p * (1 - p) / n + zz / (4 * n * n))
    low, high = ((middle + sign * half) / (1 + zz / n) for sign in (-1, 1))
    return Rate(p, 0.0 if hits == 0 else max(low, 0.0), 1.0 if hits == n else min(high, 1.0))


def poisson(count: int, exposure: float) -> Rate:
    """count events in an exposure, a unit of it, by Byar's approximation of the exact Poisson interval.

    Breslow & Day 1987, Statistical Methods in Cancer Research II, section 2.3. NaN or 0 exposure = unknown.
    """
    if not exposure > 0:
        return UNKNOWN
    low = 0.0
    if count:
        low = count * (1 - 1 / (9 * count) - Z95 / (3 * math.sqrt(count))) ** 3
    more = count + 1
    high = more * (1 - 1 / (9 * more) + Z95 / (3 * math.sqrt(more))) ** 3
    return Rate(count / exposure, max(low, 0.0) / exposure, high / exposure)


def percentile(values: Sequence[float], q: float) -> float:
    """The q-quantile by linear interpolation, NaN of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    below = math.floor(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)
