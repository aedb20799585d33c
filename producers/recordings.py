"""Recordings (CSV, Parquet, NPZ) as rows of a catalogue's signals. The rule: a bad row is a value, not an error.

CSV and Parquet are streamed. What a mapping cannot use at all (no time column, no known format) raises
`RecordingError` before the first row.
"""

from __future__ import annotations

import csv
import json
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from producers.mapping import FIT_MIN, TICKS_PER_S, Mapping, RecordingError, detect, fit, split_index
from telemetry.catalog import Catalog, CatalogSet
from telemetry.codec import micros
from telemetry.errors import nearest

#: A longer line is cut into several, which are then malformed.
LINE_BYTES_MAX = 256 * 1024
PARQUET_BATCH_ROWS = 8192
#: Event times are microseconds in 64 bits; recordings stay far from the ends.
TIME_US_MAX = 1 << 60
DEVICE_ID_MAX = 64


@dataclass(frozen=True, slots=True)
class Row:
    """One row. t_us: the recording's own time; values: float32 (signals,), NaN = missing."""

    device: str
    t_us: int
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used. line: counted from 1, the header included; raw: its bytes as they stand."""

    source: str
    line: int
    reason: str
    detail: str
    raw: bytes

    @property
    def message(self) -> str:
        return f"{self.source}:{self.line}: {self.reason}: {self.detail}"


class _BadValueError(ValueError):
    """A cell that cannot be used; becomes a BadRow."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def _instant(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return micros(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


class Reader:
    """Turns cells into a Row, for one pass through a recording.

    Parameters
    ----------
    header : the recording's column names as they stand.
    device : id for all rows; None = the mapping's pattern.

    Attributes
    ----------
    device_id : of all rows; None if it is made of columns.
    """

    def __init__(
        self, path: Path, header: Sequence[str], mapping: Mapping, catalog: Catalog, device: str | None
    ) -> None:
        self.source = path.name
        self.mapping = mapping
        names = mapping.clean(header)
        self.width = len(names)
        if mapping.time.column not in names:
            raise RecordingError(
                f"{path}: no time column {mapping.time.column}{nearest(mapping.time.column, names)}"
            )
        at = {name: i for i, name in reversed(list(enumerate(names)))}
        self.time_at = at[mapping.time.column]
        fields = () if device is not None else mapping.device_columns
        if lost := [name for name in fields if name not in at]:
            raise RecordingError(f"{path}: no column {lost[0]} for the device's id{nearest(lost[0], names)}")
        self._device_at = {name: at[name] for name in fields}
        self._stem = path.stem
        self.device_id = device if device is not None else None if fields else self._id({})
        self._last_us: dict[str, int] = {}
        self._plan = [
            (catalog.column(signal), at[source.column], source.scale, source.offset)
            for signal, source in mapping.signals.items()
            if source.column in at
        ]
        self._signals = len(catalog.signals)
        self._missing = frozenset(mapping.missing)

    def time_us(self, cell: Any) -> int:
        unit = self.mapping.time.unit
        try:
            if isinstance(cell, datetime):
                return micros(cell if cell.tzinfo else cell.replace(tzinfo=UTC))
            if unit == "iso":
                return _instant(cell.strip())
            if isinstance(cell, int):
                exact = cell * 1_000_000 // int(TICKS_PER_S[unit])
            else:
                exact = round(float(cell) / TICKS_PER_S[unit] * 1e6)
        except (ValueError, TypeError, AttributeError, OverflowError) as exc:
            raise _BadValueError("bad_time", f"{cell!r} is not a time in {unit}") from exc
        if abs(exact) > TIME_US_MAX:
            raise _BadValueError("bad_time", f"{cell!r} {unit} is out of range")
        return exact

    def number(self, cell: Any) -> float:
        if cell is None:
            return math.nan
        try:
            if isinstance(cell, str):
                text = cell.strip().lower()
                if text in self._missing:
                    return math.nan
                value = math.inf if "_" in text else float(text)
            else:
                value = float(cell)
        except (ValueError, TypeError) as exc:
            raise _BadValueError("bad_value", f"{cell!r} is not a number") from exc
        if math.isinf(value):
            raise _BadValueError("bad_value", f"{cell!r} is not a finite number")
        return value

    def row(self, cells: Sequence[Any]) -> Row:
        """cells may be shorter than the header: what is not there is missing."""
        n = len(cells)
        if self.time_at >= n:
            raise _BadValueError("bad_time", "the row has no time")
        t_us = self.time_us(cells[self.time_at])
        values = np.full(self._signals, np.nan, np.float32)
        for signal, column, scale, offset in self._plan:
            if column < n:
                values[signal] = self.number(cells[column]) * scale + offset
        device = self.device_id
        if device is None:
            try:
                parts = {name: str(cells[i]).strip() for name, i in self._device_at.items()}
            except IndexError:
                raise _BadValueError("bad_device", "the row lacks a column of the device's id") from None
            device = self._id(parts)
        last_us = self._last_us.get(device, t_us)
        if t_us < last_us:
            raise _BadValueError("time_backwards", f"{(last_us - t_us) / 1e6:g} s before the row before it")
        self._last_us[device] = t_us
        return Row(device, t_us, values)

    def _id(self, parts: dict[str, str]) -> str:
        """The pattern filled in; characters that an id may not have become underscores."""
        filled = self.mapping.device.format(stem=self._stem, **parts)
        return re.sub(r"[^A-Za-z0-9._:-]", "_", filled)[:DEVICE_ID_MAX] or "_"


def _physical_lines(file: BinaryIO, taken: list[bytes]) -> Iterator[str]:
    """Lines as text that keeps every byte; `taken` collects the raw ones of the row that csv is reading."""
    while line := file.readline(LINE_BYTES_MAX):
        taken.append(line)
        yield line.decode("utf-8", "surrogateescape")


def _csv_header(path: Path, mapping: Mapping | None) -> list[str]:
    with path.open("rb") as file:
        line = file.readline(LINE_BYTES_MAX).decode("utf-8-sig", "surrogateescape")
    if not line.strip():
        raise RecordingError(f"{path}: the file has no header line")
    return next(csv.reader([line], delimiter=mapping.delimiter if mapping else ","))


class _Widths:
    """How many cells a row may have: as many as the header, or as the first row if that has fewer.

    Some recorders write a header for all columns and rows for the first so many only. A trailing comma is no
    column.
    """

    def __init__(self, header: int) -> None:
        self._allowed = {header}
        self._header = header
        self._settled = False

    def check(self, cells: list[str]) -> list[str]:
        if len(cells) not in self._allowed and not cells[-1].strip():
            cells = cells[:-1]
        if not self._settled and self._header * FIT_MIN <= len(cells) <= self._header:
            self._settled = True
            self._allowed.add(len(cells))
        if len(cells) not in self._allowed:
            wanted = " or ".join(str(n) for n in sorted(self._allowed))
            raise _BadValueError("wrong_cells", f"{len(cells)} cells instead of {wanted}")
        return cells


def _csv_rows(path: Path, reader: Reader) -> Iterator[Row | BadRow]:
    widths = _Widths(reader.width)
    taken: list[bytes] = []
    with path.open("rb") as file:
        table = csv.reader(_physical_lines(file, taken), delimiter=reader.mapping.delimiter)
        next(table)
        line = 1
        while True:
            line += len(taken)
            taken.clear()
            try:
                cells = next(table)
                if any(cell.strip() for cell in cells):
                    yield reader.row(widths.check(cells))
            except StopIteration:
                return
            except csv.Error as exc:
                yield BadRow(reader.source, line, "bad_csv", str(exc), b"".join(taken))
            except _BadValueError as exc:
                yield BadRow(reader.source, line, exc.reason, str(exc), b"".join(taken))


def _table_rows(rows: Iterator[Sequence[Any]], reader: Reader) -> Iterator[Row | BadRow]:
    """Rows of a binary format; a bad one's bytes are its cells as JSON."""
    for number, cells in enumerate(rows, 1):
        try:
            yield reader.row(cells)
        except _BadValueError as exc:
            raw = json.dumps([c if isinstance(c, int | float | str | None) else str(c) for c in cells])
            yield BadRow(reader.source, number, exc.reason, str(exc), raw.encode())


def _parquet_rows(path: Path) -> Iterator[Sequence[Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(PARQUET_BATCH_ROWS):
            yield from zip(*(_cells(column) for column in batch.columns), strict=True)


def _cells(column: Any) -> list[Any]:
    if pa.types.is_timestamp(column.type):  # Python's datetimes hold microseconds
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    return list(column.to_pylist())


def _npz_header(path: Path) -> list[str]:
    with np.load(path, allow_pickle=False) as file:
        return list(file.files)


def _npz_columns(path: Path, columns: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The arrays as flat columns, ``name[i]`` for those of two dimensions."""
    found: dict[str, NDArray[Any]] = {}
    with np.load(path, allow_pickle=False) as file:
        for column in columns:
            name, index = split_index(column)
            if name not in file.files:
                continue
            try:
                data = file[name]
            except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as exc:
                raise RecordingError(f"{path}: array {name} cannot be read: {exc}") from exc
            if index is not None:
                if data.ndim != 2 or index >= data.shape[1]:
                    raise RecordingError(f"{path}: {column}: the array has shape {data.shape}")
                data = data[:, index]
            if data.ndim != 1:
                raise RecordingError(f"{path}: {name} has shape {data.shape}; name a column, as in {name}[0]")
            found[column] = data.astype("datetime64[us]") if data.dtype.kind == "M" else data
    return found


def _npz_rows(path: Path, mapping: Mapping) -> tuple[list[str], Iterator[Sequence[Any]]]:
    """Header and rows of the union of all time bases; a signal is NaN in the rows of the others."""
    times = {s.column: s.time or mapping.time.column for s in mapping.signals.values()}
    wanted = (mapping.time.column, *times.values(), *times, *mapping.device_columns)
    columns = _npz_columns(path, tuple(dict.fromkeys(wanted)))
    if mapping.time.column not in columns:
        raise RecordingError(f"{path}: no array {mapping.time.column}{nearest(mapping.time.column, columns)}")
    used = {column: time for column, time in times.items() if column in columns}
    for column, time in used.items():
        if time not in columns:
            raise RecordingError(f"{path}: no array {time}, the time of {column}")
        if len(columns[column]) != len(columns[time]):
            raise RecordingError(
                f"{path}: {column} has {len(columns[column])} rows, its time {time} has {len(columns[time])}"
            )
    bases = list(dict.fromkeys((mapping.time.column, *used.values())))
    if len(bases) == 1:
        header = [mapping.time.column, *(c for c in used if c != mapping.time.column), *mapping.device_columns]
        return header, zip(*(columns[name].tolist() for name in header), strict=True)
    union = np.unique(np.concatenate([columns[base] for base in bases]))
    merged = np.full((len(union), len(used)), np.nan)
    for j, (column, time) in enumerate(used.items()):
        merged[np.searchsorted(union, columns[time]), j] = columns[column]
    rows = ((t, *values) for t, values in zip(union.tolist(), merged.tolist(), strict=True))
    return [mapping.time.column, *used], rows


class Recording:
    """One file with its mapping; `rows` reads it from the start, each time it is called.

    Parameters
    ----------
    mapping : None = the shipped one that fits its columns.
    device : id for all its rows; None = the mapping's pattern.

    Attributes
    ----------
    device_id : of all its rows; None if it is made of columns.

    Raises
    ------
    RecordingError, CatalogError : unknown format, no mapping fits, or the mapping does not.
    """

    def __init__(
        self, path: Path, catalogs: CatalogSet, mapping: Mapping | None = None, device: str | None = None
    ) -> None:
        self.path = path
        header = self._header(mapping)
        self.mapping = mapping or detect(header, str(path))
        self.catalog = self.mapping.entry(catalogs)
        self.fit = fit(self.mapping, header)
        if self.fit.found == 0:
            raise RecordingError(f"{path}: it has none of the columns of mapping {self.mapping.name}")
        self._names = header
        self._device = device
        self.device_id = self._source()[0].device_id  # and refuses now what the first row would be refused for

    def _header(self, mapping: Mapping | None) -> list[str]:
        readers: dict[str, Callable[[], list[str]]] = {
            ".csv": lambda: _csv_header(self.path, mapping),
            ".txt": lambda: _csv_header(self.path, mapping),
            ".parquet": lambda: list(pq.read_schema(self.path).names),
            ".npz": lambda: _npz_header(self.path),
        }
        read = readers.get(self.path.suffix.lower())
        if read is None:
            raise RecordingError(f"{self.path}: unknown format; known: {', '.join(readers)}")
        try:
            return read()
        except (OSError, ValueError, csv.Error, zipfile.BadZipFile, pa.ArrowException) as exc:
            raise RecordingError(f"{self.path}: cannot be read: {exc}") from exc

    def _source(self) -> tuple[Reader, Iterator[Row | BadRow]]:
        kind = self.path.suffix.lower()
        names, cells = _npz_rows(self.path, self.mapping) if kind == ".npz" else (self._names, None)
        reader = Reader(self.path, names, self.mapping, self.catalog, self._device)
        if kind == ".parquet":
            cells = _parquet_rows(self.path)
        return reader, _csv_rows(self.path, reader) if cells is None else _table_rows(cells, reader)

    def rows(self) -> Iterator[Row | BadRow]:
        """Rows in time order for each device; bad ones where they stand.

        Raises
        ------
        RecordingError : the file cannot be read any further.
        """
        try:
            yield from self._source()[1]
        except (OSError, pa.ArrowException) as exc:
            raise RecordingError(f"{self.path}: cannot be read further: {exc}") from exc
