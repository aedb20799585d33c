"""Event-time windows by panes: tumbling and hopping, a watermark a device, grace, late rows.

The rule: a window's features depend on its device's rows and their order alone, not on how they were batched.

Time is cut into panes of one hop. A device's watermark is its latest event time; the window that ends with
pane e closes when the watermark reaches the end of e plus the grace, and is merged from the panes it covers.
Open panes are kept in a ring of `ring` panes. A row whose windows are all closed is late.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streams.core.devices import RESTART

# Words of a slot's window state, int64: then, for each pane of the ring, its number, rows, and last event time.
W_WATERMARK, W_PANE, W_CLOSE, W_PREV_TS, W_RING = range(5)
PANE_WORDS = 3

# Accumulators of a pane. 64-bit: float64; 32-bit: float32.
A_SUM, A_SSQ, A_ST, A_STT, A_SXT = range(5)
B_COUNT, B_MIN, B_MAX, B_LAST, B_ROC = range(5)

# Columns of a closed window's head, int64.
O_SLOT, O_PANE, O_ROWS = range(3)

EMPTY = np.iinfo(np.int64).min
FEATURES = ("count", "mean", "std", "min", "max", "last", "slope", "roc_max", "missing", "hist")


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """What the windows are. Times in microseconds; size_us is a multiple of hop_us."""

    size_us: int
    hop_us: int
    grace_us: int
    features: tuple[str, ...]
    hist_bins: int = 16

    @property
    def panes(self) -> int:
        """Panes a window."""
        return self.size_us // self.hop_us

    @property
    def ring(self) -> int:
        """Panes that may be open at a time."""
        return self.panes + -(-self.grace_us // self.hop_us)

    @property
    def slope(self) -> bool:
        return "slope" in self.features

    @property
    def roc(self) -> bool:
        return "roc_max" in self.features

    @property
    def bins(self) -> int:
        return self.hist_bins if "hist" in self.features else 0


@njit(cache=True, error_model="numpy", nogil=True)
def _clear_pane(
    slot: int,
    r: int,
    pane: int,
    meta: NDArray[np.int64],
    acc64: NDArray[np.float64],
    acc32: NDArray[np.float32],
    hist: NDArray[np.uint16],
    peak: NDArray[np.float32],
) -> None:
    meta[slot, W_RING + PANE_WORDS * r] = pane
    meta[slot, W_RING + PANE_WORDS * r + 1] = 0
    meta[slot, W_RING + PANE_WORDS * r + 2] = EMPTY
    acc64[slot, r, :, :] = 0.0
    acc32[slot, r, :, :] = np.float32(0.0)
    acc32[slot, r, B_MIN, :] = np.float32(np.inf)
    acc32[slot, r, B_MAX, :] = np.float32(-np.inf)
    acc32[slot, r, B_LAST, :] = np.float32(np.nan)
    hist[slot, r, :, :] = 0
    peak[slot, r, :] = np.float32(np.nan)


@njit(cache=True, error_model="numpy", nogil=True)
def _close(
    slot: int,
    last_pane: int,
    panes: int,
    hop_us: int,
    meta: NDArray[np.int64],
    acc64: NDArray[np.float64],
    acc32: NDArray[np.float32],
    hist: NDArray[np.uint16],
    peak: NDArray[np.float32],
    peak_ts: NDArray[np.int64],
    peak_col: NDArray[np.int16],
    k: int,
    head: NDArray[np.int64],
    out: NDArray[np.float32],
    out_hist: NDArray[np.float32],
    out_peak: NDArray[np.float32],
    out_peak_ts: NDArray[np.int64],
    out_peak_col: NDArray[np.int16],
) -> int:
    """Merge the window's panes into row k of the outputs; returns 1, or 0 if it holds no row."""
    ring = acc64.shape[1]
    n64 = acc64.shape[2]
    n32 = acc32.shape[2]
    d = acc64.shape[3]
    rows = np.int64(0)
    first_pane = last_pane - panes + 1
    for e in range(first_pane, last_pane + 1):
        r = e % ring
        if meta[slot, W_RING + PANE_WORDS * r] == e:
            rows += meta[slot, W_RING + PANE_WORDS * r + 1]
    if rows == 0:
        return 0
    head[k, O_SLOT] = slot
    head[k, O_PANE] = last_pane
    head[k, O_ROWS] = rows
    out_peak[k, :] = np.float32(np.nan)
    out_peak_ts[k, :] = 0
    out_peak_col[k, :] = -1
    out_hist[k, :, :] = np.float32(0)
    for s in range(d):
        count = 0.0
        total = 0.0
        ssq = 0.0
        st = 0.0
        stt = 0.0
        sxt = 0.0
        low = np.float32(np.inf)
        high = np.float32(-np.inf)
        last = np.float32(np.nan)
        roc = np.float32(0)
        for e in range(first_pane, last_pane + 1):
            r = e % ring
            if meta[slot, W_RING + PANE_WORDS * r] != e:
                continue
            n = np.float64(acc32[slot, r, B_COUNT, s])
            count += n
            total += acc64[slot, r, A_SUM, s]
            ssq += acc64[slot, r, A_SSQ, s]
            low = min(low, acc32[slot, r, B_MIN, s])
            high = max(high, acc32[slot, r, B_MAX, s])
            if n > 0:
                last = acc32[slot, r, B_LAST, s]
            if n64 > A_ST:
                shift = (e - first_pane) * hop_us * 1e-6
                st += acc64[slot, r, A_ST, s] + n * shift
                stt += acc64[slot, r, A_STT, s] + 2.0 * shift * acc64[slot, r, A_ST, s] + n * shift * shift
                sxt += acc64[slot, r, A_SXT, s] + shift * acc64[slot, r, A_SUM, s]
            if n32 > B_ROC:
                roc = max(roc, acc32[slot, r, B_ROC, s])
            for b in range(hist.shape[3]):
                out_hist[k, s, b] += hist[slot, r, s, b]
        mean = total / count
        out[k, 0, s] = count
        out[k, 1, s] = mean
        out[k, 2, s] = np.sqrt(max(ssq / count - mean * mean, 0.0))
        out[k, 3, s] = low if count > 0 else np.float32(np.nan)
        out[k, 4, s] = high if count > 0 else np.float32(np.nan)
        out[k, 5, s] = last
        spread = count * stt - st * st
        out[k, 6, s] = (count * sxt - st * total) / spread if spread > 0 else np.nan
        out[k, 7, s] = roc if count > 0 else np.float32(np.nan)
        out[k, 8, s] = 1.0 - count / rows
    for e in range(first_pane, last_pane + 1):
        r = e % ring
        if meta[slot, W_RING + PANE_WORDS * r] != e:
            continue
        for q in range(peak.shape[2]):
            v = peak[slot, r, q]
            if v == v and not (v <= out_peak[k, q]):
                out_peak[k, q] = v
                out_peak_ts[k, q] = peak_ts[slot, r, q]
                out_peak_col[k, q] = peak_col[slot, r, q]
    return 1


@njit(cache=True, error_model="numpy", nogil=True)
def advance(
    first: int,
    count: int,
    slots: NDArray[np.int32],
    ts_us: NDArray[np.int64],
    values: NDArray[np.float32],
    order: NDArray[np.uint8],
    late: NDArray[np.uint8],
    surprise: NDArray[np.float32],
    column: NDArray[np.int16],
    panes: int,
    hop_us: int,
    grace_us: int,
    limits: NDArray[np.float32],
    meta: NDArray[np.int64],
    acc64: NDArray[np.float64],
    acc32: NDArray[np.float32],
    prev: NDArray[np.float32],
    hist: NDArray[np.uint16],
    peak: NDArray[np.float32],
    peak_ts: NDArray[np.int64],
    peak_col: NDArray[np.int16],
    closed: int,
    head: NDArray[np.int64],
    out: NDArray[np.float32],
    out_hist: NDArray[np.float32],
    out_peak: NDArray[np.float32],
    out_peak_ts: NDArray[np.int64],
    out_peak_col: NDArray[np.int16],
) -> tuple[int, int]:
    """Apply rows first..count-1. Returns (next row, windows closed so far).

    Stops early when the outputs have no room for all that one row can close. surprise (detectors, n) and column
    (detectors, n, TOP) are the rows' opinions. limits : float32 (2, d), histogram's low edge and bins per unit
    (0 = no histogram).
    """
    ring = acc64.shape[1]
    n64 = acc64.shape[2]
    n32 = acc32.shape[2]
    d = acc64.shape[3]
    bins = hist.shape[3]
    opinions = peak.shape[2]
    room = len(head) - (ring + panes)
    for i in range(first, count):
        if closed > room:
            return i, closed
        slot = np.int64(slots[i])
        ts = ts_us[i]
        pane = meta[slot, W_PANE]
        if order[i] == RESTART and pane != EMPTY and ts < meta[slot, W_WATERMARK]:
            pane = EMPTY  # the device's clock was set back: its open windows will not be completed
            for r in range(ring):
                meta[slot, W_RING + PANE_WORDS * r] = EMPTY
            meta[slot, W_PREV_TS] = EMPTY
        k = pane
        if pane == EMPTY:
            k = ts // hop_us
            meta[slot, W_PANE] = k
            meta[slot, W_CLOSE] = k
            meta[slot, W_WATERMARK] = ts
            _clear_pane(slot, k % ring, k, meta, acc64, acc32, hist, peak)
        else:
            since = ts - pane * hop_us
            if since >= hop_us or since < 0:
                k = ts // hop_us
            if ts > meta[slot, W_WATERMARK]:
                meta[slot, W_WATERMARK] = ts
                due = meta[slot, W_CLOSE]
                if ts >= (due + 1) * hop_us + grace_us:
                    last_due = (ts - grace_us) // hop_us - 1
                    for e in range(due, min(last_due, pane + panes - 1) + 1):
                        closed += _close(
                            slot, e, panes, hop_us, meta, acc64, acc32, hist, peak, peak_ts, peak_col,
                            closed, head, out, out_hist, out_peak, out_peak_ts, out_peak_col,
                        )  # fmt: skip
                    meta[slot, W_CLOSE] = last_due + 1
                if k > pane:
                    meta[slot, W_PANE] = k
            elif k + panes - 1 < meta[slot, W_CLOSE]:
                late[i] = 1
                continue
        r = k % ring
        at = W_RING + PANE_WORDS * r
        if meta[slot, at] != k:
            _clear_pane(slot, r, k, meta, acc64, acc32, hist, peak)
        meta[slot, at + 1] += 1
        newest = ts >= meta[slot, at + 2]
        if newest:
            meta[slot, at + 2] = ts
        for s in range(d):
            v = values[i, s]
            ok = v == v
            x = np.float64(v) if ok else 0.0
            acc64[slot, r, A_SUM, s] += x
            acc64[slot, r, A_SSQ, s] += x * x
        for s in range(d):
            v = values[i, s]
            ok = v == v
            acc32[slot, r, B_COUNT, s] += np.float32(1) if ok else np.float32(0)
            low = acc32[slot, r, B_MIN, s]
            high = acc32[slot, r, B_MAX, s]
            acc32[slot, r, B_MIN, s] = v if v < low else low
            acc32[slot, r, B_MAX, s] = v if v > high else high
            acc32[slot, r, B_LAST, s] = v if ok and newest else acc32[slot, r, B_LAST, s]
        if n64 > A_ST:
            tau = (ts - k * hop_us) * 1e-6
            for s in range(d):
                v = values[i, s]
                ok = v == v
                t = tau if ok else 0.0
                acc64[slot, r, A_ST, s] += t
                acc64[slot, r, A_STT, s] += t * t
                acc64[slot, r, A_SXT, s] += t * np.float64(v) if ok else 0.0
        if n32 > B_ROC and order[i] != 0:
            dt = ts - meta[slot, W_PREV_TS] if meta[slot, W_PREV_TS] != EMPTY else np.int64(0)
            rate = np.float32(1e6 / dt) if dt > 0 else np.float32(0)
            for s in range(d):
                v = abs(values[i, s] - prev[slot, s]) * rate
                acc32[slot, r, B_ROC, s] = v if v > acc32[slot, r, B_ROC, s] else acc32[slot, r, B_ROC, s]
            prev[slot, :] = values[i, :]
            meta[slot, W_PREV_TS] = ts
        for s in range(d if bins else 0):
            v = values[i, s]
            if v == v and limits[1, s] > 0:
                x = (v - limits[0, s]) * limits[1, s]
                b = np.int64(min(max(x, np.float32(0)), np.float32(bins - 1)))
                if hist[slot, r, s, b] < 65535:
                    hist[slot, r, s, b] += 1
        for q in range(opinions):
            v = surprise[q, i]
            if v == v and not (v <= peak[slot, r, q]):
                peak[slot, r, q] = v
                peak_ts[slot, r, q] = ts
                peak_col[slot, r, q] = column[q, i, 0]
    return count, closed


@njit(cache=True, error_model="numpy", nogil=True)
def close_all(
    slots: NDArray[np.int32],
    panes: int,
    hop_us: int,
    meta: NDArray[np.int64],
    acc64: NDArray[np.float64],
    acc32: NDArray[np.float32],
    hist: NDArray[np.uint16],
    peak: NDArray[np.float32],
    peak_ts: NDArray[np.int64],
    peak_col: NDArray[np.int16],
    first: int,
    head: NDArray[np.int64],
    out: NDArray[np.float32],
    out_hist: NDArray[np.float32],
    out_peak: NDArray[np.float32],
    out_peak_ts: NDArray[np.int64],
    out_peak_col: NDArray[np.int16],
) -> tuple[int, int]:
    """Close every open window of these slots, from position `first`; returns (next position, windows closed)."""
    closed = 0
    ring = acc64.shape[1]
    for i in range(first, len(slots)):
        if closed > len(head) - (ring + panes):
            return i, closed
        slot = np.int64(slots[i])
        pane = meta[slot, W_PANE]
        if pane == EMPTY:
            continue
        for e in range(meta[slot, W_CLOSE], pane + panes):
            closed += _close(
                slot, e, panes, hop_us, meta, acc64, acc32, hist, peak, peak_ts, peak_col,
                closed, head, out, out_hist, out_peak, out_peak_ts, out_peak_col,
            )  # fmt: skip
        meta[slot, W_CLOSE] = max(meta[slot, W_CLOSE], pane + panes)
    return len(slots), closed
