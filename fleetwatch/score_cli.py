"""`fleetwatch score`. The rule: stdout carries scored rows only, everything else goes to stderr."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa

from fleetwatch.pages import load_settings, quiet_end
from fleetwatch.score import Chunk, Feed, Reader, Tally, scorer, warm_up, with_budget
from fleetwatch.score_entry import (
    FALLBACK_PERIOD_S,
    PERIOD_MAX_S,
    Columns,
    bind,
    entry_of,
    find_columns,
    known_entry,
    period_s,
)
from fleetwatch.score_files import CsvTable, ParquetTable, ScoreError, open_table
from fleetwatch.score_output import Names, batch_of, opened
from telemetry.catalog import Catalog
from telemetry.settings import Settings

_PROGRESS_S = 0.5
#: Name of the first output column where the input has no times.
ROW = "row"


@dataclass(frozen=True, slots=True)
class Options:
    """How files are to be read."""

    time: str | None
    device: str | None
    ignored: tuple[str, ...]
    period_s: float | None
    lenient: bool

    def columns(self, table: CsvTable | ParquetTable) -> Columns:
        ignored = tuple(name for name in self.ignored if name in table.header)
        return find_columns(table, self.time, self.device, ignored)


class Progress:
    """Rows so far, on a terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._started = self._told = time.monotonic()
        self._rows = 0

    def loading(self) -> None:
        """The detectors are being made."""
        if self._shown:
            click.echo(
                "loading the detectors (the first time they are compiled, for a minute) ", err=True, nl=False
            )

    def loaded(self) -> None:
        self._started = time.monotonic()
        self._clear()

    def add(self, rows: int) -> None:
        self._rows += rows
        now = time.monotonic()
        if self._shown and now - self._told >= _PROGRESS_S:
            self._told = now
            rate = self._rows / (now - self._started)
            click.echo(f"\r{self._rows:,} rows, {rate:,.0f} a second ", err=True, nl=False)

    def end(self) -> None:
        if self._told > self._started:
            self._clear()

    def _clear(self) -> None:
        if self._shown:
            click.echo("\r\x1b[K", err=True, nl=False)


def _peek(chunks: Iterator[Chunk]) -> tuple[Chunk | None, Iterator[Chunk]]:
    first = next(chunks, None)
    return first, chunks if first is None else itertools.chain([first], chunks)


def _period_s(options: Options, first: Chunk | None) -> float:
    if options.period_s is not None:
        return options.period_s
    if first is None or first.ts_us is None:
        return FALLBACK_PERIOD_S
    devices = None if first.devices is None else first.devices[first.timed]
    return period_s(first.ts_us[first.timed], devices)


def _said(reader: Reader, names: tuple[str, ...], entry: Catalog, known: bool) -> str:
    """What was understood of the input, in a line."""
    found = sum(i >= 0 for i in reader.columns.signals)
    what = f"{found} of the {len(names)} signals of {entry.key}" if known else f"{found} signal{'s'[: found != 1]}"
    at, every = reader.columns.time, f"{entry.period_ms / 1000:g} s"
    if at < 0:
        return f"{reader.table.path.name}: {what}, no time column (--time): rows are {every} apart (--period)"
    return f"{reader.table.path.name}: {what}, time in {reader.table.header[at]!r}, a row every {every}"


def _first_own(reader: Reader, chunk: Chunk, first_row: int) -> list[Any]:
    """The columns that are written as they were; a row's number in the place of a time that is not there."""
    if reader.columns.time >= 0:
        return chunk.own
    return [pa.array(np.arange(first_row, first_row + len(chunk.timed))), *chunk.own]


def run(
    source: Path,
    output: Path,
    trains: tuple[Path, ...],
    entry: Catalog | None,
    settings: Settings,
    options: Options,
) -> str:
    """Score one file; returns the line at the end.

    entry : None = made from the input's header.

    Raises
    ------
    ScoreError, SettingsError : see there.
    """
    devices: dict[str, int] = {}
    tables = [open_table(path) for path in (source, *trains)]
    columns = [options.columns(table) for table in tables]
    names = entry.columns if entry else tuple(tables[0].header[i] for i in columns[0].signals)
    what = entry.key if entry else source.name
    reader, *trainers = (
        Reader(table, bind(table, found, names, what), devices, lenient=options.lenient)
        for table, found in zip(tables, columns, strict=True)
    )
    first, chunks = _peek(reader.chunks())
    known = entry is not None
    if entry is None:
        entry = entry_of(names, _period_s(options, first))
    elif options.period_s is not None:
        entry = entry.model_copy(update={"period_ms": options.period_s * 1000})
    click.echo(_said(reader, names, entry, known), err=True)
    progress = Progress()
    progress.loading()
    warm_up(settings, entry)
    devices_max = settings.processing.devices_max if options.device else 1
    feed = Feed(scorer(settings, entry, devices_max), max(1, round(entry.period_ms * 1000)))
    progress.loaded()
    for trained in trainers:
        _train(feed, trained, progress)
    return _score(feed, reader, chunks, output, names, progress)


def _score(
    feed: Feed,
    reader: Reader,
    chunks: Iterator[Chunk],
    output: Path,
    names: tuple[str, ...],
    progress: Progress,
) -> str:
    """The input, once all that comes before it is learnt."""
    before, tally = feed.scorer.alerts, Tally()
    feed.begin()
    own = reader.own if reader.columns.time >= 0 else [ROW, *reader.own]
    out = Names(tuple(own), names, feed.scorer.detectors, reader.single >= 0)
    with opened(output, out.header) as sink:
        for chunk in chunks:
            scores = feed.score(chunk)
            cells = _first_own(reader, chunk, tally.rows)
            sink.write(batch_of(out, cells, chunk.values, scores))
            tally.add(cells[0], scores, names)
            progress.add(len(chunk.timed))
    progress.end()
    _warn(feed, reader, tally)
    values = feed.scorer.rows * sum(i >= 0 for i in reader.columns.signals)
    return tally.line(feed.scorer.alerts - before, feed.scorer.opens, feed.cpu_s, values)


def _train(feed: Feed, reader: Reader, progress: Progress) -> None:
    feed.begin()
    rows = 0
    for chunk in reader.chunks():
        feed.score(chunk)
        rows += len(chunk.timed)
        progress.add(len(chunk.timed))
    click.echo(f"{reader.table.path.name}: {rows:,} rows to learn from{_moved(feed)}", err=True)


def _moved(feed: Feed) -> str:
    days = feed.shift_days
    if not days:
        return ""
    return f", taken to be {days} day{'s'[: days != 1]} later: the file before it ends after its begin"


def _warn(feed: Feed, reader: Reader, tally: Tally) -> None:
    name = reader.table.path.name
    if feed.shift_days:
        click.echo(f"{name}:{_moved(feed)[1:]}", err=True)
    if reader.bad_cells:
        click.echo(f"{name}: {reader.bad_cells:,} cells that are no numbers or times", err=True)
    if tally.mostly_late:
        what = "many rows are no later than the one before: sort them by time; several devices: --device"
        click.echo(f"{name}: {what}", err=True)
    if tally.silent:
        click.echo(f"{name}: too short: the detectors were still warming at its end", err=True)


@click.command()
@click.argument("source", metavar="INPUT", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default="-", help="Default: stdout, as CSV. "
    "A name that ends with .parquet is written as Parquet. An existing file is replaced.",
)  # fmt: skip
@click.option(
    "--train", "trains", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file to learn from first, as what the same device did before; may be repeated, oldest first.",
)  # fmt: skip
@click.option("--catalog", help="Of the signals: a YAML file, a key (vehicle.ev/1) or a class (vehicle.ev).")
@click.option(
    "--budget", type=click.FloatRange(0, 100_000, min_open=True), metavar="ALARMS",
    help="False alarms that are put up with, per device and 30 days. Default: the setting alerts.budget.",
)  # fmt: skip
@click.option("--time", "time_column", metavar="COLUMN", help="Default: timestamp, time, datetime, date or ts.")
@click.option("--device", metavar="COLUMN", help="Rows of many devices: the column that says whose they are.")
@click.option("--ignore", multiple=True, metavar="COLUMN", help="No signal, such as a label; may be repeated.")
@click.option(
    "--period", type=click.FloatRange(1e-6, PERIOD_MAX_S), metavar="SECONDS",
    help="Usual time from one row to the next. Default: the catalogue's, or the middle one of the first 100 steps.",
)  # fmt: skip
@click.option("--lenient", is_flag=True, help="Text in the place of a number is missing, not an error.")
@click.pass_context
def score(
    ctx: click.Context,
    source: Path,
    output: Path,
    trains: tuple[Path, ...],
    catalog: str | None,
    budget: float | None,
    time_column: str | None,
    device: str | None,
    ignore: tuple[str, ...],
    period: float | None,
    lenient: bool,
) -> None:
    """Score each row of INPUT, a CSV or Parquet file, as a worker would.

    INPUT has a time column and one or many columns of numbers: the signals of one device. Its rows go through the
    worker's own detectors, calibration and alert policy, in order; nothing looks ahead. Each row of the input gives
    one row of the output: its time as it stands, then

    \b
      score     how surprising the row is, -log10 p (6: once in a million rows);
                0 also where there is no opinion. One signal: anomaly_score
      alert     1 while an alert is open
      signal    the guilty one, with what was expected of it, what was observed,
                and its own surprise
      detector  who said so
      note      why there is no opinion: warming, missing, out of order, no time

    Without --catalog nothing is known of the signals but their names. Detectors and thresholds are the settings'
    (--config, FLEETWATCH_DETECTORS, ...). See docs/score.md.

    \b
    Examples:
      fleetwatch score nyc_taxi.csv -o scored.csv
      fleetwatch score machine.csv --train last_week.csv --ignore label > scored.csv
      fleetwatch score drive.parquet --catalog vehicle.ev --budget 1 -o drive.scores.parquet
      fleetwatch score fleet.csv --device vin --time t --period 0.5
    """
    settings, options = load_settings(ctx), Options(time_column, device, ignore, period, lenient)
    if budget is not None:
        settings = with_budget(settings, budget)
    inputs = {path.resolve() for path in (source, *trains)}
    if str(output) != "-" and output.resolve() in inputs:
        raise click.UsageError(f"{output} is an input: the output would replace it")
    entry = None
    if catalog is not None:
        entry = known_entry(catalog, settings.catalog.paths)
        if Path(catalog).is_file():  # trained relations lie beside it
            paths = settings.catalog.model_copy(update={"paths": (*settings.catalog.paths, Path(catalog))})
            settings = settings.model_copy(update={"catalog": paths})
    known = [name for path in (source, *trains) for name in open_table(path).header]
    if lost := [name for name in ignore if name not in known]:
        raise ScoreError(f"--ignore {lost[0]!r}: no file has that column")
    with quiet_end():
        try:
            line = run(source, output, trains, entry, settings, options)
        except KeyboardInterrupt:
            raise click.Abort from None
        click.echo(line, err=True)
