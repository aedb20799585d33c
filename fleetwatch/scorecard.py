"""Alerts against the truth: recall, precision, time to detect, false alarms. The rule: plain values in and out.

How they are matched
--------------------
- An episode is one alert, from its open event to its resolved one; only the event that opens it is judged, so what
  it does later is never a false alarm, also where it outlasts the fault.
- A fault's span is from its onset to its end (when the last effect is gone) and a grace more; without an end it
  lasts for good. A device's clock, which dates its alerts, may be off by `Rules.clock_us`: an episode that opens so
  much before the onset still counts, as found after 0 s.
- A fault is found if an episode of its device opens within its span, by the first one that does, and counted once.
  Where faults of one device overlap, an episode finds each whose span it opens in.
- An episode that was open already at the onset is no find. If the fault is then missed, it is `masked`.
- An episode that opens in no fault's span is a false alarm, also on a device with a fault before or after.
- A fault of a clock makes its device's time run `clock_rate` times as fast; times of its alerts are set right.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fleetwatch.scorecard_stats import Rate, percentile, poisson, wilson
from telemetry.alerts import Alert, AlertState

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
#: So many false alarms are kept one by one; all are counted.
FALSE_MAX = 1000


@dataclass(frozen=True, slots=True)
class Rules:
    """How long after its end a fault may still be found, and by how much a device's clock may be off."""

    grace_us: int = 60 * SECOND_US
    clock_us: int = SECOND_US // 2

    def after_us(self, fault: Fault, ts_us: int) -> float | None:
        """From the onset to a time by the device's clock, set right; None = outside the fault's span."""
        since_us = ts_us - fault.onset_us
        if since_us < -self.clock_us:
            return None
        true_us = max(since_us, 0) / fault.clock_rate
        if fault.end_us is not None and true_us > fault.end_us - fault.onset_us + self.grace_us:
            return None
        return true_us


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault as the truth tells it: true event time; end_us None = it lasts. signals : that it changes."""

    fault_id: str
    kind: str
    device: str
    onset_us: int
    end_us: int | None = None
    signals: frozenset[str] = frozenset()
    device_class: str = ""
    clock_rate: float = 1.0


@dataclass(frozen=True, slots=True)
class Event:
    """What matters of an alert event. signal : the one that it names first; empty = none."""

    episode: str
    device: str
    device_class: str
    state: AlertState
    ts_us: int
    detector: str
    signal: str

    @classmethod
    def of(cls, alert: Alert) -> Event:
        signal = alert.signals[0].signal if alert.signals else ""
        return cls(alert.id, alert.device_id, alert.device_class, alert.state, alert.ts_us, alert.detector, signal)


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one fault. opened : the event that found it; None = missed.

    after_s : from onset to that event, NaN = missed. named : it names first a signal that the fault changes (a
    fault that changes none cannot be named). masked : missed, while an episode was open at its onset.
    """

    fault: Fault
    opened: Event | None = None
    after_s: float = math.nan
    masked: bool = False

    @property
    def named(self) -> bool:
        return self.opened is not None and self.opened.signal in self.fault.signals


@dataclass(frozen=True, slots=True)
class Days:
    """Device-days of a class: observed, and of them without a fault, where alone an alarm can be false."""

    observed: float = 0.0
    healthy: float = 0.0

    def __add__(self, other: Days) -> Days:
        return Days(self.observed + other.observed, self.healthy + other.healthy)


@dataclass(slots=True)
class _Seen:
    device_class: str
    first_us: int
    last_us: int
    total_us: int = 0


class Exposure:
    """For how long each device was observed. Holds three numbers a device."""

    def __init__(self) -> None:
        self._devices: dict[str, _Seen] = {}

    def see(self, device: str, device_class: str, start_us: int, span_us: int) -> None:
        """A stretch of a device's time. Stretches come in order: what was seen already is not counted again."""
        end_us = start_us + span_us
        seen = self._devices.get(device)
        if seen is None:
            self._devices[device] = _Seen(device_class, start_us, end_us, span_us)
        elif end_us > seen.last_us:
            seen.total_us += end_us - max(start_us, seen.last_us)
            seen.last_us = end_us

    def __len__(self) -> int:
        return len(self._devices)

    def days(self, faults: Iterable[Fault], rules: Rules) -> dict[str, Days]:
        """By class. Gaps within a fault's span are taken for observed."""
        spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for fault in faults:
            seen = self._devices.get(fault.device)
            if seen is not None:
                end_us = seen.last_us if fault.end_us is None else min(fault.end_us + rules.grace_us, seen.last_us)
                spans[fault.device].append((max(fault.onset_us, seen.first_us), end_us))
        found: dict[str, Days] = defaultdict(Days)
        for device, seen in self._devices.items():
            sick_us = min(_union(spans.get(device, ())), seen.total_us)
            found[seen.device_class] += Days(seen.total_us / DAY_US, (seen.total_us - sick_us) / DAY_US)
        return dict(found)


def _union(spans: Iterable[tuple[int, int]]) -> int:
    """The length of what they cover together. A span that ends before it begins covers nothing."""
    spans = sorted(spans)
    total, until = 0, spans[0][0] if spans else 0
    for start, end in spans:
        start = max(start, until)
        if end > start:
            total += end - start
            until = end
    return total


@dataclass(frozen=True, slots=True)
class Alarms:
    """Episodes: those that open in a fault's span, and those that do not."""

    matched: int = 0
    false: int = 0

    @property
    def episodes(self) -> int:
        return self.matched + self.false

    @property
    def precision(self) -> Rate:
        return wilson(self.matched, self.episodes)

    def __add__(self, other: Alarms) -> Alarms:
        return Alarms(self.matched + other.matched, self.false + other.false)


@dataclass(frozen=True, slots=True)
class Faults:
    """Findings together: a row of the table."""

    findings: tuple[Finding, ...]

    @property
    def injected(self) -> int:
        return len(self.findings)

    @property
    def found(self) -> int:
        return sum(f.opened is not None for f in self.findings)

    @property
    def missed(self) -> int:
        return self.injected - self.found

    @property
    def masked(self) -> int:
        return sum(f.masked for f in self.findings)

    @property
    def named(self) -> int:
        return sum(f.named for f in self.findings)

    @property
    def nameable(self) -> int:
        """Of those found: that change a signal at all."""
        return sum(f.opened is not None and bool(f.fault.signals) for f in self.findings)

    @property
    def recall(self) -> Rate:
        return wilson(self.found, self.injected)

    def after_s(self, q: float) -> float:
        """A quantile of the time to detect of those found; NaN = none was."""
        return percentile([f.after_s for f in self.findings if f.opened is not None], q)

    @property
    def detectors(self) -> list[tuple[str, int]]:
        """Who opened the alerts that found them, and how many, most first."""
        counts: dict[str, int] = defaultdict(int)
        for finding in self.findings:
            if finding.opened is not None:
                counts[finding.opened.detector] += 1
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


@dataclass(frozen=True, slots=True)
class Card:
    """findings : in order of onset. alarms : by (class, detector). days : by class, empty = unknown.

    false_alarms : the first `FALSE_MAX` of them.
    """

    findings: tuple[Finding, ...]
    alarms: Mapping[tuple[str, str], Alarms] = field(default_factory=dict)
    days: Mapping[str, Days] = field(default_factory=dict)
    false_alarms: tuple[Event, ...] = ()

    @property
    def all(self) -> Faults:
        return Faults(self.findings)

    def by(self, key: Callable[[Fault], str]) -> dict[str, Faults]:
        """Rows by kind, class, or whatever of the fault, in the order of names."""
        groups: dict[str, list[Finding]] = defaultdict(list)
        for finding in self.findings:
            groups[key(finding.fault)].append(finding)
        return {name: Faults(tuple(groups[name])) for name in sorted(groups)}

    def found_by(self, detector: str) -> Faults:
        """The faults whose first alert this detector opened."""
        return Faults(tuple(f for f in self.findings if f.opened is not None and f.opened.detector == detector))

    @property
    def detectors(self) -> list[str]:
        """All that opened an alert."""
        return sorted({detector for _, detector in self.alarms})

    def episodes(self, device_class: str | None = None, detector: str | None = None) -> Alarms:
        """Those of a class, of a detector; None = of all."""
        chosen = (
            alarms
            for (of_class, by), alarms in self.alarms.items()
            if device_class in (None, of_class) and detector in (None, by)
        )
        return sum(chosen, Alarms())

    def exposure(self, device_class: str | None = None) -> Days:
        """Of a class; None = of all."""
        return sum((d for name, d in self.days.items() if device_class in (None, name)), Days())

    def false_rate(self, device_class: str | None = None, detector: str | None = None) -> Rate:
        """False alarms per 1,000 device-days without a fault, of the class."""
        false = self.episodes(device_class, detector).false
        return poisson(false, self.exposure(device_class).healthy / 1000)


class Scorer:
    """Matches alert events with faults as the module says. Holds the faults, and ids of sick devices' episodes.

    Events of one device come in order, as they do in the alert topic; those of several as they like.
    """

    def __init__(self, faults: Iterable[Fault], rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self.faults = sorted(faults, key=lambda f: (f.onset_us, f.fault_id))
        self._of: dict[str, list[int]] = defaultdict(list)
        for number, fault in enumerate(self.faults):
            self._of[fault.device].append(number)
        self._found: dict[int, Event] = {}
        self._masked: set[int] = set()
        self._opened: dict[str, int | None] = {}  # sick devices' episodes: when it opened, None = over
        self._devices: dict[str, str] = {}  # of the open ones
        self._alarms: dict[tuple[str, str], Alarms] = defaultdict(Alarms)
        self._false: list[Event] = []

    def add(self, event: Event) -> list[Fault] | None:
        """Take an event; the faults that an episode finds as it opens, empty = a false alarm.

        None = it opens nothing, or not for the first time.
        """
        numbers = self._of.get(event.device, ())
        if event.state is AlertState.RESOLVED:
            self._resolve(event, numbers)
        if event.state is not AlertState.OPEN or event.episode in self._opened:
            return None
        if numbers:
            self._opened[event.episode] = event.ts_us
            self._devices[event.episode] = event.device
        hit = [n for n in numbers if self.rules.after_us(self.faults[n], event.ts_us) is not None]
        for number in hit:
            first = self._found.get(number)
            if first is None or event.ts_us < first.ts_us:
                self._found[number] = event
        self._alarms[event.device_class, event.detector] += Alarms(bool(hit), not hit)
        if not hit and len(self._false) < FALSE_MAX:
            self._false.append(event)
        return [self.faults[n] for n in hit]

    def _resolve(self, event: Event, numbers: Sequence[int]) -> None:
        opened_us = self._opened.get(event.episode)
        if opened_us is not None:
            self._opened[event.episode] = None
            del self._devices[event.episode]
            self._masked |= {n for n in numbers if self._hides(n, opened_us, event.ts_us)}

    def _hides(self, number: int, opened_us: int, until_us: float) -> bool:
        onset_us = self.faults[number].onset_us
        return opened_us < onset_us - self.rules.clock_us and onset_us <= until_us

    def card(self, exposure: Exposure | None = None) -> Card:
        """What there is now. exposure : None = unknown: false alarms are counted, not rated."""
        masked = set(self._masked)
        for episode, device in self._devices.items():
            opened_us = self._opened[episode]
            assert opened_us is not None
            masked |= {n for n in self._of[device] if self._hides(n, opened_us, math.inf)}
        findings = tuple(self._finding(n, fault, n in masked) for n, fault in enumerate(self.faults))
        days = exposure.days(self.faults, self.rules) if exposure is not None else {}
        return Card(findings, dict(self._alarms), days, tuple(self._false))

    def _finding(self, number: int, fault: Fault, masked: bool) -> Finding:
        opened = self._found.get(number)
        if opened is None:
            return Finding(fault, masked=masked)
        after_us = self.rules.after_us(fault, opened.ts_us)
        assert after_us is not None
        return Finding(fault, opened, after_us / SECOND_US)
