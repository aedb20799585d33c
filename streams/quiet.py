"""Lets the clients' complaints through a few at a time. The rule: an absent broker costs a line a minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

#: Loggers that speak again and again of what has been said: their lines share one budget.
CHATTY = ("aiokafka", "faust", "mode", "asyncio", "fleetwatch.kafka", "fleetwatch.outlet")
BURST = 3
EVERY_S = 60.0


class Quiet(logging.Filter):
    """A handler's filter: of warnings and errors of the chatty loggers, BURST at once and then one a minute.

    What was left out is told in number with the next line that passes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._left, self._filled_at, self._dropped = float(BURST), clock(), 0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING or record.levelno >= logging.CRITICAL:
            return True
        if not any(record.name == name or record.name.startswith(name + ".") for name in CHATTY):
            return True
        now = self._clock()
        self._left = min(float(BURST), self._left + (now - self._filled_at) / EVERY_S)
        self._filled_at = now
        if self._left < 1:
            self._dropped += 1
            return False
        self._left -= 1
        if self._dropped:
            record.msg = f"{record.getMessage()} ({self._dropped} lines like this were left out)"
            record.args, self._dropped = None, 0
        return True


def install() -> None:
    """Quieten the root logger's handlers, and librdkafka: what it logs comes as an error to whoever asked, too."""
    logging.getLogger("fleetwatch.librdkafka").setLevel(logging.CRITICAL + 1)
    for handler in logging.getLogger().handlers:
        handler.addFilter(Quiet())
