"""What detectors see of a row. The rule: levels as they are, counters as their increase, positions not at all.

A signal without a stationary mean (latitude, odometer, state of charge) has no normal value to be surprised at;
a counter has a normal increase. Both stay in the windows' features as they are.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from telemetry.catalog import Catalog


@njit(cache=True, error_model="numpy", nogil=True)
def _select(
    slots: NDArray[np.int32],
    values: NDArray[np.float32],
    columns: NDArray[np.int64],
    counter: NDArray[np.int64],
    last: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """counter : for each watched column its place in `last`, or -1. A counter that fell was reset: no increase."""
    for i in range(len(slots)):
        slot = np.int64(slots[i])
        for w in range(len(columns)):
            v = values[i, columns[w]]
            c = counter[w]
            if c >= 0:
                before = last[slot, c]
                if v == v:
                    last[slot, c] = v
                v = v - before if v >= before else np.float32(np.nan)
            out[i, w] = v


class WatchStage:
    """The watched columns of one class, and each slot's last counter values."""

    def __init__(self, catalog: Catalog) -> None:
        self.columns = np.array(catalog.monitored, np.int64)
        counters = [i for i in catalog.monitored if catalog.signals[i].nature == "counter"]
        self._counter = np.array([counters.index(i) if i in counters else -1 for i in catalog.monitored], np.int64)
        self._count = len(counters)
        self.whole = len(self.columns) == len(catalog.signals) and not counters
        self._last = np.full((1, self._count), np.nan, np.float32)

    @property
    def nbytes(self) -> int:
        return self._last.nbytes

    @property
    def state_nbytes(self) -> int:
        return 4 * self._count

    def reserve(self, n_slots: int) -> None:
        if n_slots > len(self._last):
            more = np.full((n_slots, self._count), np.nan, np.float32)
            more[: len(self._last)] = self._last
            self._last = more

    def forget(self, slots: NDArray[np.int32]) -> None:
        self._last[slots] = np.nan

    def snapshot(self, slots: NDArray[np.int32]) -> NDArray[np.uint8]:
        """uint8 (len(slots), state_nbytes)."""
        return self._last[slots].view(np.uint8).reshape(len(slots), self.state_nbytes)

    def restore(self, slots: NDArray[np.int32], states: NDArray[np.uint8]) -> None:
        """The inverse of `snapshot`."""
        if self._count:
            self._last[slots] = np.ascontiguousarray(states).view(np.float32)

    def select(self, slots: NDArray[np.int32], values: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 (n, watched): what detectors see of float32 (n, signals)."""
        if self.whole:
            return values
        out = np.empty((len(slots), len(self.columns)), np.float32)
        _select(slots, values, self.columns, self._counter, self._last, out)
        return out

    def name(
        self,
        column: NDArray[np.int16],
        expected: NDArray[np.float32],
        values: NDArray[np.float32],
        seen: NDArray[np.float32],
    ) -> None:
        """Turn opinions on what was seen into ones on the row, in place.

        Parameters
        ----------
        column : (n, TOP), watched columns become the catalogue's; -1 stays.
        expected : (n, TOP), of a counter the increase becomes the total, to be compared with the row's.
        values, seen : (n, signals), (n, watched): what `select` was given and what it gave.
        """
        if self.whole:
            return
        row, at = np.nonzero(column >= 0)
        watched = column[row, at]
        if self._count:
            of_counter = self._counter[watched] >= 0
            r, k, w = row[of_counter], at[of_counter], watched[of_counter]
            expected[r, k] += values[r, self.columns[w]] - seen[r, w]
        column[row, at] = self.columns[watched]
