"""The demo's faults against its alerts. The rule: `fleetwatch.scorecard` matches them, here they keep their clocks.

What the demo adds is when the broker had the truth and the alert: the time to detect by the clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fleetwatch.alert_feed import Received
from fleetwatch.scorecard import Card, Event, Exposure, Fault, Rules, Scorer


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault as the truth topic tells it. onset_us : true event time; wall_ms : clock time when it was told."""

    kind: str
    device: str
    onset_us: int
    wall_ms: int
    signals: frozenset[str] = frozenset()

    @property
    def fault(self) -> Fault:
        """As the scorecard has it: the demo's faults last to its end."""
        return Fault(
            f"{self.kind}:{self.device}:{self.onset_us}", self.kind, self.device, self.onset_us, None, self.signals
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one fault. Times to detect are NaN where it was missed.

    event_s : from onset to the row that opened the alert. wall_s : until the broker had the alert.
    named : the alert names first a signal that the fault changes.
    """

    fault: Injected
    alert: Received | None
    event_s: float = math.nan
    wall_s: float = math.nan
    named: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """Verdicts in the order of onset, the alerts that no fault explains, and all of it in figures."""

    verdicts: tuple[Verdict, ...]
    false_alarms: tuple[Received, ...]
    card: Card

    @property
    def missed(self) -> tuple[Verdict, ...]:
        return tuple(v for v in self.verdicts if v.alert is None)


def explains(fault: Injected, received: Received, tolerance_us: int) -> bool:
    """The alert opens on the fault's device, not before its onset."""
    alert, rules = received.alert, Rules(clock_us=tolerance_us)
    return alert.device_id == fault.device and rules.after_us(fault.fault, alert.ts_us) is not None


def judge(
    faults: Sequence[Injected], alerts: Sequence[Received], tolerance_us: int, exposure: Exposure | None = None
) -> Result:
    """Match them.

    Parameters
    ----------
    alerts : in order of arrival within a device; only those that open count.
    tolerance_us : by how much a device's clock, which dates its alerts, may differ from true time.
    exposure : for how long the devices were observed; None = unknown.
    """
    told = {f.fault.fault_id: f for f in faults}
    scorer = Scorer((f.fault for f in faults), Rules(clock_us=tolerance_us))
    opened: dict[str, Received] = {}
    false_alarms = []
    for received in alerts:
        found = scorer.add(Event.of(received.alert))
        if found is None:
            continue
        if found:
            opened.setdefault(received.alert.id, received)
        else:
            false_alarms.append(received)
    card = scorer.card(exposure)
    verdicts = []
    for finding in card.findings:
        fault = told[finding.fault.fault_id]
        if finding.opened is None:
            verdicts.append(Verdict(fault, None))
            continue
        by = opened[finding.opened.episode]
        wall_s = max(by.arrived_ms - fault.wall_ms, 0) / 1e3
        verdicts.append(Verdict(fault, by, finding.after_s, wall_s, finding.named))
    return Result(tuple(verdicts), tuple(false_alarms), card)
