"""Files through the row scorer: training first, then the input. The rule: a row in, a row out, in order.

`scorer` makes what `fleetwatch score` and the quality benchmarks score by: the settings' line-up for an entry.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detectors.registry import rate_of
from fleetwatch.score_entry import Columns
from fleetwatch.score_files import CsvTable, ParquetTable, ScoreError, numbers
from fleetwatch.score_times import Clock
from streams.core.rows import LATE, MISSING, NO_TIME, NOTES, WARMING, RowScorer, RowScores
from streams.wiring import detector_factory
from telemetry.catalog import Catalog
from telemetry.errors import SettingsError
from telemetry.settings import AlertSettings, Settings

_DAY_US = 86_400_000_000
#: Values of a run whose cost is worth telling.
_MEASURED = 1000


def with_budget(settings: Settings, budget: float) -> Settings:
    """These settings with another false-alarm budget, which then also counts where a threshold is set."""
    alerts = {**settings.alerts.model_dump(), "budget": budget, "open_surprise": None, "close_surprise": None}
    return settings.model_copy(update={"alerts": AlertSettings.model_validate(alerts)})


def _of_windows(name: str) -> bool:
    try:
        return rate_of(name) == "window"
    except ValueError:
        return False  # what makes the line-up says what is wrong with the name


#: Guilty signals are named from so small a score on.
NAMED_FROM = 0.01


def scorer(settings: Settings, entry: Catalog, devices_max: int = 1) -> RowScorer:
    """A scorer as new, with the worker's line-up for the entry but for window-rate detectors.

    Raises
    ------
    SettingsError : a detector's name, parameter or model is wrong, or none that runs for the entry may alert.
    """
    detectors = tuple(d for d in settings.detectors if not _of_windows(d.name))
    lineup = detector_factory(settings.model_copy(update={"detectors": detectors}), explain_from=NAMED_FROM)(entry)
    try:
        return RowScorer(entry, lineup, devices_max)
    except ValueError as exc:
        raise SettingsError(f"{exc}: see the setting `detectors`") from exc


def warm_up(settings: Settings, entry: Catalog) -> None:
    """Compile the kernels, so that what is measured is their work."""
    ts_us = np.arange(2, dtype=np.int64)
    scorer(settings, entry).score(ts_us, np.zeros((2, len(entry.signals)), np.float32))


@dataclass(slots=True)
class Chunk:
    """n rows of a file.

    own : Arrow arrays of the columns that are written as they were. ts_us : int64 (n,); None = the file has no
    times. timed : (n,), whether there is a time. devices : int64 (n,); None = one device. values : float32 (n, d).
    """

    own: list[Any]
    ts_us: NDArray[np.int64] | None
    timed: NDArray[np.bool_]
    devices: NDArray[np.int64] | None
    values: NDArray[np.float32]


class Reader:
    """One file's rows, for a scorer.

    Parameters
    ----------
    columns : the signals in the entry's order.
    devices : numbers by device's id; grows.
    lenient : a value that is no number is missing, a row without a time has no opinion; else they are errors.
    """

    def __init__(
        self,
        table: CsvTable | ParquetTable,
        columns: Columns,
        devices: dict[str, int],
        *,
        lenient: bool = False,
    ) -> None:
        self.table, self.columns = table, columns
        self._devices, self._lenient = devices, lenient
        found = [i for i in columns.signals if i >= 0]
        self.single = found[0] if len(found) == 1 else -1
        self.bad_cells = self._rows = 0

    @property
    def own(self) -> list[str]:
        """Names of the columns that are written as they were."""
        places = (self.columns.time, self.columns.device, self.single)
        return [self.table.header[i] for i in places if i >= 0]

    def chunks(self) -> Iterator[Chunk]:
        """The file's rows, from the first one.

        Raises
        ------
        ScoreError : a cell that cannot be used, by line and column; or the file cannot be read any further.
        """
        columns, clock = self.columns, Clock()
        wanted = sorted({i for i in (columns.time, columns.device, *columns.signals) if i >= 0})
        self._rows = 0
        for arrays in self.table.batches(wanted):
            cells = dict(zip(wanted, arrays, strict=True))
            n = len(arrays[0])
            values = np.full((n, len(columns.signals)), np.nan, np.float32)
            with np.errstate(over="ignore"):
                for j, i in enumerate(columns.signals):
                    if i >= 0:
                        values[:, j] = self._numbers(i, cells[i])
            ts_us, timed = self._times(clock, cells)
            own = [cells[i] for i in (columns.time, columns.device, self.single) if i >= 0]
            yield Chunk(own, ts_us, timed if ts_us is not None else np.ones(n, np.bool_), self._ids(cells), values)
            self._rows += n

    def _place(self, row: int, column: int) -> str:
        return f"{self.table.path}: {self.table.where(self._rows + row)}: column {self.table.header[column]!r}"

    def _numbers(self, column: int, cells: Any) -> NDArray[np.float64]:
        name = self.table.header[column]

        def complain(row: int, text: str) -> None:
            self.bad_cells += 1
            if not self._lenient:
                hint = f"--time {name!r} if it is the time, " if self.columns.time < 0 else ""
                hint += f"--ignore {name!r}, or --lenient: then such cells are missing"
                raise ScoreError(f"{self._place(row, column)}: {text[:60]!r} is no number ({hint})")

        try:
            return numbers(cells, complain)
        except TypeError as exc:
            where = f"{self.table.path}: column {name!r}"
            raise ScoreError(f"{where} holds {exc}, no numbers (to leave it out: --ignore {name!r})") from exc

    def _times(self, clock: Clock, cells: dict[int, Any]) -> tuple[NDArray[np.int64] | None, NDArray[np.bool_]]:
        column = self.columns.time
        if column < 0:
            return None, np.zeros(0, np.bool_)
        try:
            ts_us, timed = clock.read(cells[column])
        except TypeError as exc:
            where = f"{self.table.path}: column {self.table.header[column]!r}"
            raise ScoreError(f"{where} holds {exc}, no times") from exc
        if not timed.all():
            row = int(np.argmin(timed))
            self.bad_cells += int(np.count_nonzero(~timed))
            if not self._lenient:
                cell = cells[column][row].as_py()
                text = "there is no time" if cell is None else f"{str(cell)[:60]!r} is no time"
                raise ScoreError(f"{self._place(row, column)}: {text} (--lenient: then such rows are not scored)")
        return ts_us, timed

    def _ids(self, cells: dict[int, Any]) -> NDArray[np.int64] | None:
        if self.columns.device < 0:
            return None
        column = cells[self.columns.device]
        coded = (column.dictionary_decode() if pa.types.is_dictionary(column.type) else column).cast(pa.string())
        coded = coded.fill_null("").dictionary_encode()
        known = self._devices
        numbers_of = [known.setdefault(name, len(known)) for name in coded.dictionary.to_pylist()]
        return np.array(numbers_of, np.int64)[coded.indices.to_numpy(zero_copy_only=False)]


class Feed:
    """Puts files behind one another into one scorer. A file that begins before the last one's end is taken to be
    some whole days later, so that hours of the day stay; one without times goes on where the last one ended.

    Attributes
    ----------
    shift_days : by which the file is taken to be later. cpu_s : of the scoring alone.
    """

    def __init__(self, to: RowScorer, period_us: int) -> None:
        self.scorer, self._period_us = to, period_us
        self._last_us: int | None = None
        self._next_us = 0
        self._shift_us: int | None = None
        self._alert = np.zeros(1, np.uint8)
        self.cpu_s = 0.0

    @property
    def shift_days(self) -> int:
        return (self._shift_us or 0) // _DAY_US

    def begin(self) -> None:
        """The next chunk is a file's first."""
        self._shift_us = None
        self._next_us = 0 if self._last_us is None else self._last_us + self._period_us

    def _event_times(self, chunk: Chunk) -> NDArray[np.int64]:
        n = len(chunk.timed)
        if chunk.ts_us is None:
            ts_us = self._next_us + np.arange(n, dtype=np.int64) * self._period_us
            self._next_us += n * self._period_us
        else:
            ts_us = chunk.ts_us
            if self._shift_us is None and chunk.timed.any():
                first = int(ts_us[np.argmax(chunk.timed)])
                behind = 0 if self._last_us is None else max(0, self._last_us + self._period_us - first)
                late = self._last_us is not None and first <= self._last_us
                self._shift_us = -(-behind // _DAY_US) * _DAY_US if late else 0
            ts_us = ts_us + (self._shift_us or 0)
        if chunk.timed.any():
            last = int(ts_us[chunk.timed].max())
            self._last_us = last if self._last_us is None else max(last, self._last_us)
        return ts_us

    def score(self, chunk: Chunk) -> RowScores:
        """What the rows are told. Rows without a time are not scored; an open alert lasts over them.

        Raises
        ------
        ScoreError : more devices than may be, or the files' times together are too long.
        """
        ts_us, timed = self._event_times(chunk), chunk.timed
        started = time.thread_time()
        try:
            whole = bool(timed.all())
            out = self.scorer.score(ts_us, chunk.values, chunk.devices) if whole else self._some(ts_us, chunk)
        except ValueError as exc:
            raise ScoreError(str(exc)) from exc
        self.cpu_s += time.thread_time() - started
        if len(timed):
            self._alert = out.alert[-1:].copy()
        return out

    def _some(self, ts_us: NDArray[np.int64], chunk: Chunk) -> RowScores:
        """The rows with a time; the others get none's opinion."""
        n, timed = len(chunk.timed), chunk.timed
        devices = None if chunk.devices is None else chunk.devices[timed]
        some = self.scorer.score(ts_us[timed], chunk.values[timed], devices)
        out = RowScores.empty(n)
        for name in RowScores.__dataclass_fields__:
            getattr(out, name)[timed] = getattr(some, name)
        out.note[~timed] = NO_TIME
        if chunk.devices is None:
            before = np.concatenate([self._alert, some.alert])
            out.alert[~timed] = before[np.cumsum(timed)][~timed]
        return out


class Tally:
    """What a run came to, for the line at its end."""

    def __init__(self) -> None:
        self.rows = 0
        self.notes = np.zeros(len(NOTES), np.int64)
        self.score = np.float32(-1)
        self.at = self.signal = ""

    def add(self, times: Any, scores: RowScores, signals: tuple[str, ...]) -> None:
        """times : Arrow array, what rows are called by."""
        self.notes += np.bincount(scores.note, minlength=len(NOTES))
        top = int(np.argmax(scores.score))
        if scores.score[top] > self.score:
            self.score = scores.score[top]
            self.at = str(times[top].as_py())
            column = int(scores.column[top, 0])
            self.signal = signals[column] if column >= 0 else ""
        self.rows += len(scores.score)

    def line(self, alerts: int, opens: float, cpu_s: float, values: int) -> str:
        """``4,032 rows: 2 alerts (from 4.94 on), largest score 12.3 at ... (value); 210 ns of CPU a value``.

        opens : the score that opens an alert.
        """
        parts = [f"{self.rows:,} rows: {alerts:,} alert{'' if alerts == 1 else 's'} (from {opens:.3g} on)"]
        if self.rows:
            who = f" ({self.signal})" if self.signal else ""
            parts[0] += f", largest score {self.score:.4g} at {self.at}{who}"
        parts += [f"{self.notes[i]:,} {NOTES[i]}" for i in range(1, len(NOTES)) if self.notes[i]]
        if values >= _MEASURED:
            parts.append(f"{cpu_s / values * 1e9:,.0f} ns of CPU a value")
        return "; ".join(parts)

    @property
    def mostly_late(self) -> bool:
        """A twentieth of the rows were out of order."""
        return bool(self.notes[LATE] * 20 >= max(self.rows, 20))

    @property
    def silent(self) -> bool:
        """The detectors were warming to the end."""
        return bool(self.notes[WARMING]) and self.notes[WARMING] + self.notes[MISSING] == self.rows
