"""The quality run's own arithmetic, on small data: what is counted, what is drawn, what the page says."""

from pathlib import Path

import numpy as np
from click.testing import CliRunner

from benchmarks.quality import data, evaluate, report, run
from fleetwatch.cli import main
from streams.core.rows import RowScores
from telemetry import settings

COLUMNS = ("a", "b", "c")
DATA = Path(__file__).parents[1] / "data"


def scored(scores, columns, events):
    n = len(scores)
    told = RowScores.empty(n)
    told.score[:] = scores
    told.column[:, 0] = columns
    label = np.zeros(n, np.uint8)
    for event in events:
        label[event.start : event.end] = 1
    values = np.zeros((n, 3), np.float32)
    series = data.Series("one", COLUMNS, data.times(n, 1_000_000), values, label, events=tuple(events))
    return evaluate.Scored(series, told, 0.001)


def test_the_strangest_row_of_an_event_names_or_does_not():
    events = [data.Event(0, 4, frozenset({1})), data.Event(4, 8, frozenset({0, 2}))]
    told = scored([0, 9, 1, 1, 5, 6, 7, 1], [0, 1, 0, 0, 0, 0, 1, 2], events)
    assert evaluate._top1([told]) == 0.5


def test_a_file_of_nab_is_scored_as_the_command_does(tmp_path):
    file, out = DATA / "nab" / "art_daily_jumpsup.csv", tmp_path / "out.csv"
    main(["score", str(file), "-o", str(out)])
    lines = out.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("timestamp,value,anomaly_score,alert,signal")
    rows = [line.split(",") for line in lines[1:]]
    assert len(rows) == len(file.read_text(encoding="utf-8").splitlines()) - 1 == 4032
    strangest = max(rows[604:], key=lambda row: float(row[2]))  # the first 15 % are not judged
    assert "2014-04-10 16:15" <= strangest[0][:16] <= "2014-04-12 01:45"
    ts_s = np.array([data.seconds(row[0]) for row in rows], np.int64)
    values = np.array([[float(row[1])] for row in rows], np.float32)
    told = evaluate.scorer(settings.load(environ={}), ("value",), 300_000_000).score(ts_s * 1_000_000, values)
    np.testing.assert_array_equal(told.score, np.array([float(row[2]) for row in rows], np.float32))


def test_the_page_has_each_set_and_its_pictures(tmp_path):
    events = [data.Event(100, 120, frozenset({1}), "bias"), data.Event(300, 310, frozenset({0}), "scale")]
    rng = np.random.default_rng(1)
    told = scored(rng.random(400), np.ones(400), events)
    result = evaluate.SetResult(
        "Vehicle faults",
        {"AUC-PR": 0.5, "base rate": 0.1, "threshold": 0.9},
        {"bias": {"events": 1, "found": 1.0}},
        [told],
        12.0,
    )
    page = report.page([result], ["NAB"], tmp_path)
    assert "Not run, for their files are not there: NAB." in page
    assert "| bias | 1 | 1 |" in page
    assert "| AUC-PR | 0.500 |" in page
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn == ["vehicle-faults-hit.svg", "vehicle-faults-worst-miss.svg"]
    assert all(f"img/quality/{name}" in page for name in drawn)
    before = (tmp_path / drawn[0]).read_bytes()
    report.page([result], ["NAB"], tmp_path)
    assert (tmp_path / drawn[0]).read_bytes() == before


def test_without_data_it_says_where_to_get_them(tmp_path):
    result = CliRunner().invoke(run.main, ["--data", str(tmp_path)])
    assert result.exit_code == 2
    assert "none of the sets is there" in result.output
