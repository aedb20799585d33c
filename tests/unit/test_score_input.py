"""What `fleetwatch score` makes of bad files: each kind has a defined end, and no traceback."""

import csv
import gzip
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fleetwatch.cli import main

SECTIONS = {"detectors": [{"name": "rules"}, {"name": "ewma"}], "alerts": {"budget": 1000, "warmup_s": 60}}


@pytest.fixture
def run(tmp_path, capfd, monkeypatch):
    """Scores what is in a file; (exit code, rows of the output by name, stderr)."""
    (tmp_path / "settings.yaml").write_text(json.dumps(SECTIONS))
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("FLEETWATCH_"):
            monkeypatch.delenv(name)

    def call(content, *args, name="in.csv"):
        path, out = tmp_path / name, tmp_path / "out.csv"
        if content is not None:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        out.unlink(missing_ok=True)
        code = 0
        try:
            main(["--config", "settings.yaml", "score", str(path), "-o", str(out), *args])
        except SystemExit as exc:
            code = exc.code
        err = capfd.readouterr().err
        assert "Traceback" not in err
        assert out.exists() == (code == 0), "half a file"
        return code, list(csv.DictReader(out.open())) if code == 0 else None, err

    return call


def refused(run, content, said, *args, code=65, **more):
    found, _, err = run(content, *args, **more)
    assert (found, said in err) == (code, True), err


# -- files that are none ----------------------------------------------------------------------------------------


def test_a_missing_file_and_a_folder(run, tmp_path):
    refused(run, None, "does not exist", code=2)
    (tmp_path / "in.csv").mkdir()
    refused(run, None, "is a directory", code=2)


@pytest.mark.parametrize("content", ["", "\n\n", "  \n"])
def test_an_empty_file(run, content):
    refused(run, content, "in.csv: the file is empty: there is no header")


@pytest.mark.parametrize("rows", ["", "\n", "\n\n  \n"])
def test_a_header_alone_gives_a_header(run, tmp_path, rows):
    code, table, err = run("timestamp,value" + rows)
    assert (code, table) == (0, [])
    assert (tmp_path / "out.csv").read_text() == (
        "timestamp,value,anomaly_score,alert,signal,expected,observed,surprise,detector,note\n"
    )
    assert "0 rows: 0 alerts" in err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "neither CSV nor Parquet"),
        (gzip.compress(b"timestamp,value\n1,2\n", mtime=0), "neither CSV nor Parquet"),
        ("timestamp,value\n1,2\n".encode("utf-16"), "neither CSV nor Parquet"),
        (b"PAR1 but no more of it", "cannot be read"),
        (b"0.5,0.25\n0.5,0.25\n", "its first line is no header but numbers (0.5, 0.25, ...)"),
        (b"timestamp\n1\n", "no column with values"),
        (b'time,v\n1,"2\n2,3\n3,4\n', "in.csv: line 2: column 'v': "),
        (b"time,v\n1,2\n2,\xff\n", "in.csv: line 3 is not UTF-8"),
        (b"time,v\n1,2\n2,3\n3\n", "in.csv: line 4 has 1 cells, the header has 2"),
        (b"time,v\n\n1,2\n2,3,4\n", "in.csv: line 4 has 3 cells, the header has 2"),
        (b"time,v,v\n1,2,3\n", "column 'v' stands twice in the header"),
        (b"time,," + b"\n1,2,3\n", ""),
    ],
)
def test_files_that_are_no_tables(run, content, said):
    if said:
        refused(run, content, said)
    else:
        assert run(content)[0] == 0


def test_a_parquet_file_by_another_name_is_parquet(run, tmp_path):
    pq.write_table(pa.table({"time": [1, 2], "v": [1.0, 2.0]}), tmp_path / "in.csv")
    assert len(run(None)[1]) == 2


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters_and_a_byte_order_mark(run, delimiter):
    content = "\ufefftime,v\r\n1,2\r\n2,3\r\n".replace(",", delimiter)
    code, table, _ = run(content)
    assert (code, [row["time"] for row in table]) == (0, ["1", "2"])


def test_columns_called_by_their_numbers_are_a_header(run):
    assert len(run("0,1,2\n5,6,7\n")[1]) == 1


def test_too_many_columns(run):
    names = [f"s{i}" for i in range(4097)]
    refused(run, "time," + ",".join(names) + "\n", "4097 columns with values; at most 4096")


def test_four_thousand_columns(run):
    n = 4000
    body = "".join(f"{i}," + ",".join("1.5" for _ in range(n)) + "\n" for i in range(3))
    code, table, _ = run("time," + ",".join(f"s{i}" for i in range(n)) + "\n" + body)
    assert (code, len(table)) == (0, 3)


def test_nested_and_timed_columns_of_parquet(run, tmp_path):
    table = pa.table({"time": [1, 2], "v": [1.0, 2.0], "l": [[1], [2]]})
    pq.write_table(table, tmp_path / "in.parquet")
    refused(run, None, "column 'l' is nested (list<element: int64>); leave it out: --ignore l", name="in.parquet")
    assert run(None, "--ignore", "l", name="in.parquet")[0] == 0
    stamps = pa.array([1, 2], pa.timestamp("ms"))
    pq.write_table(pa.table({"time": [1, 2], "v": stamps}), tmp_path / "in.parquet")
    refused(run, None, "column 'v' holds timestamp[ms], no numbers", name="in.parquet")
    pq.write_table(pa.table({"time": pa.array([[1], [2]]), "v": [1, 2]}), tmp_path / "in.parquet")
    refused(run, None, "column 'time' is nested", name="in.parquet")
    pq.write_table(pa.table({"time": [True, False], "v": [1, 2]}), tmp_path / "in.parquet")
    refused(run, None, "column 'time' holds bool, no times", name="in.parquet")


def test_named_columns_that_are_not_there(run):
    content = "stamp,v,vin\n1,2,3\n"
    refused(run, content, "no column 'stmp'; did you mean stamp?", "--time", "stmp")
    refused(run, content, "no column 'win'; did you mean vin?", "--device", "win")
    refused(run, content, "--ignore 'vim': no file has that column", "--ignore", "vim")
    refused(run, content, "no column with values", "--time", "stamp", "--device", "vin", "--ignore", "v")


# -- cells --------------------------------------------------------------------------------------------------------


def test_text_in_the_place_of_a_number(run):
    content = "time,a,b\n1,2,3\n2,3,oops\n3,4,5\n"
    refused(run, content, "in.csv: line 3: column 'b': 'oops' is no number")
    code, table, err = run(content, "--lenient")
    assert (code, len(table)) == (0, 3)
    assert "in.csv: 1 cells that are no numbers or times" in err


@pytest.mark.parametrize("cell", ["1_0", "0x1f", "1,5", "1.2.3", "--1", "12 km/h", "True"])
def test_what_is_no_number(run, cell):
    refused(run, f'time,a\n1,"{cell}"\n', f"line 2: column 'a': '{cell}' is no number")


def test_the_line_of_a_cell_counts_blank_ones(run):
    refused(run, "\n\ntime,a\n1,2\n\n\n2,x\n", "line 7: column 'a': 'x'")


@pytest.mark.parametrize("cell", ["", "NA", "N/A", "nan", "NaN", "null", "None", " ", " nan ", '""'])
def test_what_is_missing(run, cell):
    code, table, _ = run(f"time,a\n1,{cell}\n2,5\n")
    assert code == 0
    assert [row["note"] for row in table] == ["missing", "warming"]


@pytest.mark.parametrize("cell", ["inf", "-inf", "Infinity", "1e30", "-1e30", "1e39", "1e400", "3.4e38"])
def test_values_that_cannot_be_are_missing(run, cell):
    assert run(f"time,a\n1,{cell}\n2, 5 \n")[1][0]["note"] == "missing"


def test_small_values_are_values(run):
    assert [row["note"] for row in run("time,a\n1,1e-45\n2,-1e-320\n3,0\n")[1]] == ["warming"] * 3


@pytest.mark.parametrize("values", [["5"] * 300, [""] * 300, ["1e-42"] * 300, ["inf", "1e39"] * 150])
def test_series_of_which_nothing_can_be_learnt(run, values):
    code, table, _ = run("time,a\n" + "".join(f"{i},{v}\n" for i, v in enumerate(values)))
    assert code == 0
    assert {row["anomaly_score"] for row in table} == {"0"}
    assert {row["alert"] for row in table} == {"0"}


def test_a_column_that_goes_and_comes_back(run):
    pairs = np.random.default_rng(1).normal(0, 1, (400, 2)).round(3).tolist()
    rows = [f"{i},{a},{'' if 100 <= i < 200 else b}" for i, (a, b) in enumerate(pairs)]
    code, table, _ = run("time,a,b\n" + "\n".join(rows) + "\n")
    assert code == 0
    assert {row["note"] for row in table[50:]} == {""}
    assert all(np.isfinite(float(row["score"])) for row in table)


def test_one_row(run):
    code, table, err = run("time,a\n5,7\n")
    assert (code, len(table), table[0]["note"]) == (0, 1, "warming")
    assert "a row every 1 s" in err and "too short" in err


# -- times --------------------------------------------------------------------------------------------------------


def test_times_that_repeat_or_go_back(run):
    times = [*range(100), 99, 98, *range(100, 200), *range(50, 90)]
    code, table, err = run("time,a\n" + "".join(f"{t},{t % 7}\n" for t in times))
    notes = [row["note"] for row in table]
    assert code == 0 and len(table) == len(times)
    assert notes[100:102] == ["out of order"] * 2 and notes[102] == ""
    assert notes[202:217] == ["out of order"] * 15
    assert notes[217] == "clock set back"
    assert set(notes[218:]) == {""}
    assert "17 out of order; 1 clock set back" in err


def test_many_rows_out_of_order_are_explained(run):
    code, _, err = run("time,a\n" + "".join(f"{i // 10},{i}\n" for i in range(200)))
    assert code == 0 and "sort them by time; several devices: --device" in err


def test_rows_without_a_time(run):
    content = "time,a\n1,2\nsoon,3\n,4\n4,5\n"
    refused(run, content, "in.csv: line 3: column 'time': 'soon' is no time")
    refused(run, "time,a\n1,2\n,3\n", "in.csv: line 3: column 'time': there is no time")
    code, table, err = run(content, "--lenient")
    assert code == 0
    assert [row["note"] for row in table] == ["warming", "no time", "no time", "warming"]
    assert [row["time"] for row in table] == ["1", "soon", "", "4"]
    assert "2 cells that are no numbers or times" in err
    assert [row["note"] for row in run("time,a\nx,2\ny,3\n", "--lenient")[1]] == ["no time"] * 2


def test_an_open_alert_lasts_over_rows_without_a_time(run, monkeypatch):
    monkeypatch.setenv("FLEETWATCH_ALERTS__OPEN_SURPRISE", "6")
    monkeypatch.setenv("FLEETWATCH_ALERTS__OPEN_ROWS", "2")
    rng = np.random.default_rng(3)
    values = rng.normal(0, 1, 400).round(3)
    values[300:330] += 40
    lines = [f"{i},{v}" for i, v in enumerate(values)]
    flags = [row["alert"] for row in run("time,a\n" + "\n".join(lines))[1]]
    first = flags.index("1")
    lines[first + 1] = f"?,{values[first + 1]}"
    lines[10] = f"?,{values[10]}"
    table = run("time,a\n" + "\n".join(lines), "--lenient")[1]
    assert [table[i]["alert"] for i in (10, first, first + 1, first + 2)] == ["0", "1", "1", "1"]
    assert table[first + 1]["note"] == "no time"


def test_a_text_column_that_may_be_the_time(run):
    content = "when,a\n2020-01-01 00:00:00,1\n"
    refused(run, content, "column 'when': '2020-01-01 00:00:00' is no number (--time 'when' if it is the time, ")
    assert run(content, "--time", "when")[0] == 0


def test_more_devices_than_may_be(run, monkeypatch):
    monkeypatch.setenv("FLEETWATCH_PROCESSING__DEVICES_MAX", "2")
    refused(run, "time,id,a\n1,x,1\n1,y,1\n1,z,1\n", "numbers from 0 to 1", "--device", "id")
