"""The Numenta Anomaly Benchmark's score. The rule: one threshold for all files of a profile.

A row is a detection where its score is at or above the threshold. The earliest detection in a window counts, the
more the earlier; detections outside cost, the less the closer they follow a window; a window without costs. The
first 15 % of a file (at most 750 rows) are not judged. 100 is a detection on every window's first row and no false
one; 0 is no detection at all. A. Lavin, S. Ahmad, "Evaluating real-time anomaly detection algorithms: the Numenta
Anomaly Benchmark", ICMLA 2015, sections II and III; as in NAB 1.1, a window that lies in the first 15 % cannot be
found but is part of the perfect score.
"""

from __future__ import annotations

import calendar
import csv
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PROBATION_SHARE, PROBATION_ROWS = 0.15, 750
FAR = 3.0  # windows' widths after a window from which a false detection costs in full


@dataclass(frozen=True, slots=True)
class Profile:
    """What a window found at its first row earns, a false detection far from any costs, a missed window costs."""

    found: float
    false: float
    missed: float


PROFILES = {
    "standard": Profile(1.0, 0.11, 1.0),
    "reward_low_FP_rate": Profile(1.0, 0.22, 1.0),
    "reward_low_FN_rate": Profile(1.0, 0.11, 2.0),
}


@dataclass(frozen=True, slots=True)
class Labels:
    """What a detection on each of a file's n rows is worth.

    windows : first and last row of each anomaly window, in order.
    window : int64 (n,), the window that a row lies in, -1 = none.
    worth : float64 (n,), 0..1 in a window, -1..0 outside, before the profile's weights.
    judged : bool (n,).
    """

    windows: tuple[tuple[int, int], ...]
    window: NDArray[np.int64]
    worth: NDArray[np.float64]
    judged: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Result:
    """A profile's score at one threshold; `hits` and `false` count detections, in windows and outside."""

    score: float
    threshold: float
    hits: int
    false: int
    found: int
    windows: int


def seconds(stamp: str) -> int:
    """Seconds since 1970 of ``2014-04-01 00:05:00``, fractions cut off, taken as UTC.

    Raises
    ------
    ValueError : the text is not of that form.
    """
    return calendar.timegm(time.strptime(stamp.split(".", maxsplit=1)[0], "%Y-%m-%d %H:%M:%S"))


def read_series(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Time stamps (seconds) and values of a data file: ``timestamp,value`` with a heading."""
    with path.open(newline="") as file:
        rows = [(seconds(row["timestamp"]), float(row["value"])) for row in csv.DictReader(file)]
    return np.array([t for t, _ in rows], np.int64), np.array([v for _, v in rows], np.float64)


def read_windows(path: Path) -> dict[str, list[tuple[int, int]]]:
    """Begin and end (seconds, both inside) of each file's windows, by its key, from combined_windows.json."""
    told: dict[str, list[list[str]]] = json.loads(path.read_text())
    return {key: [(seconds(a), seconds(b)) for a, b in windows] for key, windows in told.items()}


def _sigmoid(x: float) -> float:
    return -1.0 if x > FAR else 2.0 / (1.0 + math.exp(5.0 * x)) - 1.0


def label(ts_s: NDArray[np.int64], windows: Sequence[tuple[int, int]]) -> Labels:
    """What a detection on each row is worth.

    Parameters
    ----------
    ts_s : int64 (n,), seconds; of equal ones the first counts.
    windows : begin and end of each, seconds, in order, without overlap.

    Raises
    ------
    ValueError : a window's begin or end is no row's time stamp, or the windows are out of order.
    """
    n = len(ts_s)
    first_row = {int(t): i for i, t in reversed(list(enumerate(ts_s)))}
    rows = []
    for window in windows:
        if window[0] not in first_row or window[1] not in first_row:
            raise ValueError(f"no row has the time stamp of the window {window}")
        rows.append((first_row[window[0]], first_row[window[1]]))
    ends = [-1, *(row for pair in rows for row in pair)]
    if any(b < a for a, b in pairwise(ends)):
        raise ValueError(f"the windows are out of order: {rows}")
    worth, window_of = np.full(n, -1.0), np.full(n, -1, np.int64)
    for w, (begin, end) in enumerate(rows):
        width = end - begin + 1.0
        for i in range(begin, end + 1):
            worth[i] = _sigmoid(-(end - i + 1) / width) / _sigmoid(-1.0)
        window_of[begin : end + 1] = w
        following = rows[w + 1][0] if w + 1 < len(rows) else n
        for i in range(end + 1, following if width > 1.0 else end + 1):
            worth[i] = _sigmoid((i - end) / (width - 1.0))
    probation = min(int(PROBATION_SHARE * n), int(PROBATION_SHARE * 5000))
    return Labels(tuple(rows), window_of, worth, np.arange(n) >= probation)


@dataclass(frozen=True, slots=True)
class _Pool:
    """The judged rows of all files; windows numbered through."""

    score: NDArray[np.float64]
    worth: NDArray[np.float64]
    window: NDArray[np.int64]
    seen: tuple[int, ...]
    windows: int


def _pool(scores: Mapping[str, NDArray[np.floating]], labels: Mapping[str, Labels], keys: Iterable[str]) -> _Pool:
    parts: list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]] = []
    windows = 0
    for key in keys:
        own = labels[key]
        score = np.asarray(scores[key], np.float64)
        if score.shape != own.worth.shape:
            raise ValueError(f"{key}: {score.shape} scores for {len(own.worth)} rows")
        numbered = np.where(own.window >= 0, own.window + windows, -1)
        parts.append((score[own.judged], own.worth[own.judged], numbered[own.judged]))
        windows += len(own.windows)
    if not parts:
        raise ValueError("no files to judge")
    score, worth, window = (np.concatenate(part) for part in zip(*parts, strict=True))
    seen = tuple(int(w) for w in np.unique(window[window >= 0]))
    return _Pool(score, worth, window, seen, windows)


def _result(pool: _Pool, profile: Profile, threshold: float) -> Result:
    hit = pool.score >= threshold  # NaN, no opinion, is no detection
    inside = pool.window >= 0
    raw = profile.false * float(pool.worth[hit & ~inside].sum())
    found = 0
    for w in pool.seen:
        worth = pool.worth[hit & (pool.window == w)]
        # A detection on a window's last rows may be worth less than nothing: then the window counts as missed.
        best = max(profile.found * float(worth.max()), -profile.missed) if len(worth) else -profile.missed
        found += len(worth) > 0
        raw += best
    none = -profile.missed * len(pool.seen)
    perfect = profile.found * pool.windows
    score = 100.0 * (raw - none) / (perfect - none) if perfect > none else math.nan
    return Result(score, threshold, int((hit & inside).sum()), int((hit & ~inside).sum()), found, pool.windows)


def _best_threshold(pool: _Pool, profile: Profile) -> float:
    """The highest of the thresholds with the best score; infinity where no detection is best."""
    order = np.argsort(-pool.score, kind="stable")
    order = order[~np.isnan(pool.score[order])]
    score, worth, window = pool.score[order], pool.worth[order], pool.window[order]
    gain = np.where(window < 0, profile.false * worth, 0.0)
    for w in pool.seen:
        rows = np.flatnonzero(window == w)
        best = np.maximum.accumulate(np.concatenate([[-profile.missed], profile.found * worth[rows]]))
        gain[rows] = np.diff(best)
    total = np.cumsum(gain)
    last = np.flatnonzero(np.append(score[1:] != score[:-1], np.ones(min(1, len(score)), bool)))
    if not len(last) or total[last].max() <= 0.0:
        return math.inf
    return float(score[last[np.argmax(total[last])]])


def at(
    scores: Mapping[str, NDArray[np.floating]],
    labels: Mapping[str, Labels],
    threshold: float,
    profile: str = "standard",
    keys: Iterable[str] | None = None,
) -> Result:
    """The score at a frozen threshold.

    Parameters
    ----------
    scores : of each file, (n,), any scale, higher = stranger, NaN = no detection.
    labels : of each file.
    keys : the files that count; None = all that have labels.

    Raises
    ------
    ValueError : no files, or a file has not a score for each row.
    KeyError : no such profile, or a file without scores.
    """
    return _result(_pool(scores, labels, labels if keys is None else keys), PROFILES[profile], threshold)


def best(
    scores: Mapping[str, NDArray[np.floating]],
    labels: Mapping[str, Labels],
    profile: str = "standard",
    keys: Iterable[str] | None = None,
) -> Result:
    """The score at the threshold that is best for these files: what NAB publishes. Arguments as of `at`."""
    pool = _pool(scores, labels, labels if keys is None else keys)
    return _result(pool, PROFILES[profile], _best_threshold(pool, PROFILES[profile]))


def leave_one_out(
    scores: Mapping[str, NDArray[np.floating]], labels: Mapping[str, Labels], profile: str = "standard"
) -> float:
    """The score where each file is judged at the threshold that is best for all others: an honest forecast of a
    frozen threshold. Arguments as of `at`; at least two files."""
    own = PROFILES[profile]
    raw = full = 0.0
    for key in labels:
        others = _pool(scores, labels, [k for k in labels if k != key])
        alone = _pool(scores, labels, [key])
        span = own.found * alone.windows + own.missed * len(alone.seen)
        gained = _result(alone, own, _best_threshold(others, own))
        if span:
            raw += gained.score * span
        else:
            raw += 100.0 * own.false * float(alone.worth[alone.score >= gained.threshold].sum())
        full += span
    return raw / full if full else math.nan
