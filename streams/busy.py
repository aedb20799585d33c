"""How busy the event loop is. The rule: busy is all the time in which the loop did not wait for something to do.

The loop waits in its selector and nowhere else, so that its selector is the one that can tell; asyncio takes any.
"""

from __future__ import annotations

import asyncio
import logging
import selectors
import time
from collections.abc import Callable
from typing import Any

from mode.utils.loops import get_event_loop

log = logging.getLogger("fleetwatch.busy")


class WaitTimer(selectors.DefaultSelector):
    """Adds up how long it was waited in. Read by the loop's own thread.

    A look without waiting (timeout 0) is work. From the first look on: what comes before is a start, not a load.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self._clock = clock
        self._began: float | None = None
        self._waited_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(timeout)
        before = self._clock()
        if self._began is None:
            self._began = before
        try:
            return super().select(timeout)
        finally:
            self._waited_s += self._clock() - before

    @property
    def busy_s(self) -> float:
        """Seconds without waiting; 0 = the loop has not run."""
        return 0.0 if self._began is None else self._clock() - self._began - self._waited_s


def install() -> WaitTimer | None:
    """Make the loop that Faust will run on, this thread's; called before anything asks for one.

    None = something has asked already: its loop is not timed, and how busy it is is not known.
    """
    timer = WaitTimer()
    loop: Any = asyncio.SelectorEventLoop(timer)
    asyncio.set_event_loop(loop)
    if (found := get_event_loop()) is loop:
        return timer
    asyncio.set_event_loop(found)
    loop.close()
    log.warning("an event loop was there before the app: how busy it is will not be told")
    return None
