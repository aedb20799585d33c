"""The yardsticks of detection on cases small enough to be worked out by hand."""

import math

import numpy as np
import pytest

from benchmarks.quality.vus_pr import auc_pr, episodes, event_recall, events, threshold_at, vus_pr


def naive_vus(label, score, window, thresholds):
    """The definition, threshold by threshold and row by row."""
    n = len(label)
    spans = events(np.array(label))
    falling = sorted(score, reverse=True)
    levels = [falling[(n - 1) * k // (thresholds - 1)] for k in range(thresholds)]
    volume = 0.0
    for w in range(window + 1):
        half = w // 2
        fade = [0.0] * n
        for a, b in spans:
            for i in range(n):
                if b < i <= b + half:
                    fade[i] += math.sqrt(1 - (i - b) / w)
                if a - half <= i < a:
                    fade[i] += math.sqrt(1 - (a - i) / w)
        soft = [1.0 if label[i] else min(fade[i], 1.0) for i in range(n)]
        groups = []
        for a, b in spans:
            if groups and a - half <= groups[-1][1]:
                groups[-1][1] = min(b + half, n - 1)
            else:
                groups.append([max(a - half, 0), min(b + half, n - 1)])
        before = 0.0
        for level in levels:
            flagged = [i for i in range(n) if score[i] >= level]
            true = sum(soft[i] for i in flagged)
            faded = sum(soft[i] for i in flagged if not label[i])
            recall = min(true / (sum(label) + faded / 2), 1.0)
            recall *= sum(any(a <= i <= b for i in flagged) for a, b in groups) / len(groups)
            volume += (recall - before) * true / len(flagged)
            before = recall
    return volume / (window + 1)


@pytest.mark.parametrize("seed", range(12))
def test_vus_is_its_definition(seed):
    rng = np.random.default_rng(seed)
    label = np.zeros(80, np.int64)
    for start in rng.integers(0, 80, 3):
        label[start : start + rng.integers(1, 12)] = 1
    score = (rng.normal(size=80) + label).round(int(rng.integers(1, 4)))
    window = int(rng.integers(0, 15))
    want = naive_vus(label.tolist(), score.tolist(), window, 40)
    assert vus_pr(label, score, window, 40) == pytest.approx(want, rel=1e-12)


def test_perfect_scores_are_one_and_constant_ones_the_base_rate():
    label = np.zeros(1000, np.int64)
    label[400:500] = 1
    assert vus_pr(label, label.astype(float), 0) == pytest.approx(1.0, abs=0.03)
    assert vus_pr(label, np.zeros(1000), 0) == pytest.approx(0.1)
    assert auc_pr(label, label.astype(float)) == 1.0
    assert auc_pr(label, np.zeros(1000)) == pytest.approx(0.1)


def test_vus_forgives_a_neighbour_and_refuses_nonsense():
    label = np.zeros(300, np.int64)
    label[100:110] = 1
    late, far = np.zeros(300), np.zeros(300)
    late[105:115] = far[205:215] = 1.0
    assert vus_pr(label, late, 20) > vus_pr(label, late, 0) > vus_pr(label, far, 20)
    with pytest.raises(ValueError, match="labelled event"):
        vus_pr(np.zeros(9, np.int64), np.zeros(9), 2)
    with pytest.raises(ValueError, match="without NaN"):
        vus_pr(label, np.full(300, np.nan), 2)


def test_auc_pr_takes_ties_together():
    assert auc_pr(np.array([1, 0, 1, 0]), np.array([4.0, 3.0, 2.0, 1.0])) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert auc_pr(np.array([1, 0, 1, 0]), np.array([4.0, 2.0, 2.0, 1.0])) == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_events_and_episodes():
    assert events(np.array([1, 1, 0, 0, 1])) == [(0, 1), (4, 4)]
    assert events(np.zeros(3, np.int64)) == []
    assert episodes(np.array([3, 5, 125, 246]), 120) == [(3, 125), (246, 246)]
    assert episodes(np.array([], np.int64)) == []


def test_a_threshold_keeps_the_rate_it_was_asked_for_and_recall_counts_events():
    rng = np.random.default_rng(1)
    clean = [rng.normal(size=7200) for _ in range(5)]
    level = threshold_at(clean, 7200.0)
    found = sum(len(episodes(np.flatnonzero(trip >= level))) for trip in clean)
    assert found == 5
    score = np.zeros(7200)
    score[[100, 110, 2000, 5000]] = level + 1.0
    recall, false = event_recall([score], [[(90, 105), (3000, 3050)]], level, 7200.0)
    assert (recall, false) == (0.5, 2.0)
