"""Recordings of the shapes that real ones have: odd headers, trailing commas, short rows, several time bases."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producers import mapping
from producers.mapping import Mapping, RecordingError
from producers.recordings import LINE_BYTES_MAX, BadRow, Recording, Row
from telemetry import catalog

CATALOGS = catalog.load()
CAROBD = mapping.shipped()["carobd"]
HEADER = ",".join(f"{name} ()" for name in CAROBD.columns)


def obd_row(t_s: float, *, cells: int = 27, comma: bool = True) -> str:
    text = ", ".join([f"{t_s:.6f}", *(f"{i}.5" for i in range(1, cells))])
    return text + ("," if comma else "")


def write(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines) + b"\n")
    return path


def read(path: Path, with_mapping: Mapping | None = None, device: str | None = None) -> list[Row | BadRow]:
    return list(Recording(path, CATALOGS, with_mapping, device).rows())


def mine(text: str) -> Mapping:
    return mapping.parse(f"name: mine\ncatalog: vehicle.can\n{text}", "mine.yaml")


def good(rows: list[Row | BadRow]) -> list[Row]:
    assert all(isinstance(row, Row) for row in rows), rows
    return [row for row in rows if isinstance(row, Row)]


def bad(rows: list[Row | BadRow]) -> list[BadRow]:
    return [row for row in rows if isinstance(row, BadRow)]


@pytest.mark.parametrize("comma", [True, False])
def test_obd_trip_with_and_without_trailing_comma(tmp_path: Path, comma: bool) -> None:
    path = write(tmp_path / "trip1.csv", HEADER, obd_row(0, comma=comma), obd_row(1, comma=comma))
    rows = good(read(path))
    assert [row.t_us for row in rows] == [0, 1_000_000]
    assert {row.device for row in rows} == {"obd-trip1"}
    assert rows[1].values.dtype == np.float32
    np.testing.assert_array_equal(rows[1].values, np.array([1, *np.arange(1.5, 27)], np.float32))


def test_a_file_whose_rows_lack_the_last_columns(tmp_path: Path) -> None:
    lines = [obd_row(t, cells=24, comma=False) for t in range(3)]
    rows = good(read(write(tmp_path / "short.csv", HEADER, *lines, "")))
    assert len(rows) == 3
    assert np.isnan(rows[0].values[24:]).all()
    assert not np.isnan(rows[0].values[:24]).any()


def test_malformed_rows_keep_their_bytes_place_and_reason(tmp_path: Path) -> None:
    broken = {
        3: (obd_row(1, cells=16).encode(), "wrong_cells"),
        4: (obd_row(1, cells=29).encode(), "wrong_cells"),
        5: (obd_row(1).replace(" 3.5", " 3.x").encode(), "bad_value"),
        6: (obd_row(1).replace(" 3.5", " inf").encode(), "bad_value"),
        7: (obd_row(1).replace(" 3.5", " 1_0").encode(), "bad_value"),
        8: (obd_row(1).replace("1.000000", "soon").encode(), "bad_time"),
        9: (obd_row(1).replace("1.000000", "nan").encode(), "bad_time"),
        10: (obd_row(1).replace(" 3.5", " \udcff").encode("utf-8", "surrogateescape"), "bad_value"),
        11: (obd_row(1).replace("1.000000", "1e300").encode(), "bad_time"),
        13: (obd_row(1).encode(), "time_backwards"),
    }
    lines: list[str | bytes] = [HEADER, obd_row(0)]
    lines += [broken[n][0] for n in range(3, 12)]
    lines += [obd_row(2), broken[13][0], obd_row(3)]
    rows = read(write(tmp_path / "trip.csv", *lines))
    assert [row.t_us for row in rows if isinstance(row, Row)] == [0, 2_000_000, 3_000_000]
    found = {row.line: (row.raw.rstrip(b"\n"), row.reason) for row in bad(rows)}
    assert found == broken
    assert all(row.message.startswith("trip.csv:") for row in bad(rows))


def test_missing_cells_are_nan(tmp_path: Path) -> None:
    text = obd_row(0).replace(" 3.5,", " ,").replace(" 4.5,", " NaN,").replace(" 5.5,", " - ,")
    (row,) = good(read(write(tmp_path / "trip.csv", HEADER, text)))
    assert np.flatnonzero(np.isnan(row.values)).tolist() == [3, 4, 5]


def test_blank_lines_bom_and_crlf(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbf" + f"{HEADER}\r\n\r\n{obd_row(0)}\r\n  \r\n".encode())
    assert len(good(read(path))) == 1


def test_an_open_quote_costs_a_bounded_part(tmp_path: Path) -> None:
    lines = ['"' + obd_row(0), *(obd_row(t) for t in range(1, 2000))]
    rows = read(write(tmp_path / "t.csv", HEADER, *lines))
    assert {row.reason for row in bad(rows)} <= {"bad_csv", "wrong_cells"}
    assert len(bad(rows)) == 1
    assert len(bad(rows)[0].raw) < LINE_BYTES_MAX
    assert len(rows) > 500


def test_reading_twice_gives_the_same(tmp_path: Path) -> None:
    recording = Recording(write(tmp_path / "t.csv", HEADER, obd_row(5), obd_row(4)), CATALOGS)
    first, second = list(recording.rows()), list(recording.rows())
    assert [type(row) for row in first] == [type(row) for row in second] == [Row, BadRow]


def test_scale_offset_iso_time_and_devices_by_column(tmp_path: Path) -> None:
    spec = mine(
        "device: 'car-{VIN}'\ndelimiter: ';'\ntime: {column: at, unit: iso}\n"
        "signals: {Vehicle.Speed: {column: v, scale: 3.6, offset: 1}}"
    )
    path = write(
        tmp_path / "f.csv",
        "at;VIN;v",
        "2026-05-01T00:00:01Z;a b;10",
        "2026-05-01T02:00:00+02:00;c;20",
        "2026-05-01T00:00:02;a b;30",
    )
    rows = good(read(path, spec))
    t0_us = 1_777_593_600_000_000
    assert [(row.device, row.t_us - t0_us) for row in rows] == [
        ("car-a_b", 1_000_000),
        ("car-c", 0),
        ("car-a_b", 2_000_000),
    ]
    assert [float(row.values[0]) for row in rows] == [37, 73, 109]
    as_one = read(path, spec, "one")
    assert [row.device if isinstance(row, Row) else row.reason for row in as_one] == [
        "one",
        "time_backwards",
        "one",
    ]


@pytest.mark.parametrize(("unit", "per_s"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_time_units_in_parquet(tmp_path: Path, unit: str, per_s: int) -> None:
    path = tmp_path / "f.parquet"
    pq.write_table(pa.table({"t": [7 * per_s, 8 * per_s], "v": pa.array([1.5, None], pa.float32())}), path)
    rows = good(read(path, mine(f"time: {{column: t, unit: {unit}}}\nsignals: {{Vehicle.Speed: v}}")))
    assert [row.t_us for row in rows] == [7_000_000, 8_000_000]
    assert rows[0].values[0] == np.float32(1.5)
    assert np.isnan(rows[1].values[0])


def test_parquet_timestamps_and_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    times = pa.array([datetime(2026, 5, 1, tzinfo=UTC), None], pa.timestamp("ns", "UTC"))
    pq.write_table(pa.table({"t": times, "v": [1.0, 2.0]}), path)
    rows = read(path, mine("time: {column: t}\nsignals: {Vehicle.Speed: v}"))
    assert isinstance(rows[0], Row)
    assert rows[0].t_us == 1_777_593_600_000_000
    assert [(row.line, row.reason, row.raw) for row in bad(rows)] == [(2, "bad_time", b"[null, 2.0]")]


def test_npz_with_several_time_bases(tmp_path: Path) -> None:
    path = tmp_path / "drive7.npz"
    np.savez(
        path,
        speed_t=[0.0, 0.1],
        speed=np.array([[10.0], [11.0]]),
        steering_angle_t=[0.05],
        steering_angle=[-3.0],
        wheel_speed_t=[0.0, 0.1],
        wheel_speed=np.arange(8.0).reshape(2, 4),
    )
    rows = good(read(path))
    assert [row.t_us for row in rows] == [0, 50_000, 100_000]
    assert rows[0].device == "comma-drive7"
    np.testing.assert_allclose(rows[0].values, [36, np.nan, 0, 3.6, 7.2, 10.8], rtol=1e-6)
    np.testing.assert_allclose(rows[1].values, [np.nan, -3, *[np.nan] * 4])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"t": np.arange(3.0), "v": np.arange(2.0)}, "v has 2 rows, its time t has 3"),
        ({"t": np.arange(2.0), "v": np.zeros((2, 2))}, r"name a column, as in v\[0\]"),
        ({"t": np.array([{}], object), "v": np.zeros(1)}, "cannot be read"),
    ],
)
def test_npz_that_cannot_be_used(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    path = tmp_path / "f.npz"
    np.savez(path, **arrays)
    with pytest.raises(RecordingError, match=message):
        read(path, mine("time: {column: t}\nsignals: {Vehicle.Speed: v}"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("f.xls", b"", "unknown format; known: .csv"),
        ("f.csv", b"", "no header"),
        ("f.npz", b"PK nonsense", "cannot be read"),
        ("f.parquet", b"nonsense", "cannot be read"),
        ("f.csv", b"T,v\n1,2\n", "no time column t"),
        ("f.csv", b"t,w\n1,2\n", "none of the columns"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=message):
        Recording(path, CATALOGS, mine("time: {column: t}\nsignals: {Vehicle.Speed: v}"))
