"""Faust transport driver ``rawbatch://host:port``: one event a partition and fetch response.

The rule: an offset is committable only when everything delivered before it has been acknowledged, in order.

Topics declared with `schema=BatchSchema()` arrive as `RawBatches` events; every other topic, and group
membership, rebalances, flow control, tables and agents stay Faust's and aiokafka's. Offsets are acknowledged
as ranges: Faust's own gap handling can make a message that is still in flight committable.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import faust
from faust.events import Event
from faust.transport.drivers import aiokafka as stock
from faust.types import TP, ConsumerMessage

from streams.transport import connection, rawfetch
from streams.transport.rawfetch import RawBatches, raw_topics

#: Called instead of the group's own offset commit: (offsets) -> whether they are committed.
CommitHook = Callable[[Mapping[TP, int]], Awaitable[bool]]


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

    def member(self) -> tuple[int, str]:
        """(generation, member id) of this worker in its group."""
        coordinator = self._ensure_consumer()._coordinator
        return int(coordinator.generation), str(coordinator.member_id)


class Consumer(stock.Consumer):
    """Acknowledges raw topics by delivered ranges and lets the app commit in its own way."""

    commit_hook: CommitHook | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._in_flight: dict[TP, deque[tuple[int, int]]] = defaultdict(deque)  # (last offset, next offset)
        self._deliver_inner: Any = self.callback  # type: ignore[has-type]
        self.callback = self._deliver

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def member(self) -> tuple[int, str]:
        thread = self._thread
        assert isinstance(thread, BatchConsumerThread)
        return thread.member()

    async def _deliver(self, message: Any) -> None:
        if type(message.value) is RawBatches:
            self._in_flight[message.tp].append((message.offset, message.value.next_offset))
        await self._deliver_inner(message)

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

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        if tp.topic not in raw_topics:
            await super()._add_gap(tp, offset_from, offset_to)

    def _new_offset(self, tp: TP) -> int | None:
        if tp.topic not in raw_topics:
            offset: int | None = super()._new_offset(tp)
            return offset
        acked, queue = self._acked_index[tp], self._in_flight[tp]
        committable: int | None = None
        while queue and queue[0][0] in acked:
            last, committable = queue.popleft()
            acked.discard(last)
        self._acked[tp].clear()
        return committable

    def _drop_in_flight(self, tps: Iterable[TP]) -> None:
        for tp in tps:
            if tp.topic in raw_topics:
                self._in_flight.pop(tp, None)
                self._acked[tp].clear()
                self._acked_index[tp].clear()

    async def perform_seek(self) -> None:
        self._drop_in_flight(list(self._in_flight))
        self._drop_in_flight(list(self._acked))
        await super().perform_seek()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await super().on_partitions_revoked(revoked)
        self._drop_in_flight(revoked)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """All of Faust's ways to commit pass through here."""
        if self.commit_hook is not None:
            return await self.commit_hook(offsets)
        return await self.commit_group(offsets)

    async def commit_group(self, offsets: Mapping[TP, int]) -> bool:
        """Commit to the consumer group, as Faust does."""
        committed: bool = await super()._commit(offsets)
        return committed


class Transport(stock.Transport):
    """Registered by the entry point group ``faust.transports`` as ``rawbatch``."""

    Consumer = Consumer
    driver_version = "rawbatch/" + stock.Transport.driver_version
