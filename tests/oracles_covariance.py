"""The naive twin of `covariance`: one device, one row at a time, full float64 matrices, as the manual says.

Loaded by path (tests are no package). Nothing here may call what it is to check.
"""

from __future__ import annotations

import math

import numpy as np

SMOOTHING, CLIP, CLIP_WHOLE = (0.1, 0.03), 5.0, 10.0


def tail(size, start, excess, share=0.01):
    base = -math.log10(share)
    if size <= start:
        return base * size / start
    return base + math.log10(1.0 + 0.1 * (size - start) / excess) / 0.1


class Device:
    """d values, 2 d features. unit 0 = the feature never varied."""

    def __init__(self, d, alpha, warm, shrink, hold, hold_rows):
        self.d, self.alpha, self.warm, self.shrink, self.hold, self.hold_rows = (
            d,
            alpha,
            warm,
            shrink,
            hold,
            hold_rows,
        )
        n = 2 * d
        self.mean, self.unit, self.cov = np.zeros(n), np.zeros(n), np.zeros((n, n))
        self.fast, self.slow, self.last, self.seen = np.zeros(d), np.zeros(d), np.zeros(d), np.zeros(d)
        self.live, self.parts = np.zeros(n, bool), np.zeros(d)
        self.smooth, self.start, self.excess = np.zeros((2, n)), np.zeros((2, n)), np.zeros((2, n))
        self.rows = self.next = self.usual = self.held = self.whole = self.told = 0.0
        self.above, self.beyond, self.worst = 3.0, 0.1, 0.0
        self.joint = self.values = None

    def features(self, x):
        there, off = np.zeros(2 * self.d, bool), np.zeros(2 * self.d)
        for j in range(self.d):
            v = float(x[j])
            if not abs(v) < 1e30:
                continue
            there[j] = True
            if self.seen[j] == 0:
                self.mean[j] = self.last[j] = v
                continue
            if self.unit[j] == 0:
                if v == self.mean[j]:
                    continue
                self.unit[j] = max(abs(v - self.mean[j]), 1e-6 * abs(v))
            off[j] = np.clip((v - self.mean[j]) / self.unit[j], -1e9, 1e9)
            step = np.clip((v - self.last[j]) / self.unit[j], -1e9, 1e9)
            self.last[j] = v
            self.fast[j] += 0.3 * (step * step - self.fast[j])
            usual = self.slow[j] + 0.06 * self.cov[j, j]
            if usual <= 0:
                continue
            k = self.d + j
            moved = 0.5 * math.log(self.fast[j] / usual + 0.05)
            there[k] = True
            if self.unit[k] == 0:
                self.mean[k], self.unit[k] = moved, 1.0
            off[k] = np.clip((moved - self.mean[k]) / self.unit[k], -1e9, 1e9)
        return there, off

    def row(self, x):
        """(surprise or None, columns by evidence with what was expected of them)."""
        d = self.d
        if not (np.abs(x) < 1e30).any():
            return None, []
        there, off = self.features(x)
        counts = there & self.live
        surprise, named, size = None, [], None
        if self.joint is not None and counts.any():
            z = np.where(self.live, np.clip(off, -CLIP, CLIP), 0.0)
            far = np.where(self.live, np.clip(off, -CLIP_WHOLE, CLIP_WHOLE), 0.0)
            gone = np.flatnonzero(self.live & ~there)
            if len(gone):
                z[gone] = np.linalg.solve(self.joint[np.ix_(gone, gone)], -(self.joint @ z)[gone])
            r = self.joint @ z
            part = far[:d] * (self.values @ far[:d]) + far[d:] ** 2
            self.parts += 0.4 * (part - self.parts)
            size = math.sqrt(max(part.sum(), 0.0) / counts.sum())
            self.whole += 0.4 * (2.0 * math.log(max(size, 0.1)) - self.whole)
            own = np.zeros((2, 2 * d))
            for s, gain in enumerate(SMOOTHING):
                white = math.sqrt(gain / (2.0 - gain))
                for j in np.flatnonzero(counts):
                    if self.start[s, j] == 0:
                        self.start[s, j], self.excess[s, j] = 2.0 * white, 0.5 * white
                    self.smooth[s, j] += gain * (r[j] / math.sqrt(self.joint[j, j]) - self.smooth[s, j])
                    own[s, j] = tail(abs(self.smooth[s, j]), self.start[s, j], self.excess[s, j])
            self.worst = max(own.max() - math.log10(4 * d), 0.0) + 0.01
            by_column, as_whole = tail(self.worst, self.above, self.beyond, 0.002), 1.2 + 0.6 * self.whole
            surprise = max(by_column, as_whole)
            most = np.abs(off[:d])[counts[:d]].max(initial=0.0)
            surprise = max(surprise, 3.0 * math.log10(most / 100.0)) if most > 100.0 else surprise
            own = own.max(axis=0).reshape(2, d).max(axis=0)
            for j in np.flatnonzero(counts[:d]):
                implied = self.mean[j] + self.unit[j] * (z[j] - r[j] / self.joint[j, j])
                if as_whole > by_column:
                    evidence = (own[j] + 1.0) * max(self.parts[j], 0.1)
                else:
                    evidence = (own[j] + 0.1) * max(part[j], 0.1) ** 0.25
                if abs(as_whole - by_column) > 0.05:  # else either is right
                    named.append((evidence, int(j), implied))
        self.learn(there, counts, off, surprise, size)
        return surprise, sorted(named, reverse=True)

    def weight(self, surprise, size):
        usual = self.usual if self.usual > 0 else 1.0
        weight = min((3.0 * usual / size) ** 2, 1.0) if self.told > 0 and (size or 0.0) > 3.0 * usual else 1.0
        if surprise >= self.hold:
            self.held = min(self.held + 1, 2 * self.hold_rows + 1)
            if self.held <= self.hold_rows:
                return 0.1
            weight = 1.0
            if self.held == self.hold_rows + 1:
                self.rows, self.next = min(self.rows, self.hold_rows), 0
                self.seen = np.minimum(self.seen, self.hold_rows)
        elif self.held > 0:
            self.held -= 1
        if size is not None:
            self.usual = usual + max(0.002, 1.0 / (self.told + 10.0)) * (min(size, 3.0 * usual) - usual)
        return weight

    def learn(self, there, counts, off, surprise, size):
        d = self.d
        weight = self.weight(surprise or 0.0, size)
        if surprise is not None:
            self.learn_tails(counts)
            self.told += 1
        gain = np.where(there, weight * np.maximum(self.alpha, 1.0 / (np.tile(self.seen, 2) + 1.0)), 0.0)
        for j in range(d):
            if there[j] and (there[d + j] or self.slow[j] == 0):
                bound = 100.0 * self.slow[j] if self.slow[j] > 0 else self.fast[j]
                self.slow[j] += gain[j] * (min(self.fast[j], bound) - self.slow[j])
        self.seen += np.where(there[:d], weight, 0.0)
        self.mean += gain * off * self.unit
        for j in np.flatnonzero(there):
            for k in np.flatnonzero(there):
                g = max(gain[j], gain[k])
                self.cov[j, k] += g * ((1.0 - g) * off[j] * off[k] - self.cov[j, k])
        self.rows += 1
        if self.rows >= self.warm and self.rows >= self.next:
            self.refresh()

    def learn_tails(self, counts):
        gain = max(0.0002, min(0.01, 1.0 / (self.told * 0.01 + 1.0)))
        gain_excess = max(0.002, 1.0 / (self.told * 0.01 + 10.0))
        for s, g in enumerate(SMOOTHING):
            for j in np.flatnonzero(counts):
                over = abs(self.smooth[s, j]) - self.start[s, j]
                bound = 4.0 * self.excess[s, j]
                if over > 0:
                    self.start[s, j] *= 1.0 + gain * 0.99 * min(1.0, bound / over)
                    self.excess[s, j] += gain_excess * (min(over, bound) - self.excess[s, j])
                else:
                    self.start[s, j] *= 1.0 - gain * 0.01
                self.start[s, j] = max(self.start[s, j], math.sqrt(g / (2.0 - g)))
                self.excess[s, j] = max(self.excess[s, j], 0.1 * self.start[s, j])
        over, gain = self.worst - self.above, max(0.0002, min(0.01, 1.0 / (self.told * 0.002 + 1.0)))
        if over > 0:
            bound = 4.0 * self.beyond
            self.above *= 1.0 + gain * 0.998 * min(1.0, bound / over)
            self.beyond += max(0.002, 1.0 / (self.told * 0.002 + 10.0)) * (min(over, bound) - self.beyond)
        else:
            self.above *= 1.0 - gain * 0.002
        self.above = max(self.above, 0.5)
        self.beyond = max(self.beyond, 0.02 * self.above)

    def refresh(self):
        d, n = self.d, 2 * self.d
        self.live = (np.tile(self.seen, 2) >= self.warm) & (np.diag(self.cov) > 0)
        factor = np.ones(n)
        for j in np.flatnonzero(self.live):
            least = 1e-6 * (abs(self.mean[j]) / self.unit[j] if j < d else 1.0)
            factor[j] = max(math.sqrt(self.cov[j, j]), least)
        self.cov /= np.outer(factor, factor)
        self.unit *= factor
        self.fast /= factor[:d] ** 2
        self.slow /= factor[:d] ** 2
        shrink = min(0.5, self.shrink + 0.25 * n / self.rows)
        self.joint, self.values = self.inverse(n, shrink), self.inverse(d, 0.5)
        if not self.live.any():
            self.joint = None
        self.next = min(self.rows + 500, math.floor(self.rows * 1.2) + 1)

    def inverse(self, n, shrink):
        live, cov = self.live[:n], self.cov[:n, :n]
        keep = 1.0 - shrink
        while True:
            blend = np.where(np.outer(live, live), keep * cov, 0.0)
            blend[np.diag_indices(n)] = np.where(live, (1.0 - shrink) * np.diag(cov) + shrink, 1.0)
            if (np.linalg.eigvalsh(blend) > 1e-6).all():
                return np.linalg.inv(blend)
            keep *= 0.5


def covariance(slots, values, alpha=2e-5, warm=60, shrink=0.03, hold=6.0, hold_rows=2000):
    devices, out = {}, []
    for slot, row in zip(slots.tolist(), values, strict=True):
        device = devices.setdefault(slot, Device(values.shape[1], alpha, warm, shrink, hold, hold_rows))
        out.append(device.row(row))
    return out
