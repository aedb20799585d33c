"""How good scores of labelled rows are: VUS-PR, AUC-PR, event recall at a false-alarm rate. The rule: no point
adjustment; a threshold comes from other rows than those that it judges.

VUS-PR is the volume under the precision-recall surface of J. Paparrizos et al., "Volume under the surface: a new
accuracy evaluation measure for time-series anomaly detection", PVLDB 15 (2022), as the TSB-AD benchmark (Q. Liu,
J. Paparrizos, NeurIPS 2024) computes it: the mean over windows 0..W of the area under precision against recall,
with labels that fade out over half a window before and behind each event, and recall weighted by the share of
events that are met at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Thresholds of VUS-PR: scores at evenly spaced ranks.
THRESHOLDS = 250
#: Alarms within so many rows are one episode.
MERGE_ROWS = 120

Event = tuple[int, int]


def events(label: NDArray[np.int64]) -> list[Event]:
    """First and last row of each run of label 1."""
    edges = np.diff(np.concatenate([[0], (np.asarray(label) > 0).astype(np.int8), [0]]))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def _fade(label: NDArray[np.int64], spans: Sequence[Event], window: int) -> NDArray[np.float64]:
    """The weight of rows beside events, 0..1: sqrt(1 - distance / window), up to half a window away, added up."""
    n, half = len(label), window // 2
    fade = np.zeros(n)
    if half:
        weight = np.sqrt(1.0 - np.arange(1, half + 1) / window)
        for start, end in spans:
            behind, ahead = min(half, n - 1 - end), min(half, start)
            fade[end + 1 : end + 1 + behind] += weight[:behind]
            fade[start - ahead : start] += weight[:ahead][::-1]
    fade[label > 0] = 0.0
    return np.minimum(fade, 1.0)


def _merged(spans: Sequence[Event], half: int, n: int) -> list[Event]:
    """Events widened by half a window; those that then touch are one."""
    out: list[Event] = []
    for start, end in spans:
        wide = (max(start - half, 0), min(end + half, n - 1))
        if out and end >= start and start - half <= out[-1][1]:
            out[-1] = (out[-1][0], wide[1])
        else:
            out.append(wide)
    return out


def _sums(rank: NDArray[np.int64], weight: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """float64 (n,): the weight of the rows that each threshold flags; rank : the first that flags the row."""
    return np.cumsum(np.bincount(rank, weight, minlength=n)[:n])


def vus_pr(
    label: NDArray[np.int64], score: NDArray[np.float64], window: int, thresholds: int = THRESHOLDS
) -> float:
    """Volume under the precision-recall surface.

    Parameters
    ----------
    label : 0 or 1 (n,), at least one 1.
    score : (n,), no NaN; larger = stranger.
    window : W, in rows.
    thresholds : how many, spread evenly over the ranks of the scores.

    Raises
    ------
    ValueError : nothing is labelled, or a score is NaN.
    """
    label, score = np.asarray(label, np.int64), np.asarray(score, np.float64)
    n, spans = len(score), events(label)
    if not spans or np.isnan(score).any():
        raise ValueError("VUS-PR needs a labelled event and scores without NaN")
    at = [(n - 1) * k // (thresholds - 1) for k in range(thresholds)]
    levels = np.sort(score)[::-1][at]  # falling
    rank = np.searchsorted(-levels, -score, side="left")  # the first threshold that is not above the score
    flagged = _sums(rank, np.ones(n), thresholds)
    hard = _sums(rank, label.astype(np.float64), thresholds)
    total = 0.0
    for w in range(window + 1):
        true = hard + _sums(rank, _fade(label, spans, w), thresholds)
        positive = 0.5 * (
            label.sum() + true
        )  # TSB-AD: mean of the plain labels and of what is flagged of the faded
        positive += 0.5 * (label.sum() - hard)
        wide = _merged(spans, w // 2, n)
        first = np.array([rank[a : b + 1].min() for a, b in wide])
        met = (first[:, None] <= np.arange(thresholds)).mean(axis=0)
        recall = np.minimum(true / positive, 1.0) * met
        total += float(np.sum(np.diff(recall, prepend=0.0) * true / flagged))
    return total / (window + 1)


def auc_pr(label: NDArray[np.int64], score: NDArray[np.float64]) -> float:
    """Average precision: precision summed over the steps of recall, ties taken together."""
    label, score = np.asarray(label), np.asarray(score)
    order = np.argsort(-score, kind="stable")
    true = np.cumsum(label[order])
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    recall, precision = true[last] / true[-1], true[last] / (last + 1)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def episodes(rows: NDArray[np.int64], merge_rows: int = MERGE_ROWS) -> list[Event]:
    """First and last row of each alarm; rows : those that alarm, rising."""
    if not len(rows):
        return []
    cut = np.flatnonzero(np.diff(rows) > merge_rows)
    starts, ends = rows[np.append(0, cut + 1)], rows[np.append(cut, len(rows) - 1)]
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def threshold_at(trips: Sequence[NDArray[np.float64]], rows_per_hour: float, per_hour: float = 1.0) -> float:
    """The lowest score that, as a threshold, gives at most `per_hour` alarm episodes an hour on clean trips.

    Found by bisection over the scores' ranks, down to a tenth of the rows: episodes grow with rows flagged there.
    """
    allowed = per_hour * sum(map(len, trips)) / rows_per_hour
    levels = np.sort(np.concatenate(list(trips)))[::-1]
    low, high = 0, len(levels) // 10
    while low < high:
        middle = (low + high + 1) // 2
        found = sum(len(episodes(np.flatnonzero(trip >= levels[middle]))) for trip in trips)
        low, high = (middle, high) if found <= allowed else (low, middle - 1)
    return float(levels[low])


def event_recall(
    trips: Sequence[NDArray[np.float64]],
    spans: Sequence[Sequence[Event]],
    threshold: float,
    rows_per_hour: float,
) -> tuple[float, float]:
    """(share of events with a row at the threshold, alarm episodes an hour that touch no event).

    spans : each trip's events, first and last row.
    """
    met, known, false = 0, 0, 0
    for score, faults in zip(trips, spans, strict=True):
        rows = np.flatnonzero(score >= threshold)
        known += len(faults)
        met += sum(bool((score[a : b + 1] >= threshold).any()) for a, b in faults)
        for start, end in episodes(rows):
            false += not any(a <= end and b >= start for a, b in faults)
    return met / max(known, 1), false * rows_per_hour / sum(map(len, trips))
