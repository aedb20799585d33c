"""Injected faults against alerts. The rule: plain values in, plain values out; what was not seen is a miss.

A fault is found by the first alert that opens on its device at or after its onset. An alert that opens on a
device without a fault, or on a faulty device before its onset, is a false alarm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fleetwatch.alert_feed import Received
from telemetry.alerts import AlertState


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault as the truth topic tells it. onset_us : true event time; wall_ms : clock time when it was told."""

    kind: str
    device: str
    onset_us: int
    wall_ms: int
    signals: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one fault. Times to detect are NaN where it was missed.

    event_s : from onset to the row that opened the alert. wall_s : until the broker had the alert.
    named : the alert names a signal that the fault changes.
    """

    fault: Injected
    alert: Received | None
    event_s: float = math.nan
    wall_s: float = math.nan
    named: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """Verdicts in the order of onset, and the alerts that no fault explains."""

    verdicts: tuple[Verdict, ...]
    false_alarms: tuple[Received, ...]

    @property
    def missed(self) -> tuple[Verdict, ...]:
        return tuple(v for v in self.verdicts if v.alert is None)


def explains(fault: Injected, received: Received, tolerance_us: int) -> bool:
    """The alert opens on the fault's device, not before its onset."""
    alert = received.alert
    return alert.device_id == fault.device and alert.ts_us >= fault.onset_us - tolerance_us


def judge(faults: Sequence[Injected], alerts: Sequence[Received], tolerance_us: int) -> Result:
    """Match them.

    Parameters
    ----------
    alerts : in order of arrival within a device; only those that open count.
    tolerance_us : by how much a device's clock, which dates its alerts, may differ from true time.
    """
    opened = [r for r in alerts if r.alert.state is AlertState.OPEN]
    verdicts = []
    for fault in sorted(faults, key=lambda f: f.onset_us):
        first = next((r for r in opened if explains(fault, r, tolerance_us)), None)
        verdicts.append(_verdict(fault, first))
    false_alarms = [r for r in opened if not any(explains(f, r, tolerance_us) for f in faults)]
    return Result(tuple(verdicts), tuple(false_alarms))


def _verdict(fault: Injected, received: Received | None) -> Verdict:
    if received is None:
        return Verdict(fault, None)
    return Verdict(
        fault,
        received,
        event_s=max(received.alert.ts_us - fault.onset_us, 0) / 1e6,
        wall_s=max(received.arrived_ms - fault.wall_ms, 0) / 1e3,
        named=any(s.signal in fault.signals for s in received.alert.signals),
    )


def percentile(values: Sequence[float], q: float) -> float:
    """The q-quantile by linear interpolation, NaN of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    below = math.floor(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)
