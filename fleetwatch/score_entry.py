"""A file's columns and a catalogue entry's signals. The rule: columns go by name, none is passed over."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fleetwatch.score_files import CsvTable, ParquetTable, ScoreError
from telemetry import catalog as catalogs
from telemetry.catalog import SIGNALS_MAX, Catalog, Signal
from telemetry.errors import CatalogError, nearest

#: Columns that are taken for the time if none is named, whatever their case.
TIME_NAMES = ("timestamp", "time", "datetime", "date_time", "date", "ts")
#: Class of an entry that is made from a header: settings name it where a detector runs for some classes only.
CLASS = "file"
#: Of so many first times the middle step is the period; nothing after them is looked at.
PERIOD_ROWS = 100
FALLBACK_PERIOD_S = 1.0
#: Seconds: about 30 years.
PERIOD_MAX_S = 1e9
_NAME_MAX = 128


@dataclass(frozen=True, slots=True)
class Columns:
    """Which of a file's columns are what, by place. signals : those with values; -1 = the file has none such."""

    signals: tuple[int, ...]
    time: int = -1
    device: int = -1


def find_columns(
    table: CsvTable | ParquetTable, time: str | None, device: str | None, ignored: Sequence[str]
) -> Columns:
    """The time, the device and the signals of a file.

    Raises
    ------
    ScoreError : a named column is not there (the nearest is named), there is no signal, or there are too many.
    """
    header = table.header
    for name in (time, device, *ignored):
        if name is not None and name not in header:
            raise ScoreError(f"{table.path}: no column {name!r}{nearest(name, header)}")
    if time is None:
        left = [name for name in header if name not in (device, *ignored)]
        time = next((name for name in left if name.lower() in TIME_NAMES), None)
        if time is None and isinstance(table, ParquetTable):
            time = table.first_timestamp()
    taken = {time, device, *ignored}
    signals = tuple(i for i, name in enumerate(header) if name not in taken)
    if not signals:
        raise ScoreError(f"{table.path}: no column with values: its header is {', '.join(header)[:200]}")
    if len(signals) > SIGNALS_MAX:
        raise ScoreError(f"{table.path}: {len(signals)} columns with values; at most {SIGNALS_MAX} are a device's")
    return Columns(
        signals,
        header.index(time) if time is not None else -1,
        header.index(device) if device is not None else -1,
    )


def signal_names(names: Sequence[str]) -> list[str]:
    """Names that a catalogue allows, each once, in the place of a file's own."""
    found: list[str] = []
    taken: set[str] = set()
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_.]", "_", name)
        plain = (plain if plain[:1].isascii() and plain[:1].isalpha() else f"s_{plain}")[:_NAME_MAX]
        unique, n = plain, 1
        while unique in taken:
            n += 1
            unique = f"{plain[: _NAME_MAX - 8]}_{n}"
        taken.add(unique)
        found.append(unique)
    return found


def period_s(ts_us: NDArray[np.int64], devices: NDArray[np.int64] | None = None) -> float:
    """The middle step forward of the first `PERIOD_ROWS` times, each device's own, in seconds."""
    ts_us = ts_us[:PERIOD_ROWS]
    if devices is None:
        steps = np.diff(ts_us)
    else:
        order = np.argsort(devices[: len(ts_us)], kind="stable")
        same = np.diff(devices[: len(ts_us)][order]) == 0
        steps = np.diff(ts_us[order])[same]
    steps = steps[steps > 0]
    return min(float(np.median(steps)) / 1e6, PERIOD_MAX_S) if len(steps) else FALLBACK_PERIOD_S


def entry_of(names: Sequence[str], period: float) -> Catalog:
    """The entry of a file of which nothing is known but its columns and its period in seconds."""
    return Catalog(
        name=CLASS,
        version=1,
        kind="device",
        description="Made from a file's header.",
        period_ms=period * 1000,
        steps_per_frame=1,
        signals=tuple(Signal(name=name) for name in signal_names(names)),
    )


def known_entry(wanted: str, paths: Sequence[Path]) -> Catalog:
    """The entry of a YAML file, of a key (``vehicle.ev/1``), or the newest of a class (``vehicle.ev``).

    Raises
    ------
    CatalogError : there is no such file or entry (the nearest is named), or it is wrong.
    """
    file = Path(wanted)
    if file.is_file():
        try:
            return catalogs.parse(file.read_text(encoding="utf-8"), wanted)
        except (OSError, UnicodeDecodeError) as exc:
            raise CatalogError(f"{wanted}: cannot be read: {exc}") from exc
    if file.suffix in {".yaml", ".yml"} or file.is_dir():
        raise CatalogError(f"{wanted}: no such file; --catalog takes a YAML file, a key or a class")
    known = catalogs.load(paths)
    return known[wanted] if "/" in wanted else known.latest(wanted)


def bind(table: CsvTable | ParquetTable, columns: Columns, names: Sequence[str], what: str) -> Columns:
    """The file's signals in the order of `names`, which `what` has.

    Raises
    ------
    ScoreError : the file has a column that is not among the names (the nearest is named), or none that is.
    """
    at = {table.header[i]: i for i in columns.signals}
    for name in at:
        if name not in names:
            near = nearest(name, names)
            near = near if len(near) < 200 else ""
            raise ScoreError(
                f"{table.path}: {what} has no column {name!r}{near} (to leave it out: --ignore {name!r})"
            )
    return Columns(tuple(at.get(name, -1) for name in names), columns.time, columns.device)
