"""Rows of arrays through the engine that the worker runs, in order. The rule: what a frame is told, a row is.

A row becomes a frame of one step, laid out as the scanner leaves it, so `Engine` cannot tell it from Kafka's. No
Kafka, no clock, no files here; `fleetwatch score` and the quality benchmarks are built on it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detectors.protocol import TOP
from streams.core.alert_policy import EVENT_WORDS, OPENED, UPDATED, V_KIND, V_ROW
from streams.core.devices import OUT_OF_ORDER, RESTART
from streams.core.effects import Effects
from streams.core.engine import Engine
from streams.core.lineup import EngineSpec, Lineup, Rows, Source
from streams.core.windows import WindowSpec
from telemetry.catalog import Catalog
from telemetry.codec import zigzag
from telemetry.framescan import (
    F_ID_AT,
    F_ID_LEN,
    F_OFFSET,
    F_SEQ,
    F_STEPS,
    F_TS,
    F_VALUE_AT,
    F_VALUES_AT,
    FRAME_COLUMNS,
)
from telemetry.rawmem import INLINE, address, store_u8, store_u32

#: Rows of a block at most: enough that a block's cost is not a row's, few enough that a block stays in the cache.
BLOCK_ROWS = 4096
BLOCK_VALUES = 64 * 1024
#: Values of this size or more are missing, as for every detector.
HUGE = np.float32(1e30)
#: Event times, microseconds, stay this far from the ends of 64 bits.
TIME_US_MAX = 1 << 60
#: Digits of a device's id; ids are padded so that a word may be loaded behind the last one.
_ID_LEN, _ID_PAD = 8, 16
#: One window for ever: nobody asks for features here.
_WINDOW_US = 1 << 61

# What is to be said of a row, codes of `RowScores.note`.
PLAIN, WARMING, MISSING, LATE, CLOCK_STEP, NO_TIME = range(6)
NOTES = ("", "warming", "missing", "out of order", "clock set back", "no time")


@dataclass(slots=True)
class RowScores:
    """What n rows were told, in their order.

    score : float32 (n,), the largest calibrated surprise of the detectors that may alert, as the alert policy sees
    it; 0 also where there is no opinion, which `note` tells apart.
    alert : uint8 (n,), 1 while an alert of the row's device is open, from the row that opens it to the row before
    the one that resolves it.
    detector : int8 (n,), who said so: its place in the line-up, -1 = nobody.
    column, expected, share : (n, TOP), the guilty signals, as `detectors.protocol.Scores` has them; columns are the
    catalogue's.
    note : uint8 (n,), a place in `NOTES`: why there is no opinion, or not everybody's.
    """

    score: NDArray[np.float32]
    alert: NDArray[np.uint8]
    detector: NDArray[np.int8]
    column: NDArray[np.int16]
    expected: NDArray[np.float32]
    share: NDArray[np.float32]
    note: NDArray[np.uint8]

    @classmethod
    def empty(cls, n: int) -> RowScores:
        return cls(
            np.zeros(n, np.float32),
            np.zeros(n, np.uint8),
            np.full(n, -1, np.int8),
            np.full((n, TOP), -1, np.int16),
            np.full((n, TOP), np.nan, np.float32),
            np.full((n, TOP), np.nan, np.float32),
            np.zeros(n, np.uint8),
        )


@njit(cache=True, error_model="numpy", nogil=True)
def _frame(
    first_seq: int,
    ts_us: NDArray[np.int64],
    values: NDArray[np.uint32],
    devices: NDArray[np.int64],
    ids_at: int,
    count: NDArray[np.uint8],
    payload_at: int,
    table: NDArray[np.int64],
) -> None:
    """Row i as frame i: its Avro block to the payload, where its parts are to table[i].

    values : the bits of float32 (n, d). count : Avro's number of values of a block, as bytes. The payload has room
    for both, n times.
    """
    lead = len(count)
    d = values.shape[1]
    p = payload_at
    for i in range(len(ts_us)):
        table[i, F_VALUES_AT] = p
        for b in range(lead):
            store_u8(p + b, count[b])
        p += lead
        for s in range(d):
            store_u32(p + 4 * s, values[i, s])
        p += 4 * d
        table[i, F_ID_AT] = ids_at + _ID_LEN * (devices[i] if len(devices) else 0)
        table[i, F_ID_LEN] = _ID_LEN
        table[i, F_SEQ] = first_seq + i
        table[i, F_OFFSET] = first_seq + i
        table[i, F_TS] = ts_us[i]
        table[i, F_STEPS] = 1
        table[i, F_VALUE_AT] = payload_at


@njit(**INLINE)
def _note(order: int, present: int, watched: int, silent: bool, heard: bool) -> int:
    """present : of the watched values; silent : one who may alert has never spoken; heard : one spoke now."""
    if order == OUT_OF_ORDER:
        return LATE
    if present == 0:
        return MISSING
    if silent:
        return WARMING
    if not heard:
        return MISSING if present < watched else WARMING
    return CLOCK_STEP if order == RESTART else PLAIN


@njit(**INLINE)
def _present(values: NDArray[np.float32], row: int, watched: NDArray[np.int64]) -> int:
    """How many of a row's watched values are no NaN, not infinite and not huge."""
    found = 0
    for w in range(len(watched)):
        if abs(values[row, watched[w]]) < HUGE:
            found += 1
    return found


@njit(cache=True, error_model="numpy", nogil=True)
def _collect(
    first: int,
    slots: NDArray[np.int32],
    frame_no: NDArray[np.int32],
    order: NDArray[np.uint8],
    values: NDArray[np.float32],
    watched: NDArray[np.int64],
    surprise: NDArray[np.float32],
    column: NDArray[np.int16],
    expected: NDArray[np.float32],
    share: NDArray[np.float32],
    spoken: NDArray[np.bool_],
    event_rows: NDArray[np.int64],
    event_kinds: NDArray[np.int64],
    frames: bool,
    opened: NDArray[np.bool_],
    out_score: NDArray[np.float32],
    out_alert: NDArray[np.uint8],
    out_detector: NDArray[np.int8],
    out_column: NDArray[np.int16],
    out_expected: NDArray[np.float32],
    out_share: NDArray[np.float32],
    out_note: NDArray[np.uint8],
) -> None:
    """A block's opinions and events, by row, to the places of the rows' frames, counted from `first`.

    spoken : (slots, q) of each detector that may alert; opened : (slots,) whether an alert is open; both are kept.
    frames : an event is an alert of its own row alone.
    """
    event = 0
    for i in range(len(slots)):
        r = first + np.int64(frame_no[i])
        slot = np.int64(slots[i])
        best = np.float32(-1)
        who = -1
        silent = False
        for q in range(len(surprise)):
            s = surprise[q, i]
            if s == s:
                spoken[slot, q] = True
            elif not spoken[slot, q]:
                silent = True
            if s > best:
                best = s
                who = q
        out_note[r] = _note(order[i], _present(values, r, watched), len(watched), silent, who >= 0)
        if who >= 0:
            out_score[r] = best
            out_detector[r] = who
            for k in range(TOP):
                out_column[r, k] = column[who, i, k]
                out_expected[r, k] = expected[who, i, k]
                out_share[r, k] = share[who, i, k]
        opened[slot] = opened[slot] and not frames
        while event < len(event_rows) and event_rows[event] == i:
            opened[slot] = event_kinds[event] == OPENED or event_kinds[event] == UPDATED
            event += 1
        out_alert[r] = opened[slot]


class RowScorer:
    """Scores rows of one class with the worker's own engine; goes on where the last call ended.

    What it says of a row does not depend on how rows were cut into calls. Window-rate detectors do not run: they
    score windows, not rows.

    Parameters
    ----------
    entry : the signals, in the order of the values' columns.
    lineup : as `streams.wiring.detector_factory` makes it, with its policy; used up by this scorer.
    devices_max : devices of the class; only then `devices` are numbers below it.

    Raises
    ------
    ValueError : no detector of the line-up may alert, or it has no policy.
    """

    def __init__(self, entry: Catalog, lineup: Lineup, devices_max: int = 1) -> None:
        if not lineup.sample or lineup.alerting < 1 or lineup.policy is None:
            raise ValueError(f"no detector that may alert runs for {entry.key}")
        spec = EngineSpec(
            windows=WindowSpec(_WINDOW_US, _WINDOW_US, 0, ()),
            policy=lineup.policy,
            features=False,
            scores_min_surprise=None,
            late=False,
            devices_max=devices_max,
            block_values=2 * BLOCK_VALUES,  # never full: parts of its arrays are of one type, compiled once
        )
        self.entry = entry
        #: Names of the line-up's detectors, in the order of `RowScores.detector`.
        self.detectors = tuple(d.spec.name for d in lineup.sample)
        #: The score that opens an alert.
        self.opens = lineup.policy.open_surprise
        #: Rows so far, and alerts opened.
        self.rows = self.alerts = 0
        self._devices_max = devices_max
        self._policy = lineup.policy
        self._alerting = lineup.alerting
        self._engine = Engine(entry, 0, spec, replace(lineup, window=()))
        self._engine.listener = self._listen
        self._watched = np.array(entry.monitored, np.int64)
        self._source = Source("rows", 0, 0)
        d = len(entry.signals)
        self._block = max(1, min(BLOCK_ROWS, BLOCK_VALUES // d))
        self._count = np.frombuffer(zigzag(d), np.uint8)
        self._payload = np.zeros(self._block * (len(self._count) + 4 * d), np.uint8)
        self._table = np.zeros((self._block, FRAME_COLUMNS), np.int64)
        self._ids = np.zeros(0, np.uint8)
        self._name(1)
        self._spoken = np.zeros((0, lineup.alerting), np.bool_)
        self._opened = np.zeros(0, np.bool_)
        self._first, self._values, self._out = 0, np.zeros((0, d), np.float32), RowScores.empty(0)

    def _name(self, devices: int) -> None:
        """Ids for at least so many devices."""
        if devices * _ID_LEN + _ID_PAD > len(self._ids):
            n = max(devices, min(len(self._ids) // _ID_LEN * 2, self._devices_max))
            text = "".join(f"{i:0{_ID_LEN}d}" for i in range(n)) + " " * _ID_PAD
            self._ids = np.frombuffer(text.encode(), np.uint8)

    def score(
        self, ts_us: NDArray[np.int64], values: NDArray[np.float32], devices: NDArray[np.int64] | None = None
    ) -> RowScores:
        """Score each row, then learn it, in order.

        Parameters
        ----------
        ts_us : int64 (n,), event time. A row that is not later than the one before it of its device is out of
            order: no opinion, not learnt; the 16th such row running counts as the clock set back, and is.
        values : float32 (n, d), NaN = missing; Inf and 1e30 or more too.
        devices : int64 (n,), the rows' devices, numbers from 0; None = all are of device 0.

        Raises
        ------
        ValueError : the arrays' shapes, a time out of range, or a device's number of devices_max or more.
        """
        n = len(ts_us)
        if values.shape != (n, len(self.entry.signals)) or ts_us.shape != (n,):
            raise ValueError(f"values must be ({n}, {len(self.entry.signals)}), not {values.shape}")
        values = np.ascontiguousarray(values, np.float32)
        ts_us = np.ascontiguousarray(ts_us, np.int64)
        if n and (ts_us.min() < -TIME_US_MAX or ts_us.max() > TIME_US_MAX):
            raise ValueError(f"a time beyond {TIME_US_MAX} us")
        which = np.zeros(0, np.int64) if devices is None else np.ascontiguousarray(devices, np.int64)
        if devices is not None and n:
            if which.shape != (n,) or which.min() < 0 or which.max() >= self._devices_max:
                raise ValueError(f"devices must be ({n},) numbers from 0 to {self._devices_max - 1}")
            self._name(int(which.max()) + 1)
        self._values, self._out = values, RowScores.empty(n)
        for first in range(0, n, self._block):
            last = min(n, first + self._block)
            self._run(first, ts_us[first:last], values[first:last], which[first:last])
        return self._out

    def _run(
        self, first: int, ts_us: NDArray[np.int64], values: NDArray[np.float32], which: NDArray[np.int64]
    ) -> None:
        """One block, whose rows begin at row `first` of the call. The listener fills the scores."""
        n = len(ts_us)
        self._first = first
        _frame(
            self.rows, ts_us, values.view(np.uint32), which, address(self._ids), self._count,
            address(self._payload), self._table,
        )  # fmt: skip
        effects = Effects()
        self._engine.process(self._table, n, self._source, effects)
        assert not effects.dead
        self.rows += n

    def _listen(self, rows: Rows) -> None:
        capacity = self._engine.devices.capacity
        if capacity > len(self._opened):
            spoken, opened = self._spoken, self._opened
            self._spoken = np.zeros((capacity, self._alerting), np.bool_)
            self._opened = np.zeros(capacity, np.bool_)
            self._spoken[: len(spoken)], self._opened[: len(opened)] = spoken, opened
        words = np.concatenate([np.zeros((0, EVENT_WORDS), np.int64), *(e.words for e in rows.events)])
        kinds = np.ascontiguousarray(words[:, V_KIND])
        self.alerts += int(np.count_nonzero(kinds == OPENED))
        q, said, out = self._alerting, rows.opinions, self._out
        _collect(
            self._first, rows.slots, rows.frame_no, rows.order, self._values, self._watched,
            said.surprise[:q], said.column[:q], said.expected[:q], said.share[:q],
            self._spoken, np.ascontiguousarray(words[:, V_ROW]), kinds, self._policy.frames, self._opened,
            out.score, out.alert, out.detector, out.column, out.expected, out.share, out.note,
        )  # fmt: skip
