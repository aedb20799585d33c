"""State back from the changelog, when partitions are assigned. The rule: only what is missing is read, to its end.

To its end: up to the end of the log as it was when the restore began, not up to where a reader of committed records
happens to stand: another worker's open transaction may hold that reader back before rows that are ours.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from streams.core.core import Core
from streams.core.state import Restored, Rows, sort
from streams.core.staterow import Splitter
from telemetry import clients, offsets
from telemetry.settings import Settings

log = logging.getLogger("fleetwatch.changelog")

PROGRESS_EVERY_S = 5.0
#: Records taken at a time.
CHUNK = 4000
#: ... or for so long: a chunk is seldom full at a partition's end.
WAIT_S = 0.05
#: Devices of a partition whose newest rows are collected before they are handed on: of large rows some tens of MB.
PORTION = 20_000
#: Partitions that are read at a time: one may have to wait for a transaction of another worker's.
AT_ONCE = 2
BUFFER_KB = 32 * 1024
ANSWER_S = 5.0


class RestoreStoppedError(RuntimeError):
    """It is no longer wanted, or the worker is to stop; what is not whole is of no use."""


def connected(settings: Settings, topic: str) -> AdminClient:
    """A client that has its connection: asked for offsets without one, one in fifteen waits 1 or 3 s for nothing.

    Raises
    ------
    KafkaException : no broker answers.
    """
    client = clients.admin(settings)
    client.list_topics(topic, ANSWER_S)
    return client


@dataclass(frozen=True, slots=True)
class Portion:
    """Rows of one changelog partition, each device's newest so far. gone : ids whose tombstone was found.

    complete : the partition is read to its end.
    """

    partition: int
    rows: Rows
    gone: list[bytes]
    owners: frozenset[int]
    complete: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to read of one changelog partition: the rows of these owners, from this offset on."""

    owners: frozenset[int]
    start: int


class Changelog:
    """Reads the compacted state topic. Blocking: called in an executor; it does not touch the core.

    Its clients live for a question each: one that is kept asks a dead broker for its connection without a pause.

    done, total : records of the restore under way; both 0 = none is. restored : records read since the start.
    moved_at : when a portion was last taken; monotonic clock, s.
    """

    def __init__(self, settings: Settings, topic: str, core: Core, stopping: Callable[[], bool]) -> None:
        self._settings, self.topic, self.catalogs, self.stopping = settings, topic, core.catalogs, stopping
        self.done = self.total = self.restored = 0
        self.moved_at = 0.0

    def starts(self, committed: Mapping[tuple[str, int], int | None]) -> dict[tuple[str, int], int]:
        """Where each input partition's work goes on: at its committed offset.

        Where there is none, or the records behind it are gone, at the first offset that is there; where the log
        ends before it, at the end.

        Raises
        ------
        KafkaException : a partition's leader does not answer.
        """
        if not committed:
            return {}
        client = connected(self._settings, next(iter(committed))[0])
        first = offsets.offsets_of(client, committed, OffsetSpec.earliest(), ANSWER_S)
        last = offsets.offsets_of(client, committed, OffsetSpec.latest(), ANSWER_S)
        found = {}
        for at, offset in committed.items():
            if offset is not None and offset > last[at]:
                log.error(
                    "%s/%d: the log ends at offset %d, before the committed offset %d: a broker has lost "
                    "records, or the topic was made anew; going on at the end", *at, last[at], offset,
                )  # fmt: skip
                found[at] = last[at]
                continue
            if offset is not None and offset < first[at]:
                log.error(
                    "%s/%d: %d records were removed by retention before they were processed (offsets %d to %d)",
                    *at, first[at] - offset, offset, first[at] - 1,
                )  # fmt: skip
            found[at] = first[at] if offset is None else max(offset, first[at])
        return found

    def ends(self, partitions: Iterable[int]) -> dict[int, int]:
        """The ends of these changelog partitions, open transactions included."""
        return self._offsets(connected(self._settings, self.topic), partitions, OffsetSpec.latest())

    def _offsets(self, client: AdminClient, partitions: Iterable[int], spec: OffsetSpec) -> dict[int, int]:
        found = offsets.offsets_of(client, [(self.topic, p) for p in partitions], spec, ANSWER_S)
        return {partition: offset for (_, partition), offset in found.items()}

    def begin(self, wanted: Mapping[int, Wanted]) -> Reading:
        """A reading of these partitions, up to their ends as of now.

        Raises
        ------
        KafkaException : the topic's leaders do not answer.
        """
        client = connected(self._settings, self.topic)
        ends = self._offsets(client, wanted, OffsetSpec.latest())
        first = self._offsets(client, wanted, OffsetSpec.earliest())
        starts = {p: max(w.start, first[p]) for p, w in wanted.items()}
        return Reading(self, wanted, starts, ends)

    def consumer(self) -> Consumer:
        """Reads committed rows, and tells where a partition ends."""
        return clients.consumer(
            self._settings,
            self._settings.processing.group + "-restore",
            enable_partition_eof=True,
            fetch_max_bytes=16 << 20,
            max_partition_fetch_bytes=4 << 20,
            queued_max_messages_kbytes=BUFFER_KB,
            queued_min_messages=100_000,
            fetch_wait_max_ms=50,
        )


class Reading:
    """One pass over some changelog partitions, a few at a time, so that the first is there before the last.

    `next` and `close` block; called by one thread at a time. found : what was read so far.
    """

    def __init__(
        self, log: Changelog, wanted: Mapping[int, Wanted], starts: Mapping[int, int], ends: Mapping[int, int]
    ) -> None:
        self._log, self._wanted, self._starts = log, wanted, starts
        self.ends = ends
        self.found = Restored()
        self.left = {p for p in wanted if starts[p] < ends[p]}
        self._at, self._rows = dict(starts), dict[int, dict[bytes, bytes | None]]()
        self._splitter = Splitter()
        self._consumer: Consumer | None = None
        self._reading: set[int] = set()
        self._stopped = False
        self._began_at = self._told_at = time.monotonic()
        log.done, log.total, log.moved_at = 0, sum(ends[p] - starts[p] for p in self.left), self._began_at

    def next(self) -> Portion:
        """The newest rows of a partition, or of PORTION devices of it. If it raised, it goes on where it was.

        Raises
        ------
        KafkaException : the topic cannot be read.
        RestoreStoppedError : the worker is to stop.
        """
        try:
            while (partition := self._ripe()) is None:
                self._read_on()
                self._tell()
        except BaseException:
            self.close()
            raise
        rows = self._rows.pop(partition, {})
        complete = self._at[partition] >= self.ends[partition]
        if complete:
            self.left.discard(partition)
            if self._consumer is not None:
                self._consumer.pause([TopicPartition(self._log.topic, partition)])
        values = (value for value in rows.values() if value is not None)
        owners = self._wanted[partition].owners
        return Portion(
            partition,
            sort(self._log.catalogs, values, owners, self.found, self._splitter),
            [key for key, value in rows.items() if value is None and 0 < len(key) <= 64],
            owners,
            complete,
        )

    def _ripe(self) -> int | None:
        """A partition that is at its end, or of which a portion is there."""
        for p in sorted(self.left):
            if self._at[p] >= self.ends[p] or len(self._rows.get(p, ())) >= PORTION:
                return p
        return None

    def _read_on(self) -> None:
        if self._stopped or self._log.stopping():
            raise RestoreStoppedError
        if self._consumer is None:
            self._consumer = self._log.consumer()
            self._consumer.assign([TopicPartition(self._log.topic, p, self._at[p]) for p in sorted(self.left)])
            self._consumer.pause([TopicPartition(self._log.topic, p) for p in sorted(self.left)[AT_ONCE:]])
            self._reading = set(sorted(self.left)[:AT_ONCE])
        elif waiting := sorted(self.left - self._reading)[: AT_ONCE - len(self._reading & self.left)]:
            self._consumer.resume([TopicPartition(self._log.topic, p) for p in waiting])
            self._reading |= set(waiting)
        for message in self._consumer.consume(CHUNK, WAIT_S):
            error, partition = message.error(), message.partition()
            if error is None:
                if partition in self.left and (offset := message.offset()) < self.ends[partition]:
                    self._rows.setdefault(partition, {})[message.key()] = message.value()
                    self.found.records += 1
                    self._at[partition] = offset + 1
                else:
                    self._at[partition] = self.ends[partition]
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                self._at[partition] = max(self._at[partition], message.offset())
            else:
                raise KafkaException(error)
            self._log.moved_at = time.monotonic()

    def _tell(self) -> None:
        log_, now = self._log, time.monotonic()
        log_.done = min(log_.total, sum(min(self._at[p], self.ends[p]) - s for p, s in self._starts.items()))
        if now - self._told_at > PROGRESS_EVERY_S:
            self._told_at = now
            log.info(
                "restoring: %d of %d records (%.0f %%), %d of %d partitions left",
                log_.done, log_.total, 100 * log_.done / max(1, log_.total), len(self.left), len(self._starts),
            )  # fmt: skip

    def finish(self) -> None:
        """Tell what was found; all of it is adopted."""
        found = self.found
        self._log.done = self._log.total = 0
        self._log.restored += found.records
        if any(found.set_aside.values()):
            log.warning("state rows set aside, their devices start anew: %s", dict(+found.set_aside))
        if found.migrated:
            log.warning("%d state rows of other settings: what still means the same was taken", found.migrated)
        log.info(
            "restored partitions %s: %d rows of %d records in %.2f s",
            sorted(self._wanted), found.rows, found.records, time.monotonic() - self._began_at,
        )  # fmt: skip

    def stop(self) -> None:
        """Let `next` raise RestoreStoppedError soon. Called by any thread."""
        self._stopped = True

    def close(self) -> None:
        """Let the consumer go. `next` makes another if it is called again."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()
