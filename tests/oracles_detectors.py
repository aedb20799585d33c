"""Naive twins of the compiled detectors: one column of one device, one value at a time, as the manual says.

Loaded by path (tests are no package). Nothing here may call what it is to check.
"""

from __future__ import annotations

import math

import numpy as np

F = np.float32


def log10_tail(z2: float) -> float:
    """-log10 of the two-sided normal tail, by erfc, or by its asymptotic series where that underflows."""
    t = math.sqrt(z2 / 2.0)
    if t < 20.0:
        return -math.log10(math.erfc(t))
    return t * t / math.log(10.0) + math.log10(t * math.sqrt(math.pi)) + 1.0 / (2.0 * t * t) / math.log(10.0)


class EwmaColumn:
    """mean, var: Python floats; seen: values so far."""

    def __init__(self, alpha=0.02, warm=20):
        self.alpha, self.warm, self.mean, self.var, self.seen = alpha, warm, 0.0, 0.0, 0

    def z2(self, x):
        """z^2 before x is learnt, None = no opinion."""
        if not math.isfinite(x) or self.seen < self.warm or self.var <= 0.0:
            return None
        return (x - self.mean) * (x - self.mean) / self.var

    def learn(self, x):
        if not math.isfinite(x):
            return
        if self.seen == 0:
            self.mean = x
        else:
            d = x - self.mean
            inc = self.alpha * d
            self.mean += inc
            if abs(self.mean) <= 1e-290:
                self.mean = 0.0
            self.var = (1.0 - self.alpha) * (self.var + d * inc)
            if 0.0 < self.var < 1e-290:
                self.var = 1e-290
        self.seen += 1


def ewma(slots, values, alpha=0.02, warm=20):
    """(z2 of each row and column with None, the columns by slot)."""
    d = values.shape[1]
    devices, rows = {}, []
    for slot, row in zip(slots.tolist(), values.tolist(), strict=True):
        columns = devices.setdefault(slot, [EwmaColumn(alpha, warm) for _ in range(d)])
        rows.append([c.z2(x) for c, x in zip(columns, row, strict=True)])
        for c, x in zip(columns, row, strict=True):
            c.learn(x)
    return rows, devices


class RobustColumn:
    """One column of `robust`, in float32 except for the locations."""

    def __init__(self, rows=(16, 256, 4096), warm=64, level=1024, clip=4.0, tail=0.02):
        self.gains = [F(1.0 / h) for h in rows]
        self.warm, self.level_from, self.clip, self.tail = warm, level, F(clip), F(tail)
        self.white = F(math.sqrt(0.5 / rows[1]))
        self.seen = 0
        self.loc, self.size = [0.0] * 3, [F(0)] * 3
        self.apart_size = F(0)
        self.start, self.mean_excess = [F(3), F(3)], [F(1), F(1)]
        self.last = self.low = self.high = self.grain = self.run = self.longest = self.changes = F(0)

    def there(self, x):
        return bool(abs(x) <= F(1e37))

    def moved(self, x):
        """None = cannot say, else whether the value changed."""
        return None if not self.there(x) or self.grain == 0 else bool(x != self.last)

    def score(self, x, alive):
        """(excess, stuck ratio - 1) or None, and the two statistics kept for `learn`."""
        self.off = [F(float(x) - place) for place in self.loc]
        self.apart = F(self.loc[1] - self.loc[2])
        self.changed = self.there(x) and self.seen > 0 and bool(x != self.last)
        self.known = self.there(x) and self.changes >= 10 and self.seen >= self.warm
        if not self.known:
            return None
        point = min(max(abs(o) / s for o, s in zip(self.off, self.size, strict=True)), F(1e30))
        level = min(abs(self.apart) / max(self.apart_size, self.white * self.size[2]), F(1e30))
        self.statistics = [point, level]
        excess = []
        for m, q, b in zip(self.statistics, self.start, self.mean_excess, strict=True):
            excess.append((m - q) / b if m > q else m / q - F(1))
        best = max(excess) if self.seen >= self.level_from else excess[0]
        ratio = (self.run + F(1 if alive else 0)) / max(self.longest, F(10)) - F(1)
        stuck = ratio > 0 and x == self.last and self.low < x < self.high
        return best, (ratio if stuck else F(0))

    def learn(self, x, alive):
        if self.known and self.changed:
            self._learn_tails()
        if not self.there(x):
            return
        first = self.seen == 0
        if first:
            self.low = self.high = x
        elif x != self.last:
            half = max(F(0.5) * abs(x - self.last), F(1e-30))
            self.grain = half if self.grain == 0 else min(self.grain, half)
            self.longest = max(self.longest, self.run)
            self.run = F(0)
            self.changes += F(1)
        else:
            self.run += F(1 if alive else 0)
        self.low, self.high, self.last = min(self.low, x), max(self.high, x), x
        own = F(1) / (F(self.seen) + F(1))
        moves = []
        for k in range(3):
            early = self.seen < self.warm or self.changes < self.warm
            bound = max(self.size[k], self.grain) * (F(1e30) if early else self.clip)
            off = min(max(self.off[k], -bound), bound)
            moves.append(max(own, self.gains[k]) * off)
            if self.changed:
                gain = max(F(1) / self.changes, self.gains[k])
                self.size[k] = max(self.size[k] + gain * (abs(off) - self.size[k]), self.grain)
        if self.changed:
            gain = max(F(1) / self.changes, self.gains[2] * F(0.125))
            least = self.white * self.size[2]
            bound = max(self.apart_size, least) * (F(1e30) if self.seen < self.level_from else self.clip)
            apart = min(abs(self.apart), bound)
            self.apart_size = max(self.apart_size + gain * (apart - self.apart_size), least)
        self.loc = [float(x)] * 3 if first else [p + float(m) for p, m in zip(self.loc, moves, strict=True)]
        self.seen += 1

    def _learn_tails(self):
        for k, (step, step_b) in enumerate(((F(0.01), F(0.05)), (F(0.0002), F(0.0002)))):
            q, b = self.start[k], self.mean_excess[k]
            over = self.statistics[k] - q
            if over > 0:
                weight = min(F(4) * b / over, F(1))
                moved = q + q * (weight * (step * (F(1) - self.tail)))
                b = b + weight * step_b * (min(over, F(4) * b) - b)
            else:
                moved = q + q * -(step * self.tail)
            self.start[k] = min(max(moved, F(0.5)), F(1e30))
            self.mean_excess[k] = max(b, F(0.1) * self.start[k])


def robust(slots, values, shape=0.1, **settings):
    """Surprise of each row, float64, NaN = no opinion."""
    d = values.shape[1]
    devices = {}
    told = np.full(len(values), np.nan)
    for i, (slot, row) in enumerate(zip(slots.tolist(), values, strict=True)):
        columns = devices.setdefault(slot, [RobustColumn(**settings) for _ in range(d)])
        moved = [m for m in (c.moved(x) for c, x in zip(columns, row, strict=True)) if m is not None]
        alive = len(moved) < 3 or 4 * sum(moved) >= len(moved)
        own = []
        for column, x in zip(columns, row, strict=True):
            opinion = column.score(x, alive)
            if opinion is not None:
                excess, stuck = (float(v) for v in opinion)
                base = -math.log10(float(column.tail))
                a = float(F(shape))
                if excess >= 0:
                    mine = base + math.log1p(a * excess) / (a * math.log(10.0))
                else:
                    mine = max(0.0, base * (1.0 + excess))
                rate = min(1.0, 0.5 * math.log10(1.0 + float(column.changes)))
                own.append(max(min(mine, 300.0), min(30.0, rate * stuck)))
        if own:
            told[i] = max(0.0, max(own) - math.log10(3 * d))
        for column, x in zip(columns, row, strict=True):
            column.learn(x, alive)
    return told
