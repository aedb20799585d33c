"""From recordings to frames: ties, grids, numbering, loops, order."""

from __future__ import annotations

import itertools
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from producers import mapping, replay
from producers.mapping import RecordingError
from producers.recordings import Recording, Row
from producers.replay import Grid, PlayedFrame, Refused, TieSpreader, timeline
from telemetry import catalog
from telemetry.codec import Frame, decode_frame

CATALOGS = catalog.load()
NAN = float("nan")
START_US = 1_800_000_000_000_000


def row(t_us: int, *values: float) -> Row:
    return Row("d", t_us, np.array(values, np.float32))


def csv_recording(path: Path, *lines: str, device: str | None = None, tie_ms: int = 0) -> Recording:
    path.write_text("t,v\n" + "\n".join(lines) + "\n")
    text = f"name: mine\ncatalog: vehicle.can\ntime: {{column: t, tie_ms: {tie_ms}}}\nsignals: {{Vehicle.Speed: v}}"
    return Recording(path, CATALOGS, mapping.parse(text, "mine"), device)


def played(recordings: list[Recording], loops: int = 1) -> list[tuple[int, Frame]]:
    items = list(timeline(recordings, start_us=START_US, loops=loops))
    frames = [item for item in items if isinstance(item, PlayedFrame)]
    assert len(frames) == len(items)
    decoded = [(f.at_us, decode_frame(f.value, 6)) for f in frames]
    assert all(f.key.decode() == d.device_id for f, (_, d) in zip(frames, decoded, strict=True))
    assert all(f.samples == d.values.size for f, (_, d) in zip(frames, decoded, strict=True))
    return decoded


def test_ties_are_spread_over_the_clocks_resolution() -> None:
    ties = TieSpreader(1_000_000)
    rows = [row(0, 0), row(0, 1), row(0, 2), row(0, 3), row(1_000_000, 4), row(1_500_000, 5), row(1_500_000, 6)]
    out = [r for each in rows for r in ties.add(each)] + list(ties.finish())
    assert [r.t_us for r in out] == [0, 250_000, 500_000, 750_000, 1_000_000, 1_500_000, 2_000_000]
    assert [float(r.values[0]) for r in out] == [0, 1, 2, 3, 4, 5, 6]


def test_ties_never_pass_the_next_reading() -> None:
    ties = TieSpreader(1_000_000)
    out = [r.t_us for each in (row(0, 0), row(0, 1), row(100_000, 2)) for r in ties.add(each)]
    assert out == [0, 50_000]


def test_a_clock_that_stands_still_is_an_error() -> None:
    ties = TieSpreader(1_000_000)
    for i in range(replay.TIES_MAX):
        assert list(ties.add(row(7, i))) == []
    with pytest.raises(RecordingError, match="stands still"):
        list(ties.add(row(7, 0)))


def test_grid_takes_each_signals_last_value_and_forgets_old_ones() -> None:
    grid = Grid(100, 250)
    rows = [row(10, 1, NAN), row(95, 2, NAN), row(100, NAN, 5), row(101, 3, NAN), row(390, 4, NAN)]
    out = [r for each in rows for r in grid.add(each)] + list(grid.finish())
    assert [r.t_us for r in out] == [100, 200, 300]
    np.testing.assert_array_equal(np.array([r.values for r in out]), np.array([[2, 5], [3, 5], [3, 5]], np.float32))
    again = list(grid.add(row(1000, 7, NAN))) + list(grid.add(row(1200, NAN, 8))) + list(grid.finish())
    assert [(r.t_us, r.values.tolist()[0]) for r in again] == [(1000, 7), (1100, 7), (1200, 7)]
    assert np.isnan(again[0].values[1])  # what was before `finish` is forgotten


def test_grid_leaves_a_long_gap_out_however_long_it_is() -> None:
    grid = Grid(100, 250)
    out = [r.t_us for each in (row(0, 1), row(10**15, 2), row(10**15 + 100, 3)) for r in grid.add(each)]
    assert out == [0, 100, 200, 10**15]


def test_grid_against_a_search_of_each_step() -> None:
    rng = np.random.default_rng(3)
    t_us = np.sort(rng.integers(0, 20_000, 200))
    values = np.where(rng.random((200, 3)) < 0.6, NAN, rng.normal(size=(200, 3))).astype(np.float32)
    grid = Grid(50, 400)
    out = [r for t, v in zip(t_us.tolist(), values, strict=True) for r in grid.add(Row("d", t, v))]
    out += list(grid.finish())
    got = {r.t_us: r.values for r in out}
    for step in range(-(-int(t_us[0]) // 50) * 50, int(t_us[-1]) + 1, 50):
        expected = np.full(3, NAN, np.float32)
        for j in range(3):
            known = np.flatnonzero((t_us <= step) & ~np.isnan(values[:, j]))
            if known.size and step - t_us[known[-1]] <= 400:
                expected[j] = values[known[-1], j]
        if np.isnan(expected).all():
            assert step not in got
        else:
            np.testing.assert_array_equal(got.pop(step), expected)
    assert not got


def test_irregular_rows_are_frames_of_one_step(tmp_path: Path) -> None:
    recording = csv_recording(tmp_path / "a.csv", "100,1", "100.5,2", "102,3")
    out = played([recording])
    assert [(f.seq, f.ts_us - START_US, f.period_us) for _, f in out] == [
        (0, 0, 0),
        (1, 500_000, 0),
        (2, 2_000_000, 0),
    ]
    assert [at for at, _ in out] == [0, 500_000, 2_000_000]


def test_loops_go_on_in_number_and_time(tmp_path: Path) -> None:
    out = played([csv_recording(tmp_path / "a.csv", "100,1", "101,2")], loops=3)
    assert [f.seq for _, f in out] == [0, 1, 2, 3, 4, 5]
    times = [f.ts_us for _, f in out]
    assert times == sorted(set(times))
    assert times[-1] - START_US == 5_000_000


def test_devices_play_side_by_side_and_files_of_one_device_in_turn(tmp_path: Path) -> None:
    a = csv_recording(tmp_path / "a.csv", "100,1", "102,2")
    b = csv_recording(tmp_path / "b.csv", "7,1", "8,2")
    out = played([a, b])
    assert [(f.device_id, at) for at, f in out] == [("a", 0), ("b", 0), ("b", 1_000_000), ("a", 2_000_000)]
    a = csv_recording(tmp_path / "a.csv", "100,1", "102,2", device="x")
    b = csv_recording(tmp_path / "b.csv", "7,1", "8,2", device="x")
    out = played([a, b])
    assert [f.seq for _, f in out] == [0, 1, 2, 3]
    assert [at for at, _ in out] == [0, 2_000_000, 3_000_000, 4_000_000]


def test_bad_rows_stand_in_the_timeline_with_their_device(tmp_path: Path) -> None:
    recording = csv_recording(tmp_path / "a.csv", "0,1", "x,1", "1,2", tie_ms=10)
    items = list(timeline([recording], start_us=0))
    refused = [item for item in items if isinstance(item, Refused)]
    assert len(items) == 3
    assert [(r.key, r.kind, r.row.raw) for r in refused] == [(b"a", "vehicle", b"x,1\n")]


def test_the_sample_is_a_minute_of_whole_frames() -> None:
    path = Path(str(resources.files("producers").joinpath("samples", "drive.csv")))
    out = [f for _, f in played([Recording(path, CATALOGS)])]
    steps = sum(len(f.values) for f in out)
    assert steps == len(path.read_text().splitlines()) - 1 > 1100
    assert {f.period_us for f in out} == {50_000}
    assert all(b.ts_us - a.ts_us == 500_000 for a, b in itertools.pairwise(out))
    values = np.concatenate([f.values for f in out])
    limits = CATALOGS["vehicle.can/1"].limits()
    assert not np.isnan(values).any()
    assert ((values >= limits[:, 0]) & (values <= limits[:, 1])).all()
    wheels = values[:, 2:].mean(1)
    assert np.corrcoef(wheels, values[:, 0])[0, 1] > 0.999  # the car's speed is that of its wheels


def test_a_gap_in_the_grid_ends_a_frame(tmp_path: Path) -> None:
    lines = [f"{t / 1000:.3f},{t}" for t in [*range(0, 700, 50), *range(5000, 5100, 50)]]
    path = tmp_path / "g.csv"
    path.write_text("t,v\n" + "\n".join(lines) + "\n")
    text = (
        "name: m\ncatalog: vehicle.can\ntime: {column: t}\ngrid: {period_ms: 50, hold_ms: 60}\n"
        "signals: {Vehicle.Speed: v}"
    )
    out = [f for _, f in played([Recording(path, CATALOGS, mapping.parse(text, "m"))])]
    assert [len(f.values) for f in out] == [10, 5, 2]
    assert [f.ts_us - START_US for f in out] == [0, 500_000, 5_000_000]
    assert [f.seq for f in out] == [0, 1, 2]
