"""One alert, one line, for a tired person. The rule: text that a device supplied is made printable first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, tzinfo

import click

from telemetry.alerts import Alert, AlertState, Severity
from telemetry.log import printable
from telemetry.words import figure, humanise, magnitude

#: severity -> (what is shown, click.style's arguments)
SEVERITIES: dict[Severity, tuple[str, dict[str, str | bool]]] = {
    Severity.CRITICAL: ("CRIT", {"fg": "bright_white", "bg": "red", "bold": True}),
    Severity.MAJOR: ("MAJOR", {"fg": "bright_red", "bold": True}),
    Severity.MINOR: ("minor", {"fg": "yellow"}),
    Severity.INFO: ("info", {"fg": "cyan"}),
}
SYMBOLS = {AlertState.OPEN: "▲", AlertState.UPDATE: "●", AlertState.RESOLVED: "✔"}
_DEVICE_MIN, _DEVICE_MAX, _KIND = 10, 24, 7
_TEXT_MAX = 500
_SENTENCE_MIN = 20


def duration(span_us: int) -> str:
    """A span in at most six characters: 4s, 2m05s, 3h20m, 5d02h."""
    seconds = max(span_us, 0) // 1_000_000
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if days:
        return f"{days}d{hours % 24:02d}h"
    if hours:
        return f"{hours}h{minutes % 60:02d}m"
    return f"{minutes}m{seconds % 60:02d}s" if minutes else f"{seconds}s"


def brief(alert: Alert) -> str:
    """Fewer words than the alert's sentence: the guiltiest signal, what it is and what it should be."""
    if not alert.signals:
        return alert.sentence
    first, others = alert.signals[0], len(alert.signals) - 1
    name, unit = humanise(first.signal), first.unit
    if math.isnan(first.observed):
        text = f"{name} stopped reporting"
    elif alert.kind == "stuck":
        text = f"{name} stuck at {figure(first.observed, unit)}"
    elif math.isfinite(first.observed) and math.isfinite(first.expected):
        places = magnitude(first.observed, first.expected)
        text = f"{name} {figure(first.observed, unit, places)}, not {figure(first.expected, unit, places)}"
    else:
        text = f"{name} {figure(first.observed, unit)}"
    return f"{text} (+{others})" if others else text


@dataclass(slots=True)
class LineWriter:
    """Writes alerts as lines.

    Parameters
    ----------
    width : columns to fit into, at the cost of words; None = as long as it needs.
    zone : of the times shown; None = this machine's.
    """

    colour: bool
    width: int | None = None
    zone: tzinfo | None = None
    device_width: int = _DEVICE_MIN

    def _paint(self, text: str, **style: str | bool) -> str:
        return click.style(text, **style) if self.colour else text  # type: ignore[arg-type]

    def _time(self, ts_us: int, today: datetime) -> str:
        moment = datetime.fromtimestamp(ts_us / 1e6, self.zone or today.tzinfo)
        if moment.date() == today.date():
            return moment.strftime("%H:%M:%S")
        return moment.strftime("%Y-%m-%d %H:%M:%S" if moment.year != today.year else "%m-%d %H:%M:%S")

    def line(self, alert: Alert, now: datetime) -> str:
        """The line, without a newline. now : an aware time; another day's alerts show their date."""
        label, style = SEVERITIES[alert.severity]
        over = alert.state is AlertState.RESOLVED
        state = "new" if alert.state is AlertState.OPEN else duration(alert.ts_us - alert.onset_us)
        device, kind = printable(alert.device_id, _DEVICE_MAX), printable(alert.kind, 20)
        self.device_width = max(self.device_width, len(device))
        when = self._time(alert.ts_us, now.astimezone(self.zone))
        head = len(when) + len(f" {label:5} ? {state:6} {device:{self.device_width}} {kind:{_KIND}} ")
        text = self._sentence(alert, head)
        tone = "green" if over else "bright_red" if "bg" in style else style["fg"]
        return " ".join(
            (
                self._paint(when, dim=True),
                self._paint(f"{label:5}", dim=True)
                if over
                else self._paint(label, **style) + " " * (5 - len(label)),
                self._paint(SYMBOLS[alert.state], fg=tone),
                f"{state:6}",
                self._paint(f"{device:{self.device_width}}", bold=not over),
                f"{kind:{_KIND}}",
                self._paint(text, dim=True) if over else text,
            )
        )

    def _sentence(self, alert: Alert, head: int) -> str:
        text = printable(alert.sentence, _TEXT_MAX)
        if self.width is None:
            return text
        room = max(self.width - head, _SENTENCE_MIN)
        if len(text) > room:
            text = printable(text.partition("; also ")[0], _TEXT_MAX)
        if len(text) > room:
            text = printable(brief(alert), _TEXT_MAX)
        if len(text) > room:
            text = text.partition(" (+")[0]
        return text if len(text) <= room else text[: room - 1] + "…"
