"""The results as table, bar chart and section of docs/performance.md. The rule: no figure that was not verified.

The section stands between two marks; what is around it is written by hand and stays.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.peers import programs
from benchmarks.peers.programs import EXACTLY_ONCE, PEERS, Peer

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "performance.md"
IMAGE = ROOT / "docs" / "img" / "peers.svg"
RESULTS = Path(__file__).parent / "results.json"
BEGIN, END = "<!-- peers: written by `make bench-peers`, do not edit -->", "<!-- peers: end -->"
GREEN, BLUE, GREY = "#0b6e4f", "#4062bb", "#9a9a9a"
_HEAD = ("system", "version", "guarantee", "CPU us/message", "CPU ns/sample", "times ours", "messages/s", "RSS MB",
         "messages", "verified")  # fmt: skip
_OURS = {"fleetwatch-exactly_once": "exactly once", "fleetwatch-at_least_once": "at least once"}


def _guarantee(peer: Peer) -> str:
    return "exactly once" if peer.guarantee == EXACTLY_ONCE else "at least once"


def _median(row: dict[str, Any], field: str) -> float:
    return float(statistics.median(run[field] for run in row["runs"]))


def spread(row: dict[str, Any], field: str, scale: float, digits: int) -> str:
    """Median, then the smallest and the largest."""
    values = [run[field] * scale for run in row["runs"]]
    text = f"{statistics.median(values):,.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def counts(row: dict[str, Any]) -> bool:
    """It ran and every run was verified."""
    return bool(row["runs"]) and not row["problems"]


def _labelled(found: dict[str, Any]) -> list[tuple[str, str, str, str, dict[str, Any]]]:
    """Kind (ours, peer, floor), title, version, guarantee and row, in the table's order."""
    rows = found["rows"]
    listed = [
        ("ours", "**Fleetwatch**", found["versions"]["fleetwatch"], text, rows[name])
        for name, text in _OURS.items()
        if name in rows
    ]
    for peer in PEERS:
        if peer.name in rows:
            kind = "floor" if peer.floor else "peer"
            listed.append((kind, peer.title, programs.version(peer), _guarantee(peer), rows[peer.name]))
    return listed


def table(found: dict[str, Any]) -> str:
    """Markdown. A row that failed says so in place of figures."""
    samples = found["samples_per_message"]
    base = next((r for name in _OURS if (r := found["rows"].get(name)) and counts(r)), None)
    lines = ["| " + " | ".join(_HEAD) + " |", "|---|---|---|" + "--:|" * 6 + "---|"]
    for _, title, version, guarantee, row in _labelled(found):
        if not counts(row):
            why = " ".join(row["problems"][0].split())[:160].replace("|", "/")
            lines.append(
                f"| {title} | {version} | {guarantee} | - | - | - | - | - | {row['messages']:,} | **no: {why}** |"
            )
            continue
        times = f"{_median(row, 'ns_per_message') / _median(base, 'ns_per_message'):,.1f}" if base else "-"
        lines.append(
            f"| {title} | {version} | {guarantee} | {spread(row, 'ns_per_message', 1e-3, 2)} | "
            f"{spread(row, 'ns_per_message', 1 / samples, 0)} | {times} | {spread(row, 'messages_per_s', 1, 0)} | "
            f"{max(run['rss_mb'] for run in row['runs']):,.0f} | {row['messages']:,} | yes |"
        )
    return "\n".join(lines)


def draw(found: dict[str, Any], path: Path) -> None:
    """CPU a sample, a bar each, on a logarithmic axis; an SVG without a date."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    mpl.rcParams["svg.hashsalt"] = "peers"
    samples = found["samples_per_message"]
    shown = [entry for entry in _labelled(found) if counts(entry[4])]
    values = [_median(row, "ns_per_message") / samples for *_, row in shown]
    order = sorted(range(len(shown)), key=lambda i: -values[i])
    figure, axes = plt.subplots(figsize=(9, 0.42 * len(shown) + 1.2), constrained_layout=True)
    colours = {"ours": GREEN, "peer": BLUE, "floor": GREY}
    for y, i in enumerate(order):
        kind, _, _, _, row = shown[i]
        runs = [run["ns_per_message"] / samples for run in row["runs"]]
        axes.barh(y, values[i], color=colours[kind], height=0.66)
        axes.plot([min(runs), max(runs)], [y, y], color="black", linewidth=1.2)
        axes.text(max(runs) * 1.06, y, f"{values[i]:,.0f}", va="center", fontsize=9)
    labels = [f"{shown[i][1].replace('*', '').replace('`', '')}, {shown[i][3]}" for i in order]
    axes.set_yticks(range(len(order)), labels, fontsize=9)
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 2, max(values) * 2)
    figure.supxlabel(
        "CPU time of the worker's process, ns a sample; log scale; less is better; line: the runs' range",
        fontsize=9,
    )
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    handles = [Patch(color=colour) for colour in colours.values()]
    axes.legend(handles, ["Fleetwatch", "stream processors", "a bare consumer's loop, nothing kept"], fontsize=8,
                loc="lower right" if values[order[0]] < values[order[-1]] else "upper right")  # fmt: skip
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def section(found: dict[str, Any]) -> str:
    """What stands between the marks."""
    m, v = found["machine"], found["versions"]
    load = f"load average {m['load_average_at_start']} at the start"
    machine = f"{m['processor']}, {m['cores']} cores, {m['memory_gb']} GB, {m['system']}, {load}"
    settings = [
        f"- {peer.title} ({_guarantee(peer)}): {peer.settings}." for peer in PEERS if peer.name in found["rows"]
    ]
    conditions = (
        f"Median of {found['repetitions']} runs (smallest-largest). {found['date']}: {machine}. "
        f"Kafka {v['kafka']}, Python {v['python']}, Java {v.get('java', '-')}; "
        f"the run took {found['minutes']:g} minutes."
    )
    return "\n".join(
        [
            BEGIN,
            "",
            f"![CPU time a sample of each]({IMAGE.relative_to(PAGE.parent)})",
            "",
            table(found),
            "",
            conditions,
            "",
            "Settings other than the defaults:",
            "",
            *settings,
            "",
            END,
        ]
    )


def placed(page: str, text: str) -> str:
    """The page with the section in its place.

    Raises
    ------
    ValueError : it has no place for it.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(END) < page.index(BEGIN):
        raise ValueError(f"{PAGE.name} must have the lines '{BEGIN}' and '{END}' once each, in this order")
    return page[: page.index(BEGIN)] + text + page[page.index(END) + len(END) :]


def write(found: dict[str, Any]) -> list[Path]:
    """results.json, the picture and the section."""
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(found, IMAGE)
    PAGE.write_text(placed(PAGE.read_text(encoding="utf-8"), section(found)), encoding="utf-8")
    return [RESULTS, IMAGE, PAGE]
