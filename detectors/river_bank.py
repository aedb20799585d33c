"""A bounded bank of river models, one a device, at window rate. The rule: state is plain arrays, never pickle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detectors.blocks import check_block, check_states, clear
from detectors.places import Places
from detectors.protocol import Block, DetectorSpec, Scores
from detectors.river_models import Joint, Model, ModelMaker

#: No value that a sensor means is as large.
_HUGE = 1e30
#: How far from a range, in its own widths, a value is taken to lie at most: where it is scored, where it is learnt.
_FAR_SCORED, _FAR_LEARNT = 1e6, 1.0


@dataclass(slots=True)
class _Device:
    """What is held for one device. low, high : float64 (d,), the range seen or declared; scores : float32
    (history,), a ring whose next place is told % history; rows learnt; held : rows in a stretch not learnt."""

    model: Model
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    scores: NDArray[np.float32]
    rows: int = 0
    told: int = 0
    held: int = 0


class RiverBank:
    """One river anomaly model for each of at most `devices_max` devices.

    Every feature is scaled to 0..1 by its declared limits, or by the device's own minimum and maximum so far
    (a value beyond them is scored beyond 0..1, then widens them). The model scores the row, then learns it. Its
    score becomes a surprise by its rank among the device's own last `history` scores:
    -log10((1 + how many were at least as high) / (1 + how many)). That is honest for any model, and it has a
    ceiling: `surprise_ceiling`, 3.0 for a history of 1000, so set alert thresholds below it. No columns are
    named: the models do not say.

    Meant for rows of window features: a row costs a thousand times as much as with `ewma`. HalfSpaceTrees find
    rows in sparse regions, jointly in all columns, and do not find what stays anomalous for more than a window of
    theirs. With running ranges, one wild value early squeezes all others together: declare `limits` where they are
    known.

    A row that alarmed others (`Block.alarm`) is scored and not learnt, but for what lasts longer than `hold_rows`
    rows: that is the new state of things. A row at which nothing alarms begins a new count.

    Places are given as `Places` says: first come, first served, those idle for `idle_us` make room.

    Parameters
    ----------
    columns : names of the d feature columns, at least one.
    model : dotted name of a detector in `river.anomaly` that learns without labels; see the table.
    params : its parameters. HalfSpaceTrees: 5 trees of height 4 and a window of 50 unless given; a model that
        takes a seed gets 0 unless given, because an unseeded one could not be restored.
    limits : column -> (low, high), for any of the columns.
    devices_max : places, at least 1.
    idle_us : event time without a row after which a device may be evicted, microseconds.
    history : scores that a device's rank is taken among, at least 30.
    warm_rows : rows that a model learns before its scores count; 0 = HalfSpaceTrees' window, for others 50 or what
        their own parameters say.
    on_restore : ``exact``: a restored device goes on bit for bit; possible for HalfSpaceTrees alone, whose node
        masses are copied out and in. ``warm``: a restored device starts anew and has no opinion until warm.
    hold : surprise of others from which a row is not learnt.
    hold_rows : the most rows of a stretch that are not.

    Notes
    -----
    river 0.26's detectors with their defaults at 20 columns, after 1000 rows: CPU time, and memory by tracemalloc,
    4 KiB of it the history. The bank's own share is some 20 us a row.

    ========================== ========= ===========
    `river.anomaly.`           us a row  KiB a device
    ========================== ========= ===========
    HalfSpaceTrees (ours)             42          99
    OneClassSVM                       66          49
    StandardAbsoluteDeviation         71          55
    GaussianScorer                    81         112
    LODA                             370         217
    PredictiveAnomalyDetection     1,400         332
    LocalOutlierFactor            31,000       1,236
    ========================== ========= ===========

    HalfSpaceTrees and LODA are built from the features of the first row learnt by river; here from all columns, so
    a device whose first row has a missing value gets the same model as any other. To LODA and LocalOutlierFactor a
    missing value is a 0; here it is the middle of its range. A model of one value (GaussianScorer,
    StandardAbsoluteDeviation, PredictiveAnomalyDetection) runs once a column, given the others, and the row's score
    is the largest. OneClassSVM's score is linear in the row: it sees one side only, and it never rests.

    Not taken: the filters (ThresholdFilter, QuantileFilter), which wrap a model, and anything outside
    `river.anomaly`.

    References
    ----------
    S. C. Tan, K. M. Ting, T. F. Liu, "Fast anomaly detection for streaming data", IJCAI 2011.
    """

    def __init__(
        self,
        columns: tuple[str, ...],
        *,
        model: str = "river.anomaly.HalfSpaceTrees",
        params: Mapping[str, Any] | None = None,
        limits: Mapping[str, tuple[float, float]] | None = None,
        devices_max: int = 256,
        idle_us: int = 3_600_000_000,
        history: int = 1000,
        warm_rows: int = 0,
        on_restore: Literal["exact", "warm"] = "exact",
        hold: float = 6.0,
        hold_rows: int = 200,
    ) -> None:
        if not columns:
            raise ValueError("columns: at least one is needed")
        if not 30 <= history <= 1_000_000:
            raise ValueError(f"history must lie in 30..1000000, not {history}")
        if warm_rows < 0 or hold_rows < 0:
            raise ValueError(f"warm_rows and hold_rows cannot be negative: {warm_rows}, {hold_rows}")
        if not hold > 0.0:
            raise ValueError(f"hold must be positive, not {hold}")
        self._maker = ModelMaker(model, params or {}, len(columns))
        if on_restore not in ("exact", "warm") or (on_restore == "exact" and not self._maker.trees):
            raise ValueError(
                f"on_restore must be 'warm' for {model} ('exact': HalfSpaceTrees only), not {on_restore!r}"
            )
        self._limits = {key: (float(low), float(high)) for key, (low, high) in (limits or {}).items()}
        for key, (low, high) in self._limits.items():
            if key not in columns or not low < high:
                raise ValueError(f"limits: {key!r} ({low}, {high}) is not a column with low < high")
        self._exact = on_restore == "exact"
        self._warm, self._history = warm_rows or self._maker.warm_rows, history
        self._hold, self._hold_rows = np.float32(hold), hold_rows
        self._spec = DetectorSpec(
            "river",
            2,
            "window",
            tuple(columns),
            {
                "model": model,
                "params": dict(self._maker.params),
                "limits": {key: list(pair) for key, pair in self._limits.items()},
                "devices_max": devices_max,
                "idle_us": idle_us,
                "history": history,
                "warm_rows": warm_rows,
                "on_restore": on_restore,
                "hold": float(hold),
                "hold_rows": hold_rows,
            },
        )
        self._free = np.array([c not in self._limits for c in columns])
        self._n_slots = 0
        self._places: Places[_Device] = Places(devices_max, idle_us, self._new)
        self._row = self._row_dtype(self._new().model if self._exact else None)

    def _row_dtype(self, model: Model | None) -> np.dtype[np.void]:
        """The layout of a snapshot. held 0 = no device; counts: rows, told, held rows, last_us, counter, first
        window."""
        if model is None:
            return np.dtype([("held", "<i8")])
        d, nodes = len(self._spec.columns), sum(1 for _ in _nodes(model))
        return np.dtype(
            [
                ("held", "<i8"),
                ("counts", "<i8", (6,)),
                ("low", "<f8", (d,)),
                ("high", "<f8", (d,)),
                ("l_mass", "<i4", (nodes,)),
                ("r_mass", "<i4", (nodes,)),
                ("scores", "<f4", (self._history,)),
            ]
        )

    @property
    def spec(self) -> DetectorSpec:
        return self._spec

    @property
    def state_nbytes(self) -> int:
        return self._row.itemsize

    @property
    def surprise_ceiling(self) -> float:
        """No score is higher: the rank of the highest of `history` scores says no more than that."""
        return float(np.log10(self._history + 1.0))

    @property
    def held(self) -> int:
        """Devices that have a model now."""
        return len(self._places)

    def _new(self) -> _Device:
        columns = self._spec.columns
        return _Device(
            self._maker.make(),
            np.array([self._limits.get(c, (np.inf, -np.inf))[0] for c in columns]),
            np.array([self._limits.get(c, (np.inf, -np.inf))[1] for c in columns]),
            np.zeros(self._history, np.float32),
        )

    def _unit(self, device: _Device, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The row in its device's ranges: 0..1 within, 0.5 where a range is empty."""
        width = device.high - device.low
        ready = width > 0.0
        return np.where(ready, (x - np.where(ready, device.low, 0.0)) / np.where(ready, width, 1.0), 0.5)

    def _score(self, device: _Device, x: dict[int, float]) -> float:
        """The model's score of a row; NaN while it is not warm."""
        return device.model.score(x) if device.rows >= self._warm else np.nan

    def _surprise(self, device: _Device, score: np.float32) -> float:
        """By the score's rank; NaN while the history is short."""
        n = min(device.told, self._history)
        if n < 30 or not np.isfinite(score):
            return np.nan
        higher = int(np.count_nonzero(device.scores[:n] >= score))
        return -float(np.log10((1.0 + higher) / (1.0 + n)))

    def _holds(self, device: _Device, alarm: np.float32) -> bool:
        """Whether a row is not to be learnt; counts those of the stretch."""
        if not alarm >= self._hold:
            device.held = 0
            return False
        device.held = min(device.held + 1, self._hold_rows + 1)
        return device.held <= self._hold_rows

    def _learn(
        self,
        device: _Device,
        x: NDArray[np.float64],
        unit: NDArray[np.float64],
        there: NDArray[np.intp],
        score: np.float32,
    ) -> None:
        if np.isfinite(score):
            device.scores[device.told % self._history] = score
            device.told += 1
        free = there[self._free[there]]
        if (x[free] < device.low[free]).any() or (x[free] > device.high[free]).any():
            device.low[free] = np.minimum(device.low[free], x[free])
            device.high[free] = np.maximum(device.high[free], x[free])
            unit = self._unit(device, x)
        device.model.learn(_row(unit, there, _FAR_LEARNT))
        device.rows += 1

    def reserve(self, n_slots: int) -> None:
        self._n_slots = max(self._n_slots, n_slots)

    def update(self, block: Block, out: Scores) -> None:
        n = check_block(block, len(self._spec.columns), out)
        clear(out, n)
        for i in range(n):
            slot = int(block.slots[i])
            if not 0 <= slot < self._n_slots:
                raise IndexError(f"row {i}: slot {slot} of {self._n_slots} reserved")
            x = block.values[i].astype(np.float64)
            there = np.flatnonzero(np.abs(x) < _HUGE)
            if len(there) == 0:
                continue
            device = self._places.at(slot, int(block.ts_us[i]))
            if device is None:
                continue
            unit = self._unit(device, x)
            score = np.float32(self._score(device, _row(unit, there, _FAR_SCORED)))
            out.surprise[i] = self._surprise(device, score)
            if block.alarm is None or not self._holds(device, block.alarm[i]):
                self._learn(device, x, unit, there, score)

    def forget(self, slots: NDArray[np.int32]) -> None:
        self._places.forget(slots.tolist())

    def snapshot(self, slots: NDArray[np.int32]) -> NDArray[np.uint8]:
        rows = np.zeros(len(slots), self._row)
        for row, slot in zip(rows, slots.tolist(), strict=True):
            device = self._places.get(slot)
            if device is None or not self._exact:
                continue
            river = _river(device.model)
            row["held"] = 1
            counts = (device.rows, device.told, device.held, self._places.last_us(slot))
            row["counts"] = (*counts, river.counter, int(river._first_window))  # noqa: SLF001
            row["low"], row["high"], row["scores"] = device.low, device.high, device.scores
            row["l_mass"] = [node.l_mass for node in _nodes(device.model)]
            row["r_mass"] = [node.r_mass for node in _nodes(device.model)]
        return rows.view(np.uint8).reshape(len(slots), self.state_nbytes)

    def restore(self, slots: NDArray[np.int32], states: NDArray[np.uint8]) -> None:
        """Devices that no place is left for, the longest unheard of first, get none: as if evicted."""
        check_states(slots, states, self.state_nbytes)
        self.forget(slots)
        rows = np.ascontiguousarray(states).view(self._row).reshape(len(slots))
        held = [(slot, row) for slot, row in zip(slots.tolist(), rows, strict=True) if row["held"] and self._exact]
        self._places.adopt((slot, self._restored(row), int(row["counts"][3])) for slot, row in held)

    def _restored(self, row: np.void) -> _Device:
        device = self._new()
        device.rows, device.told, device.held, _, counter, first = row["counts"].tolist()
        device.low, device.high, device.scores = row["low"].copy(), row["high"].copy(), row["scores"].copy()
        river = _river(device.model)
        river.counter, river._first_window = counter, bool(first)  # noqa: SLF001
        masses = zip(row["l_mass"].tolist(), row["r_mass"].tolist(), strict=True)
        for node, (left, right) in zip(_nodes(device.model), masses, strict=True):
            node.l_mass, node.r_mass = left, right
        return device


def _row(unit: NDArray[np.float64], there: NDArray[np.intp], far: float) -> dict[int, float]:
    """Column -> value, of those that are there, at most `far` beyond 0..1."""
    values = np.minimum(np.maximum(unit[there], -far), 1.0 + far)
    return dict(zip(there.tolist(), values.tolist(), strict=True))


def _river(model: Model) -> Any:
    """The river object of a model of all columns."""
    assert isinstance(model, Joint)
    return model.river


def _nodes(model: Model) -> Iterator[Any]:
    """Every node of a model of trees, always in the same order."""
    return (node for tree in _river(model)._tree_nodes for node in tree)  # noqa: SLF001 (shown nowhere else)
