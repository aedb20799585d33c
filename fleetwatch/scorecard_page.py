"""The scorecard as text and as JSON. The rule: "-" (null in JSON) is what nobody can know, and never 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fleetwatch.alert_text import duration
from fleetwatch.scorecard import Card, Fault, Faults
from fleetwatch.scorecard_stats import Rate
from telemetry.alerts import rfc3339
from telemetry.log import printable

_NAME_MAX = 28
_GAP = 2


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], left: frozenset[int], width: int | None = None
) -> list[str]:
    """Lines of columns, aligned right but for those in `left`; columns that no row fills are left out.

    width : a longer line is cut and ends in "..."; None = as long as it is.
    """
    body = list(rows)
    shown = [c for c in range(len(header)) if any(row[c] for row in body)]
    widths = {c: max(len(line[c]) for line in (header, *body)) for c in shown}
    lines = []
    for line in (header, *body):
        cells = [line[c].ljust(widths[c]) if c in left else line[c].rjust(widths[c]) for c in shown]
        text = (" " * _GAP).join(cells).rstrip()
        lines.append(text if width is None or len(text) <= width else text[: width - 3] + "...")
    return lines


def took(value_s: float) -> str:
    """A time to detect: 0.4 s, 12.7 s, 2m05s."""
    if math.isnan(value_s):
        return "-"
    return f"{value_s:.1f} s" if value_s < 120 else duration(round(value_s * 1e6))


def share(rate: Rate) -> str:
    """A share in percent; what is not quite all does not read 100 %."""
    if math.isnan(rate.value):
        return "-"
    percent = round(100 * rate.value)
    return f"{99 if percent == 100 and rate.value < 1 else percent} %"


def interval(rate: Rate) -> str:
    """Of a share, in percent."""
    return "" if math.isnan(rate.value) else f"{100 * rate.low:.0f} to {100 * rate.high:.0f} %"


def per_thousand(rate: Rate) -> str:
    """A rate of false alarms with its interval."""
    if math.isnan(rate.value):
        return "-"
    return f"{_rounded(rate.value)} ({_rounded(rate.low)} to {_rounded(rate.high)})"


def _rounded(value: float) -> str:
    if value >= 1e5:
        return f"{value / 1e6:.1f}M" if value >= 1e6 else f"{value / 1e3:.0f}k"
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.2g}"


def _name(text: str) -> str:
    return printable(text, _NAME_MAX)


def _named(row: Faults) -> str:
    return f"{row.named} of {row.nameable}" if row.nameable else "-"


def _finders(row: Faults) -> str:
    return ", ".join(f"{_name(detector)} {count}" for detector, count in row.detectors)


def fault_lines(
    card: Card, key: Callable[[Fault], str], *, intervals: bool = True, width: int | None = None
) -> list[str]:
    """Recall and time to detect, a row for each key; the last row is for all."""
    header = ["fault", "injected", "found", "recall", "95 %", "named", "median", "p90", "masked", "opened by"]
    rows = []
    for name, row in [*card.by(key).items(), ("all", card.all)]:
        rows.append(
            [
                _name(name),
                f"{row.injected:,}",
                f"{row.found:,}",
                share(row.recall),
                interval(row.recall) if intervals else "",
                _named(row),
                took(row.after_s(0.5)),
                took(row.after_s(0.9)),
                f"{row.masked:,}" if row.masked else "",
                _finders(row) if name != "all" else "",
            ]
        )
    return table(header, rows, frozenset({0, 9}), width)


_ALARM_HEADER = ("alerts", "precision", "false", "per 1,000 device-days")


def detector_lines(card: Card, *, width: int | None = None) -> list[str]:
    """Who opened the alerts: of the faults found, and of the false alarms; the last row is for all."""
    header = ["opened by", "found", "named", "median", "p90", *_ALARM_HEADER]
    rows = [_detector_row(card, name, card.found_by(name)) for name in card.detectors]
    return table(header, [*rows, _detector_row(card, None, card.all)], frozenset({0}), width)


def _detector_row(card: Card, detector: str | None, found: Faults) -> list[str]:
    return [
        "all" if detector is None else _name(detector),
        f"{found.found:,}",
        _named(found),
        took(found.after_s(0.5)),
        took(found.after_s(0.9)),
        *_alarm_cells(card, None, detector),
    ]


def _alarm_cells(card: Card, device_class: str | None, detector: str | None) -> list[str]:
    alarms = card.episodes(device_class, detector)
    return [
        f"{alarms.episodes:,}",
        share(alarms.precision),
        f"{alarms.false:,}",
        per_thousand(card.false_rate(device_class, detector)),
    ]


def class_lines(card: Card) -> list[str]:
    """By device class: what was observed, what was found, what was false."""
    faults = card.by(lambda fault: fault.device_class)
    names = sorted({*faults, *card.days, *(name for name, _ in card.alarms)})
    header = ["class", "device-days", "healthy", "recall", *_ALARM_HEADER]
    rows = []
    for name in names:
        days, row = card.exposure(name), faults.get(name, Faults(()))
        rows.append(
            [
                _name(name) or "?",
                f"{days.observed:,.2f}" if name in card.days else "-",
                f"{days.healthy:,.2f}" if name in card.days else "-",
                share(row.recall),
                *_alarm_cells(card, name, None),
            ]
        )
    return table(header, rows, frozenset({0}))


def alone_lines(cards: Mapping[str, Card]) -> list[str]:
    """Each detector by itself over the same frames."""
    header = ["alone", "found", "recall", "95 %", "named", "median", "p90", *_ALARM_HEADER]
    rows = [
        [
            _name(name),
            f"{card.all.found:,}",
            share(card.all.recall),
            interval(card.all.recall),
            _named(card.all),
            took(card.all.after_s(0.5)),
            took(card.all.after_s(0.9)),
            *_alarm_cells(card, None, None),
        ]
        for name, card in cards.items()
    ]
    return table(header, rows, frozenset({0}))


def alone_matrix(cards: Mapping[str, Card]) -> list[str]:
    """Which detector finds which kind, alone: found of injected."""
    kinds = sorted({kind for card in cards.values() for kind in card.by(lambda fault: fault.kind)})
    rows = []
    for kind in kinds:
        by_card = [card.by(lambda fault: fault.kind).get(kind, Faults(())) for card in cards.values()]
        rows.append([_name(kind), *(f"{row.found} of {row.injected}" for row in by_card)])
    return table(["fault", *map(_name, cards)], rows, frozenset({0}))


def headline(card: Card) -> str:
    """One line: how many, over what."""
    days = card.exposure()
    devices = len({finding.fault.device for finding in card.findings})
    observed = (
        f"{days.observed:,.2f} device-days ({days.healthy:,.2f} healthy)" if card.days else "unknown exposure"
    )
    return f"{card.all.injected:,} faults on {devices:,} devices, {card.episodes().episodes:,} alerts, {observed}"


def page(card: Card, *, by_class: bool, alone: Mapping[str, Card]) -> list[str]:
    """All of it. alone : the cards of detectors by themselves."""

    def key(fault: Fault) -> str:
        return f"{fault.device_class} {fault.kind}" if by_class else fault.kind

    lines = [
        headline(card),
        "",
        *fault_lines(card, key),
        "",
        *detector_lines(card),
        "",
        *class_lines(card),
    ]
    if alone:
        lines += ["", *alone_lines(alone), "", *alone_matrix(alone)]
    return lines


# -- JSON -----------------------------------------------------------------------------------------------------


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _rate(rate: Rate) -> dict[str, float | None]:
    return {"value": _number(rate.value), "low": _number(rate.low), "high": _number(rate.high)}


def _faults_data(row: Faults) -> dict[str, Any]:
    return {
        "injected": row.injected,
        "found": row.found,
        "missed": row.missed,
        "masked": row.masked,
        "recall": _rate(row.recall),
        "named_first": row.named,
        "nameable": row.nameable,
        "time_to_detect_s": {"median": _number(row.after_s(0.5)), "p90": _number(row.after_s(0.9))},
        "opened_by": dict(row.detectors),
    }


def _alarms_data(card: Card, device_class: str | None = None, detector: str | None = None) -> dict[str, Any]:
    alarms = card.episodes(device_class, detector)
    return {
        "alerts": alarms.episodes,
        "matched": alarms.matched,
        "false_alarms": alarms.false,
        "precision": _rate(alarms.precision),
        "false_alarms_per_1000_device_days": _rate(card.false_rate(device_class, detector)),
    }


def data(card: Card) -> dict[str, Any]:
    """The card as JSON holds it; null = unknown. Of the false alarms, the first ones are listed."""
    classes = card.by(lambda fault: fault.device_class)
    names = sorted({*classes, *card.days, *(name for name, _ in card.alarms)})
    return {
        "all": _faults_data(card.all) | _alarms_data(card),
        "kinds": {kind: _faults_data(row) for kind, row in card.by(lambda fault: fault.kind).items()},
        "detectors": {
            name: {"found": card.found_by(name).found, "named_first": card.found_by(name).named}
            | {"time_to_detect_s": _faults_data(card.found_by(name))["time_to_detect_s"]}
            | _alarms_data(card, None, name)
            for name in card.detectors
        },
        "classes": {
            name: _faults_data(classes.get(name, Faults(())))
            | _alarms_data(card, name)
            | {
                "device_days": _number(card.exposure(name).observed) if name in card.days else None,
                "healthy_device_days": _number(card.exposure(name).healthy) if name in card.days else None,
            }
            for name in names
        },
        "missed": [
            {"kind": f.fault.kind, "device": f.fault.device, "fault_id": f.fault.fault_id, "masked": f.masked}
            for f in card.findings
            if f.opened is None
        ],
        "false_alarms": [
            {"device": e.device, "ts": rfc3339(e.ts_us), "detector": e.detector, "signal": e.signal}
            for e in sorted(card.false_alarms, key=lambda e: (e.ts_us, e.device))
        ],
    }
