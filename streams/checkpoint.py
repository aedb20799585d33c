"""The one place where work becomes final. The rule: results, then state, then offsets; never another order.

At least once, with deterministic ids:

 1  snapshot, with no await between: the changed state rows; later results are held back from here
 2  flush: every result of the work so far is acknowledged
 3  release what was held back
 4  produce the state rows, by a producer of their own, and wait until they are acknowledged
 5  commit the input offsets to the consumer group

A crash before 4 repeats the work since the last commit: the same results again, with the same ids. A crash
between 4 and 5 repeats nothing: each row knows the last offset that it has seen and skips the frames up to it.
Exactly once takes the place of 2 to 5 with one transaction.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from streams.core.core import Core
from streams.core.state import dirty_rows
from streams.publisher import Publisher

log = logging.getLogger("fleetwatch.checkpoint")


@dataclass(slots=True)
class CheckpointTotals:
    """Since the start. seconds : wall time that the checkpoints took."""

    checkpoints: int = 0
    rows: int = 0
    row_bytes: int = 0
    seconds: float = 0.0


class Checkpointer:
    """Runs one checkpoint at a time, in the worker's event loop; the waiting is done in an executor."""

    def __init__(self, core: Core, publisher: Publisher) -> None:
        self._core, self._publisher = core, publisher
        self._lock: asyncio.Lock | None = None
        self.totals = CheckpointTotals()

    async def run(
        self, offsets: Mapping[Any, int], commit_group: Callable[[Mapping[Any, int]], Awaitable[bool]]
    ) -> bool:
        """Make the work up to these offsets final; returns whether the group took them.

        Raises
        ------
        UndeliveredError : results or rows were not acknowledged; nothing was committed.
        """
        self._lock = self._lock or asyncio.Lock()
        async with self._lock:
            started = time.monotonic()
            loop = asyncio.get_running_loop()
            rows = dirty_rows(self._core)
            self._publisher.hold()
            try:
                await loop.run_in_executor(None, self._publisher.flush)
            finally:
                self._publisher.release()
            await loop.run_in_executor(None, self._publisher.write_rows, rows)
            committed = await commit_group(offsets)
            totals = self.totals
            totals.checkpoints += 1
            totals.rows += len(rows)
            totals.row_bytes += sum(len(row["value"]) for row in rows)
            totals.seconds += time.monotonic() - started
            return committed
