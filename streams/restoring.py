"""Partitions whose rows are on their way, beside the work on those that are there. The rule: whole, or not held.

Reading and taking apart is done in an executor; what touches the core, in the event loop, some rows at a time
between two batches. A partition is owned, and its records are asked for, once its last row is in.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping

from streams.changelog import Portion, Reading, RestoreStoppedError
from streams.core.core import Core
from streams.core.state import Rows, adopt
from streams.outlet import Patience
from streams.ownership import Ownership, TopicPart

log = logging.getLogger("fleetwatch.holdings")

#: Rows that are adopted at a time: the event loop stands still for some tens of milliseconds.
ROWS_AT_A_TIME = 2000
#: Called with the partitions that have just become ours.
Arrived = Callable[[set[TopicPart]], Awaitable[None]]


class Restoring:
    """At most one pass at a time.

    pending : where the work on each partition that is still missing will go on.
    failed : called with what ended a pass, other than `stop`.
    """

    def __init__(
        self, core: Core, owned: Ownership, patience: Patience, failed: Callable[[BaseException], None]
    ) -> None:
        self._core, self._owned, self._patience, self._failed = core, owned, patience, failed
        self.pending: dict[TopicPart, int] = {}
        self._stopped = False
        self._reading: Reading | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self, reading: Reading, wanted: Mapping[TopicPart, int], arrived: Arrived) -> None:
        """Read, in the background. wanted : committed offset of each partition."""
        assert not self.pending, "two passes at once"
        self.pending, self._stopped, self._reading = dict(wanted), False, reading
        self._task = asyncio.ensure_future(self._run(reading, arrived))
        self._task.add_done_callback(self._done)

    async def stop(self) -> None:
        """Give up what is not whole; returns once nothing of it is held."""
        self._stopped = True
        if self._reading is not None and self._task is not None:
            self._reading.stop()
            await asyncio.wait([self._task])
            self._reading = self._task = None

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._failed(exc)

    async def _run(self, reading: Reading, arrived: Arrived) -> None:
        loop = asyncio.get_running_loop()
        try:
            while reading.left and not self._stopped:
                portion = await loop.run_in_executor(None, self._patience.retry, reading.next, "restoring state")
                await self._adopt(portion, reading)
                if portion.complete and not self._stopped:
                    await self._own(portion.partition, reading, arrived)
            if not self._stopped:
                reading.finish()
        except RestoreStoppedError:
            log.info("stopped while restoring: nothing is in hand of partitions %s", sorted(reading.left))
        finally:
            self._core.release({self._core.owner(*at) for at in self.pending})
            self.pending.clear()
            await loop.run_in_executor(None, reading.close)

    async def _adopt(self, portion: Portion, reading: Reading) -> None:
        if portion.gone:
            self._core.forget(portion.gone, portion.owners)
        for rows in slices(portion.rows):
            if self._stopped:
                return
            adopt(self._core, rows, reading.found)
            await asyncio.sleep(0)

    async def _own(self, partition: int, reading: Reading, arrived: Arrived) -> None:
        whole = {at for at in self.pending if at[1] == partition}
        for at in whole:
            self._owned.take(at, self.pending.pop(at), reading.ends[partition])
        await arrived(whole)


def slices(rows: Rows) -> Iterator[Rows]:
    """Rows to adopt between two batches."""
    for names, pairs in rows.items():
        for first in range(0, len(pairs), ROWS_AT_A_TIME):
            yield {names: pairs[first : first + ROWS_AT_A_TIME]}
