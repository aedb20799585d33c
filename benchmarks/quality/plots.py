"""Charts of hits and misses. The rule: what the detector saw, when it was labelled, and what it said, one above the
other, in a chart that reads on white and on dark pages."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "fleetwatch"  # the same chart, the same bytes

from matplotlib import pyplot as plt  # noqa: E402 (the backend is chosen first)

from benchmarks.quality.evaluate import Scored  # noqa: E402

SIGNAL, SCORE, LABEL, ALARM = "#3b6ea5", "#b5541c", "#e8a33d", "#c22f2f"


def _labelled(ax: plt.Axes, label: NDArray[np.uint8], first: int) -> None:
    edges = np.diff(np.concatenate([[0], label > 0, [0]]).astype(np.int8))
    for start, end in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True):
        ax.axvspan(first + start, first + end - 1, color=LABEL, alpha=0.3, lw=0)


def chart(
    path: Path, scored: Scored, first: int, last: int, columns: tuple[int, ...], level: float, title: str
) -> None:
    """Rows first..last-1 of a series: values of some columns, the labelled span, the score and the threshold."""
    rows = np.arange(first, last)
    label = scored.series.label[first:last]
    score = scored.told.score[first:last]
    heights = [1.0] * len(columns) + [0.9]
    figure, axes = plt.subplots(
        len(heights), 1, sharex=True, figsize=(8.4, 1.1 + 1.1 * len(heights)), height_ratios=heights,
        layout="constrained",
    )  # fmt: skip
    for ax, column in zip(axes, columns, strict=False):
        _labelled(ax, label, first)
        ax.plot(rows, scored.series.values[first:last, column], color=SIGNAL, lw=0.9)
        ax.set_ylabel(scored.series.columns[column][:22], fontsize=7)
        ax.tick_params(labelsize=7)
    _labelled(axes[-1], label, first)
    axes[-1].plot(rows, score, color=SCORE, lw=0.9)
    hits = rows[score >= level]
    axes[-1].plot(hits, scored.told.score[hits], "o", color=ALARM, ms=2.5)
    axes[-1].axhline(level, color=ALARM, lw=0.7, ls="--")
    axes[-1].set_ylabel("surprise", fontsize=7)
    axes[-1].set_xlabel("row", fontsize=7)
    axes[-1].tick_params(labelsize=7)
    axes[0].set_title(title, fontsize=9, loc="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
