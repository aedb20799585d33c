"""The page of `fleetwatch top`. The rule: it only arranges what it is given; a figure nobody knows is a dash."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fleetwatch.alert_feed import Received
from fleetwatch.alert_text import brief, duration
from fleetwatch.cluster_probe import ClusterPage, Member
from fleetwatch.scrape import WorkerFigures
from telemetry.alerts import Severity
from telemetry.lag import LagSeconds
from telemetry.log import printable

DASH = "–"
SEVERITY_STYLES = {
    Severity.CRITICAL: "bold bright_white on red",
    Severity.MAJOR: "bold bright_red",
    Severity.MINOR: "yellow",
    Severity.INFO: "cyan",
}
#: Lag in seconds from which the figure is coloured.
LAG_WARN_S, LAG_BAD_S = 5.0, 30.0
_ALERT_ROWS_MIN = 3


@dataclass(frozen=True, slots=True)
class TopPage:
    """All that one page shows. problem : why the cluster's part is old or missing, or empty."""

    at: datetime
    bootstrap: str
    group: str
    cluster: ClusterPage | None
    workers: tuple[WorkerFigures, ...]
    open_alerts: Sequence[Received]
    problem: str = ""


def count(value: float) -> str:
    """A count or a rate with three significant digits: 12, 4.56k, 1.23M."""
    if math.isnan(value):
        return DASH
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}" if abs(value) < 999.5 * size else f"{value / size:.0f}{suffix}"
    return f"{value:.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.1f}"


def span(seconds: float) -> str:
    """A latency: 12 ms, 1.2 s, 95 s."""
    if math.isnan(seconds):
        return DASH
    if seconds == 0:
        return "0 s"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def lag_text(lag: LagSeconds) -> Text:
    """~ = an estimate."""
    if math.isnan(lag.seconds):
        return Text(DASH)
    style = "red" if lag.seconds >= LAG_BAD_S else "yellow" if lag.seconds >= LAG_WARN_S else "green"
    return Text(("~" if lag.estimated else "") + span(lag.seconds), style=style)


def ranges(numbers: Iterable[int]) -> str:
    """0,1,2,5 as 0-2,5."""
    out: list[list[int]] = []
    for number in sorted(numbers):
        if out and number == out[-1][1] + 1:
            out[-1][1] = number
        else:
            out.append([number, number])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in out)


def _table(*columns: str, right: frozenset[int] = frozenset()) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number in right else "left", no_wrap=True, overflow="ellipsis")
    return table


def _head(page: TopPage) -> Text:
    text = Text.assemble(("fleetwatch top  ", "bold"), (page.at.strftime("%H:%M:%S"), "dim"), f"  {page.bootstrap}")
    if page.cluster is not None:
        state = page.cluster.group_state
        state = "does not exist" if state == "dead" else state
        style = "green" if state == "stable" else "yellow"
        text.append_text(Text.assemble("  group ", (page.group, "bold"), " ", (state, style)))
    if page.problem:
        text.append_text(Text(f"\n{printable(page.problem, 500)}", style="bold red"))
    return text


def _inputs(cluster: ClusterPage) -> RenderableType:
    table = _table(
        "topic", "partitions", "in frames/s", "done frames/s", "lag records", "lag", right=frozenset(range(1, 6))
    )
    for row in cluster.inputs:
        table.add_row(
            row.topic,
            str(row.partitions),
            count(row.produced_per_s),
            count(row.processed_per_s),
            count(row.lag_records),
            lag_text(row.lag),
        )
    figures = (
        ("alerts", cluster.alerts_last_minute, "bold"),
        ("dead letters", cluster.dead_letters_last_minute, "red"),
        ("late", cluster.late_last_minute, "yellow"),
    )
    line = Text("last minute  ", style="dim")
    for name, value, style in figures:
        shown = DASH if value is None else count(value)
        line.append_text(Text.assemble((shown, style if value else ""), (f" {name}   ", "dim")))
    parts: list[RenderableType] = [table, line]
    if cluster.missing:
        parts.append(Text(f"no such topic: {', '.join(cluster.missing)}", style="yellow"))
    return Group(*parts)


def _held(partitions: Mapping[str, tuple[int, ...]], prefix: str) -> str:
    return "  ".join(
        f"{printable(topic.removeprefix(prefix))} {ranges(held)}" for topic, held in partitions.items()
    )


def _members(members: Sequence[Member], inputs: Sequence[str]) -> RenderableType:
    if not members:
        return Text("no worker is in the group", style="yellow")
    prefix = f"{inputs[0].rpartition('.')[0]}." if inputs else ""
    table = _table("worker", "host", "partitions")
    for member in members:
        wanted = {topic: held for topic, held in member.partitions.items() if not inputs or topic in inputs}
        table.add_row(
            printable(member.member_id, 64),
            printable(member.host.lstrip("/"), 40),
            _held(wanted, prefix) or Text("none", style="dim"),
        )
    return table


def _figures(workers: Sequence[WorkerFigures]) -> RenderableType:
    names = ("metrics", "frames/s", "samples/s", "CPU", "ns/sample", "latency p50", "p99", "memory")
    table = _table(*names, right=frozenset(range(1, 8)))
    for w in workers:
        address = w.url.removeprefix("http://").removesuffix("/metrics")
        if w.problem:
            table.add_row(address, Text(printable(w.problem, 60), style="red"))
            continue
        table.add_row(
            address,
            count(w.frames_per_s),
            count(w.samples_per_s),
            DASH if math.isnan(w.cpu_share) else f"{w.cpu_share:.0%}",
            count(w.ns_per_sample),
            span(w.latency_p50_s),
            span(w.latency_p99_s),
            DASH if math.isnan(w.rss_bytes) else f"{w.rss_bytes / 2**20:.0f} MiB",
        )
    return table


def _alerts(open_alerts: Sequence[Received], rows: int | None, now_ms: float) -> RenderableType:
    tally = Counter(r.alert.severity for r in open_alerts)
    title = Text.assemble(("open alerts  ", "dim"), (str(len(open_alerts)), "bold"))
    for severity in reversed(Severity):
        if tally[severity]:
            title.append_text(Text.assemble("   ", (f" {tally[severity]} {severity} ", SEVERITY_STYLES[severity])))
    if not open_alerts:
        return title
    table = _table("severity", "for", "device", "kind", "what", right=frozenset({1}))
    table.columns[4].ratio = 1
    shown = open_alerts if rows is None else open_alerts[:rows]
    for received in shown:
        alert = received.alert
        table.add_row(
            Text(str(alert.severity), style=SEVERITY_STYLES[alert.severity]),
            duration(alert.ts_us - alert.onset_us + int(max(now_ms - received.arrived_ms, 0.0) * 1000)),
            Text(printable(alert.device_id, 24), style="bold"),
            printable(alert.kind, 12),
            printable(brief(alert), 200),
        )
    parts: list[RenderableType] = [title, table]
    if len(shown) < len(open_alerts):
        parts.append(Text(f"and {len(open_alerts) - len(shown)} more", style="dim"))
    return Group(*parts)


def render(page: TopPage, height: int | None = None) -> RenderableType:
    """The page. An alert is open for as long as its events span, and since the last of them came.

    height : lines there are, for which the least urgent alerts are left out; None = no limit.
    """
    parts: list[RenderableType] = [_head(page)]
    used = 3 + bool(page.problem)
    if page.cluster is not None:
        inputs = [row.topic for row in page.cluster.inputs]
        parts += [Text(), _inputs(page.cluster), Text(), _members(page.cluster.members, inputs)]
        used += len(inputs) + 5 + bool(page.cluster.missing) + max(len(page.cluster.members) + 1, 1)
    if page.workers:
        parts += [Text(), _figures(page.workers)]
        used += len(page.workers) + 2
    rows = None if height is None else max(height - used - 3, _ALERT_ROWS_MIN)
    parts += [Text(), _alerts(page.open_alerts, rows, page.at.timestamp() * 1000)]
    return Group(*parts)
