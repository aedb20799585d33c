"""Whether a detector's own scores of a device drift, by ADWIN. The rule: a signal for people who run the fleet,
never an alert: what it keeps is bounded, in memory only, and begins anew after a restore."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.places import Places

#: Surprises are cut here: ADWIN wants values of a bounded range, and beyond it they are alarms, not drift.
HIGHEST = 10.0


#: The newest peaks, whose mean is told beside that of those before.
RECENT = 16


class Drifted(NamedTuple):
    """The scores of one detector changed their mean. row : whose window showed it; after : the mean of the `RECENT`
    newest peaks, cut at `HIGHEST`; before : of those before them, since the last drift."""

    row: int
    detector: int
    before: float
    after: float


class _Watched:
    """One detector's peaks of one device."""

    __slots__ = ("adwin", "count", "recent", "total")

    def __init__(self, adwin: Any) -> None:
        self.adwin = adwin
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.count, self.total = 0, 0.0

    def add(self, peak: float) -> tuple[float, float] | None:
        """The means before and after, if this peak shows a drift; then all begins anew, as river's ADWIN does."""
        self.count += 1
        self.total += peak
        self.recent.append(peak)
        self.adwin.update(peak)
        if not self.adwin.drift_detected:
            return None
        newest = sum(self.recent)
        older = self.count - len(self.recent)
        before = (self.total - newest) / older if older else self.total / self.count
        after = newest / len(self.recent)
        self.recent.clear()
        self.count, self.total = 0, 0.0
        return before * HIGHEST, after * HIGHEST


class DriftWatch:
    """One ADWIN for each device and detector, over the peaks of closed windows.

    What a detector thinks of a healthy device has a distribution that stays. Where its mean moves and remains, the
    device, its surroundings or its software are not what was learnt, or the detector is not any more what it was:
    no anomaly at any one time, and nothing that an alert's threshold sees. ADWIN keeps the peaks since the last
    drift, and tells of one where two parts of them have means further apart than chance would have it at `delta`.

    It works for changes that last: on exponential peaks of mean 1.7, a move of the mean by 1 is told after about
    110 windows, by 2 after 75, by 0.5 after 330, the median of 20 runs, and none in 120,000 windows without.
    It is not an alert, and not a reason to learn anew.

    Places are given as `Places` says. Nothing is kept in a snapshot: river's ADWIN shows no state to write. So what
    is told after a restore is not what would have been told without it; devices' isolation ends where places do.

    Parameters
    ----------
    detectors : how many are watched.
    delta : see above.
    devices_max : places.
    idle_us : event time without a window after which a device may be evicted, microseconds.

    Notes
    -----
    Some 0.9 us a window and 4 KiB a device, for each detector (river 0.26, CPU time). river's ADWIN begins anew
    after a drift, where the paper's keeps the newer part.

    References
    ----------
    A. Bifet, R. Gavalda, "Learning from time-changing data with adaptive windowing", SDM 2007.
    """

    def __init__(
        self, detectors: int, *, delta: float = 0.002, devices_max: int = 1024, idle_us: int = 3_600_000_000
    ) -> None:
        from river.drift import ADWIN  # here, because it takes half a second

        if detectors < 1:
            raise ValueError(f"detectors must be at least 1, not {detectors}")
        if not 0.0 < delta < 1.0:
            raise ValueError(f"delta must lie between 0 and 1, not {delta}")
        self._detectors = detectors

        def make() -> list[_Watched]:
            return [_Watched(ADWIN(delta=delta)) for _ in range(detectors)]

        self._places: Places[list[_Watched]] = Places(devices_max, idle_us, make)

    @property
    def held(self) -> int:
        """Devices that are watched now."""
        return len(self._places)

    def update(
        self, slots: NDArray[np.int32], ts_us: NDArray[np.int64], peaks: NDArray[np.float32]
    ) -> list[Drifted]:
        """Add closed windows, in order; what they show.

        slots : int32 (n,). ts_us : int64 (n,), the windows' ends. peaks : float32 (n, detectors), the largest
        surprise in each, NaN = no opinion; a row of NaN only is passed over.
        """
        if peaks.shape != (len(slots), self._detectors) or len(ts_us) != len(slots):
            raise ValueError(f"peaks must be ({len(slots)}, {self._detectors}), not {peaks.shape}")
        found = []
        scaled = np.clip(peaks.astype(np.float64), 0.0, HIGHEST) / HIGHEST
        told = np.flatnonzero(~np.isnan(scaled).all(axis=1))
        rows = zip(told.tolist(), slots[told].tolist(), ts_us[told].tolist(), scaled[told].tolist(), strict=True)
        for row, slot, at_us, values in rows:
            for q, watched in enumerate(self._places.at(slot, at_us) or ()):
                if values[q] == values[q] and (means := watched.add(values[q])) is not None:
                    found.append(Drifted(row, q, *means))
        return found

    def forget(self, slots: Iterable[int]) -> None:
        """Begin anew with these devices."""
        self._places.forget(slots)
