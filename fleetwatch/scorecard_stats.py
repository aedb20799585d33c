"""Shares and rates of few events, with their intervals. The rule: what cannot be known is NaN, never 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: The standard normal's quantile of two-sided 95 %.
Z95 = 1.959963984540054
#: Up to so many events the Poisson interval is exact.
EXACT_MAX = 100


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
    """count events in an exposure, a unit of it, with the exact Poisson interval (Garwood 1936).

    Above `EXACT_MAX` events by Byar's approximation (Breslow & Day 1987, Statistical Methods in Cancer Research II,
    section 2.3), which is then within 0.1 %. NaN or 0 exposure = unknown.
    """
    if not exposure > 0:
        return UNKNOWN
    low, high = _exact(count) if count <= EXACT_MAX else (_byar(count, -1), _byar(count + 1, 1))
    return Rate(count / exposure, low / exposure, high / exposure)


def _byar(count: int, sign: int) -> float:
    return count * (1 - 1 / (9 * count) + sign * Z95 / (3 * math.sqrt(count))) ** 3


def _exact(count: int) -> tuple[float, float]:
    """The means at which so many events or more, and so many or fewer, have a chance of 2.5 %."""
    top = 4.0 * count + 10.0
    low = _mean_at(count - 1, 0.975, top) if count else 0.0
    return low, _mean_at(count, 0.025, top)


def _mean_at(count: int, chance: float, top: float) -> float:
    """The mean, up to `top`, at which count events or fewer have this chance: by bisection, to the last bit."""
    low, high = 0.0, top
    while (middle := (low + high) / 2) not in (low, high):
        log_mean = math.log(middle)
        at_most = math.fsum(math.exp(i * log_mean - middle - math.lgamma(i + 1)) for i in range(count + 1))
        low, high = (middle, high) if at_most > chance else (low, middle)
    return low


def percentile(values: Sequence[float], q: float) -> float:
    """The q-quantile by linear interpolation, NaN of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    below = math.floor(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)
