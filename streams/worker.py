"""The worker's shell around the core: batches in, results out, ownership. The rule: one thread touches the core.

An unexpected exception ends the process with its cause as the last log line: nothing after the last checkpoint
counts, and a restart does the work again from there. What the world does to a worker (a rebalance that it missed, a
transaction that ran out) does not end it: it lets go of what is not final and goes on from the last checkpoint.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

import aiokafka.errors
from confluent_kafka import KafkaError, KafkaException

from streams.changelog import Changelog
from streams.checkpoint import Checkpointer, CheckpointError, Loss, outlet_error
from streams.core.effects import Effects
from streams.declarations import Declarations
from streams.drift_log import DriftLog
from streams.foresight import Foresight
from streams.holdings import Holdings
from streams.outlet import Outlet, Patience, UndeliveredError
from streams.ownership import Ownership, TopicPart
from streams.publisher import Publisher
from streams.restoring import Restoring
from streams.transport.rawfetch import RawBatches
from streams.warmup import warm_up
from streams.wiring import make_core
from telemetry.errors import FleetwatchError, TopicError
from telemetry.settings import Settings
from telemetry.topics import topics

log = logging.getLogger("fleetwatch.worker")

T = TypeVar("T")

EXIT_SOFTWARE = 70
#: So many checkpoints lost in a row, without one that was made, end the worker.
LOST_MAX = 6
#: What the world does, as opposed to our bugs.
WORLD = (KafkaException, aiokafka.errors.KafkaError, CheckpointError, UndeliveredError)
#: Events of a partition that do not begin where they should, in a row: every so many it is sought again, and after
#: so many reading begins anew from what is committed.
REREAD_EVERY, MISPLACED_MAX = 10, 50
#: A restore or a rebalance shorter than this does not take readiness away.
READY_GRACE_S = 10.0
#: (which clock, seconds from it to the alert)
LatencyObserver = Callable[[str, float], None]


class UnfinishedError(FleetwatchError):
    """Told to stop, the worker could not finish what it had in hand; it will be done again."""

    exit_code = 75  # EX_TEMPFAIL


class Worker:
    """What the Faust app's agent and rebalance handlers call, all in the app's event loop.

    stopping : whether the process is to end; waiting for the broker then has an end.
    """

    def __init__(self, settings: Settings, name: str, stopping: Callable[[], bool]) -> None:
        self.settings, self.name = settings, name
        self.topics = topics(settings)
        self.core = make_core(settings, partitions=settings.topics.partitions)
        self._stopping, self._patience = stopping, Patience(stopping)
        self.publisher = Publisher(*self._outlets(), self.topics, name)
        self.owned = Ownership()
        p = settings.processing
        self.checkpoints = Checkpointer(
            self.core, self.publisher, self.owned, p.group, p.transaction_timeout_s, self._patience
        )
        self.changelog = Changelog(settings, self.topics.state.name, self.core, stopping)
        exact = self.publisher.results.transactional
        self.restoring = Restoring(self.core, self.owned, self._patience, self.fail)
        self.holdings = Holdings(
            self.core, self.owned, self.changelog, self._patience, self.restoring, p.keep_revoked_s, exact=exact
        )
        self.core.evict = self.holdings.release_parked
        self.foresight = Foresight(settings, self.core, self.owned, self.changelog, self._patience)
        self.declarations = Declarations(settings, self.topics.devices.name)
        self.core.declared = self.declarations
        self._lock = asyncio.Lock()
        self._consumer: Any = None
        self._assigned: set[TopicPart] = set()
        self._accepting, self._paused_at = False, time.monotonic()
        self._lost, self._lost_at = 0, dict[TopicPart, int]()
        self._misplaced: dict[TopicPart, int] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.newest_ts_ms: dict[TopicPart, int] = {}
        self.restored = self.leaving = False
        self.rebalances = self.recoveries = 0
        self.batches = self.records = self.alerts = 0
        self._drift_log = DriftLog()
        self._finished = 0
        self._moved_at = time.monotonic()
        self.latency: LatencyObserver = lambda clock, seconds: None
        self.batch_size: Callable[[int], None] = lambda records: None

    def _outlets(self) -> tuple[Outlet, Outlet]:
        """For results and for rows: one and the same where there are transactions. Blocking."""
        p = self.settings.processing
        if p.guarantee == "at_least_once":
            return Outlet(self.settings, None), Outlet(self.settings, None)
        outlet = Outlet(self.settings, f"{p.group}-{self.name}")
        outlet.register(self._patience)
        return outlet, outlet

    def warm_up(self) -> None:
        """Compile, or load from the cache, what the first batches need: before the worker joins its group.

        Where a detector knows cohorts, also hear what devices declare.
        """
        if self.core.knows_cohorts:
            self.declarations.start()
        started = time.monotonic()
        warm_up(self.settings)
        log.info("kernels ready in %.1f s", time.monotonic() - started)

    def parts_of_others(self) -> list[TopicPart]:
        """Partitions of the first input topic that are not ours; those of the same number in the other go along."""
        topic, n = self.core.topics[0], self.settings.topics.partitions
        return [at for p in range(n) if (at := (topic, p)) not in self._assigned]

    @property
    def holding(self) -> dict[TopicPart, int] | None:
        """Next offset of each partition that is worked on or restored; None = none until the next rebalance."""
        return self.owned.applied | self.restoring.pending if self._accepting else None

    @property
    def progress_at(self) -> float:
        """When something last moved; in a restore: when that did; monotonic clock, s."""
        return self.changelog.moved_at if self.restoring.pending else max(self._moved_at, self.changelog.moved_at)

    @property
    def ready(self) -> bool:
        """Its partitions are restored and worked on, or were so less than READY_GRACE_S ago."""
        working = self._accepting and not self.restoring.pending
        return self.restored and (working or time.monotonic() - self._paused_at < READY_GRACE_S)

    def _pause(self) -> None:
        if self._accepting:
            self._accepting, self._paused_at = False, time.monotonic()

    @property
    def applied(self) -> Mapping[TopicPart, int]:
        """Next offset of each input partition whose effects are in the core."""
        return self.owned.applied

    # -- the hot path ----------------------------------------------------------------------------------------

    async def process(self, batch: RawBatches) -> None:
        """Apply one event of the transport, if it goes on where its partition's work stands."""
        if self._accepting:
            await self.publisher.room()
        at = (batch.topic, batch.partition)
        expected = self.owned.applied.get(at)
        if not self._accepting or expected is None:
            return  # not ours now: it will be read again, by whoever owns it
        if batch.fetched_from != expected:
            if batch.next_offset > expected:
                await self._reread(at, batch.fetched_from, expected)
            return  # else it is old, and the fetcher stands where it should
        self.owned.awaiting.discard(at)
        self._misplaced.pop(at, None)
        effects = Effects()
        self.core.process(*at, batch.parts, batch.first_offset, time.time_ns() // 1000, effects)
        self.owned.applied[at] = batch.next_offset
        try:
            self.publisher.publish(effects)
        except (KafkaException, UndeliveredError) as exc:
            await self._redo(self._loss(exc))
            return
        self._count(batch, effects)

    def _count(self, batch: RawBatches, effects: Effects) -> None:
        if effects.alerts:
            now_s = time.time()
            for device_us, broker_us in effects.alert_times_us:
                self.latency("device", now_s - device_us / 1e6)
                self.latency("broker", now_s - broker_us / 1e6)
        self._drift_log.tell(effects.drifts)
        self.batches += 1
        self.records += batch.count
        self.batch_size(batch.count)
        self.alerts += len(effects.alerts)
        self.newest_ts_ms[batch.topic, batch.partition] = batch.max_ts_ms
        self._moved_at = time.monotonic()

    async def _reread(self, at: TopicPart, found: int, expected: int) -> None:
        """An event from elsewhere: fetched before a seek, or what lies between was lost, here or at the broker."""
        count = self._misplaced[at] = self._misplaced.get(at, 0) + 1
        if count >= MISPLACED_MAX:
            gap = f"{at[0]}/{at[1]}: reading goes on at offset {found}, not at {expected}"
            await self._redo(CheckpointError(Loss.READING, gap))
        elif at not in self.owned.awaiting or count % REREAD_EVERY == 0:
            log.warning("%s/%d: fetched from offset %d, expected %d: reading again", *at, found, expected)
            self.owned.awaiting.add(at)
            await self._consumer.seek_raw({at: expected})

    # -- checkpoints and what is lost between them -------------------------------------------------------------

    @property
    def checkpoint_due(self) -> bool:
        """Whether more results are out, unfinished, than a crash should repeat."""
        return self.publisher.published - self._finished >= self.settings.processing.commit_records_max

    async def checkpoint(self) -> bool:
        """See `streams.checkpoint`; returns whether work became final."""
        return await self._undisturbed(self._checkpoint())

    async def _undisturbed(self, work: Coroutine[Any, Any, T]) -> T:
        """Await it to its end even if the caller is cancelled, as Faust does with agents in a rebalance.

        A lock that was given back halfway would let a second checkpoint run beside the first.
        """
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            self.fail(exc)

    async def _checkpoint(self) -> bool:
        async with self._lock:
            if not self._accepting:
                return False
            published, marks = self.publisher.published, await self.holdings.marks()
            try:
                done = await self.checkpoints.run(self._consumer.commit_group)
            except CheckpointError as exc:
                await self._recover(exc)
                return False
            except (KafkaException, UndeliveredError) as exc:
                await self._recover(self._loss(exc))
                return False
            if done:
                self._finished = published
                self.owned.since |= marks  # the commit has shown that they were ours when the ends were asked for
                self._forgive()
                self._moved_at = time.monotonic()
            self.holdings.release_parked(self.settings.processing.keep_revoked_s)
            return done

    def _forgive(self) -> None:
        """Count losses anew once all is final that was in hand at the last one: other partitions prove nothing."""
        final = self.owned.final
        coming = self.restoring.pending
        self._lost_at = {
            at: o for at, o in self._lost_at.items() if at in coming or (at in final and final[at] < o)
        }
        if not self._lost_at:
            self._lost = 0

    def _loss(self, exc: KafkaException | UndeliveredError) -> CheckpointError:
        """Why results could not be handed over. Re-raises the exception where there are no transactions."""
        results = self.publisher.results
        if not results.transactional:
            raise exc
        error = exc.args[0] if isinstance(exc, KafkaException) else KafkaError(KafkaError._FAIL, str(exc))
        return outlet_error(results, error, self.settings.processing.transaction_timeout_s)

    async def _redo(self, error: CheckpointError) -> None:
        """Recover, once for all the agents that meet the same loss: no event is taken from here on."""
        failed = self.publisher.results
        self._pause()

        async def once() -> None:
            async with self._lock:
                if self.publisher.results is failed:
                    await self._recover(error)

        await self._undisturbed(once())

    async def _recover(self, error: CheckpointError) -> None:
        """Let go of all that is not final; go on from the last checkpoint where the partitions are still ours.

        Raises
        ------
        CheckpointError : another process has our name, the same thing happened too often, or the worker is to stop.
        """
        self._pause()
        self._lost += 1
        self._lost_at |= self.owned.applied
        self.recoveries += 1
        if error.loss is Loss.FENCED or self._lost > LOST_MAX or self._stopping():
            raise error
        log.warning("work since the last checkpoint will be done again: %s", error)
        if self._lost > 1:
            await asyncio.sleep(min(2.0 ** (self._lost - 2), 10.0))
        await self._let_go()
        if error.loss is Loss.MEMBERSHIP:
            return  # a rebalance follows, and `own` with it
        await self.holdings.take(self._consumer, self._assigned, self._arrived)
        self._accepting = True
        await self._consumer.seek_raw(self.owned.applied)

    async def _let_go(self) -> None:
        """Hold no partition, and new outlets, at whose registration the broker aborts what the old ones sent."""
        await self.holdings.let_go()
        loop = asyncio.get_running_loop()
        self.publisher.restart(*await loop.run_in_executor(None, self._outlets))

    # -- ownership -------------------------------------------------------------------------------------------

    async def rest(self) -> None:
        """Take no more events, and make final what is done: the partitions are about to be given anew.

        Otherwise an event that comes behind the last commit would cost the whole state, see `_own`.
        """
        await self._undisturbed(self._rest())

    async def _rest(self) -> None:
        async with self._lock:
            if not self._accepting:
                return
            self._pause()
            try:
                await self.checkpoints.run(self._consumer.commit_group)
            except (KafkaException, UndeliveredError) as exc:
                log.warning("the last checkpoint of a generation failed: %s", self._loss(exc))
            except CheckpointError as exc:
                if exc.loss is Loss.FENCED:
                    raise
                log.warning("the last checkpoint of a generation failed: %s", exc)

    async def own(self, consumer: Any) -> None:
        """Make the core hold the devices of the assigned partitions, as of their committed offsets.

        Called after a rebalance, before any batch is delivered. Those that must be restored come later.

        Raises
        ------
        TopicError : an input topic has more partitions than it should.
        """
        await self._undisturbed(self._own(consumer))

    async def _own(self, consumer: Any) -> None:
        async with self._lock:
            self._pause()
            await self.foresight.stop()
            self.checkpoints.note = ""
            self._consumer, rebalance = consumer, consumer.app.rebalancing_count
            self.owned.membership, self._assigned = consumer.holding()
            self._refuse_growth(self._assigned)
            results = self.publisher.results
            if results.transactional and (results.open or self.owned.pending()):
                log.warning("work of the last generation was not final: it will be done again")
                await self._let_go()
            await self.holdings.take(self._consumer, self._assigned, self._arrived)
            self._misplaced.clear()
            if consumer.app.rebalancing_count != rebalance:
                return  # the next rebalance has begun meanwhile: it comes here again
            self._accepting = True
            self.rebalances += 1
            self.restored = self.restored or not self.restoring.pending
            self._moved_at = time.monotonic()

    async def _arrived(self, some: set[TopicPart]) -> None:
        """The rows of these partitions are in. Where they were given to others meanwhile, the seek does nothing."""
        self.restored = self.restored or not self.restoring.pending
        await self._consumer.seek_raw({at: self.owned.applied[at] for at in some})

    def _refuse_growth(self, assigned: Iterable[TopicPart]) -> None:
        n = self.settings.topics.partitions
        grown = sorted({topic for topic, partition in assigned if partition >= n})
        if grown:
            raise TopicError(
                f"{', '.join(grown)}: more partitions than topics.partitions ({n}): devices would change partition "
                "and leave their state behind. Nothing of the new partitions was processed; see docs/topics.md"
            )

    # -- the end, and figures --------------------------------------------------------------------------------

    def fail(self, cause: BaseException) -> None:
        """End the process: nothing after the last checkpoint counts. Called by any thread."""
        if self._stopping() and isinstance(cause, WORLD):
            text = f"what is in hand is not final and will be done again: {type(cause).__name__}: {cause}"
            cause = UnfinishedError(text)
        known = isinstance(cause, FleetwatchError)
        log.critical("the worker ends: %s: %s", type(cause).__name__, cause, exc_info=None if known else cause)
        logging.shutdown()
        os._exit(cause.exit_code if isinstance(cause, FleetwatchError) else EXIT_SOFTWARE)

    def lag(self, highwater: Mapping[TopicPart, Any]) -> dict[TopicPart, int]:
        """Records that wait in each owned partition."""
        return {at: max(0, int(end) - self.applied.get(at, 0)) for at, end in highwater.items() if end is not None}
