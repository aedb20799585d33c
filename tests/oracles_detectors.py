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


def _there(x):
    return bool(abs(x) < F(1e30))


def tail(value, start, surprise, rate, shape):
    """-log10 of the share of healthy values of at least `value`: a line up to `start`, a Pareto law from there."""
    if value <= start:
        return surprise * value / start
    over = (value - start) * rate
    if shape < 1e-3:
        return surprise + over / math.log(10.0)
    return surprise + math.log10(1.0 + shape * over) / shape


def implied(z, known, precision, offsets):
    """z with what is not known solved for, so that its own residual is its offset: one linear system."""
    gone = [j for j, there in enumerate(known) if not there]
    if not gone:
        return z
    here = [j for j, there in enumerate(known) if there]
    wanted = [offsets[j] * math.sqrt(precision[j, j]) - sum(precision[j, k] * z[k] for k in here) for j in gone]
    out = list(z)
    for j, value in zip(
        gone, np.linalg.solve(precision[np.ix_(gone, gone)], np.array(wanted)).tolist(), strict=True
    ):
        out[j] = value
    return out


class RelationsDevice:
    """One device of `relations`: of each signal its offset, how many rows taught it, and two smoothed residuals."""

    def __init__(self, model, warm=120, rate=2e-4, hold=3.0):
        self.d = d = len(model["columns"])
        self.mean, self.scale = model["mean"], model["scale"]
        self.precision = np.array(model["precision"]).reshape(d, d)
        self.tails = np.array(model["tails"]).reshape(2, 4, d)
        self.warm, self.rate, self.hold = warm, rate, hold
        self.taught = [None] * d  # None = never seen
        self.offsets = [0.0] * d
        self.smoothed = [[0.0] * d, [0.0] * d]

    def residuals(self, row, known):
        z = [
            (float(x) - m) / s if ok else 0.0 for x, m, s, ok in zip(row, self.mean, self.scale, known, strict=True)
        ]
        z = implied(z, known, self.precision, self.offsets)
        out = []
        for j in range(self.d):
            r = sum(self.precision[j, k] * z[k] for k in range(self.d)) / math.sqrt(self.precision[j, j])
            out.append(r)
        return out

    def score(self, row):
        """(surprise or None, own surprise of each signal with an opinion, its expected value), then learn."""
        known = [_there(x) for x in row]
        if not any(known):
            return None, {}, {}
        if any(ok and taught is None for ok, taught in zip(known, self.taught, strict=True)):
            self.taught = [0 if ok or t is not None else None for ok, t in zip(known, self.taught, strict=True)]
            self.offsets, self.smoothed = [0.0] * self.d, [[0.0] * self.d, [0.0] * self.d]
        own, expected, off = {}, {}, {}
        for j, r in enumerate(self.residuals(row, known)):
            if not known[j]:
                continue
            v = min(max(r, -1e4), 1e4) - self.offsets[j]
            if self.taught[j] < self.warm:
                self.taught[j] += 1
                self.offsets[j] += v / self.taught[j]
                continue
            own[j] = 0.0
            for s, weight in enumerate((0.5, 0.05)):
                self.smoothed[s][j] += weight * (v - self.smoothed[s][j])
                own[j] = max(own[j], min(tail(abs(self.smoothed[s][j]), *self.tails[s, :, j]), 300.0))
            off[j] = v
            expected[j] = float(row[j]) - (r - self.offsets[j]) * self.scale[j] / math.sqrt(self.precision[j, j])
        if not own:
            return None, own, expected
        surprise = min(max(max(own.values()) - math.log10(2 * self.d), 0.0), 300.0)
        if surprise < self.hold:
            for j, v in off.items():
                self.offsets[j] += self.rate * v
        return surprise, own, expected


def relations(slots, values, model, **settings):
    """[(surprise or None, own by column, expected by column)] of each row."""
    devices, told = {}, []
    for slot, row in zip(slots.tolist(), values, strict=True):
        told.append(devices.setdefault(slot, RelationsDevice(model, **settings)).score(row))
    return told
