"""The windows of one device class: arrays in, closed windows out. The rule: arrays here, time in the kernels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.core.windows import EMPTY, FEATURES, PANE_WORDS, W_RING, WindowSpec, advance, close_all
from telemetry.catalog import Catalog


@dataclass(slots=True)
class Closed:
    """n closed windows, views that are good until the next step.

    head : int64 (n, 3), slot, last pane, rows. values : float32 (n, 9, d), in the order of `FEATURES` without
    hist. hist : float32 (n, d, bins). peak : float32 (n, q), each detector's largest surprise, NaN = none,
    peak_ts : int64 (n, q) its event time, peak_col : int16 (n, q) its guilty column or -1.
    """

    head: NDArray[np.int64]
    values: NDArray[np.float32]
    hist: NDArray[np.float32]
    peak: NDArray[np.float32]
    peak_ts: NDArray[np.int64]
    peak_col: NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.head)


class WindowStage:
    """Windows of every slot of one class.

    Parameters
    ----------
    opinions : how many detectors' surprises are followed to their peak in each window; 0 = none.
    """

    def __init__(self, spec: WindowSpec, catalog: Catalog, opinions: int, closed_max: int = 2048) -> None:
        self.spec = spec
        self.d = len(catalog.signals)
        self.opinions = opinions
        self.closed_max = max(closed_max, 2 * (spec.ring + spec.panes))
        self._limits = self._histogram_limits(catalog)
        self._state: dict[str, NDArray[np.generic]] = {}
        self._capacity = 0
        self.reserve(16)
        n, d, bins, q = self.closed_max, self.d, spec.bins, opinions
        self._out = Closed(
            np.zeros((n, 3), np.int64),
            np.zeros((n, len(FEATURES) - 1, d), np.float32),
            np.zeros((n, d if bins else 0, bins), np.float32),
            np.zeros((n, q), np.float32),
            np.zeros((n, q), np.int64),
            np.zeros((n, q), np.int16),
        )

    def _histogram_limits(self, catalog: Catalog) -> NDArray[np.float32]:
        """float32 (2, d): low edge and bins per unit; a signal without a declared range has no histogram."""
        limits = catalog.limits()
        span = limits[:, 1] - limits[:, 0]
        out = np.zeros((2, self.d), np.float32)
        ok = np.isfinite(span)
        out[0, ok] = limits[ok, 0]
        out[1, ok] = self.spec.hist_bins / span[ok]
        return out

    def _shapes(self, n: int) -> dict[str, NDArray[np.generic]]:
        spec, d, ring = self.spec, self.d, self.spec.ring
        bins = spec.bins
        return {
            "meta": np.full((n, W_RING + PANE_WORDS * ring), EMPTY, np.int64),
            "acc64": np.zeros((n, ring, 5 if spec.slope else 2, d), np.float64),
            "acc32": np.zeros((n, ring, 5 if spec.roc else 4, d), np.float32),
            "prev": np.full((n, d if spec.roc else 0), np.nan, np.float32),
            "hist": np.zeros((n, ring, d if bins else 0, bins), np.uint16),
            "peak": np.full((n, ring, self.opinions), np.nan, np.float32),
            "peak_ts": np.zeros((n, ring, self.opinions), np.int64),
            "peak_col": np.full((n, ring, self.opinions), -1, np.int16),
        }

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in self._state.values())

    @property
    def state_nbytes(self) -> int:
        """Bytes of one slot's snapshot."""
        return sum(a[0].nbytes for a in self._state.values())

    def reserve(self, n_slots: int) -> None:
        """Room for slots 0..n_slots-1."""
        if n_slots <= self._capacity:
            return
        new = self._shapes(n_slots)
        for name, old in self._state.items():
            new[name][: self._capacity] = old
        self._state, self._capacity = new, n_slots

    def forget(self, slots: NDArray[np.int32]) -> None:
        blank = self._shapes(1)
        for name, array in self._state.items():
            array[slots] = blank[name][0]

    def snapshot(self, slots: NDArray[np.int32]) -> NDArray[np.uint8]:
        """uint8 (len(slots), state_nbytes)."""
        n = len(slots)
        parts = [a[slots].reshape(n, -1).view(np.uint8) for a in self._state.values() if a[0].nbytes]
        return np.hstack(parts) if n else np.zeros((0, self.state_nbytes), np.uint8)

    def restore(self, slots: NDArray[np.int32], states: NDArray[np.uint8]) -> None:
        """The inverse of `snapshot`."""
        if states.shape != (len(slots), self.state_nbytes):
            raise ValueError(f"window state has shape {states.shape}, not {(len(slots), self.state_nbytes)}")
        at = 0
        for array in self._state.values():
            size = array[0].nbytes
            if size:
                piece = np.ascontiguousarray(states[:, at : at + size])
                array[slots] = piece.view(array.dtype).reshape(len(slots), *array.shape[1:])
                at += size

    def _head(self, n: int) -> Closed:
        o = self._out
        return Closed(o.head[:n], o.values[:n], o.hist[:n], o.peak[:n], o.peak_ts[:n], o.peak_col[:n])

    def advance(
        self,
        slots: NDArray[np.int32],
        ts_us: NDArray[np.int64],
        values: NDArray[np.float32],
        order: NDArray[np.uint8],
        late: NDArray[np.uint8],
        surprise: NDArray[np.float32],
        column: NDArray[np.int16],
    ) -> Iterator[Closed]:
        """Apply a block's rows; yields the windows that they close, in bounded portions. Marks late rows."""
        s, o, spec = self._state, self._out, self.spec
        first = 0
        while first < len(slots):
            first, closed = advance(
                first, len(slots), slots, ts_us, values, order, late, surprise, column,
                spec.panes, spec.hop_us, spec.grace_us, self._limits,
                s["meta"], s["acc64"], s["acc32"], s["prev"], s["hist"], s["peak"], s["peak_ts"], s["peak_col"],
                0, o.head, o.values, o.hist, o.peak, o.peak_ts, o.peak_col,
            )  # fmt: skip
            if closed:
                yield self._head(closed)

    def close_all(self, slots: NDArray[np.int32]) -> Iterator[Closed]:
        """Close what is open, as at the end of a recording; yields the windows in bounded portions."""
        s, o, spec = self._state, self._out, self.spec
        first = 0
        while first < len(slots):
            first, closed = close_all(
                slots, spec.panes, spec.hop_us,
                s["meta"], s["acc64"], s["acc32"], s["hist"], s["peak"], s["peak_ts"], s["peak_col"],
                first, o.head, o.values, o.hist, o.peak, o.peak_ts, o.peak_col,
            )  # fmt: skip
            if closed:
                yield self._head(closed)
