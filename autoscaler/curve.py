"""How busy a worker is by how much it does. The rule: learnt from changes of minutes, as in hours the work changes.

A worker with little to do takes small batches, and each costs something by itself: at a thirtieth of what it can do
one of ours is busy for half of its time. Busy is then a power of the load: busy = (rate / capacity) ** exponent;
an exponent of 1 is the proportion that true processing rates suppose (Kalavri et al., OSDI 2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Points are compared with those of the last so many seconds.
KEPT_S = 600.0
#: Rates further apart than this factor tell something, and each such look changes the exponent by this share.
APART, STEP = 1.3, 0.05
#: Each look counts for so much in a point.
SMOOTH = 0.3
#: A worker busier than this is full: it would do no more if there were more.
BUSY_MAX = 0.95
#: Below the first nothing is believed; above the second the rest is noise.
LEAST, PROPORTIONAL = 0.25, 0.8
#: A worker is not believed to do more than this multiple of what it does.
REACH = 4.0


@dataclass(frozen=True, slots=True)
class Curve:
    """points : (when, log of the rate, log of busy), smoothed, oldest first; fitted : the exponent so far."""

    points: tuple[tuple[float, float, float], ...] = ()
    fitted: float = 1.0

    @property
    def exponent(self) -> float:
        """1 = in proportion."""
        return 1.0 if self.fitted >= PROPORTIONAL else self.fitted

    def add(self, at_s: float, rate: float, busy: float, *, anew: bool) -> Curve:
        """One look at what a worker did, records a second, and how busy it was, 0..1.

        anew : the first of an assignment, which does not go on from the last.
        """
        if rate <= 0 or not 0 < busy < BUSY_MAX:
            return self
        x, y = math.log(rate), math.log(busy)
        kept = [p for p in self.points if p[0] >= at_s - KEPT_S]
        if kept and not anew:
            x, y = kept[-1][1] + SMOOTH * (x - kept[-1][1]), kept[-1][2] + SMOOTH * (y - kept[-1][2])
        fitted = self.fitted
        if kept:
            _, far_x, far_y = max(kept, key=lambda p: abs(p[1] - x))
            if abs(far_x - x) >= math.log(APART):
                slope = min(1.0, max(LEAST, (far_y - y) / (far_x - x)))
                fitted += STEP * (slope - fitted)
        return Curve((*kept, (at_s, x, y)), fitted)

    def share(self, busy: float) -> float:
        """Of its capacity that a worker so busy uses."""
        return float(min(1.0, busy) ** (1 / self.exponent))

    def capacity(self, rate: float, busy: float) -> float:
        """Records a second of a worker that does `rate` and is so busy."""
        return rate / max(self.share(busy), 1 / REACH if self.exponent < 1 else 1e-9)
