"""Faust transport driver ``rawbatch://host:port``: one event a partition and fetch response.

The rule: how far the work has come is the app's to say, by its `progress`; Faust's acknowledgements only tell that
an agent is done with an event.

Topics declared with `schema=BatchSchema()` arrive as `RawBatches` events; every other topic, and group membership,
rebalances, flow control, tables and agents stay Faust's and aiokafka's. Faust's own bookkeeping of offsets is not
used for raw topics: its gap handling can make a message that is still in flight committable, and it takes a failed
commit for a done one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import faust
from aiokafka import TopicPartition
from faust.events import Event
from faust.transport.drivers import aiokafka as stock
from faust.types import TP, ConsumerMessage
from mode.utils.futures import notify

from streams.transport import connection, rawfetch
from streams.transport.rawfetch import RawBatches, raw_topics
from streams.transport.stable import notes, stable_offsets

#: Makes all work so far final; returns whether it is.
CommitHook = Callable[[], Awaitable[bool]]
#: The next offset wanted of each assigned raw partition.
Progress = Callable[[], Mapping[tuple[str, int], int]]


class BatchSchema(faust.Schema):
    """No decoding a message: an event's value is the `RawBatches` itself."""

    def compile(self, app: Any, **options: Any) -> Any:
        del options

        async def decode(message: Any, *, propagate: bool = False) -> Event:
            del propagate
            return Event(app, None, message.value, None, message)

        return decode


class BatchConsumerThread(stock.AIOKafkaConsumerThread):
    """Installs the raw fetcher and the receiving connection, and sets what Faust hard-codes."""

    async def on_start(self) -> None:
        rawfetch.install()
        connection.install()
        await super().on_start()

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        options: Mapping[str, Any] = getattr(self.app, "batch_fetch", {})
        consumer._fetch_max_wait_ms = options.get("max_wait_ms", 100)
        consumer._fetch_min_bytes = options.get("min_bytes", 1)
        consumer._isolation_level = "read_committed"
        return consumer

    async def subscribe(self, topics: Iterable[str]) -> None:
        for channel in self.app.topics:
            if isinstance(channel.schema, BatchSchema):
                raw_topics.update(channel.topics)
        await super().subscribe(topics)

    def highwater(self, tp: TP) -> int | None:
        """Where a reader of committed records ends; records of open transactions are not lag. None = not known."""
        consumer, at = self._ensure_consumer(), TopicPartition(tp.topic, tp.partition)
        return consumer.last_stable_offset(at) if at in consumer.assignment() else None

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing: the worker's watchdog knows more (Faust would miss commits that it did not make itself)."""

    async def seek_now(self, wanted: Mapping[TP, int]) -> None:
        """Fetch on from these offsets, as far as the partitions are assigned at this moment."""
        await self.call_thread(self._seek_now, wanted)

    async def _seek_now(self, wanted: Mapping[TP, int]) -> None:
        consumer = self._ensure_consumer()
        assigned = consumer.assignment()
        for tp, offset in wanted.items():
            here = TopicPartition(tp.topic, tp.partition)
            if here in assigned:
                consumer.seek(here, offset)
                consumer.resume(here)

    async def pause_now(self, some: Iterable[TP]) -> None:
        """Ask for no more of these partitions until they are sought, or assigned anew."""
        await self.call_thread(self._pause_now, some)

    async def _pause_now(self, some: Iterable[TP]) -> None:
        consumer = self._ensure_consumer()
        wanted = {TopicPartition(tp.topic, tp.partition) for tp in some}
        consumer.pause(*(wanted & consumer.assignment()))

    async def committed(
        self, wanted: list[tuple[str, int]], known: Mapping[tuple[str, int], int]
    ) -> dict[tuple[str, int], int | None]:
        """See `stable_offsets`."""
        found: dict[tuple[str, int], int | None] = await self.call_thread(
            stable_offsets, self._ensure_consumer()._coordinator, wanted, known
        )
        return found

    async def notes(self, wanted: list[tuple[str, int]]) -> dict[tuple[str, int], str]:
        """See `streams.transport.stable.notes`."""
        found: dict[tuple[str, int], str] = await self.call_thread(
            notes, self._ensure_consumer()._coordinator, wanted
        )
        return found

    def member(self) -> tuple[int, str]:
        """(generation, member id) of this worker in its group."""
        coordinator = self._ensure_consumer()._coordinator
        return int(coordinator.generation), str(coordinator.member_id)


class _ReadOffsets(defaultdict[TP, Any]):
    """Faust's memory of what it read last, which drops what comes again: kept from raw topics."""

    def __setitem__(self, tp: TP, offset: int | None) -> None:
        if tp.topic not in raw_topics:
            super().__setitem__(tp, offset)


class Consumer(stock.Consumer):
    """Reads raw topics from where the app wants them and commits in the app's way.

    commit_hook, progress : set by the app before its first assignment is complete.
    """

    commit_hook: CommitHook | None = None
    progress: Progress | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._read_offset = _ReadOffsets(lambda: None)

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def member(self) -> tuple[int, str]:
        """(generation, member id) of this worker in its group; generation -1 = not a member now."""
        thread = self._thread
        assert isinstance(thread, BatchConsumerThread)
        return thread.member()

    def holding(self) -> tuple[tuple[int, str], set[tuple[str, int]]]:
        """The membership and the raw partitions that it was given, of one and the same generation."""
        while True:
            membership = self.member()
            held = {(tp.topic, tp.partition) for tp in self.assignment() if tp.topic in raw_topics}
            if membership == self.member():
                return membership, held

    def _to_message(self, tp: TP, record: Any) -> Any:
        if type(record) is not RawBatches:
            return super()._to_message(tp, record)
        return ConsumerMessage(
            record.topic,
            record.partition,
            record.last_offset,
            record.max_ts_ms / 1000.0,
            0,
            (),
            None,
            record,
            None,
            0,
            record.nbytes,
            tp,
            generation_id=self.app.consumer_generation_id,
        )

    def ack(self, message: Any) -> bool:
        """An agent is done with the message. `StreamIterator` inlines this: only acks by hand come here."""
        if type(message.value) is not RawBatches:
            return bool(super().ack(message))
        message.acked = True
        self._unacked_messages.discard(message)
        notify(self._waiting_for_ack)
        return True

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        if tp.topic not in raw_topics:
            await super()._add_gap(tp, offset_from, offset_to)

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """All of Faust's ways to commit pass through here; the hook runs one commit at a time."""
        if self.commit_hook is not None:
            return await self.commit_hook()
        committed: bool = await super().commit(topics, start_new_transaction)
        return committed

    async def commit_group(self, offsets: Mapping[tuple[str, int], int]) -> bool:
        """Commit to the consumer group, as Faust does, without a transaction."""
        committed: bool = await super()._commit({TP(*at): offset for at, offset in offsets.items()})
        return committed

    async def committed(
        self, wanted: list[tuple[str, int]], known: Mapping[tuple[str, int], int]
    ) -> dict[tuple[str, int], int | None]:
        """The group's offsets, as the coordinator that we have joined knows them; None = none yet.

        known : what this worker has seen committed itself: an answer below it is old, and asked for again.
        """
        thread = self._thread
        assert isinstance(thread, BatchConsumerThread)
        return await thread.committed(wanted, known)

    async def notes(self, wanted: list[tuple[str, int]]) -> dict[tuple[str, int], str]:
        """What the members have said of these partitions with their last commits; empty = no answer."""
        thread = self._thread
        assert isinstance(thread, BatchConsumerThread)
        return await thread.notes(wanted) if wanted else {}

    async def perform_seek(self) -> None:
        """Called by Faust before it resumes: read on from where the app is, not from what Faust remembers."""
        if self.progress is None:
            await super().perform_seek()
            return
        await self.seek_raw(self.progress())

    async def seek_raw(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Read these partitions from these offsets. Events that were fetched before may still arrive."""
        thread = self._thread
        assert isinstance(thread, BatchConsumerThread)
        await thread.seek_now({TP(*at): offset for at, offset in offsets.items()})

    async def hold_back(self, some: Iterable[tuple[str, int]]) -> None:
        """Read no more of these partitions until `seek_raw`. Events that were fetched before may still arrive."""
        thread = self._thread
        assert isinstance(thread, BatchConsumerThread)
        await thread.pause_now([TP(*at) for at in some])


class Transport(stock.Transport):
    """Registered by the entry point group ``faust.transports`` as ``rawbatch``."""

    Consumer = Consumer
    driver_version = "rawbatch/" + stock.Transport.driver_version
