"""From a statistic to the one scale of every score. The rule: surprise = -log10 p, finite, never negative.

The normal law's two-sided tail is looked up, not computed, because it is wanted for every row: a table over
z^2 whose bins are fixed fractions of an octave, addressed by the upper bits of the float64 itself, with linear
interpolation inside a bin. Each step of that is monotone, so a larger z^2 never gets a smaller surprise.

Whoever changes a compiled function here must clear numba's cache (NUMBA_CACHE_DIR, or __pycache__): numba looks
at the file of the calling kernel only, and would go on using the old one inside it.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: No surprise is larger: p below 1e-300 has no meaning, and float64 ends a little further on.
CAP = 300.0
LN10 = math.log(10.0)

_BIN_BITS = 5  # 32 bins an octave: 0.02 % of the surprise at worst
_SHIFT = 52 - _BIN_BITS
_LOWEST, _HIGHEST = -40, 11  # octaves of z^2 that the table covers; 2**11 is past CAP
_BASE = (1023 + _LOWEST) << _BIN_BITS
_BINS = (_HIGHEST - _LOWEST) << _BIN_BITS
_FRACTION = (1 << _SHIFT) - 1


def log10_erfc(t: float) -> float:
    """log10 of erfc(t) for t >= 0, also where erfc itself underflows (asymptotic series from t = 25 on)."""
    if t < 25.0:
        return math.log10(math.erfc(t))
    u = 1.0 / (2.0 * t * t)
    return -t * t / math.log(10.0) - math.log10(t * math.sqrt(math.pi)) + math.log10(1.0 - u + 3.0 * u * u)


def _build() -> NDArray[np.float64]:
    table = np.empty(_BINS + 1)
    for i in range(_BINS + 1):
        octave, part = divmod(i, 1 << _BIN_BITS)
        z2 = math.ldexp(1.0 + part / (1 << _BIN_BITS), octave + _LOWEST)
        table[i] = -log10_erfc(math.sqrt(0.5 * z2))  # past CAP too, so that the last bin below it is straight
    table.setflags(write=False)
    return table


#: -log10 of the two-sided normal tail at the bins' edges. An argument of `tail_of_z2`, not a global that it
#: reads: numba's cache would not notice if it changed.
NORMAL_TABLE = _build()


@njit(cache=True, nogil=True, error_model="numpy")
def tail_of_z2(z2: float, table: NDArray[np.float64]) -> float:
    """-log10 P(|Z| >= sqrt(z2)) of one column, 0 <= z2 <= inf; below 2**-40 it is 0."""
    bits = np.float64(z2).view(np.int64)
    k = (bits >> _SHIFT) - _BASE
    if k < 0:
        return 0.0
    if k >= _BINS:
        return CAP
    low = table[k]
    high = table[k + 1]
    return min(CAP, high, low + (high - low) * ((bits & _FRACTION) * (1.0 / (1 << _SHIFT))))


@njit(cache=True, nogil=True, error_model="numpy")
def tail_of_excess(excess: float, tail: float, shape: float) -> float:
    """-log10 p of a statistic from its excess over the tail's start, in units of the mean excess.

    Above the start a generalised Pareto tail of fixed shape; below, where nothing is at stake, a straight
    line from 0 (statistic 0, excess -1) to the tail's own probability.
    """
    base = -np.log10(tail)
    if excess < 0.0:
        return max(0.0, base * (1.0 + excess))
    return min(CAP, base + np.log1p(shape * excess) / (shape * LN10))


@njit(cache=True, nogil=True, error_model="numpy")
def _tails(z2: NDArray[np.float64], table: NDArray[np.float64], out: NDArray[np.float64], tries: float) -> None:
    for i in range(len(z2)):
        if z2[i] >= 0.0:
            out[i] = max(0.0, tail_of_z2(z2[i], table) - tries)


def normal_two_sided(z2: NDArray[np.float64], d: int = 1) -> NDArray[np.float64]:
    """Surprise of the largest of d squared z-scores.

    Parameters
    ----------
    z2 : float64 (n,), the largest z^2 of each row; NaN = no opinion.
    d : in how many columns the largest was looked for: p = min(1, d * p1) (Bonferroni), at least 1.

    Returns
    -------
    float64 (n,), 0..CAP; NaN where z2 is NaN.

    Raises
    ------
    ValueError : d < 1, or a z2 below zero.
    """
    if d < 1:
        raise ValueError(f"d must be at least 1, not {d}")
    flat = np.ascontiguousarray(z2, np.float64).reshape(-1)
    if bool((flat < 0.0).any()):
        raise ValueError("a squared z-score cannot be negative")
    out = np.full(flat.shape, np.nan)
    _tails(flat, NORMAL_TABLE, out, math.log10(d))
    return out
