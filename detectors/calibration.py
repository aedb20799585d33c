"""From a detector's nominal surprise to one that holds on each device. The rule: what is calibrated is how often
a stretch of rows is so strange, since stretches, not rows, become alerts."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detectors.blocks import check_states, grown, readonly
from detectors.surprise import CAP

#: Largest stretches that are kept of a device, float32 each: the tail is fitted to them.
PEAKS = 64
#: Stretches after which half of them are forgotten, so that the tail follows a device that changes.
STRETCHES_MAX = 4096
#: Stretches, peaks and shapes that the nominal law stands for before a device has shown its own.
PRIOR_STRETCHES, PRIOR_PEAKS, PRIOR_SHAPES, PRIOR_SHAPE = 20.0, 2.0, 40.0, 0.02
#: ... and peaks that one is never less sure of a tail's scale than.
UNSURE = 15.0
#: One in so many stretches belongs to the tail at most.
TAIL = 8
#: Of a fitted tail; below 0 it would end somewhere, and whatever lies beyond would be impossible.
SHAPE_MIN, SHAPE_MAX = 0.0, 0.9
#: Mean excess of a surprise whose p is right.
NOMINAL_SCALE = 1.0 / math.log(10.0)
_LEAST = 0.05  # where a tail may begin at the lowest

# Words of a slot behind its peaks, float32: stretches, peaks, rows of the open window, windows of the open stretch
# and their largest peak, alarming stretches in a row, where the tail begins, the surprise there, scale and shape of
# the tail; then the open window's largest rows.
(W_STRETCHES, W_PEAKS, W_ROWS, W_WINDOWS, W_BEST, W_HELD, W_FROM, W_SURPRISE, W_SCALE, W_SHAPE) = range(
    PEAKS, PEAKS + 10
)
W_TOP = PEAKS + 10
# Parameters of the kernel.
P_ROWS, P_WINDOWS, P_CONFIRM, P_HOLD, P_HOLD_STRETCHES, P_TRIES, P_TRUST = range(7)


@njit(cache=True, nogil=True, error_model="numpy")
def fit_tail(row: NDArray[np.float32], looks: float, stretch_rows: float) -> None:
    """Fit a slot's tail to its peaks: a generalised Pareto law by probability-weighted moments.

    The shape leans towards `PRIOR_SHAPE`. 1 / (number of peaks) is added to it: the law of the next excess when the
    scale is known from that few, so that the alarm rate is right on the average over devices. looks : independent
    tries that a stretch is nominally worth: strange rows come together, confirm_rows of them are one.
    """
    stretches, m = np.float64(row[W_STRETCHES]), np.int64(row[W_PEAKS])
    k = min(max(np.int64(8), np.int64(stretches / TAIL)), m - 1)
    if k < 1:
        start = math.log10(looks) + 1.0
        row[W_FROM], row[W_SURPRISE] = start, math.log10(stretch_rows) + 1.0
        row[W_SCALE], row[W_SHAPE] = NOMINAL_SCALE, PRIOR_SHAPE + 1.0 / UNSURE
        return
    start = max(np.float64(row[m - k - 1]), _LEAST)
    first = 0.0
    second = 0.0
    for i in range(k):
        excess = max(np.float64(row[m - k + i]) - start, 0.0)
        first += excess
        second += excess * (k - i - 0.65) / k
    first /= k
    second /= k
    apart = first - 2.0 * second
    shape = 2.0 - first / apart if apart > 1e-9 * first else SHAPE_MAX
    shape = min(shape, SHAPE_MAX) if first > 0.0 else PRIOR_SHAPE
    shape = max((k * shape + PRIOR_SHAPES * PRIOR_SHAPE) / (k + PRIOR_SHAPES), SHAPE_MIN)
    mean = (k * first + PRIOR_PEAKS * NOMINAL_SCALE) / (k + PRIOR_PEAKS)
    nominal = min(1.0, looks * 10.0**-start)
    rate = (k + PRIOR_STRETCHES * nominal) / (stretches + PRIOR_STRETCHES)
    row[W_FROM] = start
    row[W_SURPRISE] = math.log10(stretch_rows / rate)
    row[W_SCALE] = max(mean * (1.0 - shape), 1e-3)
    row[W_SHAPE] = shape + 1.0 / (k + UNSURE)


@njit(cache=True, nogil=True, error_model="numpy")
def _fit(row: NDArray[np.float32], prm: NDArray[np.float64]) -> None:
    stretch_rows = prm[P_ROWS] * prm[P_WINDOWS]
    fit_tail(row, stretch_rows / prm[P_CONFIRM], stretch_rows)


@njit(cache=True, nogil=True, error_model="numpy")
def calibrated(surprise: float, row: NDArray[np.float32]) -> float:
    """-log10 of how many stretches as strange as this begin a row, by the slot's tail; 0..CAP, rising."""
    start = np.float64(row[W_FROM])
    base = np.float64(row[W_SURPRISE])
    if surprise <= start:
        return base * surprise / start
    excess = (surprise - start) / row[W_SCALE]
    shape = np.float64(row[W_SHAPE])
    if abs(shape) < 1e-3:
        return min(CAP, base + excess / math.log(10.0))
    inner = 1.0 + shape * excess
    return min(CAP, base + math.log10(inner) / shape) if inner > 0.0 else CAP


@njit(cache=True, nogil=True, error_model="numpy")
def _level(surprise: float, row: NDArray[np.float32], prm: NDArray[np.float64]) -> float:
    """Between the detector's own surprise and the tail's, the nearer to this the more stretches were seen."""
    own = prm[P_TRUST] / max(prm[P_TRUST] + row[W_STRETCHES], 1.0)
    return own * surprise + (1.0 - own) * calibrated(surprise, row)


@njit(cache=True, nogil=True, error_model="numpy")
def _nominal(level: float, row: NDArray[np.float32]) -> float:
    """The inverse of `calibrated` above the tail's start."""
    above = max(level - row[W_SURPRISE], 0.0) * math.log(10.0)
    shape = np.float64(row[W_SHAPE])
    if abs(shape) < 1e-3:
        return row[W_FROM] + row[W_SCALE] * above
    return row[W_FROM] + row[W_SCALE] * (math.exp(shape * above) - 1.0) / shape


@njit(cache=True, nogil=True, error_model="numpy")
def _insert(row: NDArray[np.float32], peak: np.float32) -> None:
    """Put a peak among the slot's largest, which ascend; once some were left out, only one above the least."""
    m = np.int64(row[W_PEAKS])
    if m < PEAKS and (m + 1 >= row[W_STRETCHES] or peak > row[0]):
        j = m
        while j > 0 and row[j - 1] > peak:
            row[j] = row[j - 1]
            j -= 1
        row[j] = peak
        row[W_PEAKS] = m + 1
    elif m == PEAKS and peak > row[0]:
        j = np.int64(0)
        while j + 1 < PEAKS and row[j + 1] < peak:
            row[j] = row[j + 1]
            j += 1
        row[j] = peak


@njit(cache=True, nogil=True, error_model="numpy")
def _end_window(row: NDArray[np.float32], prm: NDArray[np.float64]) -> None:
    """The open window is complete; learn the stretch if it was its last."""
    confirm = np.int64(prm[P_CONFIRM])
    row[W_BEST] = max(row[W_BEST], row[W_TOP])
    row[W_TOP : W_TOP + confirm] = np.float32(-1)
    row[W_ROWS] = np.float32(0)
    row[W_WINDOWS] += np.float32(1)
    if row[W_WINDOWS] < prm[P_WINDOWS]:
        return
    peak = row[W_BEST]
    row[W_BEST] = np.float32(0)
    row[W_WINDOWS] = np.float32(0)
    take = True
    if _level(np.float64(peak), row, prm) >= prm[P_HOLD]:
        row[W_HELD] = min(row[W_HELD] + np.float32(1), np.float32(1e6))
        take = row[W_HELD] == np.float32(1) or row[W_HELD] > prm[P_HOLD_STRETCHES]
        peak = min(peak, np.float32(_nominal(prm[P_HOLD], row)))
    else:
        row[W_HELD] = np.float32(0)
    if not take:
        return
    row[W_STRETCHES] += np.float32(1)
    _insert(row, peak)
    if row[W_STRETCHES] >= STRETCHES_MAX:
        row[W_STRETCHES] = np.float32(STRETCHES_MAX // 2)
        half = np.int64(0.5 * row[W_PEAKS])
        odd = np.int64(row[W_PEAKS]) - 2 * half
        for j in range(half):  # every other, the largest one among them
            row[j] = row[2 * j + 1 + odd]
        row[half:PEAKS] = np.float32(0)
        row[W_PEAKS] = half
    _fit(row, prm)


@njit(cache=True, nogil=True, error_model="numpy")
def _update(
    slots: NDArray[np.int32], prm: NDArray[np.float64], rows: NDArray[np.float32], surprise: NDArray[np.float32]
) -> int:
    """Calibrate each opinion in place, then learn it. Returns a row whose slot is out of range, or -1."""
    confirm, window_rows = np.int64(prm[P_CONFIRM]), np.float32(prm[P_ROWS])
    for i in range(len(slots)):
        slot = np.int64(slots[i])
        if slot < 0 or slot >= len(rows):
            return i
        told = surprise[i]
        if not told >= np.float32(0):
            continue
        row = rows[slot]
        if row[W_FROM] == np.float32(0):
            _fit(row, prm)
            row[W_TOP : W_TOP + confirm] = np.float32(-1)
        surprise[i] = max(_level(np.float64(told), row, prm) - prm[P_TRIES], 0.0)
        if told > row[W_TOP]:
            j = W_TOP
            while j + 1 < W_TOP + confirm and row[j + 1] < told:
                row[j] = row[j + 1]
                j += 1
            row[j] = told
        row[W_ROWS] += np.float32(1)
        if row[W_ROWS] >= window_rows:
            _end_window(row, prm)
    return -1


class TailCalibration:
    """Makes the surprises of one detector honest on each device, by the tail of what the device showed before.

    An alert opens when `confirm_rows` within `window_rows` are strange, and then covers a stretch of time, however
    many rows of it are. So a device's rows are cut into windows, of each the confirm_rows-th largest surprise is
    its peak, and `windows` of them are a stretch, whose peak is their largest. The largest `PEAKS` peaks are kept,
    a generalised Pareto law is fitted above the smallest of the tail, and a row's calibrated surprise is -log10 of
    the rate, a row, at which stretches reach its level. An alert at level -log10(r) is then raised r times a row in
    health, whatever the detector's own idea of a p-value: that is how a budget of false alarms becomes a threshold.

    It works where health is much the same from day to day; it follows changes by forgetting half after
    `STRETCHES_MAX` stretches. A young device leans on the nominal law. A stretch whose level is `hold` or more is
    taken for a fault: of a run of them the first is learnt, cut to that level, and the others are not, for at most
    `hold_stretches`; then the new state of things is learnt. It cannot know a tail that is heavier than all it saw.

    Parameters
    ----------
    confirm_rows : strange rows that open an alert, 1..window_rows.
    window_rows : ... within so many.
    windows : of a stretch: what an alert covers until the next one may open, at least.
    hold : calibrated surprise from which a stretch is taken for a fault.
    hold_stretches : of a fault that are not learnt.
    trust : stretches that the detector's own law is worth: the calibrated surprise is the mean of its own and of
        what the device's tail says, weighed by `trust` and by the stretches seen. Large for a detector whose
        surprises are right by declaration or training, small for one whose p-values are formal.
    tries : how many detectors are asked: each gets its share of the budget (Bonferroni).

    Notes
    -----
    State: 4 (74 + confirm_rows) bytes a slot. NaN (no opinion) stays NaN and counts for nothing.

    References
    ----------
    A. Siffer, P.-A. Fouque, A. Termier, C. Largouet, "Anomaly detection in streams with extreme value theory", KDD
    2017 (SPOT): peaks over a threshold, learnt unless alarming. Here the peaks are those of stretches (runs of
    exceedances are one event), the threshold moves, memory is fixed, and the fit is J. R. M. Hosking, J. R. Wallis,
    "Parameter and quantile estimation for the generalized Pareto distribution", Technometrics 29 (1987), sound for
    small samples.
    """

    def __init__(
        self,
        *,
        confirm_rows: int = 1,
        window_rows: int = 64,
        windows: int = 1,
        hold: float = 6.0,
        hold_stretches: int = 30,
        trust: float = 0.0,
        tries: int = 1,
    ) -> None:
        if not 1 <= confirm_rows <= window_rows:
            raise ValueError(f"confirm_rows must lie in 1..window_rows ({window_rows}), not {confirm_rows}")
        if not (1 <= window_rows <= 100_000 and 1 <= windows <= 100_000):
            raise ValueError(f"window_rows and windows must lie in 1..100000, not {window_rows}, {windows}")
        if not 0.0 < hold <= CAP or hold_stretches < 0 or tries < 1 or not trust >= 0.0:
            raise ValueError(
                f"hold {hold}, hold_stretches {hold_stretches}, tries {tries}, trust {trust}: out of range"
            )
        self.params = {
            "confirm_rows": confirm_rows,
            "window_rows": window_rows,
            "windows": windows,
            "hold": float(hold),
            "hold_stretches": hold_stretches,
            "trust": float(trust),
        }
        self._confirm = confirm_rows
        self._prm = np.array(
            [window_rows, windows, confirm_rows, hold, hold_stretches, math.log10(tries), trust], np.float64
        )
        self._rows: NDArray[np.float32] = np.zeros((0, W_TOP + confirm_rows), np.float32)

    @property
    def meaning(self) -> str:
        """What its state depends on: `tries` moves no state."""
        return f"tail:1 {sorted(self.params.items())}"

    @property
    def state_nbytes(self) -> int:
        return 4 * (W_TOP + self._confirm)

    def reserve(self, n_slots: int) -> None:
        self._rows = grown(self._rows, n_slots)

    def update(self, slots: NDArray[np.int32], surprise: NDArray[np.float32]) -> None:
        """Replace each surprise by the calibrated one, then learn it, in order.

        slots : int32 (n,). surprise : float32 (n,), written to; NaN = no opinion.
        """
        bad = _update(readonly(slots), self._prm, self._rows, surprise)
        if bad >= 0:
            raise IndexError(f"row {bad}: slot {slots[bad]} of {len(self._rows)} reserved")

    def forget(self, slots: NDArray[np.int32]) -> None:
        self._rows[slots] = 0

    def snapshot(self, slots: NDArray[np.int32]) -> NDArray[np.uint8]:
        return self._rows[slots].view(np.uint8)

    def restore(self, slots: NDArray[np.int32], states: NDArray[np.uint8]) -> None:
        check_states(slots, states, self.state_nbytes)
        self._rows[slots] = np.ascontiguousarray(states).view(np.float32)
