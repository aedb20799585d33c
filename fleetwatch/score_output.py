"""Scored rows as CSV or Parquet. The rule: one row for each of the input's, its own cells as they were written."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fleetwatch.score_files import ScoreError
from streams.core.rows import NOTES, RowScores

_PARQUET = (".parquet", ".pq")


@dataclass(frozen=True, slots=True)
class Names:
    """What output calls things. signals : the file's own names of the entry's signals, in its order.

    own : the file's columns that are written as they were; single : the file has one signal.
    """

    own: tuple[str, ...]
    signals: tuple[str, ...]
    detectors: tuple[str, ...]
    single: bool

    @property
    def header(self) -> list[str]:
        """The output's columns; of ours one gets an underscore where the file has that name."""
        ours = ("anomaly_score" if self.single else "score", "alert", "signal", "expected", "observed", "surprise",
                "detector", "note")  # fmt: skip
        return [*self.own, *(f"{name}_" if name in self.own else name for name in ours)]


def _words(words: Sequence[str], at: NDArray[Any]) -> Any:
    """Arrow text: words[at], nothing where at is negative."""
    return pa.array(words, pa.string()).take(pa.array(at.astype(np.int32), mask=at < 0))


def _floats(values: NDArray[np.float32], there: NDArray[np.bool_]) -> Any:
    return pa.array(values, pa.float32(), mask=~there | np.isnan(values))


def batch_of(names: Names, own: Sequence[Any], values: NDArray[np.float32], scores: RowScores) -> Any:
    """An Arrow batch of the output.

    own : Arrow arrays of `names.own`. values : float32 (n, d), in the entry's order.
    """
    guilty = scores.column[:, 0]
    named = guilty >= 0
    observed = values[np.arange(len(values)), np.maximum(guilty, 0)]
    note = scores.note.astype(np.int32)
    columns = [
        *own,
        pa.array(scores.score),
        pa.array(scores.alert),
        _words(names.signals, guilty),
        _floats(scores.expected[:, 0], named),
        _floats(observed, named),
        _floats(scores.share[:, 0], named),
        _words(names.detectors, np.where(scores.score > 0, scores.detector, -1)),
        _words(NOTES, np.where(note > 0, note, -1)),
    ]
    return pa.record_batch(columns, names=names.header)


class CsvSink:
    """Writes batches to a binary file; text is quoted in those batches that need it."""

    def __init__(self, file: Any, header: Sequence[str]) -> None:
        self._file = file
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(header)
        file.write(line.getvalue().encode())

    def write(self, batch: Any) -> None:
        try:
            text = _csv(batch, "none")
        except pa.ArrowInvalid:
            text = _csv(batch, "needed")
        self._file.write(text)

    def close(self) -> None:
        self._file.flush()


def _csv(batch: Any, quoting: str) -> Any:
    out = pa.BufferOutputStream()
    pacsv.write_csv(batch, out, pacsv.WriteOptions(include_header=False, quoting_style=quoting))
    return out.getvalue()


class ParquetSink:
    """Writes batches to a Parquet file, whose schema is the first one's."""

    def __init__(self, file: Any, header: Sequence[str]) -> None:
        self._file, self._header = file, header
        self._writer: Any = None

    def write(self, batch: Any) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._file, batch.schema)
        self._writer.write_batch(batch)

    def close(self) -> None:
        if self._writer is None:  # no rows
            schema = pa.schema([(name, pa.null()) for name in self._header])
            self._writer = pq.ParquetWriter(self._file, schema)
        self._writer.close()


@contextmanager
def opened(output: Path, header: Sequence[str]) -> Iterator[CsvSink | ParquetSink]:
    """The sink of a path, ``-`` = stdout. A file is in its place once it is whole; before, what was there is.

    Raises
    ------
    ScoreError : it cannot be written.
    """
    if str(output) == "-":
        sink = CsvSink(sys.stdout.buffer, header)
        yield sink
        sink.close()
        return
    target = output.resolve()
    whole = not target.exists() or target.is_file()
    part = target.with_name(f".{target.name}.{os.getpid()}.part") if whole else target
    try:
        with part.open("wb") as file:
            kind = ParquetSink if target.suffix.lower() in _PARQUET else CsvSink
            made = kind(file, header)
            yield made
            made.close()
        if whole:
            part.replace(target)
    except OSError as exc:
        raise ScoreError(f"{output}: cannot be written: {exc.strerror or exc}") from exc
    finally:
        if whole:
            part.unlink(missing_ok=True)
