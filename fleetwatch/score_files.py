"""CSV and Parquet files as Arrow columns, by batches. The rule: what is wrong is named by line and column."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from telemetry.errors import FleetwatchError

#: Cells that stand for "no value", beside the empty one.
MISSING = (
    "", "NA", "N/A", "n/a", "#N/A", "nan", "NaN", "NAN", "-nan", "-NaN", "null", "NULL", "None", "none",
)  # fmt: skip
_HEADER_BYTES_MAX = 4 << 20
_BLOCK_BYTES, _WIDE_BLOCK_BYTES, _WIDE = 1 << 20, 8 << 20, 512
_PARQUET_ROWS = 1 << 16


class ScoreError(FleetwatchError):
    """A file that cannot be scored, or not to its end."""

    exit_code = 65  # EX_DATAERR


def open_table(path: Path) -> CsvTable | ParquetTable:
    """The file, by its first bytes: Parquet says what it is.

    Raises
    ------
    ScoreError : it cannot be read, or has no columns with names of their own.
    """
    try:
        with path.open("rb") as file:
            parquet = file.read(4) == b"PAR1"
        table = ParquetTable(path) if parquet else CsvTable(path)
    except (OSError, pa.ArrowException) as exc:
        raise ScoreError(f"{path}: cannot be read: {_first_line(exc)}") from exc
    seen: set[str] = set()
    for name in table.header:
        if name in seen:
            raise ScoreError(f"{path}: column {name!r} stands twice in the header")
        seen.add(name)
    return table


def _first_line(exc: BaseException) -> str:
    return (getattr(exc, "strerror", None) or str(exc)).strip().partition("\n")[0]


class CsvTable:
    """One CSV file; cells stay text until they are asked for as numbers. The delimiter is comma, semicolon or tab.

    Attributes
    ----------
    header : the columns' names; one without a name is called by its place.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            line, self._skip = b"", 0
            while not line.strip():
                line = file.readline(_HEADER_BYTES_MAX)
                self._skip += 1
                if not line:
                    raise ScoreError(f"{path}: the file is empty: there is no header")
            self.empty = not any(chunk.strip() for chunk in iter(lambda: file.read(1 << 16), b""))
        try:
            text = line.replace(b"\0", b"\xff").decode("utf-8-sig")  # a zero byte is as little text as that
            self._delimiter = max(",;\t", key=text.count)
            cells = next(csv.reader([text], delimiter=self._delimiter, strict=True))
        except (ValueError, csv.Error, StopIteration) as exc:
            raise ScoreError(f"{path}: neither CSV nor Parquet: {line[:40]!r} is no header") from exc
        self.header = [name.strip() or f"column_{i}" for i, name in enumerate(cells, 1)]
        if all(map(_is_number, self.header)) and self.header != [str(i) for i in range(len(cells))]:
            raise ScoreError(f"{path}: its first line is no header but numbers ({', '.join(self.header[:3])}, ...)")

    def where(self, row: int) -> str:
        """The place of a row (from 0) for a person: its line in the file."""
        at = -1
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                at += number > self._skip and bool(line.strip(b"\r\n"))
                if at == row:
                    return f"line {number}"
        return f"row {row + 1}"

    def batches(self, columns: Sequence[int]) -> Iterator[list[Any]]:
        """Arrow arrays of these columns (at least one), from the first row on; no text = one of `MISSING`.

        Raises
        ------
        ScoreError : the file cannot be read any further.
        """
        if self.empty:
            return
        names = [f"c{i}" for i in range(len(self.header))]
        wanted = [names[i] for i in columns]
        block = _WIDE_BLOCK_BYTES if len(names) > _WIDE else _BLOCK_BYTES
        try:
            with pacsv.open_csv(
                str(self.path),
                read_options=pacsv.ReadOptions(block_size=block, skip_rows=self._skip, column_names=names),
                parse_options=pacsv.ParseOptions(delimiter=self._delimiter),
                convert_options=pacsv.ConvertOptions(
                    column_types=dict.fromkeys(wanted, pa.string()),
                    include_columns=wanted,
                    strings_can_be_null=True,
                    null_values=list(MISSING),
                ),
            ) as reader:
                for batch in reader:
                    if batch.num_rows:
                        yield batch.columns
        except (OSError, pa.ArrowException) as exc:
            raise ScoreError(self._why(exc)) from exc

    def _why(self, exc: BaseException) -> str:
        """In place of Arrow's message, which does not name the line."""
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8", "surrogateescape")
                if any("\udc80" <= c <= "\udcff" for c in text):
                    return f"{self.path}: line {number} is not UTF-8"
                if number <= self._skip or not text.strip("\r\n"):
                    continue
                try:
                    cells = len(next(csv.reader([text], delimiter=self._delimiter)))
                except csv.Error:
                    continue
                if cells != len(self.header):
                    return f"{self.path}: line {number} has {cells} cells, the header has {len(self.header)}"
        return f"{self.path}: cannot be read any further: {_first_line(exc)}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class ParquetTable:
    """One Parquet file. header : the columns' names."""

    empty = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._schema = pq.read_schema(str(path))
        self.header: list[str] = list(self._schema.names)

    def first_timestamp(self) -> str | None:
        """The first column whose type is a time."""
        return next((f.name for f in self._schema if pa.types.is_timestamp(f.type)), None)

    def where(self, row: int) -> str:
        """The place of a row (from 0) for a person."""
        return f"row {row + 1}"

    def batches(self, columns: Sequence[int]) -> Iterator[list[Any]]:
        """Arrow arrays of these columns, from the first row on.

        Raises
        ------
        ScoreError : a column is nested, or the file cannot be read any further.
        """
        for i in columns:
            name, kind = self.header[i], self._schema.field(i).type
            if pa.types.is_nested(kind):
                raise ScoreError(f"{self.path}: column {name!r} is nested ({kind}); leave it out: --ignore {name}")
        names = [self.header[i] for i in columns]
        try:
            with pq.ParquetFile(str(self.path)) as file:
                for batch in file.iter_batches(_PARQUET_ROWS, columns=names):
                    if batch.num_rows:
                        yield [_plain(batch.column(name)) for name in names]
        except (OSError, pa.ArrowException) as exc:
            raise ScoreError(f"{self.path}: cannot be read any further: {_first_line(exc)}") from exc


def _plain(column: Any) -> Any:
    """Views of text, as some writers have them, as text: few of Arrow's functions take them."""
    return column.cast(pa.string()) if pa.types.is_string_view(column.type) else column


#: Called with the number of a cell in its column and its text, for what is no number.
Complain = Callable[[int, str], None]


def numbers(column: Any, complain: Complain) -> NDArray[np.float64]:
    """float64 (n,), NaN = missing. complain : of cells that are neither; they are NaN, if it returns.

    Raises
    ------
    TypeError : cells of this type are no values.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return numbers(column.dictionary_decode(), complain)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _text_numbers(column, complain)
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise TypeError(str(kind))
    found: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return found


def _text_numbers(column: Any, complain: Complain) -> NDArray[np.float64]:
    found: NDArray[np.float64]
    for trim in (False, True):
        try:
            cells = _trimmed(column) if trim else column
            found = cells.cast(pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:
            continue
        return found
    found = np.full(len(column), np.nan)
    for i, text in enumerate(_trimmed(column).to_pylist()):
        if text is None:
            continue
        if _is_number(text) and "_" not in text:
            found[i] = float(text)
        else:
            complain(i, text)
    return found


def _trimmed(column: Any) -> Any:
    text = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.is_in(text, value_set=pa.array(MISSING, text.type)), pa.scalar(None, text.type), text)
