"""A bounded bank of river models, one a device, at window rate. The rule: state is plain arrays, never pickle."""

from __future__ import annotations

import difflib
import inspect
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detectors.blocks import check_block, check_states, clear
from detectors.protocol import Block, DetectorSpec, Scores

_PREFIX = "river.anomaly."
_SMALL_TREES = {"n_trees": 5, "height": 4, "window_size": 50}


def _model_class(path: str) -> type[Any]:
    """The river anomaly detector of this dotted name. River is imported here: it takes half a second, and most
    workers have no use for it.

    Raises
    ------
    ValueError : it is not one of `river.anomaly`'s detectors.
    """
    from river import anomaly, base

    known = [
        name
        for name, cls in vars(anomaly).items()
        if inspect.isclass(cls) and issubclass(cls, base.AnomalyDetector) and not inspect.isabstract(cls)
    ]
    name = path.removeprefix(_PREFIX)
    if path.startswith(_PREFIX) and name in known:
        found: type[Any] = getattr(anomaly, name)
        return found
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    raise ValueError(f"model: no anomaly detector {path!r}; did you mean {_PREFIX}{near[0]}?")


@dataclass(slots=True)
class _Device:
    """What is held for one device. low, high : float64 (d,), the range seen or declared; scores : float32
    (history,), a ring whose next place is told % history; rows learnt; last_us : event time of its last row."""

    model: Any
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    scores: NDArray[np.float32]
    rows: int = 0
    told: int = 0
    last_us: int = 0


class RiverBank:
    """One river anomaly model for each of at most `devices_max` devices.

    Every feature is scaled to 0..1 by its declared limits, or by the device's own minimum and maximum so far
    (a value beyond them is scored beyond 0..1, then widens them). The model scores the row, then learns it. Its
    score becomes a surprise by its rank among the device's own last `history` scores:
    -log10((1 + how many were at least as high) / (1 + how many)). That is honest for any model, and it has a
    ceiling: `surprise_ceiling`, 3.0 for a history of 1000, so set alert thresholds below it. No columns are
    named: the models do not say.

    Meant for rows of window features: HalfSpaceTrees of the default size cost some 20 us a row and 44 KiB a
    device, five hundred times as much as `ewma`. It finds rows in sparse regions, jointly in all columns, and
    does not find what stays anomalous for more than a window of it. With running ranges, one wild value early
    squeezes all others together: declare `limits` where they are known.

    Places are given first come, first served. When all are taken, a new device gets the place of the one that
    was heard of longest ago if that is more than `idle_us` before the new one's row, in event time; what the
    evicted one had learnt is lost. Otherwise it gets no opinion. Devices are isolated from one another up to that.

    Parameters
    ----------
    columns : names of the d feature columns, at least one.
    model : dotted name of a detector in `river.anomaly` that learns without labels.
    params : its parameters. HalfSpaceTrees: 5 trees of height 4 and a window of 50 unless given; a model that
        takes a seed gets 0 unless given, because an unseeded one could not be restored.
    limits : column -> (low, high), for any of the columns.
    devices_max : places, at least 1.
    idle_us : event time without a row after which a device may be evicted, microseconds.
    history : scores that a device's rank is taken among, at least 30.
    warm_rows : rows that a model learns before its scores count; 0 = HalfSpaceTrees' window, 50 for others.
    on_restore : ``exact``: a restored device goes on bit for bit; possible for HalfSpaceTrees alone, whose node
        masses are copied out and in. ``warm``: a restored device starts anew and has no opinion until warm.

    Notes
    -----
    river 0.26: trees are built from the features of the first row learnt. Here they are built from all columns,
    so a device whose first row has a missing value gets the same trees as any other.

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
    ) -> None:
        if not columns:
            raise ValueError("columns: at least one is needed")
        if not 1 <= devices_max <= 65536:
            raise ValueError(f"devices_max must lie in 1..65536, not {devices_max}")
        if not 30 <= history <= 1_000_000:
            raise ValueError(f"history must lie in 30..1000000, not {history}")
        if idle_us < 0 or warm_rows < 0:
            raise ValueError(f"idle_us and warm_rows cannot be negative: {idle_us}, {warm_rows}")
        self._class = _model_class(model)
        self._trees = trees = model == _PREFIX + "HalfSpaceTrees"
        if on_restore not in ("exact", "warm") or (on_restore == "exact" and not trees):
            raise ValueError(
                f"on_restore must be 'warm' for {model} ('exact': HalfSpaceTrees only), not {on_restore!r}"
            )
        self._params = {**(_SMALL_TREES if trees else {}), **(params or {})}
        accepted = inspect.signature(self._class).parameters
        wrong = [key for key in self._params if key not in accepted]
        if wrong:
            raise ValueError(f"params: {model} has no {', '.join(wrong)}; it has {', '.join(accepted)}")
        if "seed" in accepted:
            self._params.setdefault("seed", 0)
        self._limits = {key: (float(low), float(high)) for key, (low, high) in (limits or {}).items()}
        for key, (low, high) in self._limits.items():
            if key not in columns or not low < high:
                raise ValueError(f"limits: {key!r} ({low}, {high}) is not a column with low < high")
        self._exact = on_restore == "exact"
        self._warm = warm_rows or (self._params["window_size"] if trees else 50)
        self._history, self._idle_us, self._devices_max = history, idle_us, devices_max
        self._spec = DetectorSpec(
            "river",
            1,
            "window",
            tuple(columns),
            {
                "model": model,
                "params": dict(self._params),
                "limits": {key: list(pair) for key, pair in self._limits.items()},
                "devices_max": devices_max,
                "idle_us": idle_us,
                "history": history,
                "warm_rows": warm_rows,
                "on_restore": on_restore,
            },
        )
        self._n_slots = 0
        self._devices: OrderedDict[int, _Device] = OrderedDict()  # longest unheard of first
        self._row = self._row_dtype(self._new(0).model if self._exact else None)

    def _row_dtype(self, model: Any | None) -> np.dtype[np.void]:
        """The layout of a snapshot. held 0 = no device; counts: rows, told, last_us, counter, first window."""
        if model is None:
            return np.dtype([("held", "<i8")])
        d = len(self._spec.columns)
        nodes = sum(len(nodes) for nodes in model._tree_nodes)  # noqa: SLF001 (river shows its trees nowhere else)
        return np.dtype(
            [
                ("held", "<i8"),
                ("counts", "<i8", (5,)),
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
        return len(self._devices)

    def _new(self, ts_us: int) -> _Device:
        model = self._class(**self._params)
        columns = self._spec.columns
        if self._trees:
            model.learn_one(dict.fromkeys(range(len(columns)), 0.5))
            for nodes in model._tree_nodes:  # noqa: SLF001
                for node in nodes:
                    node.l_mass = node.r_mass = 0
            model.counter = 0
            model._first_window = True  # noqa: SLF001
        return _Device(
            model,
            np.array([self._limits.get(c, (np.inf, -np.inf))[0] for c in columns]),
            np.array([self._limits.get(c, (np.inf, -np.inf))[1] for c in columns]),
            np.zeros(self._history, np.float32),
            last_us=ts_us,
        )

    def _place(self, slot: int, ts_us: int) -> _Device | None:
        """The slot's device, made if there is a place for it, and now the one heard of last."""
        device = self._devices.get(slot)
        if device is None:
            if len(self._devices) >= self._devices_max:
                longest, idle = next(iter(self._devices.items()))
                if ts_us - idle.last_us <= self._idle_us:
                    return None
                del self._devices[longest]
            device = self._devices[slot] = self._new(ts_us)
        self._devices.move_to_end(slot)
        device.last_us = max(device.last_us, ts_us)
        return device

    def _scaled(self, device: _Device, x: NDArray[np.float64], there: NDArray[np.intp]) -> dict[int, float]:
        """Feature -> value in 0..1 by the device's range, 0.5 where that is empty; only columns that are there."""
        low = device.low[there]
        width = device.high[there] - low
        ready = width > 0.0
        scaled = np.where(ready, (x[there] - np.where(ready, low, 0.0)) / np.where(ready, width, 1.0), 0.5)
        return dict(zip(there.tolist(), scaled.tolist(), strict=True))

    def _score(self, device: _Device, x: dict[int, float]) -> float:
        """The surprise of a row by the rank of its score, which joins the history; NaN while that is short."""
        if device.rows < self._warm:
            return np.nan
        score = np.float32(device.model.score_one(x))
        if not np.isfinite(score):
            return np.nan
        n = min(device.told, self._history)
        higher = int(np.count_nonzero(device.scores[:n] >= score))
        device.scores[device.told % self._history] = score
        device.told += 1
        return np.nan if n < 30 else -float(np.log10((1.0 + higher) / (1.0 + n)))

    def _widen(self, device: _Device, x: NDArray[np.float64], there: NDArray[np.intp]) -> None:
        for c in there.tolist():
            if self._spec.columns[c] not in self._limits:
                device.low[c] = min(device.low[c], x[c])
                device.high[c] = max(device.high[c], x[c])

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
            there = np.flatnonzero(np.isfinite(x))
            if len(there) == 0:
                continue
            device = self._place(slot, int(block.ts_us[i]))
            if device is None:
                continue
            out.surprise[i] = self._score(device, self._scaled(device, x, there))
            self._widen(device, x, there)
            device.model.learn_one(self._scaled(device, x, there))
            device.rows += 1

    def forget(self, slots: NDArray[np.int32]) -> None:
        for slot in slots.tolist():
            self._devices.pop(slot, None)

    def snapshot(self, slots: NDArray[np.int32]) -> NDArray[np.uint8]:
        rows = np.zeros(len(slots), self._row)
        for row, slot in zip(rows, slots.tolist(), strict=True):
            device = self._devices.get(slot)
            if device is None or not self._exact:
                continue
            model = device.model
            nodes = [node for tree in model._tree_nodes for node in tree]  # noqa: SLF001
            first = int(model._first_window)  # noqa: SLF001
            row["held"] = 1
            row["counts"] = (device.rows, device.told, device.last_us, model.counter, first)
            row["low"], row["high"], row["scores"] = device.low, device.high, device.scores
            row["l_mass"] = [node.l_mass for node in nodes]
            row["r_mass"] = [node.r_mass for node in nodes]
        return rows.view(np.uint8).reshape(len(slots), self.state_nbytes)

    def restore(self, slots: NDArray[np.int32], states: NDArray[np.uint8]) -> None:
        """Devices that no place is left for, the longest unheard of first, get none: as if evicted."""
        check_states(slots, states, self.state_nbytes)
        self.forget(slots)
        rows = np.ascontiguousarray(states).view(self._row).reshape(len(slots))
        for slot, row in zip(slots.tolist(), rows, strict=True):
            if row["held"] and self._exact:
                self._devices[slot] = self._restored(row)
        by_age = sorted(self._devices.items(), key=lambda item: item[1].last_us)
        self._devices = OrderedDict(by_age[-self._devices_max :])

    def _restored(self, row: np.void) -> _Device:
        device = self._new(0)
        device.rows, device.told, device.last_us, counter, first = row["counts"].tolist()
        device.low, device.high, device.scores = row["low"].copy(), row["high"].copy(), row["scores"].copy()
        model = device.model
        model.counter = counter
        model._first_window = bool(first)  # noqa: SLF001
        nodes = [node for tree in model._tree_nodes for node in tree]  # noqa: SLF001
        for node, left, right in zip(nodes, row["l_mass"].tolist(), row["r_mass"].tolist(), strict=True):
            node.l_mass, node.r_mass = left, right
        return device
