"""Drifts as lines of the log. The rule: however many there are, a bounded number of lines says so."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from streams.core.effects import Drift

log = logging.getLogger("fleetwatch.drift")

#: Lines at once, and seconds after which there is one more.
BURST = 10
EVERY_S = 6.0


class DriftLog:
    """Tells of drifts, BURST at once and then one in EVERY_S; what was left out is told in number with the next."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left, self._filled_at, self._unsaid = float(BURST), clock(), 0

    def tell(self, drifts: Sequence[Drift]) -> None:
        """Called once a batch."""
        if not drifts:
            return
        now = self._clock()
        self._left = min(float(BURST), self._left + (now - self._filled_at) / EVERY_S)
        self._filled_at = now
        said = min(len(drifts), int(self._left))
        self._left -= said
        for drift in drifts[:said]:
            more = f" ({self._unsaid} drifts before it were not told)" if self._unsaid else ""
            self._unsaid = 0
            log.info("drift: %s%s", drift.sentence, more)
        self._unsaid += len(drifts) - said
