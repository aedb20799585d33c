"""Event time paced against the wall clock. The rule: after a stall the backlog is not sent as a burst.

A simulation at speed 10 lets ten seconds of event time pass in each second of the clock; at speed 0 it does not
wait at all. The clock is handed in, so tests need no time.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Pacer:
    """Says how long to wait until an event is due.

    Parameters
    ----------
    speed : event seconds a clock second; 1 = real time, 0 = as fast as possible.
    late_max_s : clock seconds that may be caught up at full speed. What lies further behind is given up: the
        schedule moves, and `slipped_s` says by how much.
    clock : monotonic seconds.
    """

    def __init__(
        self, speed: float, *, late_max_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if speed < 0:
            raise ValueError(f"speed {speed} is negative; 0 = as fast as possible")
        self.speed = speed
        self.late_s = 0.0
        self.slipped_s = 0.0
        self._late_max_s = late_max_s
        self._clock = clock
        self._origin_us: int | None = None
        self._origin_s = 0.0

    def due_in_s(self, event_us: int) -> float:
        """Clock seconds until this event time is due, 0 if it is or if it is late.

        The first call sets the origin. `late_s` is then how late the event is.
        """
        if self.speed == 0:
            return 0.0
        now_s = self._clock()
        if self._origin_us is None:
            self._origin_us, self._origin_s = event_us, now_s
        due_s = self._origin_s + (event_us - self._origin_us) / 1e6 / self.speed
        self.late_s = max(0.0, now_s - due_s)
        if self.late_s > self._late_max_s:
            slip_s = self.late_s - self._late_max_s
            self._origin_s += slip_s
            self.slipped_s += slip_s
        return max(0.0, due_s - now_s)

    def wait(self, event_us: int, idle: Callable[[float], object], stopped: Callable[[], bool]) -> bool:
        """Wait until the event is due; False if `stopped` became true meanwhile.

        idle : called with at most 0.1 s, and expected to take about as long: it serves delivery reports.
        """
        while not stopped():
            due_s = self.due_in_s(event_us)
            if due_s <= 0:
                return True
            idle(min(due_s, 0.1))
        return False
