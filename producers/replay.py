"""Recordings played as devices: rows -> ties spread or resampled -> frames -> one timeline. The rule: each device's
frames leave in order, numbered without a hole.

Devices play side by side; the files of one device play one after another. Everything here is pure: the driving
loop sends what `timeline` yields.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from producers.mapping import Mapping, RecordingError
from producers.recordings import BadRow, Recording, Row
from telemetry.catalog import Catalog
from telemetry.codec import FrameEncoder

#: Rows with one and the same time reading; more means that the recording's clock stands still.
TIES_MAX = 4096


@dataclass(frozen=True, slots=True)
class PlayedFrame:
    """A frame to send. at_us: when, from the replay's start; samples: steps x signals in it."""

    at_us: int
    kind: str
    key: bytes
    value: bytes
    samples: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A malformed row at its place in the timeline. kind: vehicle or device, the topic that it was meant for."""

    at_us: int
    kind: str
    key: bytes | None
    row: BadRow


class Retimer(Protocol):
    """Gives the rows of one device their times. `finish` ends a recording; the next row begins another."""

    def add(self, row: Row) -> Iterator[Row]: ...
    def finish(self) -> Iterator[Row]: ...


class AsRecorded:
    """Rows as they are."""

    def add(self, row: Row) -> Iterator[Row]:
        yield row

    def finish(self) -> Iterator[Row]:
        return iter(())


class TieSpreader:
    """Rows with the same reading of a coarse clock, spread evenly over its resolution.

    n rows that read t become t, t + tie/n, t + 2 tie/n ...; never beyond the next reading.
    """

    def __init__(self, tie_us: int) -> None:
        self._tie_us = tie_us
        self._held: list[Row] = []

    def add(self, row: Row) -> Iterator[Row]:
        if self._held and row.t_us != self._held[0].t_us:
            yield from self._release(row.t_us - self._held[0].t_us)
        if len(self._held) == TIES_MAX:
            raise RecordingError(f"device {row.device}: over {TIES_MAX} rows with one time; its clock stands still")
        self._held.append(row)

    def finish(self) -> Iterator[Row]:
        return self._release(self._tie_us)

    def _release(self, until_next_us: int) -> Iterator[Row]:
        width_us, n = min(self._tie_us, until_next_us), len(self._held)
        for i, row in enumerate(self._held):
            yield Row(row.device, row.t_us + i * width_us // n, row.values)
        self._held.clear()


class Grid:
    """Rows resampled to multiples of a period by each signal's last value.

    A value older than `hold_us` is missing; steps without any value are left out.
    """

    def __init__(self, period_us: int, hold_us: int) -> None:
        self._period_us, self._hold_us = period_us, hold_us
        self._device = ""
        self._value: NDArray[np.float32] | None = None
        self._when_us: NDArray[np.int64] = np.empty(0, np.int64)
        self._step_us = self._last_us = 0

    def add(self, row: Row) -> Iterator[Row]:
        if self._value is None:
            self._device = row.device
            self._value = np.full_like(row.values, np.nan)
            self._when_us = np.full(len(row.values), np.iinfo(np.int64).min // 2)
            self._step_us = self._ceil(row.t_us)
        yield from self._steps(row.t_us)
        there = ~np.isnan(row.values)
        self._value[there], self._when_us[there] = row.values[there], row.t_us
        self._last_us = row.t_us

    def finish(self) -> Iterator[Row]:
        if self._value is not None:
            yield from self._steps(self._last_us + 1)
        self._value = None

    def _ceil(self, t_us: int) -> int:
        return -(-t_us // self._period_us) * self._period_us

    def _steps(self, end_us: int) -> Iterator[Row]:
        """The steps before end_us."""
        assert self._value is not None
        while self._step_us < end_us:
            fresh = self._step_us - self._when_us <= self._hold_us
            if not fresh.any():
                self._step_us = self._ceil(end_us)
                return
            yield Row(self._device, self._step_us, np.where(fresh, self._value, np.float32(np.nan)))
            self._step_us += self._period_us


def retimer(mapping: Mapping) -> Retimer:
    if mapping.grid is not None:
        return Grid(round(mapping.grid.period_ms * 1000), round(mapping.grid.hold_ms * 1000))
    return TieSpreader(round(mapping.time.tie_ms * 1000)) if mapping.time.tie_ms else AsRecorded()


def retimed(recording: Recording) -> Iterator[Row | BadRow]:
    """A recording's rows with the times that its mapping wants; bad rows where they stand."""
    retimers: dict[str, Retimer] = {}
    for row in recording.rows():
        if isinstance(row, BadRow):
            yield row
            continue
        if (times := retimers.get(row.device)) is None:
            times = retimers[row.device] = retimer(recording.mapping)
        yield from times.add(row)
    for times in retimers.values():
        yield from times.finish()


class Framer:
    """Rows of one device to its frames, numbered from 0.

    Irregular rows become frames of one step with period 0; rows on a grid are gathered to the catalogue's
    steps a frame, and a gap ends a frame early.
    """

    def __init__(self, device: str, catalog: Catalog, period_us: int, header: bytes | None = None) -> None:
        self._key = device.encode()
        self._kind = catalog.kind
        self._steps_max = catalog.steps_per_frame if period_us else 1
        self._period_us = period_us
        self._encoder = FrameEncoder(device, catalog.key, period_us, header)
        self._rows: list[NDArray[np.float32]] = []
        self._first_us = 0
        self._seq = 0

    def add(self, at_us: int, values: NDArray[np.float32], start_us: int) -> Iterator[PlayedFrame]:
        """start_us : event time of the replay's start."""
        if self._rows and at_us != self._first_us + len(self._rows) * self._period_us:
            yield from self.flush(start_us)
        if not self._rows:
            self._first_us = at_us
        self._rows.append(values)
        if len(self._rows) == self._steps_max:
            yield from self.flush(start_us)

    def flush(self, start_us: int) -> Iterator[PlayedFrame]:
        if not self._rows:
            return
        block = np.stack(self._rows)
        last_us = self._first_us + (len(self._rows) - 1) * self._period_us
        value = self._encoder.encode(self._seq, start_us + self._first_us, block)
        self._seq += 1
        self._rows.clear()
        yield PlayedFrame(last_us, self._kind, self._key, value, block.size)


def _lane(
    recordings: Sequence[Recording], start_us: int, loops: int, header: bytes | None
) -> Iterator[PlayedFrame | Refused]:
    """The recordings of one device, one after another, `loops` times."""
    framers: dict[str, Framer] = {}
    at_us = 0
    for _ in range(loops):
        for recording in recordings:
            mapping, catalog = recording.mapping, recording.catalog
            period_us = round(mapping.grid.period_ms * 1000) if mapping.grid else 0
            base_us, origin_us = at_us, None
            for row in retimed(recording):
                if isinstance(row, BadRow):
                    device = recording.device_id
                    yield Refused(at_us, catalog.kind, device.encode() if device else None, row)
                    continue
                if origin_us is None:
                    origin_us = row.t_us
                at_us = base_us + row.t_us - origin_us
                key = f"{row.device} {catalog.key} {period_us}"
                if (framer := framers.get(key)) is None:
                    framer = framers[key] = Framer(row.device, catalog, period_us, header)
                yield from framer.add(at_us, row.values, start_us)
            for framer in framers.values():
                yield from framer.flush(start_us)
            at_us += period_us or 1_000_000  # the pause between two recordings


def timeline(
    recordings: Sequence[Recording], *, start_us: int, loops: int = 1, header: bytes | None = None
) -> Iterator[PlayedFrame | Refused]:
    """Everything to send, in the order of time.

    Parameters
    ----------
    start_us : event time that the first row of each device gets.
    loops : how often to play it all; a device's time and numbers go on from loop to loop.
    header : of the frames; see `FrameEncoder`.

    Raises
    ------
    RecordingError : a file cannot be read any further, or its clock stands still.
    """
    lanes: dict[str, list[Recording]] = {}
    for recording in recordings:  # recordings with several devices may share them: one lane a mapping
        lanes.setdefault(recording.device_id or f"mapping {recording.mapping.name}", []).append(recording)
    return heapq.merge(
        *(_lane(lane, start_us, loops, header) for lane in lanes.values()), key=lambda item: item.at_us
    )
