"""A picture of each traffic and what policies made of it. The rule: the worst of each moment is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.autoscaler.world import CAPACITY_PER_S, SLO_S, World

POINTS = 480
COLOURS = {"fleetwatch": "#0b6e4f", "KEDA lagThreshold 1,000": "#c1440e", "HPA CPU 50%": "#4062bb"}


def _worst(values: np.ndarray) -> np.ndarray:
    """The largest of each of POINTS spans."""
    step = -(-len(values) // POINTS)
    padded = np.pad(values.astype(float), (0, -len(values) % step), mode="edge")
    return padded.reshape(-1, step).max(axis=1)


def draw(runs: Mapping[str, World], path: Path) -> None:
    """Arrivals, replicas and lag of one traffic under each policy; an SVG without a date."""
    traffic = next(iter(runs.values())).traffic
    arrivals = _worst(traffic.arrivals.sum(axis=0))
    hours = np.linspace(0, traffic.seconds / 3600, len(arrivals))
    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(9, 6.2), sharex=True, constrained_layout=True)
    top.plot(hours, arrivals / 1000, color="#555555", linewidth=1)
    top.set_ylabel("arrivals,\n1,000 records/s")
    top.set_ylim(bottom=0)
    top.set_title(traffic.name)
    needed = arrivals / CAPACITY_PER_S
    if traffic.capacity is not None:
        needed = needed / _worst(traffic.capacity)
    middle.plot(hours, needed, color="#aaaaaa", linewidth=0.8, label="arrivals / capacity of a worker")
    for name, world in runs.items():
        ours = name == "fleetwatch"
        style = {"color": COLOURS[name], "linewidth": 1.6 if ours else 0.9, "zorder": 3 if ours else 2}
        middle.plot(hours, _worst(world.wanted), label=name, drawstyle="steps-post", **style)
        bottom.plot(hours, np.maximum(_worst(world.lag), 0.5), **style)
    middle.set_ylabel("replicas")
    middle.set_ylim(0, traffic.partitions + 1)
    middle.legend(fontsize=7, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0), frameon=False)
    bottom.axhline(SLO_S, color="#bb0000", linewidth=0.8, linestyle="--")
    bottom.text(hours[-1], SLO_S * 1.1, "SLO 30 s", ha="right", fontsize=7, color="#bb0000")
    bottom.set_yscale("log")
    bottom.set_ylabel("lag of the worst\npartition, s")
    bottom.set_xlabel("hours")
    for axes in (top, middle, bottom):
        axes.grid(alpha=0.25)
        axes.margins(x=0.01)
    mpl.rcParams["svg.hashsalt"] = traffic.name
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
