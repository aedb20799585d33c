"""How many workers carry a load of partitions. The rule: the busiest decides: a partition cannot be split."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from autoscaler.observation import Array


@cache
def ladder(partitions: int, most: int) -> tuple[int, ...]:
    """Counts of workers that lower the busiest one's partitions: of 24, 1 2 3 4 5 6 8 12 24."""
    counts = range(1, min(partitions, most) + 1)
    return tuple(n for n in counts if n == 1 or math.ceil(partitions / n) < math.ceil(partitions / (n - 1)))


def busiest(load: Array, owner: NDArray[np.int64]) -> float:
    """Load of the worker that has most. owner : worker by partition; -1 = nobody's, which nobody carries."""
    owned = owner >= 0
    return float(np.bincount(owner[owned], load[owned]).max()) if owned.any() else 0.0


def spread(partitions: int, workers: int) -> NDArray[np.int64]:
    """An assignment as even as can be, by number; which worker gets which is the assignor's to say."""
    return np.arange(partitions, dtype=np.int64) % workers


def fewest(load: Array, limit: float, most: int, *, by_ladder: bool) -> int:
    """Workers whose busiest stays within `limit`; `most` where no count does.

    load : float64 (partitions,), records a second. A partition above the limit counts as the limit: it fills one
        worker, and more workers cannot help it.
    """
    capped = np.minimum(load, limit)
    total = float(capped.sum())
    counts = ladder(len(load), most) if by_ladder else range(1, min(len(load), most) + 1)
    for workers in counts:
        if workers * limit < total - 1e-6:
            continue  # not even if it were spread evenly
        if busiest(capped, spread(len(load), workers)) <= limit + 1e-6:
            return workers
    return most
