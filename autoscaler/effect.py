"""What scalings did. The rule: judged by what is processed afterwards, once the new workers have had their time.

A scale-up that gained nothing is not repeated: something else is the bottleneck. A scale-down that was soon taken
back makes the next ones more careful.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from autoscaler.limits import Limits

#: A new count of workers is judged over so long, after it was reached and the rebalance is over.
JUDGE_S = 60.0
#: Share of what the added workers could have gained, below which they gained nothing.
GAIN_MIN = 0.25
#: No further scale-up for so long after one that gained nothing.
BLOCK_S = 1800.0
#: A scale-down taken back within so long was a mistake; the window to look back grows to this at most.
REGRET_S, WINDOW_MAX_S = 1500.0, 3600.0


@dataclass(frozen=True, slots=True)
class Trial:
    """A scale-up. before_per_s : what all workers processed before
    the new ones came.

    unit_per_s : what one could do by what was measured before; 0 = nothing was. A worker that does less while the
    trial lasts may be waiting for what all share.
    reached_s : when the group had its new size and was assigned; None = not yet. processed : total then.
    """

    workers_before: int
    workers: int
    began_s: float
    before_per_s: float
    unit_per_s: float = 0.0
    reached_s: float | None = None
    processed: float = 0.0
    backlog: float = 0.0

    def watch(self, at_s: float, processed: float, backlog: float, rate: float, *, settled: bool) -> Trial:
        """One look: until the group is settled at its new size, `rate` is what the old ones do with more to do."""
        if self.reached_s is not None:
            return self
        if settled:
            return replace(self, reached_s=at_s, processed=processed, backlog=backlog)
        return replace(self, before_per_s=max(self.before_per_s, rate))

    def over(self, at_s: float) -> bool:
        """Whether it can be judged."""
        return self.reached_s is not None and at_s - self.reached_s >= JUDGE_S

    def futile(self, at_s: float, processed: float, backlog: float, unit_per_s: float) -> bool:
        """The backlog has not shrunk, no more is processed than before, and each worker does less.

        unit_per_s : what one can do now. Where that is what it was, one worker's partitions are too much for it,
        and more workers may still part them.
        """
        if self.reached_s is None or backlog < max(1.0, self.backlog) or self.before_per_s <= 0:
            return False
        each_before = self.unit_per_s or self.before_per_s / self.workers_before
        if unit_per_s >= each_before * (1 + self.workers_before / self.workers) / 2:
            return False
        after = (processed - self.processed) / (at_s - self.reached_s)
        hoped = self.before_per_s * (self.workers / self.workers_before - 1)
        return after - self.before_per_s < GAIN_MIN * hoped


@dataclass(frozen=True, slots=True)
class History:
    """When replicas last went up and down, and how far a scale-down looks back.

    up_s, down_s : -inf = never. judged : the last scale-down is no longer on trial. calm_s : since when it is calm.
    """

    up_s: float = float("-inf")
    down_s: float = float("-inf")
    judged: bool = True
    window_s: float = 0.0
    calm_s: float = 0.0

    def changed(self, at_s: float, before: int, after: int, limits: Limits) -> History:
        """Replicas went from `before` to `after`, whoever set them."""
        if after < before:
            return replace(self, down_s=at_s, judged=False)
        if not self.judged and at_s - self.down_s < REGRET_S:
            window_s = min(WINDOW_MAX_S, 2 * self.window(limits))
            return replace(self, up_s=at_s, judged=True, window_s=window_s, calm_s=at_s)
        return replace(self, up_s=at_s)

    def window(self, limits: Limits) -> float:
        """Seconds that a scale-down looks back."""
        return max(self.window_s, limits.down_window_s)

    def calmer(self, at_s: float, limits: Limits) -> History:
        """Half as careful again, after four windows without regret."""
        window_s = self.window(limits)
        if window_s > limits.down_window_s and at_s - self.calm_s > 4 * window_s:
            return replace(self, window_s=window_s / 2, calm_s=at_s)
        return self
