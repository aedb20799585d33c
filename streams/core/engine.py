"""One device class in the core: its devices, detectors, windows, alerts. The rule: rows in order, stage by stage.

A frame becomes rows of a block; each detector scores and learns the block; the windows take the rows and what
the detectors thought of them; the alert policy judges. Block boundaries change nothing: every stage keeps its
state by slot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from detectors.ensemble import Ensemble, Member, Opinions
from detectors.protocol import Block, Scores
from streams.core.alert_policy import V_ROW, V_SLOT, AlertStage, Events
from streams.core.alerting import AlertWriter
from streams.core.devices import (
    BAD_ID,
    BLOCK_FULL,
    C_ROWS,
    D_FIRST_TS,
    D_TS,
    DEVICE_WORDS,
    MISPLACED,
    TABLE_FULL,
    DeviceTable,
    place,
)
from streams.core.drifting import DriftStage
from streams.core.effects import DeadLetter, Effects
from streams.core.enrolment import Enrolment
from streams.core.features import FeatureEncoder, encode_scores, window_slots
from streams.core.layout import Layout, shared
from streams.core.lineup import EngineSpec, Lineup, Rows, Source, Stage, layout
from streams.core.watch import WatchStage
from streams.core.window_stage import Closed, WindowStage
from streams.core.windows import O_PANE
from telemetry.catalog import Catalog
from telemetry.framescan import F_ID_AT, F_ID_LEN, F_OFFSET, F_RECORD_TS, F_VALUE_AT, F_VALUE_LEN
from telemetry.rawmem import copy_bytes
from telemetry.reasons import Reason

#: What `place` refuses a frame for.
REFUSALS = {
    TABLE_FULL: Reason.STATE_FULL,
    BAD_ID: Reason.BAD_DEVICE_ID,
    MISPLACED: Reason.WRONG_PARTITION,
}
#: A frame of the largest size in values: a block has room for it.
FRAME_VALUES_MAX = 16_384


class Engine:
    """See the module's text. Called by `Core` only.

    Parameters
    ----------
    class_no : the class's number in the frame table.
    lineup : sample-rate detectors over the monitored columns, window-rate ones over `WINDOW_COLUMNS` of all.
    """

    def __init__(
        self,
        catalog: Catalog,
        class_no: int,
        spec: EngineSpec,
        lineup: Lineup,
    ) -> None:
        self.catalog, self.class_no, self.spec = catalog, class_no, spec
        self.detectors, self.bank = lineup.sample, lineup.window
        self._alerting = lineup.alerting
        self._calibrations = lineup.calibrations
        detectors = self.detectors
        policy = lineup.policy or spec.policy
        self.d = len(catalog.signals)
        self.devices = DeviceTable(min(1024, spec.devices_max))
        opinions = 0 if spec.scores_min_surprise is None else len(detectors)
        self.windows = WindowStage(spec.windows, catalog, opinions)
        followed = [d.spec.name for d in detectors] if opinions else []
        self.drift = DriftStage(spec.drift, catalog.key, followed, spec.windows.hop_us)
        self.alerts = AlertStage(
            policy, lineup.open_rows[: lineup.alerting] or (policy.open_rows,) * lineup.alerting
        )
        self.watch = WatchStage(catalog)
        self._encoder = FeatureEncoder(spec.windows, catalog, self.windows.closed_max)
        self._writer = AlertWriter(catalog, tuple(d.spec for d in detectors), policy)
        tails = lineup.calibrations or (None,) * len(detectors)
        self._ensemble = (
            Ensemble([Member(d, c) for d, c in zip(detectors, tails, strict=True)]) if detectors else None
        )
        rows = max(spec.block_values, FRAME_VALUES_MAX) // self.d
        self._slots = np.zeros(rows, np.int32)
        self._ts_us = np.zeros(rows, np.int64)
        self._values = np.zeros((rows, self.d), np.float32)
        self._frame_no = np.zeros(rows, np.int32)
        self._order = np.zeros(rows, np.uint8)
        self._late = np.zeros(rows, np.uint8)
        # one more than a block has: of a full one a view would be contiguous, for which kernels are compiled anew
        self._opinions = Opinions.empty(max(1, len(detectors)), rows + 1)
        self.late_rows = 0
        self.windows_closed = 0
        self._reserve(self.devices.capacity)
        self.layout = layout(catalog, spec, lineup, self._stages(), self.bank)
        self.state_id = self.layout.state_id
        #: Asked when the table is full, before a device is refused: whether it made room.
        self.evict: Callable[[], bool] = lambda: False
        self.enrolment = Enrolment(self.devices, self.detectors)
        #: Called with every block once it is judged; None = nobody listens.
        self.listener: Callable[[Rows], None] | None = None

    def _reserve(self, n_slots: int) -> None:
        for stage in (*self._stages(), *self.bank):
            stage.reserve(n_slots)

    def grow_to(self, n_slots: int) -> None:
        """Room for at least n_slots devices, doubling, but no more than devices_max unless so many are wanted."""
        capacity = self.devices.capacity
        while capacity < n_slots:
            capacity *= 2
        capacity = max(n_slots, min(capacity, self.spec.devices_max))
        if capacity > self.devices.capacity:
            self.devices.grow(capacity)
            self._reserve(capacity)

    # -- the hot path ----------------------------------------------------------------------------------------

    def process(self, table: NDArray[np.int64], count: int, source: Source, effects: Effects) -> None:
        """Apply the frames of this class among the first `count` of the frame table."""
        devices, first = self.devices, 0
        devices.counters[C_ROWS] = 0
        while first < count:
            what, first = place(
                table, first, count, self.class_no, source.owner, self.spec.partitions, self.d,
                devices.rows, devices.index, devices.free,
                self._slots, self._ts_us, self._values.reshape(-1).view(np.uint32), self._frame_no,
                self._order, devices.counters,
            )  # fmt: skip
            if what == BLOCK_FULL:
                self._flush(table, source, effects)
            elif what == TABLE_FULL and devices.capacity < self.spec.devices_max:
                self.grow_to(devices.capacity + 1)
            elif what == TABLE_FULL and self.evict():
                continue
            elif what in REFUSALS:
                effects.dead.append(refused(table, first, source, REFUSALS[what]))
                first += 1
        self._flush(table, source, effects)

    def _flush(self, table: NDArray[np.int64], source: Source, effects: Effects) -> None:
        """Run the block through the stages and empty it."""
        n = int(self.devices.counters[C_ROWS])
        self.devices.counters[C_ROWS] = 0
        if n == 0:
            return
        slots, ts_us, values = self._slots[:n], self._ts_us[:n], self._values[:n]
        order, frame_no, late = self._order[:n], self._frame_no[:n], self._late[:n]
        self.enrolment.of(slots)
        self._score(Block(slots, ts_us, values), order)
        late[:] = 0
        said = self._opinions
        for closed in self.windows.advance(slots, ts_us, values, order, late, said.surprise, said.column):
            self._publish(closed, source, effects)
        if late.any():
            self._late_frames(table, frame_no[late > 0], source, effects)
        q = self._alerting
        told: list[Events] = []
        if q:
            told = self.alerts.judge(
                slots, ts_us, values, order, frame_no, table, self.devices.rows[:, D_FIRST_TS],
                said.surprise[:q], said.column[:q], said.expected[:q], said.share[:q],
            )  # fmt: skip
            self._alert(told, ts_us, frame_no, table, source, effects)
        if self.listener is not None:
            self.listener(Rows(slots, ts_us, frame_no, order, said.head(n), told))

    def _alert(
        self,
        told: list[Events],
        ts_us: NDArray[np.int64],
        frame_no: NDArray[np.int32],
        table: NDArray[np.int64],
        source: Source,
        effects: Effects,
    ) -> None:
        """Write the alerts of a block's events."""
        for events in told:
            for i in range(len(events.words)):
                row, slot = int(events.words[i, V_ROW]), int(events.words[i, V_SLOT])
                frame = table[frame_no[row]]
                alert = self._writer.write(
                    events.words[i], events.figures[i], self.devices.key(slot).decode(),
                    int(ts_us[row]), source.topic, source.partition, int(frame[F_OFFSET]),
                    int(self.devices.rows[slot, D_FIRST_TS]),
                )  # fmt: skip
                effects.alerts.append(alert)
                effects.alert_times_us.append((int(ts_us[row]), int(frame[F_RECORD_TS]) * 1000))

    def _score(self, block: Block, order: NDArray[np.uint8]) -> None:
        """Every detector's opinion of the rows that are in order; the others have none and are not learnt."""
        if self._ensemble is None:
            return
        said, chosen = self._opinions.head(len(block)), None
        if not order.all():
            chosen = np.flatnonzero(order)
            block = Block(block.slots[chosen], block.ts_us[chosen], block.values[chosen])
        values = block.values
        block = Block(block.slots, block.ts_us, self.watch.select(block.slots, values))
        mine = said if chosen is None else Opinions.empty(len(self.detectors), len(block))
        if len(block):
            self._ensemble.ask(block, mine)
            for q in range(len(self.detectors)):
                self.watch.name(mine.column[q], mine.expected[q], values, block.values)
        if chosen is not None:
            said.surprise[:] = np.nan
            said.column[:] = -1
            said.surprise[:, chosen], said.column[:, chosen] = mine.surprise, mine.column
            said.expected[:, chosen], said.share[:, chosen] = mine.expected, mine.share

    def _publish(self, closed: Closed, source: Source, effects: Effects) -> None:
        """Features, the sample-rate detectors' peaks, and the window-rate detectors' opinions."""
        slots = window_slots(closed)
        keys = self.devices.keys(slots)
        spec, partition = self.spec, source.partition
        self.windows_closed += len(closed)
        effects.drifts += self.drift.see(closed.head, closed.peak, keys)
        if spec.features:
            values = self._encoder.encode(closed, keys)
            effects.features += [
                {"key": k, "value": v, "partition": partition} for k, v in zip(keys, values, strict=True)
            ]
        least = spec.scores_min_surprise
        if least is not None and self.detectors:
            names = tuple((d.spec.name, d.spec.version) for d in self.detectors)
            for i, value in encode_scores(closed, keys, self.catalog, names, spec.windows, least):
                effects.scores.append({"key": keys[i], "value": value, "partition": partition})
        if self.bank:
            self._bank(closed, slots, keys, source, effects)

    def _bank(
        self, closed: Closed, slots: NDArray[np.int32], keys: list[bytes], source: Source, effects: Effects
    ) -> None:
        """Window-rate detectors see mean and std of each signal at the window's end."""
        ts_us = (closed.head[:, O_PANE] + 1) * self.spec.windows.hop_us
        values = np.ascontiguousarray(closed.values[:, 1:3, :]).reshape(len(closed), -1)
        alarm = np.nan_to_num(np.fmax.reduce(closed.peak[:, : self._alerting], axis=1, initial=0.0))
        block = Block(slots, ts_us, values, alarm.astype(np.float32))
        peaks = np.full((len(closed), len(self.bank)), np.nan, np.float32)
        columns = np.full((len(closed), len(self.bank)), -1, np.int16)
        for q, detector in enumerate(self.bank):
            out = Scores.empty(len(closed))
            detector.update(block, out)
            peaks[:, q] = out.surprise
            columns[:, q] = np.where(out.column[:, 0] >= 0, out.column[:, 0] % self.d, -1)
        least = self.spec.scores_min_surprise
        if least is not None:
            at = np.repeat(ts_us[:, None], len(self.bank), axis=1)
            opinions = Closed(closed.head, closed.values, closed.hist, peaks, at, columns)
            names = tuple((d.spec.name, d.spec.version) for d in self.bank)
            for i, value in encode_scores(opinions, keys, self.catalog, names, self.spec.windows, least):
                effects.scores.append({"key": keys[i], "value": value, "partition": source.partition})

    def _late_frames(
        self, table: NDArray[np.int64], frames: NDArray[np.int32], source: Source, effects: Effects
    ) -> None:
        self.late_rows += len(frames)
        if self.spec.late:
            for frame in np.unique(frames).tolist():
                value = copy_bytes(int(table[frame, F_VALUE_AT]), int(table[frame, F_VALUE_LEN]))
                effects.late.append({"key": frame_key(table, frame), "value": value, "partition": source.partition})

    def finish(self, source: Source, effects: Effects) -> None:
        """Close every open window, as at the end of a recording."""
        slots = np.arange(self.devices.high, dtype=np.int32)
        for closed in self.windows.close_all(slots):
            self._publish(closed, source, effects)

    # -- figures ---------------------------------------------------------------------------------------------

    def alerts_open(self, owners: set[int]) -> Counter[tuple[str, str]]:
        """Alerts that are open now, of the devices that these owners hold, by (severity, kind)."""
        return self._writer.count(*self.alerts.open_of(self.devices.owned_by(owners)))

    def reporting(self, owners: set[int], since_us: int) -> int:
        """Devices that these owners hold and whose newest row is of then or later, by their own clocks."""
        return int(np.count_nonzero(self.devices.rows[self.devices.owned_by(owners), D_TS] >= since_us))

    # -- state -----------------------------------------------------------------------------------------------

    @property
    def nbytes(self) -> int:
        """Memory of devices, windows and alert episodes, without the detectors' own."""
        return self.devices.nbytes + self.windows.nbytes + self.alerts.nbytes

    def _stages(self) -> tuple[Stage, ...]:
        return (self.watch, *self.detectors, *self._calibrations, self.windows, self.alerts)

    @property
    def row_nbytes(self) -> int:
        return self.layout.nbytes

    def snapshot(self, slots: NDArray[np.int32]) -> NDArray[np.uint8]:
        """uint8 (len(slots), row_nbytes): device row, detectors, windows, alerts."""
        rows = self.devices.rows[slots].view(np.uint8)
        return np.hstack([rows, *(stage.snapshot(slots) for stage in self._stages())])

    def snapshot_bank(self, slots: NDArray[np.int32]) -> NDArray[np.uint8]:
        """uint8 (len(slots), the bank's bytes); a row of zeros = not held by any of the bank's detectors."""
        if not self.bank:
            return np.zeros((len(slots), 0), np.uint8)
        return np.hstack([detector.snapshot(slots) for detector in self.bank])

    def restore(self, rows: NDArray[np.uint8], theirs: Layout) -> NDArray[np.int32]:
        """Adopt devices from their rows, in place of what is held of them; returns their slots.

        What the two layouts do not share begins anew; the caller has seen that they share the device's piece.
        theirs : the layout that the rows were written in.
        """
        device_rows = np.ascontiguousarray(rows[:, : 8 * DEVICE_WORDS]).view(np.int64)
        new = int(np.count_nonzero(self.devices.slots_of(device_rows) < 0))
        self.grow_to(self.devices.held + new)  # also past devices_max: they were let in elsewhere
        pairs = dict(shared(self.layout.pieces, theirs.pieces))
        slots, held = self.devices.adopt(device_rows)
        self.enrolment.done(slots)
        self.devices.mark_clean(slots)
        for i, stage in enumerate(self._stages(), 1):
            if i in pairs:
                at = pairs[i]
                stage.restore(slots, np.ascontiguousarray(rows[:, at : at + stage.state_nbytes]))
            else:
                stage.forget(held)
        for detector in self.bank:
            detector.forget(held)
        self.drift.forget(held)
        return slots

    def restore_bank(self, slots: NDArray[np.int32], bank: NDArray[np.uint8], theirs: Layout) -> None:
        """The window-rate detectors' state of devices that were just restored. bank : uint8 (len(slots), bytes)."""
        for i, at in shared(self.layout.bank, theirs.bank):
            size = self.bank[i].state_nbytes
            self.bank[i].restore(slots, np.ascontiguousarray(bank[:, at : at + size]))

    def forget(self, slots: NDArray[np.int32]) -> None:
        """Forget the devices of these slots."""
        for stage in (*self._stages(), *self.bank):
            stage.forget(slots)
        self.drift.forget(slots)
        self.enrolment.forget(slots)
        self.devices.release(slots)

    def release(self, owners: set[int]) -> int:
        """Forget the devices of these owners; returns how many."""
        slots = self.devices.owned_by(owners)
        self.forget(slots)
        return len(slots)


def frame_key(table: NDArray[np.int64], frame: int) -> bytes:
    """The device id of a scanned frame, which equals its record's key."""
    return copy_bytes(int(table[frame, F_ID_AT]), int(table[frame, F_ID_LEN]))


def refused(table: NDArray[np.int64], frame: int, source: Source, reason: Reason) -> DeadLetter:
    """A frame that was decoded but is not accepted, as a dead letter."""
    value = copy_bytes(int(table[frame, F_VALUE_AT]), int(table[frame, F_VALUE_LEN]))
    offset = int(table[frame, F_OFFSET])
    return DeadLetter(source.topic, source.partition, offset, reason, frame_key(table, frame), value)
