"""From surprises to alerts: hysteresis, open / update / resolve, cooldown. The rule: event time only.

An episode is per device. It opens when `open_rows` rows over `open_surprise` fall within `confirm_us`, is
updated when it grows or `update_us` has passed, and resolves when no row has been over `close_surprise` for
`resolve_us`; then the device is quiet for `cooldown_us`. What the guiltiest row said is kept until the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from telemetry.framescan import F_OFFSET

TOP = 3

# Words of a slot's episode, int64.
(E_STATE, E_COUNT, E_ONSET, E_ONSET_OFFSET, E_LAST, E_UPDATED, E_NUMBER, E_DETECTOR) = range(8)
E_FIRST_COL = 8
EPISODE_WORDS = E_FIRST_COL + TOP
# Figures of a slot's episode, float32: peak surprise, surprise at the last event, then expected, observed, share.
G_PEAK, G_TOLD, G_EXPECTED = 0, 1, 2
EPISODE_FIGURES = G_EXPECTED + 3 * TOP

IDLE, CANDIDATE, OPEN, COOLING = range(4)

# Columns of an event, int64, followed by a copy of the episode's words.
V_ROW, V_SLOT, V_KIND, V_EPISODE = 0, 1, 2, 3
EVENT_WORDS = V_EPISODE + EPISODE_WORDS
OPENED, UPDATED, RESOLVED = range(3)

#: An open episode is also updated when its peak grew by this factor since it was last told.
GROWTH = np.float32(1.5)


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """The policy's figures; times in microseconds of event time, surprises in -log10 p."""

    open_surprise: float
    close_surprise: float
    open_rows: int
    confirm_us: int
    resolve_us: int
    update_us: int
    cooldown_us: int
    warmup_us: int
    major_surprise: float
    critical_surprise: float
    frames: bool = False


@njit(cache=True, error_model="numpy", nogil=True)
def _note_peak(
    slot: int,
    row: int,
    q: int,
    s: np.float32,
    values: NDArray[np.float32],
    column: NDArray[np.int16],
    expected: NDArray[np.float32],
    share: NDArray[np.float32],
    words: NDArray[np.int64],
    figures: NDArray[np.float32],
) -> None:
    figures[slot, G_PEAK] = s
    words[slot, E_DETECTOR] = q
    for k in range(TOP):
        c = np.int64(column[q, row, k])
        words[slot, E_FIRST_COL + k] = c
        figures[slot, G_EXPECTED + k] = expected[q, row, k]
        figures[slot, G_EXPECTED + TOP + k] = values[row, c] if c >= 0 else np.float32(np.nan)
        figures[slot, G_EXPECTED + 2 * TOP + k] = share[q, row, k]


@njit(cache=True, error_model="numpy", nogil=True)
def _event(
    kind: int,
    row: int,
    slot: int,
    n: int,
    words: NDArray[np.int64],
    figures: NDArray[np.float32],
    events: NDArray[np.int64],
    event_figures: NDArray[np.float32],
) -> int:
    events[n, V_ROW] = row
    events[n, V_SLOT] = slot
    events[n, V_KIND] = kind
    for w in range(EPISODE_WORDS):
        events[n, V_EPISODE + w] = words[slot, w]
    event_figures[n, :] = figures[slot, :]
    figures[slot, G_TOLD] = figures[slot, G_PEAK]
    return n + 1


@njit(cache=True, error_model="numpy", nogil=True)
def judge(
    first: int,
    count: int,
    slots: NDArray[np.int32],
    ts_us: NDArray[np.int64],
    values: NDArray[np.float32],
    order: NDArray[np.uint8],
    frame_no: NDArray[np.int32],
    table: NDArray[np.int64],
    first_ts: NDArray[np.int64],
    surprise: NDArray[np.float32],
    column: NDArray[np.int16],
    expected: NDArray[np.float32],
    share: NDArray[np.float32],
    open_surprise: float,
    close_surprise: float,
    open_rows: NDArray[np.int64],
    confirm_us: int,
    resolve_us: int,
    update_us: int,
    cooldown_us: int,
    warmup_us: int,
    words: NDArray[np.int64],
    figures: NDArray[np.float32],
    events: NDArray[np.int64],
    event_figures: NDArray[np.float32],
) -> tuple[int, int]:
    """Apply rows first..count-1; returns (next row, events). Stops when the events are full.

    surprise : (q, n); column, expected, share : (q, n, TOP). open_rows : (q,). first_ts : each slot's first event
    time. table : the frame table, for offsets, by frame_no.
    """
    n = 0
    for i in range(first, count):
        if n + 2 > len(events):
            return i, n
        if order[i] == 0:
            continue
        slot = np.int64(slots[i])
        state = words[slot, E_STATE]
        best = np.float32(-1)
        q_best = 0
        for q in range(surprise.shape[0]):
            if surprise[q, i] > best:
                best = surprise[q, i]
                q_best = q
        if state == IDLE and not best >= open_surprise:
            continue
        ts = ts_us[i]
        if state == OPEN:
            if best >= close_surprise:
                words[slot, E_LAST] = ts
                if best > figures[slot, G_PEAK]:
                    _note_peak(slot, i, q_best, best, values, column, expected, share, words, figures)
            if ts - words[slot, E_LAST] >= resolve_us:
                n = _event(RESOLVED, i, slot, n, words, figures, events, event_figures)
                words[slot, E_STATE] = COOLING
                words[slot, E_UPDATED] = ts
            elif (
                ts - words[slot, E_UPDATED] >= update_us and words[slot, E_LAST] > words[slot, E_UPDATED]
            ) or figures[slot, G_PEAK] > GROWTH * figures[slot, G_TOLD]:
                n = _event(UPDATED, i, slot, n, words, figures, events, event_figures)
                words[slot, E_UPDATED] = ts
            continue
        if state == COOLING:
            if ts - words[slot, E_UPDATED] < cooldown_us:
                continue
            words[slot, E_STATE] = IDLE
            state = IDLE
        if not best >= open_surprise or ts - first_ts[slot] < warmup_us:
            continue
        if state == IDLE or ts - words[slot, E_ONSET] > confirm_us:
            words[slot, E_STATE] = CANDIDATE
            words[slot, E_COUNT] = 0
            words[slot, E_ONSET] = ts
            words[slot, E_ONSET_OFFSET] = table[frame_no[i], F_OFFSET]
            figures[slot, G_PEAK] = np.float32(-1)
        words[slot, E_COUNT] += 1
        words[slot, E_LAST] = ts
        if best > figures[slot, G_PEAK]:
            _note_peak(slot, i, q_best, best, values, column, expected, share, words, figures)
        if words[slot, E_COUNT] >= open_rows[q_best]:
            words[slot, E_STATE] = OPEN
            words[slot, E_NUMBER] += 1
            words[slot, E_UPDATED] = ts
            n = _event(OPENED, i, slot, n, words, figures, events, event_figures)
    return count, n


@njit(cache=True, error_model="numpy", nogil=True)
def judge_frames(
    slots: NDArray[np.int32],
    ts_us: NDArray[np.int64],
    values: NDArray[np.float32],
    frame_no: NDArray[np.int32],
    table: NDArray[np.int64],
    surprise: NDArray[np.float32],
    column: NDArray[np.int16],
    expected: NDArray[np.float32],
    share: NDArray[np.float32],
    open_surprise: float,
    words: NDArray[np.int64],
    figures: NDArray[np.float32],
    events: NDArray[np.int64],
    event_figures: NDArray[np.float32],
    start: int,
) -> tuple[int, int]:
    """One event a frame that has a row over `open_surprise`: its most surprising one.

    words and figures : one row of scratch. A frame's rows stand together, so the scan may stop between frames.
    """
    n = 0
    i = start
    while i < len(slots):
        if n >= len(events):
            return i, n
        frame = frame_no[i]
        best = np.float32(open_surprise)
        row = -1
        q_best = 0
        while i < len(slots) and frame_no[i] == frame:
            for q in range(surprise.shape[0]):
                if surprise[q, i] > best:
                    best = surprise[q, i]
                    row = i
                    q_best = q
            i += 1
        if row >= 0:
            _note_peak(0, row, q_best, best, values, column, expected, share, words, figures)
            words[0, E_ONSET] = ts_us[row]
            words[0, E_ONSET_OFFSET] = table[frame, F_OFFSET]
            words[0, E_LAST] = ts_us[row]
            n = _event(OPENED, row, 0, n, words, figures, events, event_figures)
            events[n - 1, V_SLOT] = slots[row]
    return i, n


@dataclass(slots=True)
class Events:
    """n events, copies. words : int64 (n, EVENT_WORDS); figures : float32 (n, EPISODE_FIGURES)."""

    words: NDArray[np.int64]
    figures: NDArray[np.float32]


class AlertStage:
    """Episodes of one class's slots; in `frames` mode it keeps no state.

    Parameters
    ----------
    open_rows : strange rows that open an alert where this detector's was the strangest opinion of the last one.
    """

    def __init__(self, spec: PolicySpec, open_rows: Sequence[int], events_max: int = 1024) -> None:
        self.spec = spec
        self._open_rows = np.array(open_rows, np.int64)
        self._events = np.zeros((events_max, EVENT_WORDS), np.int64)
        self._figures = np.zeros((events_max, EPISODE_FIGURES), np.float32)
        self.words = np.zeros((1, EPISODE_WORDS), np.int64)
        self.figures = np.zeros((1, EPISODE_FIGURES), np.float32)

    @property
    def nbytes(self) -> int:
        return self.words.nbytes + self.figures.nbytes

    @property
    def state_nbytes(self) -> int:
        return 0 if self.spec.frames else 8 * EPISODE_WORDS + 4 * EPISODE_FIGURES

    def reserve(self, n_slots: int) -> None:
        if self.spec.frames or n_slots <= len(self.words):
            return
        words = np.zeros((n_slots, EPISODE_WORDS), np.int64)
        figures = np.zeros((n_slots, EPISODE_FIGURES), np.float32)
        words[: len(self.words)], figures[: len(self.figures)] = self.words, self.figures
        self.words, self.figures = words, figures

    def forget(self, slots: NDArray[np.int32]) -> None:
        if not self.spec.frames:
            self.words[slots], self.figures[slots] = 0, 0

    def open_of(self, slots: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Words (n, EPISODE_WORDS) and figures (n, EPISODE_FIGURES) of these slots' open episodes; copies."""
        if self.spec.frames:
            slots = slots[:0]
        slots = slots[self.words[slots, E_STATE] == OPEN]
        return self.words[slots], self.figures[slots]

    def snapshot(self, slots: NDArray[np.int32]) -> NDArray[np.uint8]:
        """uint8 (len(slots), state_nbytes)."""
        if self.spec.frames:
            return np.zeros((len(slots), 0), np.uint8)
        return np.hstack([self.words[slots].view(np.uint8), self.figures[slots].view(np.uint8)])

    def restore(self, slots: NDArray[np.int32], states: NDArray[np.uint8]) -> None:
        """The inverse of `snapshot`."""
        if states.shape != (len(slots), self.state_nbytes):
            raise ValueError(f"alert state has shape {states.shape}, not {(len(slots), self.state_nbytes)}")
        if not self.spec.frames:
            cut = 8 * EPISODE_WORDS
            self.words[slots] = np.ascontiguousarray(states[:, :cut]).view(np.int64)
            self.figures[slots] = np.ascontiguousarray(states[:, cut:]).view(np.float32)

    def judge(
        self,
        slots: NDArray[np.int32],
        ts_us: NDArray[np.int64],
        values: NDArray[np.float32],
        order: NDArray[np.uint8],
        frame_no: NDArray[np.int32],
        table: NDArray[np.int64],
        first_ts: NDArray[np.int64],
        surprise: NDArray[np.float32],
        column: NDArray[np.int16],
        expected: NDArray[np.float32],
        share: NDArray[np.float32],
    ) -> list[Events]:
        """Apply a block's rows; the events in order."""
        spec, out, first = self.spec, [], 0
        while first < len(slots):
            if spec.frames:
                first, n = judge_frames(
                    slots, ts_us, values, frame_no, table, surprise, column, expected, share,
                    spec.open_surprise, self.words, self.figures, self._events, self._figures, first,
                )  # fmt: skip
            else:
                first, n = judge(
                    first, len(slots), slots, ts_us, values, order, frame_no, table, first_ts,
                    surprise, column, expected, share, spec.open_surprise, spec.close_surprise, self._open_rows,
                    spec.confirm_us, spec.resolve_us, spec.update_us, spec.cooldown_us, spec.warmup_us,
                    self.words, self.figures, self._events, self._figures,
                )  # fmt: skip
            if n:
                out.append(Events(self._events[:n].copy(), self._figures[:n].copy()))
        return out
