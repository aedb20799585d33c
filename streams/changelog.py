"""State back from the changelog, when partitions are assigned. The rule: only what is missing is read, to its end.

To its end: up to the end of the log as it was when the restore began, not up to where a reader of committed records
happens to stand: another worker's open transaction may hold that reader back before rows that are ours.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import OffsetSpec

from streams.core.core import Core
from streams.core.state import Restored, load
from telemetry import clients, offsets
from telemetry.settings import Settings

log = logging.getLogger("fleetwatch.changelog")

PROGRESS_EVERY_S = 5.0
#: Records taken at a time: of large rows some tens of MB.
CHUNK = 4000
BUFFER_KB = 32 * 1024
ANSWER_S = 5.0


class RestoreStoppedError(RuntimeError):
    """The worker is to stop; what was restored so far is of no use."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to read of one changelog partition: the rows of these owners, from this offset on."""

    owners: frozenset[int]
    start: int


class Changelog:
    """Reads the compacted state topic. Blocking: called in an executor, while no batch is processed.

    Its clients live for a question each: one that is kept asks a dead broker for its connection without a pause.

    done, total : records of the restore under way; both 0 = none is. restored : records read since the start.
    moved_at : when a portion was last taken; monotonic clock, s.
    """

    def __init__(self, settings: Settings, topic: str, core: Core, stopping: Callable[[], bool]) -> None:
        self._settings, self._topic, self._core, self._stopping = settings, topic, core, stopping
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
        first = offsets.offsets_of(clients.admin(self._settings), committed, OffsetSpec.earliest(), ANSWER_S)
        last = offsets.offsets_of(clients.admin(self._settings), committed, OffsetSpec.latest(), ANSWER_S)
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
        return self._offsets(partitions, OffsetSpec.latest())

    def _offsets(self, partitions: Iterable[int], spec: OffsetSpec) -> dict[int, int]:
        found = offsets.offsets_of(
            clients.admin(self._settings), [(self._topic, p) for p in partitions], spec, ANSWER_S
        )
        return {partition: offset for (_, partition), offset in found.items()}

    def restore(self, wanted: Mapping[int, Wanted]) -> Restored:
        """Adopt the devices of these partitions, in portions, so that memory is bounded by what the core holds.

        Raises
        ------
        KafkaException : the topic cannot be read.
        RestoreStoppedError : the worker is to stop.
        """
        started = time.monotonic()
        ends = self.ends(wanted)
        first = self._offsets(wanted, OffsetSpec.earliest())
        starts = {p: max(w.start, first[p]) for p, w in wanted.items()}
        self.done, self.total = 0, sum(max(0, ends[p] - starts[p]) for p in wanted)
        found = Restored(ends=ends)
        left = {p for p in wanted if starts[p] < ends[p]}
        if left:
            self._read(wanted, {p: starts[p] for p in left}, {p: ends[p] for p in left}, found)
        self.done = self.total = 0
        self.restored += found.records
        if any(found.set_aside.values()):
            log.warning("state rows set aside, their devices start anew: %s", dict(+found.set_aside))
        if found.migrated:
            log.warning("%d state rows of other settings: what still means the same was taken", found.migrated)
        log.info(
            "restored partitions %s: %d rows of %d records in %.2f s",
            sorted(wanted), found.rows, found.records, time.monotonic() - started,
        )  # fmt: skip
        return found

    def _consumer(self) -> Consumer:
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

    def _read(
        self, wanted: Mapping[int, Wanted], starts: Mapping[int, int], ends: Mapping[int, int], found: Restored
    ) -> None:
        consumer, left, told = self._consumer(), set(starts), time.monotonic()
        at = dict(starts)
        try:
            consumer.assign([TopicPartition(self._topic, p, start) for p, start in starts.items()])
            while left:
                if self._stopping():
                    raise RestoreStoppedError
                messages = consumer.consume(CHUNK, 0.5)
                if messages:
                    self._take(messages, wanted, at, found)
                    self.moved_at = time.monotonic()
                left = {p for p in left if at[p] < ends[p]}
                self.done = sum(min(at[p], ends[p]) - starts[p] for p in starts)
                if time.monotonic() - told > PROGRESS_EVERY_S:
                    told = time.monotonic()
                    log.info(
                        "restoring: %d of %d records (%.0f %%), %d of %d partitions left",
                        self.done, self.total, 100 * self.done / max(1, self.total), len(left), len(starts),
                    )  # fmt: skip
        finally:
            consumer.close()

    def _take(
        self, messages: list[Message], wanted: Mapping[int, Wanted], at: dict[int, int], found: Restored
    ) -> None:
        """Apply a portion: the newest row of each device in it. at : moved to where each partition goes on."""
        newest: dict[int, dict[bytes, bytes | None]] = {}
        for message in messages:
            error, partition = message.error(), message.partition()
            if error is None:
                newest.setdefault(partition, {})[message.key()] = message.value()
                at[partition] = message.offset() + 1
                found.records += 1
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                at[partition] = max(at[partition], message.offset())
            else:
                raise KafkaException(error)
        for partition, rows in newest.items():
            gone = [key for key, value in rows.items() if value is None and 0 < len(key) <= 64]
            if gone:
                self._core.forget(gone, wanted[partition].owners)
            some = (value for value in rows.values() if value is not None)
            load(self._core, some, set(wanted[partition].owners), found)
