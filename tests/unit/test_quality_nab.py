"""NAB's score on cases that can be worked out by hand."""

import json
import math

import numpy as np
import pytest

from benchmarks.quality import nab_score as nab


def sig(x):
    return 2.0 / (1.0 + math.exp(5.0 * x)) - 1.0


def labels(n, *windows, step_s=300):
    ts_s = np.arange(n, dtype=np.int64) * step_s
    return nab.label(ts_s, [(a * step_s, b * step_s) for a, b in windows])


def detections(n, *rows):
    out = np.zeros(n)
    out[list(rows)] = 1.0
    return out


FULL = sig(-1.0)


def test_the_worth_of_each_row():
    got = labels(100, (40, 49), (70, 79))
    assert got.windows == ((40, 49), (70, 79))
    assert got.worth[40] == 1.0
    assert got.worth[49] == pytest.approx(sig(-0.1) / FULL)
    assert got.worth[:40].tolist() == [-1.0] * 40
    assert got.worth[50] == pytest.approx(sig(1 / 9))
    assert got.worth[69] == pytest.approx(sig(20 / 9))
    assert got.worth[80] == pytest.approx(sig(1 / 9))
    assert got.window[39:51].tolist() == [-1] + [0] * 10 + [-1]
    assert np.flatnonzero(got.judged)[0] == 15
    assert labels(20_000).judged.sum() == 20_000 - 750
    assert labels(300, (40, 49)).worth[49 + 28 :].max() == -1.0
    assert labels(300, (40, 49)).worth[49 + 27] > -1.0


def test_all_windows_found_on_their_first_rows_is_100_and_no_detection_is_0():
    own = {"a": labels(100, (40, 49), (70, 79)), "b": labels(50)}
    perfect = {"a": detections(100, 40, 70), "b": np.zeros(50)}
    for profile in nab.PROFILES:
        result = nab.best(perfect, own, profile)
        assert (result.score, result.threshold, result.hits, result.false) == (pytest.approx(100.0), 1.0, 2, 0)
        assert nab.at(perfect, own, 2.0, profile).score == 0.0


@pytest.mark.parametrize(
    ("profile", "want"),
    [
        ("standard", 100 * (sig(-0.5) / FULL + 1 + 0.11 * (-1 + sig(1 / 9))) / 4),
        ("reward_low_FP_rate", 100 * (sig(-0.5) / FULL + 1 + 0.22 * (-1 + sig(1 / 9))) / 4),
        ("reward_low_FN_rate", 100 * (sig(-0.5) / FULL + 2 + 0.11 * (-1 + sig(1 / 9))) / 6),
    ],
)
def test_one_late_hit_one_miss_and_two_false_ones(profile, want):
    own = {"a": labels(100, (40, 49), (70, 79))}
    scores = {"a": detections(100, 20, 45, 47, 50)}
    result = nab.at(scores, own, 0.5, profile)
    assert result.score == pytest.approx(want)
    assert (result.hits, result.false, result.found, result.windows) == (2, 2, 1, 2)


def test_a_detection_in_probation_counts_for_nothing_and_a_window_there_cannot_be_found():
    own = {"a": labels(100, (3, 8), (40, 49))}
    scores = {"a": detections(100, 1, 4, 40)}
    result = nab.at(scores, own, 1.0)
    assert (result.found, result.windows, result.false) == (1, 2, 0)
    assert result.score == pytest.approx(100 * 2 / 3)  # 1 + 1 of 2 * 1 + 1


def test_a_missing_score_is_no_detection():
    own = {"a": labels(100, (40, 49))}
    scores = {"a": np.where(np.arange(100) == 40, 3.0, np.nan)}
    assert nab.best(scores, own).score == pytest.approx(100.0)
    assert nab.at(scores, own, -math.inf).hits == 1
    assert nab.best({"a": np.full(100, np.nan)}, own).threshold == math.inf


def test_the_best_threshold_is_the_best_of_all():
    rng = np.random.default_rng(0)
    own = {k: labels(400, (100, 139), (200, 219), (300, 349)) for k in "abc"}
    scores = {k: np.round(rng.exponential(size=400) + 2.0 * (own[k].window >= 0) * rng.random(400), 1) for k in own}
    for profile in nab.PROFILES:
        result = nab.best(scores, own, profile)
        every = np.unique(np.concatenate(list(scores.values())))
        assert result.score == pytest.approx(max(nab.at(scores, own, t, profile).score for t in every))
        assert nab.at(scores, own, result.threshold, profile) == result


def test_one_threshold_counts_for_all_files_and_keys_select_them():
    own = {"a": labels(100, (40, 49)), "b": labels(100, (40, 49))}
    scores = {"a": detections(100, 40), "b": 5.0 * detections(100, 20, 40)}
    assert nab.best(scores, own).threshold == 1.0
    assert nab.best(scores, own, keys=["b"]).threshold == 5.0
    assert nab.best(scores, own, keys=["a"]).score == pytest.approx(100.0)


def test_leaving_one_out_judges_each_file_by_the_others():
    own = {"a": labels(100, (40, 49)), "b": labels(100, (40, 49))}
    scores = {"a": 1.0 * detections(100, 40), "b": 5.0 * detections(100, 40)}
    # b's threshold, 5, finds nothing in a; a's threshold, 1, finds b.
    assert nab.leave_one_out(scores, own) == pytest.approx(50.0)
    calm = {**own, "c": labels(100)}
    noisy = {**scores, "c": 5.0 * detections(100, 50)}
    assert nab.leave_one_out(noisy, calm) == pytest.approx(100 * (0 + 2 - 0.11) / 4)


def test_files_are_read_and_wrong_labels_refused(tmp_path):
    data = tmp_path / "x.csv"
    data.write_text("timestamp,value\n2014-04-01 00:00:00,1.5\n2014-04-01 00:05:00,-2\n2014-04-01 00:05:00,3\n")
    ts_s, values = nab.read_series(data)
    assert ts_s.tolist() == [1396310400, 1396310700, 1396310700]
    assert values.tolist() == [1.5, -2.0, 3.0]
    told = tmp_path / "windows.json"
    told.write_text(json.dumps({"d/x.csv": [["2014-04-01 00:00:00.000000", "2014-04-01 00:05:00.000000"]]}))
    windows = nab.read_windows(told)
    assert nab.label(ts_s, windows["d/x.csv"]).windows == ((0, 1),)
    with pytest.raises(ValueError, match="no row has the time stamp"):
        nab.label(ts_s, [(1396310400, 1396310999)])
    with pytest.raises(ValueError, match="out of order"):
        labels(100, (70, 79), (40, 49))
    with pytest.raises(ValueError, match="a: "):
        nab.at({"a": np.zeros(3)}, {"a": labels(100)}, 1.0)
    with pytest.raises(ValueError, match="no files"):
        nab.best({}, {})
