"""What one worker can process, learnt while it works. The rule: nothing is learnt across a rebalance.

Three sources, the best there is counts:

- *busy*: processed by the share of the time that the worker was busy (DS2's true processing rate; Kalavri et al.,
  OSDI 2018), from its own page, and by how that share grows with the load (`curve.py`);
- *full*: a worker that had a backlog all the time processed what it could, by the group's offsets alone;
- *probe*: where neither was ever seen, a worker can do what it carries without a backlog; the estimate rises
  slowly, no further than twice what a worker has been seen to carry: too few replicas for a moment show what
  one can do, too many never would.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from autoscaler.curve import Curve
from autoscaler.limits import Limits
from autoscaler.observation import Array, Observation

#: A worker less busy than this says little about its capacity.
BUSY_MIN = 0.25
#: Bad news is believed faster than good.
STEP_DOWN, STEP_UP = 0.3, 0.1
#: What is believed at most, and at least, by the hint.
HINT_FACTOR = 4.0
#: A worker was full for so long, at least and at most, when its offsets count.
FULL_MIN_S, FULL_MAX_S = 20.0, 60.0
#: Probing: growth a second, and up to this multiple of what was carried.
PROBE_PER_S, PROBE_FACTOR = 0.02 / 60, 2.0
#: What was learnt from workers less busy than this does not tell whether they have become slow: batches are smaller
#: then, and the same records take longer.
FIRM_BUSY = 0.6
#: Below this share of the best of the last SLOW_MEMORY_S a worker is called slow.
SLOW_SHARE, SLOW_MEMORY_S = 0.7, 4 * 3600.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Committed offsets and backlog by partition at one look."""

    at_s: float
    committed: Array
    backlog: Array


@dataclass(frozen=True, slots=True)
class Capacity:
    """Records a second of one worker.

    per_s : 0 = not known. source : "", hint, busy, full or probe. ceiling : how busy a worker is that can do no
    more; 1 unless it was seen to have a backlog and yet to wait. carried : most that a worker was seen to
    process without a backlog.
    best : (when, per_s) of the best that was learnt from busy workers, newest last; firm_per_s : the last such.
    track : looks of the present assignment.
    """

    per_s: float = 0.0
    source: str = ""
    ceiling: float = 1.0
    curve: Curve = field(default_factory=Curve)
    carried: float = 0.0
    best: tuple[tuple[float, float], ...] = ()
    firm_per_s: float = 0.0
    epoch: str | None = None
    track: tuple[Progress, ...] = ()

    @property
    def best_per_s(self) -> float:
        """Of the last hours; 0 = nothing was learnt."""
        return max((rate for _, rate in self.best), default=0.0)

    @property
    def slow(self) -> bool:
        """Workers do clearly less than they did."""
        return bool(self.best) and self.firm_per_s < SLOW_SHARE * self.best_per_s


def learn(known: Capacity, seen: Observation, backlog: Array, limits: Limits) -> Capacity:
    """After one more look. backlog : float64 (partitions,), records that wait beyond what commits trail by."""
    if not known.per_s and limits.capacity_per_s:
        known = replace(known, per_s=limits.capacity_per_s, source="hint")
    here = Progress(seen.at_s, seen.committed, backlog)
    if seen.epoch != known.epoch or (known.track and len(known.track[-1].backlog) != len(backlog)):
        return replace(known, epoch=seen.epoch, track=() if seen.rebalancing else (here,))
    if seen.rebalancing:
        return replace(known, track=())
    track = (*(p for p in known.track if p.at_s >= seen.at_s - FULL_MAX_S), here)
    if len(track) < 2:
        return replace(known, track=track)
    known = replace(known, track=track, carried=max(known.carried, _carried(track, seen)))
    full = _full(track, seen)
    if (busy := _busy(known, seen, full, anew=len(track) == 2)) is not None:
        ceiling, curve, rate, share = busy
        known = replace(known, ceiling=ceiling, curve=curve)
        return _believe(known, rate, "busy", seen.at_s, limits, firm=share >= FIRM_BUSY)
    if full:
        return _believe(known, float(np.median(list(full.values()))), "full", seen.at_s, limits, firm=True)
    return _probe(known, seen.at_s - track[-2].at_s, limits)


def _believe(known: Capacity, rate: float, source: str, at_s: float, limits: Limits, *, firm: bool) -> Capacity:
    if hint := limits.capacity_per_s:
        rate = min(max(rate, hint / HINT_FACTOR), hint * HINT_FACTOR)
    step = STEP_DOWN if rate < known.per_s else STEP_UP
    if known.source not in ("busy", "full"):
        step = 1.0  # the first that was measured: a hint is only where to begin
    per_s = known.per_s + step * (rate - known.per_s)
    known = replace(known, per_s=per_s, source=source)
    if not firm:
        return known
    best = [b for b in known.best if b[0] >= at_s - SLOW_MEMORY_S and b[1] > per_s]
    return replace(known, firm_per_s=per_s, best=(*best, (at_s, per_s)))


def _served(track: tuple[Progress, ...], owned: Array) -> float:
    first, last = track[0], track[-1]
    return float((last.committed - first.committed)[owned].sum()) / (last.at_s - first.at_s)


def _carried(track: tuple[Progress, ...], seen: Observation) -> float:
    """By the worker that processed most without a backlog, over a span that commits do not blur; 0 = too short."""
    recent = [i for i, p in enumerate(track) if track[-1].at_s - p.at_s >= FULL_MIN_S]
    if not recent:
        return 0.0
    easy = [mine for w in range(seen.members) if not track[-1].backlog[mine := seen.owner == w].any()]
    return max((_served(track[recent[-1] :], mine) for mine in easy), default=0.0)


def _full(track: tuple[Progress, ...], seen: Observation) -> dict[int, float]:
    """Records a second by worker that had a backlog of a second's work or more at every look, for FULL_MIN_S."""
    found = {}
    for worker in range(seen.members):
        owned = seen.owner == worker
        if not owned.any():
            continue
        began = len(track)
        while began and track[began - 1].backlog[owned].sum() > 0:
            began -= 1
        run = track[began:]
        if len(run) < 2 or run[-1].at_s - run[0].at_s < FULL_MIN_S:
            continue
        rate = _served(run, owned)
        if rate > 0 and min(p.backlog[owned].sum() for p in run) >= rate:
            found[worker] = rate
    return found


def _busy(
    known: Capacity, seen: Observation, full: dict[int, float], *, anew: bool
) -> tuple[float, Curve, float, float] | None:
    """(ceiling, curve, records a second at the ceiling, share of it) by the pages; None = they say too little."""
    said = [w for w in seen.workers if w.busy > BUSY_MIN and w.records_per_s > 0]
    if not said:
        return None
    ceiling = known.ceiling
    if full:
        owners = {int(p): int(w) for p, w in enumerate(seen.owner)}
        waiting = [w.busy for w in said if {owners.get(p) for p in w.partitions} & full.keys()]
        if waiting:
            ceiling += STEP_DOWN * (min(1.0, max(0.4, float(np.median(waiting)))) - ceiling)
    share = min(1.0, float(np.median([w.busy for w in said])) / ceiling)
    curve = known.curve.add(seen.at_s, float(np.median([w.records_per_s for w in said])), share, anew=anew)
    rate = float(np.median([curve.capacity(w.records_per_s, w.busy / ceiling) for w in said]))
    return ceiling, curve, rate, curve.share(share)


def _probe(known: Capacity, elapsed_s: float, limits: Limits) -> Capacity:
    """Where nothing was ever measured: a little more than was thought, within what was seen.

    A hint is trusted, except that a worker that was seen to do more can do more.
    """
    if known.source in ("busy", "full") or not known.carried:
        return known
    if known.source == "hint":
        return replace(known, per_s=max(known.per_s, known.carried))
    start = max(known.per_s, known.carried / limits.utilisation)
    most = max(start, PROBE_FACTOR * known.carried)
    return replace(known, per_s=min(most, start * (1 + PROBE_PER_S * elapsed_s)), source="probe")
