"""`TailCalibration` the slow way: one device, plain Python, every peak kept in a list."""

from __future__ import annotations

import math

PEAKS, STRETCHES_MAX, TAIL = 64, 4096, 8
SIGMA = 1.0 / math.log(10.0)


class Tail:
    """One slot. A stretch is `windows` windows of `window_rows` rows."""

    def __init__(self, confirm_rows, window_rows, windows, hold=6.0, hold_stretches=30, trust=0.0):
        self.confirm, self.window_rows, self.windows = confirm_rows, window_rows, windows
        self.hold, self.hold_stretches, self.trust = hold, hold_stretches, trust
        self.rows, self.window_peaks, self.peaks = [], [], []
        self.stretches = self.held = 0
        self.fit()

    def fit(self):
        whole = self.window_rows * self.windows
        looks = whole / self.confirm
        k = min(max(8, int(self.stretches / TAIL)), len(self.peaks) - 1)
        if k < 1:
            self.start, self.surprise = math.log10(looks) + 1.0, math.log10(whole) + 1.0
            self.scale, self.shape = SIGMA, 0.02 + 1.0 / 15.0
            return
        kept = sorted(self.peaks)
        self.start = max(kept[-k - 1], 0.05)
        excess = [max(p - self.start, 0.0) for p in kept[-k:]]
        first = sum(excess) / k
        second = sum(e * (k - i - 0.65) / k for i, e in enumerate(excess)) / k
        apart = first - 2.0 * second
        shape = min(2.0 - first / apart if apart > 1e-9 * first else 0.9, 0.9) if first else 0.02
        shape = max((k * shape + 40.0 * 0.02) / (k + 40.0), 0.0)
        mean = (k * first + 2.0 * SIGMA) / (k + 2.0)
        rate = (k + 20.0 * min(1.0, looks * 10.0**-self.start)) / (self.stretches + 20.0)
        self.surprise = math.log10(whole / rate)
        self.scale, self.shape = max(mean * (1.0 - shape), 1e-3), shape + 1.0 / (k + 15.0)

    def level(self, surprise):
        own = self.trust / max(self.trust + self.stretches, 1.0)
        return own * surprise + (1.0 - own) * self.by_tail(surprise)

    def by_tail(self, surprise):
        if surprise <= self.start:
            return self.surprise * surprise / self.start
        inner = 1.0 + self.shape * (surprise - self.start) / self.scale
        return min(300.0, self.surprise + math.log10(inner) / self.shape) if inner > 0 else 300.0

    def of_level(self, level):
        above = max(level - self.surprise, 0.0) * math.log(10.0)
        return self.start + self.scale * (math.exp(self.shape * above) - 1.0) / self.shape

    def ask(self, surprise):
        """The calibrated surprise, which is then learnt."""
        told = self.level(surprise)
        self.rows.append(surprise)
        if len(self.rows) == self.window_rows:
            self.window_peaks.append(sorted(self.rows)[-self.confirm])
            self.rows = []
            if len(self.window_peaks) == self.windows:
                self.learn(max(self.window_peaks))
                self.window_peaks = []
        return told

    def learn(self, peak):
        if self.level(peak) >= self.hold:
            self.held += 1
            if 1 < self.held <= self.hold_stretches:
                return
            peak = min(peak, self.of_level(self.hold))
        else:
            self.held = 0
        self.stretches += 1
        if len(self.peaks) + 1 == self.stretches or peak > min(self.peaks):
            self.peaks = sorted([*self.peaks, peak])[-PEAKS:]
        if self.stretches >= STRETCHES_MAX:
            self.stretches = STRETCHES_MAX // 2
            self.peaks = self.peaks[::-1][::2][::-1][-(len(self.peaks) // 2) :]
        self.fit()
