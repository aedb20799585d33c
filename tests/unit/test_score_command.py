"""`fleetwatch score`: what goes in and what comes out."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from detector_models import fitted
from real_worker import environment

from fleetwatch.cli import main
from fleetwatch.score import scorer
from fleetwatch.score_entry import entry_of, period_s, signal_names
from telemetry import settings as settings_module

SECTIONS = {"detectors": [{"name": "rules"}, {"name": "ewma"}], "alerts": {"budget": 1000, "warmup_s": 60}}
HEAD = ["timestamp", "value", "anomaly_score", "alert", "signal", "expected", "observed", "surprise", "detector",
        "note"]  # fmt: skip


@pytest.fixture
def run(tmp_path, capfdbinary, monkeypatch):
    """Runs the command in a folder of its own; (exit code, rows of stdout or of -o, stderr)."""
    config = tmp_path / "settings.yaml"
    config.write_text(json.dumps(SECTIONS))
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("FLEETWATCH_"):
            monkeypatch.delenv(name)

    def call(*args):
        code = 0
        try:
            main(["--config", str(config), "score", *map(str, args)])
        except SystemExit as exc:
            code = exc.code
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return code, list(csv.reader(io.StringIO(out.decode()))), err.decode()

    return call


def write(path, header, rows):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def nab(path, n=400, spike=300, start="2014-04-01 00:00:00", seed=1):
    rng = np.random.default_rng(seed)
    times = np.datetime64(start.replace(" ", "T")) + np.arange(n) * np.timedelta64(300, "s")
    values = rng.normal(50, 2, n).round(3)
    values[spike : spike + 8] += 60
    rows = [f"{str(t).replace('T', ' ')},{v}" for t, v in zip(times.tolist(), values.tolist(), strict=True)]
    return write(path, "timestamp,value", rows), times, values


def floats(table, column):
    at = table[0].index(column)
    return np.array([row[at] for row in table[1:]], np.float32)


def test_a_nab_file(run, tmp_path):
    path, times, values = nab(tmp_path / "nab.csv", n=1200)
    code, table, err = run(path)
    assert (code, table[0], len(table)) == (0, HEAD, 1201)
    assert [row[:2] for row in table[1:]] == [line.split(",") for line in path.read_text().splitlines()[1:]]
    ts_us = times.astype("datetime64[us]").astype(np.int64)
    settings = settings_module.load(environ={}, **SECTIONS)
    told = scorer(settings, entry_of(["value"], 300.0)).score(ts_us, values.astype(np.float32)[:, None])
    np.testing.assert_array_equal(floats(table, "anomaly_score"), told.score)
    np.testing.assert_array_equal(floats(table, "alert"), told.alert)
    assert told.score[300] > 5
    spike = dict(zip(HEAD, table[301], strict=True))
    assert (spike["signal"], spike["detector"], spike["note"]) == ("value", "ewma", "")
    assert np.float32(spike["observed"]) == np.float32(values[300])
    assert np.float32(spike["expected"]) == told.expected[300, 0]
    assert table[1][-1] == "warming"
    assert "nab.csv: 1 signal, time in 'timestamp', a row every 300 s" in err
    assert "1,200 rows: " in err and "largest score" in err and "(value)" in err and "ns of CPU a value" in err


def test_many_columns_keep_the_files_names(run, tmp_path):
    rng = np.random.default_rng(2)
    values = rng.normal(0, 1, (300, 3))
    values[200, 1] = 400
    rows = [f"{i * 0.5},{a:.4f},{b:.4f},{c:.4f}" for i, (a, b, c) in enumerate(values)]
    path = write(tmp_path / "m.csv", 'Time,Speed (km/h),"temp, °C",3rd', rows)
    code, table, err = run(path)
    assert code == 0
    assert table[0] == ["Time", "score", "alert", *HEAD[4:]]
    assert [row[0] for row in table[1:]] == [row.split(",")[0] for row in rows]
    assert (table[201][3], table[201][5]) == ("temp, °C", "400")
    assert "3 signals, time in 'Time', a row every 0.5 s" in err


def test_output_to_a_file_replaces_what_is_there(run, tmp_path):
    path, *_ = nab(tmp_path / "nab.csv")
    out = tmp_path / "out.csv"
    out.write_text("old")
    code, printed, _ = run(path, "-o", out)
    assert (code, printed) == (0, [])
    _, table, _ = run(path, "-o", "-")
    assert list(csv.reader(out.open())) == table
    assert sorted(p.name for p in tmp_path.iterdir()) == ["nab.csv", "out.csv", "settings.yaml"]


def test_an_error_leaves_what_was_there(run, tmp_path):
    lines = [f"{i},{i % 7}" for i in range(200_000)] + ["200000,x"]
    path = write(tmp_path / "bad.csv", "time,value", lines)
    out = tmp_path / "out.csv"
    out.write_text("old")
    code, _, err = run(path, "-o", out)
    assert code == 65 and "line 200002: column 'value': 'x' is no number" in err
    assert out.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.csv", "out.csv", "settings.yaml"]


def test_output_may_be_a_device_but_no_folder_and_no_input(run, tmp_path):
    path, *_ = nab(tmp_path / "nab.csv", n=30, spike=20)
    assert run(path, "-o", "/dev/null")[0] == 0
    assert run(path, "-o", tmp_path)[0] == 2
    code, _, err = run(path, "-o", tmp_path / ".." / tmp_path.name / "nab.csv")
    assert code == 2 and "is an input" in err
    code, _, err = run(path, "-o", tmp_path / "none" / "out.csv")
    assert code == 65 and "cannot be written: No such file or directory" in err


def test_parquet_in_and_out(run, tmp_path):
    path, times, values = nab(tmp_path / "nab.csv")
    _, as_csv, _ = run(path)
    stamps = pa.array(times.astype("datetime64[us]"))
    pq.write_table(pa.table({"when": stamps, "value": values}), tmp_path / "nab.parquet")
    code, table, err = run(tmp_path / "nab.parquet", "-o", tmp_path / "out.parquet")
    assert code == 0 and table == []
    assert "time in 'when'" in err  # by its type
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.column_names == ["when", *HEAD[1:]]
    assert found["when"].combine_chunks().equals(stamps)
    np.testing.assert_array_equal(found["anomaly_score"].to_numpy(), floats(as_csv, "anomaly_score"))
    code, table, _ = run(tmp_path / "nab.parquet")
    np.testing.assert_array_equal(floats(table, "anomaly_score"), floats(as_csv, "anomaly_score"))


@pytest.mark.parametrize("kind", [pa.int32(), pa.float32(), pa.decimal128(13, 3), pa.string(), pa.bool_(),
    pa.large_string(), pa.string_view()])  # fmt: skip
def test_parquet_types_of_values(run, tmp_path, kind):
    numbers = pa.array([i % 2 for i in range(50)], pa.int32())
    cells = numbers.cast(pa.string()).cast(kind) if kind == pa.string_view() else numbers.cast(kind)
    pq.write_table(pa.table({"time": cells, "v": cells}), tmp_path / "one.parquet")
    if not pa.types.is_boolean(kind):
        code, found, _ = run(tmp_path / "one.parquet")
        assert code == 0 and found[2][:2] in (["1", "1"], ["1.000", "1.000"])
    table = pa.table({"t": pa.array(range(50)), "v": cells, "w": numbers.dictionary_encode(), "n": pa.nulls(50)})
    pq.write_table(table, tmp_path / "x.parquet")
    code, found, _ = run(tmp_path / "x.parquet", "--time", "t")
    assert code == 0 and len(found) == 51


# -- training ------------------------------------------------------------------------------------------------


def test_training_warms_and_is_not_written(run, tmp_path):
    first, *_ = nab(tmp_path / "a.csv", n=300, spike=250)
    second, *_ = nab(tmp_path / "b.csv", n=200, spike=150, start="2014-04-03 00:00:00", seed=3)
    whole = write(
        tmp_path / "c.csv", "timestamp,value",
        first.read_text().splitlines()[1:] + second.read_text().splitlines()[1:],
    )  # fmt: skip
    code, table, err = run(second, "--train", first)
    assert code == 0 and len(table) == 201
    assert table[1][-1] == ""  # warm from its first row
    assert "a.csv: 300 rows to learn from" in err
    _, all_of_it, _ = run(whole)
    assert table[1:] == all_of_it[301:]


def test_files_that_begin_at_zero_are_put_behind_one_another_by_whole_days(run, tmp_path):
    rng = np.random.default_rng(5)
    drives = []
    for k in range(3):
        rows = [f"{i},{v:.4f}" for i, v in enumerate(rng.normal(0, 1, 300))]
        drives.append(write(tmp_path / f"d{k}.csv", "time,v", rows))
    code, table, err = run(drives[2], "--train", drives[0], "--train", drives[1])
    assert code == 0
    assert {row[-1] for row in table[1:]} == {""}
    assert [row[0] for row in table[1:4]] == ["0", "1", "2"]  # as written
    assert "d1.csv: 300 rows to learn from, taken to be 1 day later" in err
    assert "d2.csv: taken to be 2 days later" in err


def test_files_without_times_go_on_where_the_last_one_ended(run, tmp_path):
    rng = np.random.default_rng(5)
    rows = [f"{a:.4f},{b:.4f}" for a, b in rng.normal(0, 1, (500, 2))]
    a, b = write(tmp_path / "a.csv", "x,y", rows[:300]), write(tmp_path / "b.csv", "x,y", rows[300:])
    _, whole, err = run(write(tmp_path / "c.csv", "x,y", rows), "--period", "60")
    assert "no time column (--time): rows are 60 s apart (--period)" in err
    code, table, _ = run(b, "--train", a, "--period", "60")
    assert (code, table[0][0]) == (0, "row")
    assert [row[0] for row in table[1:]] == [str(i) for i in range(200)]
    assert [row[1:] for row in table[1:]] == [row[1:] for row in whole[301:]]


def test_training_files_with_other_columns(run, tmp_path):
    path = write(tmp_path / "x.csv", "time,a,b", [f"{i},{i % 5},{i % 3}" for i in range(100)])
    more = write(tmp_path / "more.csv", "time,a,b,temprature", ["0,1,2,3"])
    fewer = write(tmp_path / "fewer.csv", "b,time", [f"{i % 3},{i}" for i in range(100)])
    code, _, err = run(path, "--train", more)
    assert code == 65 and "more.csv: x.csv has no column 'temprature'; known: a, b" in err
    assert run(path, "--train", more, "--ignore", "temprature")[0] == 0
    code, table, _ = run(path, "--train", fewer)
    assert (code, len(table)) == (0, 101)


# -- catalogue, settings -------------------------------------------------------------------------------------

ENTRY = """
name: lab.rig
version: 1
kind: device
period_ms: 1000
signals:
  - {name: Rig.Speed, min: 0, max: 200}
  - {name: Rig.Heat}
"""


def rig(tmp_path, header="time,Rig.Heat,Rig.Speed"):
    rows = [f"{i},{20 + i % 5},{300 if i == 150 else 100 + i % 7}" for i in range(200)]
    return write(tmp_path / "rig.csv", header, rows)


def test_a_catalogue_entry_of_ones_own(run, tmp_path, monkeypatch):
    monkeypatch.setenv("FLEETWATCH_DETECTORS", '[{"name": "rules"}]')
    (tmp_path / "rig.yaml").write_text(ENTRY)
    path = rig(tmp_path)
    code, table, err = run(path, "--catalog", "rig.yaml")
    assert code == 0 and "2 of the 2 signals of lab.rig/1" in err
    row = dict(zip(table[0], table[151], strict=True))
    assert (row["signal"], row["detector"], row["expected"], row["observed"]) == (
        "Rig.Speed", "rules", "200", "300",
    )  # fmt: skip
    code, _, err = run(rig(tmp_path, "time,Rig.Heat,Rig.Spead"), "--catalog", "rig.yaml")
    assert code == 65 and "lab.rig/1 has no column 'Rig.Spead'; did you mean Rig.Speed" in err
    code, _, err = run(rig(tmp_path), "--catalog", "rig.yaml", "--ignore", "Rig.Speed")
    assert code == 0 and "1 of the 2 signals of lab.rig/1" in err


def test_trained_relations_lie_beside_the_entry(run, tmp_path, monkeypatch):
    monkeypatch.setenv("FLEETWATCH_DETECTORS", '[{"name": "relations"}]')
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "rig.yaml").write_text(ENTRY)
    path = rig(tmp_path)
    code, _, err = run(path, "--catalog", "own/rig.yaml")
    assert code == 78 and "no detector that may alert runs for lab.rig/1" in err
    model = fitted(("Rig.Speed", "Rig.Heat"))
    (tmp_path / "own" / "lab.rig-1.relations.json").write_text(json.dumps(model))
    code, table, _ = run(path, "--catalog", "own/rig.yaml")
    assert code == 0 and {row[7] for row in table[1:]} == {"", "relations"}


def test_known_entries_by_key_or_class(run, tmp_path):
    path = write(tmp_path / "car.csv", "time,Vehicle.Speed", [f"{i},50" for i in range(20)])
    for name in ("vehicle.ev", "vehicle.ev/1"):
        code, _, err = run(path, "--catalog", name)
        assert code == 0 and "of vehicle.ev/1" in err
    for wrong, said in (("vehicle.evv", "did you mean vehicle.ev"), ("nope.yaml", "no such file")):
        code, _, err = run(path, "--catalog", wrong)
        assert code == 78 and said in err


def test_the_settings_and_the_budget_decide(run, tmp_path, monkeypatch):
    path, *_ = nab(tmp_path / "nab.csv")
    many = sum(int(row[3]) for row in run(path, "--budget", "100000")[1][1:])
    few = sum(int(row[3]) for row in run(path, "--budget", "0.001")[1][1:])
    assert many > few
    assert run(path, "--budget", "0")[0] == 2
    monkeypatch.setenv("FLEETWATCH_DETECTORS", '[{"name": "robust"}]')
    assert {row[8] for row in run(path)[1][1:]} <= {"", "robust"}
    monkeypatch.setenv("FLEETWATCH_DETECTORS", '[{"name": "robust", "alerts": "never"}]')
    code, _, err = run(path)
    assert code == 78 and "no detector that may alert runs for file/1" in err


def test_rows_of_many_devices(run, tmp_path):
    rng = np.random.default_rng(6)
    values = rng.normal(0, 1, (400, 2)).round(4)
    both = [f"{i},{d},{values[i, k]}" for i in range(400) for k, d in enumerate(("bus 1", ""))]
    code, table, err = run(write(tmp_path / "both.csv", "time,vin,v", both), "--device", "vin")
    assert code == 0 and "a row every 1 s" in err
    assert table[0][:4] == ["time", "vin", "v", "anomaly_score"]
    for k in range(2):
        alone = write(tmp_path / "one.csv", "time,v", [f"{i},{values[i, k]}" for i in range(400)])
        assert [[row[0], *row[2:]] for row in table[1 + k :: 2]] == run(alone)[1][1:]


def test_names_of_the_file_that_are_ours(run, tmp_path):
    path = write(tmp_path / "x.csv", "time,signal", [f"{i},{i}" for i in range(5)])
    assert run(path)[1][0] == ["time", "signal", "anomaly_score", "alert", "signal_", *HEAD[5:]]


def test_cells_of_text_are_quoted_where_they_must_be(run, tmp_path):
    path = write(tmp_path / "x.csv", "time,id,v", [f'{i},"a ""b"", c",{i}' for i in range(5)])
    code, table, _ = run(path, "--device", "id")
    assert code == 0 and {row[1] for row in table[1:]} == {'a "b", c'}


# -- small parts ---------------------------------------------------------------------------------------------


def test_signal_names_are_valid_and_unique():
    given = ["a b", "a_b", "a-b", "3rd", "é", "_", "x" * 300, "x" * 299]
    made = signal_names(given)
    assert made[:6] == ["a_b", "a_b_2", "a_b_3", "s_3rd", "s__", "s___2"] or len(set(made)) == len(given)
    assert entry_of(given, 1.0).columns == tuple(made)


def test_the_period_is_the_middle_step_of_the_first_hundred_times_alone():
    s = 1_000_000
    assert period_s(np.array([0, 1, 2, 3, 100]) * s) == 1.0
    later = np.concatenate([np.arange(100) * 5, 500 + np.arange(1000) * 60]) * s
    assert period_s(later) == 5.0
    assert period_s(np.array([5, 5, 5])) == 1.0
    assert period_s(np.zeros(0, np.int64)) == 1.0
    assert period_s(np.array([0, 0, 10, 10, 20, 20]) * s, np.array([0, 1, 0, 1, 0, 1])) == 10.0


# -- how it ends ---------------------------------------------------------------------------------------------


def started(tmp_path, *args, **more):
    (tmp_path / "settings.yaml").write_text(json.dumps(SECTIONS))
    command = [sys.executable, "-m", "fleetwatch", "--config", "settings.yaml", "score", *args]
    return subprocess.Popen(command, env=environment(), cwd=tmp_path, stderr=subprocess.PIPE, **more)


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    write(tmp_path / "x.csv", "time,v", [f"{i},{i % 9}" for i in range(300_000)])
    process = started(tmp_path, "x.csv", stdout=subprocess.PIPE)
    assert process.stdout.readline().startswith(b"time,v,anomaly_score")
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    assert process.wait(60) == 0


def test_ctrl_c_leaves_nothing_behind(tmp_path):
    write(tmp_path / "x.csv", "time,v", [f"{i},{i % 9}" for i in range(4_000_000)])
    process = started(tmp_path, "x.csv", "-o", "out.csv")
    end = time.monotonic() + 120
    while not list(tmp_path.glob(".out.csv.*.part")) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.stderr.read()
    assert process.wait(60) == 130, said
    assert b"interrupted" in said and b"Traceback" not in said
    assert not list(tmp_path.glob("*out.csv*"))
