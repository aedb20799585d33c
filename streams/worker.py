"""The worker's shell around the core: batches in, results out, ownership. The rule: one thread touches the core.

An unexpected exception ends the process with its cause as the last log line: the batch was not acknowledged,
and a restart does the work again from the last checkpoint.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from confluent_kafka import Producer

from streams.changelog import Changelog
from streams.checkpoint import Checkpointer
from streams.core.effects import Effects
from streams.publisher import Publisher
from streams.transport.rawfetch import RawBatches
from streams.warmup import warm_up
from streams.wiring import make_core
from telemetry import clients
from telemetry.settings import Settings
from telemetry.topics import topics

log = logging.getLogger("fleetwatch.worker")

EXIT_SOFTWARE = 70
TopicPart = tuple[str, int]
#: (which clock, seconds from it to the alert)
LatencyObserver = Callable[[str, float], None]


class Worker:
    """What the Faust app's agent and rebalance handlers call.

    applied : next offset of each input partition whose effects are in the core.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self.settings, self.name = settings, name
        self.topics = topics(settings)
        self.core = make_core(settings)
        self.publisher: Publisher = Publisher(self._producer(), self._producer(), self.topics, name)
        self.checkpoints = Checkpointer(self.core, self.publisher)
        self.changelog = Changelog(settings, self.topics.state.name, self.core)
        self.applied: dict[TopicPart, int] = {}
        self.newest_ts_ms: dict[TopicPart, int] = {}
        self.restored = False
        self.rebalances = 0
        self.batches = 0
        self.records = 0
        self._finished = 0
        self.alerts = 0
        self.progress_at = time.monotonic()
        self.latency: LatencyObserver = lambda clock, seconds: None
        self.batch_size: Callable[[int], None] = lambda records: None

    def _producer(self) -> Producer:
        return clients.producer(
            self.settings,
            delivery_report_only_error=True,
            linger_ms=5,
            on_delivery=lambda error, message: self.publisher.delivery_failed(error, message),  # noqa: PLW0108
        )

    def warm_up(self) -> None:
        """Compile, or load from the cache, what the first batches need: before the worker joins its group."""
        started = time.monotonic()
        warm_up(self.settings)
        log.info("kernels ready in %.1f s", time.monotonic() - started)

    async def process(self, batch: RawBatches) -> None:
        """Apply one event of the transport."""
        await self.publisher.room()
        effects = Effects()
        self.core.process(
            batch.topic,
            batch.partition,
            batch.parts,
            batch.first_offset,
            time.time_ns() // 1000,
            effects,
        )
        self.publisher.publish(effects)
        if effects.alerts:
            now_s = time.time()
            for device_us, broker_us in effects.alert_times_us:
                self.latency("device", now_s - device_us / 1e6)
                self.latency("broker", now_s - broker_us / 1e6)
        self.batches += 1
        self.records += batch.count
        self.batch_size(batch.count)
        self.alerts += len(effects.alerts)
        at = (batch.topic, batch.partition)
        self.applied[at] = max(batch.next_offset, self.applied.get(at, 0))
        self.newest_ts_ms[at] = batch.max_ts_ms
        self.progress_at = time.monotonic()

    async def own(self, assigned: Iterable[TopicPart]) -> None:
        """Make the core hold exactly the devices of the assigned partitions, at or after what is committed.

        Called after a rebalance, before any batch is delivered. Rows ahead of the commit are right: their
        results were sent, and they skip the frames that come again. Rows behind it are not.
        """
        wanted = set(assigned)
        loop = asyncio.get_running_loop()
        committed = await loop.run_in_executor(None, self.changelog.committed, sorted(wanted))
        stale = {at for at in wanted if at not in self.applied or (committed.get(at) or 0) > self.applied[at]}
        gone = {at for at in self.applied if at not in wanted} | stale
        self.core.release({self.core.owner(*at) for at in gone})
        for at in gone:
            self.applied.pop(at, None)
            self.newest_ts_ms.pop(at, None)
        if stale:
            by_partition: dict[int, set[int]] = {}
            for topic, partition in stale:
                by_partition.setdefault(partition, set()).add(self.core.owner(topic, partition))
            await loop.run_in_executor(None, self.changelog.restore, by_partition)
        for at in stale:
            self.applied[at] = committed.get(at) or 0
        self.rebalances += 1
        self.restored = True
        self.progress_at = time.monotonic()

    def fail(self, cause: BaseException) -> None:
        """End the process: nothing after the last checkpoint counts."""
        log.critical("the worker ends: %s: %s", type(cause).__name__, cause, exc_info=cause)
        logging.shutdown()
        os._exit(EXIT_SOFTWARE)

    @property
    def checkpoint_due(self) -> bool:
        """Whether more results are out, unfinished, than a crash should repeat."""
        return self.publisher.published - self._finished >= self.settings.processing.commit_records_max

    async def checkpoint(self, offsets: Mapping[Any, int], commit_group: Any) -> bool:
        """See `streams.checkpoint`."""
        published = self.publisher.published
        committed = await self.checkpoints.run(offsets, commit_group)
        self._finished = published
        return committed

    def lag(self, highwater: Mapping[TopicPart, Any]) -> dict[TopicPart, int]:
        """Records that wait in each owned partition."""
        return {at: max(0, int(end) - self.applied.get(at, 0)) for at, end in highwater.items() if end is not None}
