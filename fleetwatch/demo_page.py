"""What the demo says. The rule: one line a piece of news, with its unit; colours only where they are wanted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.status import Status
from rich.text import Text

from fleetwatch.alert_feed import Received
from fleetwatch.alert_text import SEVERITIES, SYMBOLS, brief, duration
from fleetwatch.demo_score import Injected, Result, Verdict
from fleetwatch.scorecard_page import detector_lines, fault_lines
from fleetwatch.scorecard_stats import percentile
from telemetry.alerts import AlertState
from telemetry.log import printable

#: In a pipe, how the fleet gets on is told so often.
TELL_EVERY_S = 10.0
#: No line of the summary's tables is longer.
SUMMARY_COLUMNS = 100
_FALSE_SHOWN_MAX = 3
_LABEL = 15


def seconds(value_s: float) -> str:
    """A span with its unit: 85 ms, 1.62 s, 12.7 s, 2m05s."""
    if math.isnan(value_s):
        return "unknown"
    if value_s < 1:
        return f"{value_s * 1000:.0f} ms"
    if value_s < 120:
        return f"{value_s:.2f} s" if value_s < 10 else f"{value_s:.1f} s"
    return duration(round(value_s * 1e6))


def many(count: int, what: str) -> str:
    """1 frame, 2,000 frames."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


class Page:
    """Lines on stdout with the wall time since the start; on a terminal also a line that changes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._began_s = self._told_s = time.monotonic()
        self._status: Status | None = None

    @property
    def elapsed_s(self) -> float:
        """Wall seconds since the demo began."""
        return time.monotonic() - self._began_s

    def say(self, text: str | Text, style: str = "") -> None:
        """A line of news."""
        line = Text().append(f"{self.elapsed_s:6.1f} s  ", style="dim")
        line.append_text(text if isinstance(text, Text) else Text(text, style=style))
        self.console.print(line, soft_wrap=True)

    def plain(self, text: str | Text = "", style: str = "") -> None:
        """A line without a time."""
        self.console.print(text if isinstance(text, Text) else Text(text, style=style), soft_wrap=True)

    def progress(self, text: str) -> None:
        """How it gets on: the line that changes, or now and then one of its own."""
        if self.console.is_terminal:
            if self._status is None:
                self._status = self.console.status(Text(text))
                self._status.start()
            self._status.update(Text(text))
        elif time.monotonic() - self._told_s >= TELL_EVERY_S:
            self._told_s = time.monotonic()
            self.say(text)

    def still(self) -> None:
        """No line changes any more."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def fault(self, fault: Injected) -> None:
        """A fault began."""
        text = Text().append("! ", style="bold magenta")
        text.append(f"fault begins: {fault.kind} on {fault.device}", style="magenta")
        self.say(text)

    def alert(self, received: Received, verdict: Verdict | None) -> None:
        """An alert opened or ended. verdict : of the fault that it finds; None = it finds none."""
        alert = received.alert
        label, style = SEVERITIES[alert.severity]
        over = alert.state is AlertState.RESOLVED
        text = Text().append(f"{SYMBOLS[alert.state]} ", style="green" if over else "bright_red")
        text.append(label, style="dim" if over else _rich_style(style))
        text.append(" " * (6 - len(label)))
        text.append(printable(alert.device_id, 24), style="bold" if verdict else "")
        text.append(f"  {printable(brief(alert), 200)}", style="dim" if over else "")
        if over:
            text.append(f"  over after {duration(alert.ts_us - alert.onset_us)}", style="green")
        elif verdict is not None:
            text.append(f"  = {verdict.fault.kind}, found after {detection(verdict)}", style="bold green")
        else:
            text.append("  no fault there", style="dim yellow")
        self.say(text)


def _rich_style(style: dict[str, str | bool]) -> str:
    """click's way to name a style, in rich's."""
    words = ["bold"] if style.get("bold") else []
    words.append(str(style["fg"]))
    if "bg" in style:
        words.append(f"on {style['bg']}")
    return " ".join(words)


def detection(verdict: Verdict) -> str:
    """The time to detect, by both clocks."""
    return f"{seconds(verdict.event_s)} of event time, {seconds(verdict.wall_s)} by the clock"


@dataclass(frozen=True, slots=True)
class Figures:
    """What the summary tells. processed : frames whose results are committed.

    steady_s, failover_s : latencies of alert events, of frames sent in steady work, and from the kill until the
    killed worker was back. takeover_s : from the kill until the others held all partitions; NaN = not seen.
    """

    fleet: str
    run_s: float
    event_s: float
    frames: int
    acknowledged: int
    samples: int
    processed: int
    windows: int
    steady_s: Sequence[float]
    failover_s: Sequence[float]
    late_rows: int
    dead_letters: int
    duplicates: int
    read_again: int
    windows_repeated: int
    alerts_repeated: int
    takeover_s: float


def summary(page: Page, figures: Figures, result: Result) -> None:
    """The last page."""

    def row(label: str, text: str, style: str = "") -> None:
        page.plain(Text().append(f"  {label:{_LABEL}}", style="bold").append(text, style=style))

    f = figures
    page.plain()
    page.plain("Summary", "bold underline")
    speed = f.event_s / f.run_s
    row("fleet", f"{f.fleet}; {duration(round(f.event_s * 1e6))} of event time in {f.run_s:.1f} s ({speed:.1f}x)")
    row("frames", f"{f.frames:,} sent, {f.acknowledged:,} acknowledged, {f.processed:,} processed")
    row("samples", f"{f.samples:,}; {f.samples / f.run_s:,.0f} samples/s, {f.frames / f.run_s:,.0f} frames/s")
    row("windows", f"{f.windows:,} published")
    row("latency", f"{_points(f.steady_s)}: frame sent to alert written at the broker, {_events(f.steady_s)}")
    if f.failover_s:
        row("", f"{_points(f.failover_s)}: while a worker was dead or joining, {_events(f.failover_s)}")
    row("", "a reader of committed records sees an alert with the checkpoint that follows")
    if not math.isnan(f.takeover_s):
        row("worker killed", f"the other one held all partitions after {seconds(f.takeover_s)}")
    _faults(page, result, row)
    row("late", f"{many(f.late_rows, 'row')}")
    row("dead letters", f"{f.dead_letters:,}")
    row(
        "duplicates",
        f"{many(f.duplicates, 'frame')} sent twice; {many(f.read_again, 'frame')} read again after the kill and "
        f"skipped; published twice then: {many(f.windows_repeated, 'window')}, "
        f"{many(f.alerts_repeated, 'alert event')}",
    )


def _points(values_s: Sequence[float]) -> str:
    if not values_s:
        return "unknown"
    points = [f"p{q} {seconds(percentile(values_s, q / 100))}" for q in (50, 95, 99)]
    return ", ".join([*points, f"max {seconds(max(values_s))}"])


def _events(values_s: Sequence[float]) -> str:
    return many(len(values_s), "alert event")


def _faults(page: Page, result: Result, row: Callable[..., None]) -> None:
    card = result.card
    total = card.all
    row(
        "faults",
        f"{total.injected} injected, {total.found} found, {total.named} with a signal that the fault changes",
        "bold red" if result.missed else "bold green",
    )

    def table(lines: Sequence[str]) -> None:
        for number, line in enumerate(lines):
            page.plain(f"    {line}", "" if number else "dim")

    width = SUMMARY_COLUMNS - 4
    table(fault_lines(card, lambda fault: fault.kind, intervals=False, width=width))
    for verdict in result.missed:
        page.plain(f"    ✘ missed: {verdict.fault.kind} on {verdict.fault.device}", "red")
    found = [v for v in result.verdicts if v.alert is not None]
    if found:
        row("time to detect", f"{_typical([v.event_s for v in found])} (event time)")
        row("", f"{_typical([v.wall_s for v in found])} (by the clock)")
    table(detector_lines(card, width=width))
    false = result.false_alarms
    devices = sorted({r.alert.device_id for r in false})
    shown = ", ".join(devices[:_FALSE_SHOWN_MAX]) + (", ..." if len(devices) > _FALSE_SHOWN_MAX else "")
    row("false alarms", f"{len(false)} on {many(len(devices), 'device')} ({shown})" if false else "none")


def _typical(values_s: Sequence[float]) -> str:
    return f"median {seconds(percentile(values_s, 0.5))}, longest {seconds(max(values_s))}"
