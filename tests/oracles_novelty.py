"""The naive twin of `detectors.novelty_kernel`: dicts, sets, Python numbers. The rule: nothing is shared with it.

`NoveltyColumn` is one signal of one device, `novelty` a block of several of both.
"""

import math

GAINS = (1.0, 0.3, 0.1)
BINS = 24


class Context:
    """What was seen in one context, lately and earlier, and how often it was met."""

    def __init__(self):
        self.lately, self.earlier, self.visits = set(), set(), 0

    def visit(self, memory):
        self.visits += 1
        if self.visits >= 2 * memory:
            self.earlier, self.lately, self.visits = self.lately, set(), memory

    def new(self, k):
        """None = was seen, else how many were."""
        seen = self.lately | self.earlier
        return None if k in seen else len(seen)


class Scale:
    """One moving average and its bins; a bin is its number, or None where it has none yet."""

    def __init__(self, gain, value):
        self.gain, self.average, self.low, self.high = gain, value, value, value

    def settle(self):
        self.low, self.high = min(self.low, self.average), max(self.high, self.average)

    def lay(self):
        width = (self.high - self.low) / 4.0
        most = max(abs(self.low), abs(self.high))
        if width <= 0.0:
            width = max(most * 1e-3, 1e-9)
        self.fine = 1.0 / max(width, most * 2.0**-22, 1e-30)
        self.first, self.final = (math.floor(edge * self.fine) for edge in (self.low, self.high))
        self.clear()
        self.before = math.floor(self.average * self.fine)

    def clear(self):
        self.all, self.after, self.hours, self.before = Context(), {}, {}, 0

    def shifted(self):
        return math.floor(self.average * self.fine + 0.5)

    def context_before(self):
        return self.after.setdefault(self.before, Context())

    def point(self, hour, entered, learn, memory):
        """Nats of the average's bin: by value and transition, and at the hour."""
        at_hour = self.hours.setdefault(hour, Context())
        if entered and learn:
            at_hour.visit(64)
        k = math.floor(self.average * self.fine)
        first, final = min(self.first, k), max(self.final, k)
        beyond = final - first >= BINS
        nats = [0.0, 0.0]
        for i, context in enumerate((self.all, self.context_before())):
            members = context.new(None if beyond else k)
            if members is not None:
                nats[i] = math.log1p(context.visits / (1.0 + members))
        total = max(nats)
        members = at_hour.new(None if beyond else self.shifted())
        if members is not None and at_hour.visits >= 2:
            total += math.log1p((at_hour.visits - 1.0) / math.sqrt(1.0 + members))
        if learn:
            if beyond:
                self.clear()
                while final - first >= BINS:
                    first, final, k = first // 2, final // 2, k // 2
                    self.fine *= 0.5
            self.first, self.final = first, final
            self.all.visit(memory)
            self.context_before().visit(memory)
            self.all.lately.add(k)
            self.context_before().lately.add(k)
            self.hours.setdefault(hour, Context()).lately.add(self.shifted())
            self.before = k
        return total


class NoveltyColumn:
    def __init__(self, warm=100, settle=200, quiet=110, memory=25_000, hold=6.0, hold_rows=2000):
        self.warm, self.settle, self.quiet, self.memory = warm, settle, quiet, memory
        self.hold, self.hold_rows = hold, hold_rows
        self.seen = self.held = self.left = 0
        self.record = self.mean = self.level = 0.0
        self.hour = None
        self.told = [0] * 20

    def change(self, step, learn):
        """Nats of a change against the largest lately."""
        early = self.seen < self.settle
        floor = 0.5 * self.mean + 1e-30
        nats = 0.0
        if step > 0.0 and step + floor > math.exp(-1.0 / 3.0) * (self.record + floor):
            nats = 1.0 + 3.0 * min(math.log((step + floor) / (self.record + floor)), 9.0)
        if learn:
            self.record *= 0.9993
            if step > self.record:
                self.record = step if early else min(step, 4.0 * (self.record + floor))
            told = step if early or self.mean <= 1e-30 else min(step, 3.0 * self.mean)
            self.mean += (told - self.mean) / (min(self.seen, 1_000_000) + 1.0)
        return nats

    def habituate(self, nats, learn):
        quiet, self.left = self.left > 0, max(0, self.left - 1)
        if nats <= 0.0 or (quiet and nats <= self.level):
            return 0.0
        size = min(19, int(2.0 * nats))
        times = sum(self.told[size:])
        if nats >= 0.5:
            self.left, self.level = self.quiet - 1, nats
            if learn:
                self.told[size] += 1
        return max(0.0, nats - math.log1p(times))

    def point(self, value, ts_us, alarm=0.0):
        """(nats or None, what was usual), then learn."""
        first = self.seen == 0
        if first:
            self.scales = [Scale(gain, value) for gain in GAINS]
            self.last = value
        usual = self.scales[2].average
        hours = ts_us // 3_600_000_000
        entered = first or hours > self.hour or hours < self.hour - 1
        if entered:
            self.hour = hours
        laid = False
        early = self.seen < self.settle
        for scale in self.scales:
            scale.average += scale.gain * (value - scale.average)
            if early:
                scale.settle()
                if self.seen + 1 in (self.warm, self.settle):
                    scale.lay()
                    laid = True
        alarmed = alarm >= self.hold
        learn = early or not alarmed or self.held >= self.hold_rows
        self.held = self.held + 1 if alarmed else 0
        nats = self.change(abs(value - self.last), learn)
        self.last = value
        self.seen += 1
        if self.seen <= self.warm:
            return None, usual
        if not laid:
            parts = [scale.point(hours % 24, entered, learn, self.memory) for scale in self.scales]
            nats = max(nats, sum(parts) / 3)
        return self.habituate(nats, learn), usual


def surprise_of(nats):
    return min(300.0, 2.86 + 0.2 * nats) if nats > 0.0 else 0.0


def novelty(slots, ts_us, values, alarm=None, **settings):
    """[(surprise or None, {column: (own surprise, usual value)} of what is new)] of each row."""
    columns, told = {}, []
    for i, slot in enumerate(slots.tolist()):
        new, opinion = {}, False
        for c, x in enumerate(values[i].tolist()):
            if not abs(x) < 1e30:
                continue
            column = columns.setdefault((slot, c), NoveltyColumn(**settings))
            nats, usual = column.point(x, int(ts_us[i]), 0.0 if alarm is None else float(alarm[i]))
            opinion |= nats is not None
            if nats:
                new[c] = (surprise_of(nats), usual)
        worst = max((own for own, _ in new.values()), default=0.0)
        told.append((max(0.0, worst - math.log10(values.shape[1])) if opinion else None, new))
    return told
