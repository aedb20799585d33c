"""The devices of our partitions: kept, taken back, restored, parked. The rule: as committed, or not held."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaException

from streams.changelog import Changelog, Reading, Wanted
from streams.core.core import Core
from streams.outlet import Patience
from streams.ownership import Ownership, TopicPart
from streams.restoring import Arrived, Restoring

log = logging.getLogger("fleetwatch.holdings")

#: How often the changelog's ends are asked for, so that a partition that comes back is read from there.
MARK_EVERY_S = 30.0


class Holdings:
    """Called by the worker, under its lock, while no event is taken; waits in executors.

    keep_s : how long the rows of a revoked partition are kept. exact : rows ahead of the committed offset go.
    restoring : what is still read when `take` returns.
    """

    def __init__(
        self,
        core: Core,
        owned: Ownership,
        changelog: Changelog,
        patience: Patience,
        restoring: Restoring,
        keep_s: float,
        *,
        exact: bool,
    ) -> None:
        self._core, self._owned, self._changelog, self._patience = core, owned, changelog, patience
        self.restoring = restoring
        self._keep_s, self._exact = keep_s, exact
        self._marked_at = time.monotonic()

    async def marks(self) -> dict[TopicPart, int]:
        """Ends of the changelog for `Ownership.since`, now and then; empty most of the time."""
        if not self._exact or time.monotonic() - self._marked_at < MARK_EVERY_S:
            return {}
        self._marked_at, held = time.monotonic(), list(self._owned.applied)
        loop = asyncio.get_running_loop()
        try:
            ends = await loop.run_in_executor(None, self._changelog.ends, {partition for _, partition in held})
        except KafkaException as exc:
            log.debug("no ends of the changelog this time: %s", exc.args[0].str())  # older ones are as right
            return {}
        return {at: ends[at[1]] for at in held}

    async def let_go(self) -> None:
        """Hold nothing."""
        await self.restoring.stop()
        self._core.release({self._core.owner(*at) for at in (*self._owned.applied, *self._owned.parked)})
        self._owned.drop(self._owned.applied)
        self._owned.parked.clear()

    async def take(self, consumer: Any, wanted: set[TopicPart], arrived: Arrived) -> None:
        """Hold exactly these partitions: keep or regain the rows of each, and begin to restore those of the others.

        Of these no records are asked for until their rows are in. arrived : called then.
        """
        await self.restoring.stop()
        loop = asyncio.get_running_loop()
        known = {at: offset for at, offset in self._owned.known.items() if at in wanted}
        offsets = await consumer.committed(sorted(wanted), known)
        self._owned.known |= {at: offset for at, offset in offsets.items() if offset is not None}
        committed = await loop.run_in_executor(
            None, self._patience.retry, lambda: self._changelog.starts(offsets), "asking for offsets"
        )
        kept = {
            at
            for at in wanted & self._owned.applied.keys()
            if committed[at] == self._owned.applied[at]
            or (not self._exact and committed[at] < self._owned.applied[at])
        }
        self._give_up(self._owned.applied.keys() - kept, wanted)
        self._owned.awaiting |= kept
        plan, since = self._plan(wanted - kept, committed)
        for at in since:
            self._owned.take(at, committed[at], since[at])
        if plan:
            missing = {at: committed[at] for at in wanted - kept - since.keys()}
            reading = await loop.run_in_executor(
                None, self._patience.retry, lambda: self._changelog.begin(plan), "asking for the changelog's ends"
            )
            await self._restore(consumer, missing, reading, arrived)

    async def _restore(
        self, consumer: Any, missing: dict[TopicPart, int], reading: Reading, arrived: Arrived
    ) -> None:
        """What the changelog has no rows of is there at once."""
        for at in [at for at in missing if at[1] not in reading.left]:
            self._owned.take(at, missing.pop(at), reading.ends[at[1]])
        if missing:
            await consumer.hold_back(missing)
            self.restoring.begin(reading, missing, arrived)
        else:
            reading.finish()

    def _give_up(self, gone: set[TopicPart], wanted: set[TopicPart]) -> None:
        """Park what is as committed and was given to others; forget the rest."""
        park = {at for at in gone - wanted if at not in self._owned.pending()}
        for at in park:
            self._owned.park(at, time.monotonic())
        self._core.release({self._core.owner(*at) for at in gone - park})
        self._owned.drop(gone)

    def _plan(
        self, missing: set[TopicPart], committed: Mapping[TopicPart, int]
    ) -> tuple[dict[int, Wanted], dict[TopicPart, int]]:
        """What to read of each changelog partition, of a parked one only what others may have written.

        Second: `since` of the parked partitions on which nobody has worked, which are held as they are.
        """
        self.release_parked(self._keep_s)
        owners: dict[int, set[int]] = {}
        starts: dict[int, int] = {}
        whole: dict[TopicPart, int] = {}
        for at in missing:
            parked, partition = self._owned.parked.pop(at, None), at[1]
            if parked is not None and parked.applied == committed[at]:
                whole[at] = parked.since
                continue
            owners.setdefault(partition, set()).add(self._core.owner(*at))
            starts[partition] = min(starts.get(partition, 1 << 62), parked.since if parked else 0)
        return {p: Wanted(frozenset(some), starts[p]) for p, some in owners.items()}, whole

    def release_parked(self, older_than_s: float = 0.0) -> bool:
        """Forget partitions that were revoked so long ago; returns whether there were any."""
        before = time.monotonic() - older_than_s
        old = [at for at, parked in self._owned.parked.items() if parked.at_s <= before]
        self._core.release({self._core.owner(*at) for at in old})
        for at in old:
            del self._owned.parked[at]
        return bool(old)
