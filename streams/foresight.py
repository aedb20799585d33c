"""What a worker reads before it needs it. The rule: a wrong guess costs time, never a result.

A worker that comes guesses which partitions the group will give it, and restores them before it joins. One that is
to leave says so and goes on working until others have restored what they will inherit, or FAREWELL_S are over.
In the rebalance only what was written since is read, as of a partition that comes back; what somebody else was
given is forgotten with the parked partitions.

They tell each other by the metadata of the offsets that they commit: "leaving@7", "ready@7 2,3", of generation 7.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaException
from faust.assignor.client_assignment import CopartitionedAssignment
from faust.assignor.copartitioned_assignor import CopartitionedAssignor

from streams.changelog import Changelog, Reading, RestoreStoppedError, Wanted, connected
from streams.core.core import Core
from streams.core.state import adopt
from streams.outlet import Patience
from streams.ownership import Ownership, Parked, TopicPart
from streams.restoring import slices
from telemetry.settings import Settings

log = logging.getLogger("fleetwatch.foresight")

#: Passes over the changelog, each from the end of the one before; a pass this short is the last.
PASSES, SHORT_S = 3, 0.5
ANSWER_S = 5.0
#: A worker that leaves waits so long for its heirs at most, and so long for the first word of any.
FAREWELL_S, SILENCE_S = 12.0, 4.0
LOOK_S = 0.25
#: So many heirs, if they are more than two, each restore all that the leaving worker has.
FEW = 4
#: No partition's work has come so far: its rows are never taken for those of a committed offset.
NOWHERE = -1

_LEAVING, _READY = "leaving", "ready"


def expected(held: Mapping[str, Iterable[int]], partitions: int, topics: Iterable[str]) -> set[int]:
    """The partitions that Faust's assignor will give to a worker that joins the members who hold these."""
    names = set(topics)
    group = {name: CopartitionedAssignment(actives=set(some), topics=names) for name, some in held.items()}
    group[""] = CopartitionedAssignment(topics=names)
    return set(CopartitionedAssignor(names, group, partitions, replicas=1).get_assignment()[""].actives)


def inherited(
    held: Mapping[str, Iterable[int]],
    me: str,
    leaving: set[int],
    standby_of: set[int],
    partitions: int,
    topics: Iterable[str],
) -> set[int]:
    """Which of the leaving members' partitions we should restore.

    held : of every member. standby_of : partitions for which the assignor's plan has us as the standby. Where one
    other stays, it is the standby of the rest, so that Faust's assignor can be asked. Among a few anybody may be
    given any of them; in a larger group it is mostly the standby.
    """
    names = set(topics)
    staying = {name: set(some) for name, some in held.items() if not set(some) <= leaving or name == me}
    if me not in staying or len(staying) > FEW:
        return leaving & standby_of
    if len(staying) > 2:
        return set(leaving)
    group = {
        name: CopartitionedAssignment(some, standby_of - some if name == me else leaving - standby_of, names)
        for name, some in staying.items()
    }
    return leaving & set(CopartitionedAssignor(names, group, partitions, replicas=1).get_assignment()[me].actives)


def members(settings: Settings, topics: Iterable[str]) -> dict[str, set[int]]:
    """Partition numbers by member id of the workers' group; none if there is no such group.

    Raises
    ------
    KafkaException : no answer, or no right to ask.
    """
    group, names = settings.processing.group, set(topics)
    client = connected(settings, next(iter(names)))  # its futures end with it
    future = client.describe_consumer_groups([group], request_timeout=ANSWER_S)[group]
    return {
        member.member_id: {at.partition for at in member.assignment.topic_partitions if at.topic in names}
        for member in future.result(2 * ANSWER_S).members
    }


def leaving_note(generation: int) -> str:
    """What a worker that is to leave says."""
    return f"{_LEAVING}@{generation}"


def ready_note(generation: int, partitions: Iterable[int]) -> str:
    """What a worker says that is ready for the end of these partitions' owners; none = it has heard of it."""
    return f"{_READY}@{generation} {','.join(map(str, sorted(partitions)))}"


def read_notes(notes: Mapping[TopicPart, str], generation: int) -> tuple[set[int], dict[int, set[int]]]:
    """(partitions of workers that leave, for what the owner of each other partition is ready).

    Notes of other generations, and whatever else stands there, are not for us.
    """
    leaving: set[int] = set()
    ready: dict[int, set[int]] = {}
    for (_, partition), note in notes.items():
        word, _, numbers = note.partition(" ")
        if word == leaving_note(generation):
            leaving.add(partition)
        elif word == f"{_READY}@{generation}":
            ready[partition] = {int(n) for n in numbers.split(",") if n.isdigit()}
    return leaving, ready


class Foresight:
    """Called in the worker's event loop; waits in executors.

    ready : partitions whose owner may leave, as far as we are concerned; of this generation.
    """

    def __init__(
        self, settings: Settings, core: Core, owned: Ownership, changelog: Changelog, patience: Patience
    ) -> None:
        self._settings, self._core, self._owned = settings, core, owned
        self._changelog, self._patience = changelog, patience
        self.ready: set[int] = set()
        self._task: asyncio.Task[None] | None = None
        self._reading: Reading | None = None
        self._stopped = False

    async def members(self) -> dict[str, set[int]]:
        """See `members`; none if the group cannot be asked."""
        try:
            return await asyncio.get_running_loop().run_in_executor(
                None, members, self._settings, self._core.topics
            )
        except (KafkaException, TimeoutError) as exc:
            log.info("the group cannot be asked for its members: %s", exc)
            return {}

    @property
    def wanted(self) -> bool:
        """Whether rows may be parked, and notes be sent with a commit."""
        p = self._settings.processing
        return p.keep_revoked_s > 0 and p.guarantee == "exactly_once"

    async def look_ahead(self) -> None:
        """Before joining: restore what the group will give us, so that the others need not stand still as long."""
        if not self.wanted:
            return
        held = await self.members()
        if not any(held.values()):
            return
        try:
            await self._read(sorted(expected(held, self._settings.topics.partitions, self._core.topics)))
        except KafkaException as exc:
            log.warning("nothing was read ahead: %s", exc.args[0].str())

    def inherit(self, leaving: set[int], heir_of: set[int]) -> None:
        """Restore what we may be given of these, in the background, unless that is under way or done.

        heir_of : see `standby_of` of `inherited`.
        """
        if self._task is None and not leaving <= self.ready:
            self._task = asyncio.ensure_future(self._inherit(leaving, heir_of))
            self._task.add_done_callback(self._done)

    async def _inherit(self, leaving: set[int], heir_of: set[int]) -> None:
        held, me = await self.members(), self._owned.membership[1]
        n = self._settings.topics.partitions
        wanted = inherited(held, me, leaving, heir_of, n, self._core.topics)
        await self._read(sorted(wanted - self._owned_numbers()))
        self.ready |= leaving

    def _owned_numbers(self) -> set[int]:
        return {partition for _, partition in self._owned.applied}

    def _done(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.info("nothing was read ahead: %s %s", type(exc).__name__, exc)

    async def stop(self) -> None:
        """Forget what is not whole, and what was said: another generation begins."""
        self._stopped = True
        if self._reading is not None:
            self._reading.stop()
        if self._task is not None:
            await asyncio.wait([self._task])
        self._stopped = False
        self.ready.clear()

    async def _read(self, partitions: Sequence[int]) -> None:
        """Hold these partitions' rows as if they had been taken from us.

        What is whole is kept when it is stopped; rows that an unfinished later pass has brought are read once more.
        """
        if not partitions:
            return
        began, records = time.monotonic(), 0
        parts = [(topic, p) for topic in self._core.topics for p in partitions]
        since = {p: min(self._since((topic, p)) for topic in self._core.topics) for p in partitions}
        for at in parts:
            self._owned.parked.pop(at, None)
        try:
            for i in range(PASSES):
                started = time.monotonic()
                reading = await self._pass(since, again=i > 0)
                since, records = dict(reading.ends), records + reading.found.records
                if time.monotonic() - started < SHORT_S:
                    break
        finally:
            self._core.release({self._core.owner(*at) for at in parts if at not in self._owned.parked})
        log.info("read ahead: partitions %s, %d records in %.2f s", partitions, records, time.monotonic() - began)

    def _since(self, at: TopicPart) -> int:
        parked = self._owned.parked.get(at)
        return parked.since if parked else 0

    async def _pass(self, since: Mapping[int, int], *, again: bool) -> Reading:
        loop, retry = asyncio.get_running_loop(), self._patience.retry
        topics = self._core.topics
        wanted = {
            p: Wanted(frozenset(self._core.owner(topic, p) for topic in topics), start)
            for p, start in since.items()
        }
        reading = await loop.run_in_executor(None, retry, lambda: self._changelog.begin(wanted), "reading ahead")
        self._reading, first = reading, set(reading.left)
        try:
            while reading.left or self._stopped:
                if self._stopped:
                    raise RestoreStoppedError
                portion = await loop.run_in_executor(None, retry, reading.next, "reading ahead")
                if again and not self._parked(portion.partition):
                    continue
                if portion.gone:
                    self._core.forget(portion.gone, portion.owners)
                for rows in slices(portion.rows):
                    if self._stopped:
                        raise RestoreStoppedError
                    adopt(self._core, rows, reading.found)
                    await asyncio.sleep(0)
                if portion.complete and (not again or self._parked(portion.partition)):
                    self._park(portion.partition, reading.ends[portion.partition])
        finally:
            self._reading = None
            await loop.run_in_executor(None, reading.close)
        for partition in since.keys() - first:
            if not again or self._parked(partition):
                self._park(partition, reading.ends[partition])
        return reading

    def _parked(self, partition: int) -> bool:
        """Whether what an earlier pass has brought is still held: a full table, or a recovery, lets go of it."""
        return all((topic, partition) in self._owned.parked for topic in self._core.topics)

    def _park(self, partition: int, since: int) -> None:
        for topic in self._core.topics:
            self._owned.parked[topic, partition] = Parked(NOWHERE, since, time.monotonic())


async def look_around(worker: Any, consumer: Any, heir_of: set[int]) -> None:
    """Prepare for the end of workers that are about to leave. heir_of : see `Foresight.inherit`."""
    if not worker.foresight.wanted or worker.restoring.pending or not worker.holding:
        return
    generation = worker.owned.membership[0]
    leaving, _ = read_notes(await consumer.notes(worker.parts_of_others()), generation)
    if leaving and worker.holding and generation == worker.owned.membership[0] and not worker.leaving:
        worker.foresight.inherit(leaving, heir_of)
        worker.checkpoints.note = ready_note(generation, worker.foresight.ready)


async def farewell(worker: Any, consumer: Any) -> None:
    """Say that we leave, and go on working until our heirs are ready. Called when the worker is to stop."""
    if not (worker.foresight.wanted and worker.restored and worker.holding):
        return
    if len(await worker.foresight.members()) < 2:
        return
    worker.leaving = True
    began = time.monotonic()
    mine = {partition for _, partition in worker.owned.applied}
    while worker.holding and (now := time.monotonic()) - began < FAREWELL_S:
        generation, others = worker.owned.membership[0], worker.parts_of_others()
        worker.checkpoints.note = leaving_note(generation)
        if worker.checkpoints.note != worker.checkpoints.told:
            await worker.checkpoint()
        leaving, ready = read_notes(await consumer.notes(others), generation)
        if all(p in leaving or mine <= ready.get(p, set()) for _, p in others):
            break
        if not ready and now - began > SILENCE_S:
            break
        await asyncio.sleep(LOOK_S)
    log.info("leaving %.1f s after it was asked for", time.monotonic() - began)
