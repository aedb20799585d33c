"""The rules as one would explain them, a signal an object, a row at a time. The rule: as plain as can be, no numpy
tricks; only what is kept between rows is rounded to float32, as the state is."""

from __future__ import annotations

import math

import numpy as np

F = np.float32
FAR = 1e6


def there(x):
    return abs(x) < F(1e30)


class Declared:
    """What a signal's declaration allows; None = nothing was declared."""

    def __init__(self, low=None, high=None, rate=None, stuck=None):
        self.low = -math.inf if low is None else float(F(low))
        self.high = math.inf if high is None else float(F(high))
        self.rate = math.inf if rate is None else float(F(rate))
        self.stuck = math.inf if stuck is None else float(F(stuck))


class SignalState:
    def __init__(self, declared, settings):
        self.declared, self.settings = declared, settings
        self.seen = self.missing = 0
        self.last = self.other = None
        self.held, self.age = F(0), F(FAR)

    def changed_before(self):
        return self.last is not None and self.last != self.other

    def absent(self, step):
        self.missing = min(self.missing + 1, 10_000)
        self.age = F(min(FAR, float(self.age) + step))
        if self.seen < self.settings["known"]:
            return None
        return min(-self.missing * math.log10(self.settings["missing_share"]), 300.0), math.nan

    def nearest_possible(self, x, gap):
        """None = x is possible."""
        d, s = self.declared, self.settings
        if x < d.low:
            return d.low
        if x > d.high:
            return d.high
        if self.last is None or not 0 < gap <= s["gap"]:
            return None
        allowed = d.rate * max(gap, s["period"])
        far = float(x) - float(self.last)
        if abs(far) <= allowed + 1e-6 * (allowed + abs(float(x)) + abs(float(self.last))):
            return None
        return min(max(float(self.last) + math.copysign(allowed, far), d.low), d.high)

    def present(self, x, step, in_use):
        """(own surprise, expected); kept unless impossible."""
        self.missing = 0
        self.seen += 1
        gap = min(FAR, float(self.age) + step)
        nearest = self.nearest_possible(x, gap)
        told = (0.0, 0.0) if nearest is None else (self.settings["impossible"], nearest)
        if self.last is None:
            self.last = self.other = x if nearest is None else F(nearest)
            self.age = F(0 if nearest is None else FAR)
        elif nearest is not None:
            self.age = F(gap)
        else:
            told = self.kept(x, step, in_use)
        return told if self.seen >= self.settings["known"] else None

    def kept(self, x, step, in_use):
        self.age = F(0)
        if x != self.last:
            self.other, self.last, self.held = self.last, x, F(0)
            return 0.0, 0.0
        if not in_use:
            return 0.0, 0.0
        if step < FAR:
            self.held = F(min(FAR, float(self.held) + min(step, self.settings["gap"])))
        if not self.held > self.declared.stuck:
            return 0.0, 0.0
        times = float(self.held) / self.declared.stuck
        return min(self.settings["stuck"] * times, 0.9 * self.settings["impossible"]), float(x)


class Device:
    def __init__(self, declared, settings):
        self.settings = settings
        self.signals = [SignalState(d, settings) for d in declared]
        self.before = None
        self.crowd = 0

    def step(self, ts):
        before, self.before = self.before, ts
        if before is None or ts < before:
            return FAR
        fast_us = self.settings["fast_us"]
        if ts - before < fast_us:
            self.crowd = min(self.crowd + 1, 10_000)
        elif fast_us:
            self.crowd = max(0, self.crowd - min((ts - before) // fast_us, 10_000))
        return min(FAR, float(ts - before) * 1e-6)

    def row(self, ts, row):
        """(surprise or None, {column: (own surprise, expected)})."""
        if not any(there(x) for x in row):
            return None, {}
        step = self.step(ts)
        moving = [
            x != s.last if there(x) and s.changed_before() else None for x, s in zip(row, self.signals, strict=True)
        ]
        own = {}
        for j, (x, signal) in enumerate(zip(row, self.signals, strict=True)):
            others = [m for i, m in enumerate(moving) if m is not None and (i != j or m)]
            in_use = len(others) < 3 or 4 * sum(others) >= len(others)
            told = signal.present(x, step, in_use) if there(x) else signal.absent(step)
            if told is not None:
                own[j] = told
        worst = max((surprise for surprise, _ in own.values()), default=None)
        flood = self.settings["fast_us"] > 0 and self.crowd >= self.settings["flood_rows"]
        if flood and (worst is None or worst < self.settings["impossible"]):
            worst, own = self.settings["impossible"], {}
        if worst is None:
            return None, {}
        return max(worst - math.log10(len(row)), 0.0), own


def rules(slots, ts_us, values, declared, *, period_us=0, missing_share=0.1, known_rows=30, **changed):
    """[(surprise or None, {column: (own surprise, expected)})] of each row. declared : a `Declared` a column."""
    period = period_us * 1e-6
    settings = {
        "known": known_rows,
        "missing_share": missing_share,
        "impossible": 30.0,
        "stuck": 8.0,
        "period": period,
        "gap": 10 * period or 10.0,
        "fast_us": int(0.2 * period_us),
        "flood_rows": 100,
        **changed,
    }
    devices = {}
    told = []
    for slot, ts, row in zip(slots.tolist(), ts_us.tolist(), values, strict=True):
        device = devices.setdefault(slot, Device(declared, settings))
        told.append(device.row(ts, row))
    return told
