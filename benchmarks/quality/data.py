"""The labelled sets that detection is judged on. The rule: arrays as the sets have them, times as they are written.

The folder holds `nab.tar.xz`, `smd.npz`, `asd.npz`, `carobd_train.npz`, `carobd_inj.npz` and their JSON files; what
is not there is left out, and the report says so.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.nab_score import Labels, label, seconds

#: VUS-PR's windows, from each machine's period in its first column; in training, not in the test.
SMD_WINDOWS = {"machine-1-6": 15, "machine-1-7": 64, "machine-2-1": 125, "machine-3-3": 20}
DEFAULT_WINDOW = 24
#: Event time of rows of sets that carry none, and their periods.
EPOCH_US = 1_600_000_000_000_000
PERIOD_US = {"smd": 60_000_000, "asd": 300_000_000, "vehicle": 500_000}


@dataclass(frozen=True, slots=True)
class Event:
    """Rows start..end-1 of a test series, and the columns that are guilty."""

    start: int
    end: int
    guilty: frozenset[int]
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """One series to be scored.

    ts_us : int64 (n,). values : float32 (n, d). label : uint8 (n,). window : of VUS-PR. nab : what a detection is
    worth.
    """

    name: str
    columns: tuple[str, ...]
    ts_us: NDArray[np.int64]
    values: NDArray[np.float32]
    label: NDArray[np.uint8]
    window: int = DEFAULT_WINDOW
    events: tuple[Event, ...] = ()
    train: tuple[NDArray[np.float32], ...] = ()
    nab: Labels | None = field(default=None, compare=False)


def times(rows: int, period_us: int, first_us: int = EPOCH_US) -> NDArray[np.int64]:
    """int64 (rows,), one period apart."""
    return first_us + period_us * np.arange(rows, dtype=np.int64)


def _series(text: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(ts_s, values) of NAB's CSV text."""
    rows = [line.split(",") for line in text.splitlines()[1:] if line]
    return np.array([seconds(row[0]) for row in rows], np.int64), np.array(
        [float(row[1]) for row in rows], np.float32
    )


def nab(folder: Path) -> Iterator[Series]:
    """The files of NAB that are there, in the order of their names."""
    with tarfile.open(folder / "nab.tar.xz") as archive:
        found = {m.name: m for m in archive.getmembers() if m.isfile()}

        def text(name: str) -> str:
            member = archive.extractfile(found[name])
            assert member is not None
            return io.TextIOWrapper(member, "utf-8").read()

        windows = json.loads(text(next(name for name in found if name.endswith("combined_windows.json"))))
        for key in sorted(windows):
            ts_s, values = _series(text(next(name for name in found if name.endswith(f"data/{key}"))))
            labels = label(ts_s, [(seconds(a), seconds(b)) for a, b in windows[key]])
            yield Series(
                key,
                ("value",),
                ts_s * 1_000_000,
                values[:, None],
                (labels.window >= 0).astype(np.uint8),
                nab=labels,
            )


def _events(told: list[dict[str, Any]], last: int) -> tuple[Event, ...]:
    """last : 1 where the set names an event's last row, 0 where it names the row behind it."""
    return tuple(Event(e["start"], e["end"] + last, frozenset(d - 1 for d in e["dims_1based"])) for e in told)


def servers(folder: Path, name: str) -> Iterator[Series]:
    """The machines of ``smd`` or ``asd``, each with its training rows."""
    rows = np.load(folder / f"{name}.npz")
    told = json.loads((folder / f"{name}_interpretation.json").read_text(encoding="utf-8"))
    for machine in sorted({key.rpartition("_")[0] for key in rows.files}):
        test, train = rows[f"{machine}_test"], rows[f"{machine}_train"]
        yield Series(
            machine,
            tuple(f"metric_{i + 1}" for i in range(test.shape[1])),
            times(len(test), PERIOD_US[name], EPOCH_US + len(train) * PERIOD_US[name]),
            test,
            rows[f"{machine}_label"],
            SMD_WINDOWS.get(machine, DEFAULT_WINDOW),
            _events(told.get(machine, []), int(name == "asd")),
            (train,),
        )


def vehicle(folder: Path) -> tuple[tuple[NDArray[np.float32], ...], list[Series]]:
    """(clean training trips, trips with injected faults)."""
    clean, faulty = np.load(folder / "carobd_train.npz"), np.load(folder / "carobd_inj.npz")
    told = json.loads((folder / "carobd_inj_events.json").read_text(encoding="utf-8"))
    columns = tuple(told["signals"])
    events = dict(told["events"])
    trips = []
    for name in sorted({key.rpartition("/")[0] for key in faulty.files}):
        rows = faulty[f"{name}/X"]
        found = tuple(
            Event(e["start"], e["end"], frozenset({columns.index(e["signal"])}), e["type"]) for e in events[name]
        )
        trips.append(
            Series(
                name,
                columns,
                times(len(rows), PERIOD_US["vehicle"]),
                rows,
                faulty[f"{name}/y"],
                20,
                found,
            )
        )
    return tuple(clean[key] for key in clean.files), trips
