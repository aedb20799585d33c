"""The compiled half of `detectors.novelty`: score a point, then learn it. The rule: a logarithm is taken only where
something is new, so that a usual point costs a few comparisons.

A column of a slot is one row of words, seen as float64 (`x`) and as uint32 (`b`), whole cache lines long; what
every value needs stands in front, and an hour's contexts of all scales side by side. A context is a triple: the
bins seen in it lately, those seen earlier, each a set of 32 bits, and how often it was met while they were
gathered. There is one context of each scale for all bins together (ALL), one for each hour of the day (DAY) and
one for each bin before (BIN). Bins are numbered on the number line and wrap at 32; fewer are in use, so no two
share a bit.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detectors.protocol import TOP

SCALES = 3
GAINS = (1.0, 0.3, 0.1)  # of the three moving averages
BINS = 24  # at most, of an average's range
FIRST_BINS = 4.0  # of the range when bins are laid
# float64 fields of a column; those marked * come SCALES times: the moving average*, bins a unit*, the lowest and
# highest bin in use*; the value before, the largest change lately, the mean change, the hour before (since 1970),
# the novelty that the quiet time began with. In the end extremes of the average until the bins are settled*.
E, FINE, FIRST, FINAL = 0, 3, 6, 9
LAST, RECORD, MEAN, HOUR, LEVEL = range(12, 17)
LOW, HIGH = 287, 290
# uint32 fields: values seen, quiet rows left, rows held in a run; ALL*, the bin before*, DAY (hour, scale), BIN
# (scale, bin); how often a novelty was told, by half nats.
SEEN, QUIET, HELD, ALL, BEFORE, DAY = 34, 35, 36, 37, 46, 49
BIN = DAY + 24 * SCALES * 3
TOLD = BIN + SCALES * 32 * 3
TOLDS = 20
WORDS = 296  # float64 words of a row
# Parameters of one detector, in the order of `prm`.
P_WARM, P_SETTLE, P_QUIET, P_MEMORY, P_HOLD, P_HOLD_ROWS, P_EXPLAIN, P_TRIES = range(8)

HUGE = np.float32(1e30)  # a larger value is missing
TINY = 1e-30
DAYS = 64  # an hour of the day remembers the last DAYS to 2 * DAYS visits
HOUR_US = 3_600_000_000
FINEST = 2.0**-22  # a bin is never narrower than this part of the value: float32 cannot tell more
NEAR = math.exp(-1.0 / 3.0)  # a change this much of the record is worth 0 nats
JUMP, JUMP_BASE, JUMP_MOST = 3.0, 1.0, 9.0  # nats of a change: JUMP a natural logarithm beyond the record
FADE = 0.9993  # of the record, a value
GROWTH = 4.0  # of the record at once, at most
LEAST = 0.5  # nats from which a novelty makes quiet and is counted
# Of ordinary points 10**-START are told as new at all, and the share falls by 10**-SLOPE a nat: see the manual.
START, SLOPE = 2.86, 0.2
COUNT_END = np.int64(4_000_000_000)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def surprise_of(nats: float) -> float:
    """-log10 p of one column's novelty; what is not new at all has p = 1."""
    return min(300.0, START + SLOPE * nats) if nats > 0.0 else 0.0


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _members(x: int) -> float:
    """How many of 32 bits are set."""
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return float(((x * 0x01010101) >> 24) & 0x3F)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _clear_scale(b: NDArray[np.uint32], s: int) -> None:
    """Nothing was seen on this scale."""
    for j in range(3):
        b[ALL + 3 * s + j] = 0
        for hour in range(24):
            b[DAY + (hour * SCALES + s) * 3 + j] = 0
    for j in range(3 * 32):
        b[BIN + s * 96 + j] = 0
    b[BEFORE + s] = 0


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _lay_bins(x: NDArray[np.float64], b: NDArray[np.uint32], s: int) -> None:
    """New bins for what scale s has covered so far, with nothing seen in them."""
    low, high = x[LOW + s], x[HIGH + s]
    width = (high - low) / FIRST_BINS
    most = max(abs(low), abs(high))
    if width <= 0.0:
        width = max(most * 1e-3, 1e-9)
    width = max(width, most * FINEST, TINY)
    x[FINE + s] = 1.0 / width
    x[FIRST + s] = np.floor(low * x[FINE + s])
    x[FINAL + s] = np.floor(high * x[FINE + s])
    _clear_scale(b, s)
    b[BEFORE + s] = np.int64(np.floor(x[E + s] * x[FINE + s])) & 31


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _widen(x: NDArray[np.float64], b: NDArray[np.uint32], s: int, k: float) -> float:
    """Bin k as numbered once the range reaches to it: while there are too many bins, two become one and all that
    was seen is forgotten."""
    low, high = min(x[FIRST + s], k), max(x[FINAL + s], k)
    if high - low >= BINS:
        _clear_scale(b, s)
        while high - low >= BINS:
            x[FINE + s] *= 0.5
            low, high, k = np.floor(low * 0.5), np.floor(high * 0.5), np.floor(k * 0.5)
    x[FIRST + s] = low
    x[FINAL + s] = high
    return k


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _new_in(b: NDArray[np.uint32], w: int, bit: int) -> float:
    """Nats of a bin in the context at word w: Laplace's rule, with as many pseudo-visits as there are members."""
    seen = np.int64(b[w]) | np.int64(b[w + 1])
    if seen & bit:
        return 0.0
    return math.log1p(float(b[w + 2]) / (1.0 + _members(seen)))


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _new_at_hour(b: NDArray[np.uint32], w: int, bit: int) -> float:
    """Nats of a bin at an hour: as `_new_in`, but of whole visits before this one, which last an hour each."""
    seen = np.int64(b[w]) | np.int64(b[w + 1])
    visits = float(b[w + 2])
    if seen & bit or visits < 2.0:
        return 0.0
    return math.log1p((visits - 1.0) / math.sqrt(1.0 + _members(seen)))


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _visit(b: NDArray[np.uint32], w: int, memory: int) -> None:
    """Count a visit of a context; every `memory` of them, what was seen lately becomes what was seen earlier."""
    visits = np.int64(b[w + 2]) + 1
    if visits >= 2 * memory:
        b[w + 1] = b[w]
        b[w] = 0
        visits = np.int64(memory)
    b[w + 2] = visits


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _shifted(x: NDArray[np.float64], s: int) -> int:
    """The bit of the average of scale s in bins that lie half a bin lower: an hour's. So the edge of a bin, crossed
    once, is not news by value and by hour at the same time."""
    return 1 << (int(np.floor(x[E + s] * x[FINE + s] + 0.5)) & 31)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _symbols(
    x: NDArray[np.float64], b: NDArray[np.uint32], hour: int, entered: bool, learn: bool, memory: int
) -> float:
    """Novelty of the moving averages' bins, in nats: in the bin before and at the hour, mean over the scales."""
    total = 0.0
    for s in range(SCALES):
        every = ALL + 3 * s
        day = DAY + (hour * SCALES + s) * 3
        if entered and learn:
            _visit(b, day, DAYS)
        k = np.floor(x[E + s] * x[FINE + s])
        low, high = x[FIRST + s], x[FINAL + s]
        after = BIN + s * 96 + 3 * np.int64(b[BEFORE + s])
        known = max(high, k) - min(low, k) < BINS  # else it has no number in these bins, and is new everywhere
        bit = np.int64(1) << (np.int64(k) & 31) if known else np.int64(0)
        shifted = _shifted(x, s) if known else np.int64(0)
        total += max(_new_in(b, every, bit), _new_in(b, after, bit)) + _new_at_hour(b, day, shifted)
        if not learn:
            continue
        if k < low or k > high:
            k = _widen(x, b, s, k)
            after = BIN + s * 96 + 3 * np.int64(b[BEFORE + s])
            bit, shifted = np.int64(1) << (np.int64(k) & 31), _shifted(x, s)
        _visit(b, every, memory)
        _visit(b, after, memory)
        b[every] |= np.uint32(bit)
        b[after] |= np.uint32(bit)
        b[day] |= np.uint32(shifted)
        b[BEFORE + s] = np.int64(k) & 31
    return total / SCALES


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _change(x: NDArray[np.float64], v: float, seen: int, early: bool, learn: bool) -> float:
    """Nats of a change from the value before, against the largest lately."""
    step = abs(v - x[LAST])
    floor = 0.5 * x[MEAN] + TINY
    record = x[RECORD]
    nats = 0.0
    if step > 0.0 and step + floor > NEAR * (record + floor):
        nats = JUMP_BASE + JUMP * min(math.log((step + floor) / (record + floor)), JUMP_MOST)
    if not learn:
        return nats
    record *= FADE
    if step > record:
        record = step if early else min(step, GROWTH * (record + floor))
    x[RECORD] = record
    mean = x[MEAN]
    told = step if early or mean <= TINY else min(step, 3.0 * mean)
    x[MEAN] = mean + (told - mean) / (min(seen, 1_000_000) + 1.0)
    return nats


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _habituate(x: NDArray[np.float64], b: NDArray[np.uint32], nats: float, quiet: int, learn: bool) -> float:
    """What is left of a novelty: nothing in the quiet time after one at least as large, and less the more often
    one as large was told before."""
    left = np.int64(b[QUIET])
    if left > 0:
        b[QUIET] = left - 1
        if nats <= x[LEVEL]:
            return 0.0
    if nats <= 0.0:
        return 0.0
    begin = min(TOLDS - 1, int(2.0 * nats))
    times = 0
    for j in range(begin, TOLDS):
        times += int(b[TOLD + j])
    if nats >= LEAST:
        b[QUIET] = quiet - 1
        x[LEVEL] = nats
        if learn and b[TOLD + begin] < COUNT_END:
            b[TOLD + begin] += np.uint32(1)
    return max(0.0, nats - math.log1p(float(times)))


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _settle(x: NDArray[np.float64], b: NDArray[np.uint32], seen: int, prm: NDArray[np.float64]) -> bool:
    """Learn the ranges; whether bins were laid at this value."""
    for s in range(SCALES):
        x[LOW + s] = min(x[LOW + s], x[E + s])
        x[HIGH + s] = max(x[HIGH + s], x[E + s])
    lay = seen + 1 == prm[P_WARM] or seen + 1 == prm[P_SETTLE]
    if lay:
        for s in range(SCALES):
            _lay_bins(x, b, s)
    return lay


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _point(
    x: NDArray[np.float64],
    b: NDArray[np.uint32],
    v: float,
    hours: int,
    alarm: float,
    prm: NDArray[np.float64],
) -> float:
    """Score and learn one value: nats, below 0 = no opinion yet."""
    seen = np.int64(b[SEEN])
    if seen == 0:
        x[LAST] = v
        for s in range(SCALES):
            x[E + s] = x[LOW + s] = x[HIGH + s] = v
    entered = seen == 0 or hours > x[HOUR] or hours < x[HOUR] - 1.0
    if entered:
        x[HOUR] = hours
    for s in range(SCALES):
        x[E + s] += GAINS[s] * (v - x[E + s])
    early = seen < prm[P_SETTLE]
    laid = _settle(x, b, seen, prm) if early else False
    held = np.int64(b[HELD])
    if alarm >= prm[P_HOLD]:
        b[HELD] = min(held + 1, COUNT_END)
    elif held > 0:
        b[HELD] = 0
    learn = early or not alarm >= prm[P_HOLD] or held >= prm[P_HOLD_ROWS]
    nats = _change(x, v, seen, early, learn)
    x[LAST] = v
    b[SEEN] = min(seen + 1, COUNT_END)
    if seen < prm[P_WARM]:
        return -1.0
    if not laid:
        nats = max(nats, _symbols(x, b, hours % 24, entered, learn, np.int64(prm[P_MEMORY])))
    return _habituate(x, b, nats, np.int64(prm[P_QUIET]), learn)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _name(
    column: NDArray[np.int16],
    expected: NDArray[np.float32],
    share: NDArray[np.float32],
    i: int,
    c: int,
    own: float,
    usual: float,
) -> None:
    """Insert column c into the guilty of row i, guiltiest first; of equals the lower column stays first."""
    at = TOP - 1
    if column[i, at] >= 0 and share[i, at] >= own:
        return
    while at > 0 and (column[i, at - 1] < 0 or share[i, at - 1] < own):
        column[i, at] = column[i, at - 1]
        expected[i, at] = expected[i, at - 1]
        share[i, at] = share[i, at - 1]
        at -= 1
    column[i, at] = c
    expected[i, at] = usual
    share[i, at] = own


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def update_rows(
    slots: NDArray[np.int32],
    ts_us: NDArray[np.int64],
    values: NDArray[np.float32],
    alarm: NDArray[np.float32],
    x: NDArray[np.float64],
    b: NDArray[np.uint32],
    prm: NDArray[np.float64],
    surprise: NDArray[np.float32],
    column: NDArray[np.int16],
    expected: NDArray[np.float32],
    share: NDArray[np.float32],
) -> int:
    """Score each row, then learn it. Returns the first row whose slot is not reserved, -1 = none.

    x, b : one row for each slot and column. alarm : (n,) or empty = nobody was asked.
    """
    d = values.shape[1]
    reserved = len(x) // d
    for i in range(len(slots)):
        slot = np.int64(slots[i])
        if slot < 0 or slot >= reserved:
            return i
        others = float(alarm[i]) if len(alarm) > 0 else 0.0
        hours = ts_us[i] // HOUR_US
        best = -1.0
        row = slot * d
        for c in range(d):
            if not abs(values[i, c]) < HUGE:
                continue
            xc, bc = x[row + c], b[row + c]
            usual = xc[E + SCALES - 1]
            nats = _point(xc, bc, float(values[i, c]), hours, others, prm)
            best = max(best, nats)
            if nats > 0.0:
                _name(column, expected, share, i, c, surprise_of(nats), usual)
        if best >= 0.0:
            surprise[i] = max(0.0, surprise_of(best) - prm[P_TRIES])
        if not surprise[i] >= prm[P_EXPLAIN]:
            for j in range(TOP):
                column[i, j] = -1
                expected[i, j] = np.nan
                share[i, j] = np.nan
    return -1
