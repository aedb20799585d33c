"""Alert events for a group of forwarders. The rule: what is open is known from the topic, and nothing from a disk.

A committed offset carries, as its metadata, from where the topic must be read again to know what is open: a process
that is given the partition reads from there, recalls, and forwards from the committed offset on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from fleetwatch.alert_feed import Received
from fleetwatch.forward import Progress, Standing, state_since, state_text
from telemetry.alerts import Alert, ce_attributes
from telemetry.clients import admin, cluster_metadata, consumer
from telemetry.errors import AccessError, BrokerUnavailableError, TopicError
from telemetry.log import printable
from telemetry.offsets import offsets_of
from telemetry.passing import PASSING
from telemetry.settings import Settings
from telemetry.topics import topics

log = logging.getLogger("fleetwatch.forward")

_SEEN_MAX = 20_000
_ASSIGN_S = 30.0
_RETRY_S = 0.5
_LEAVE_S = 4.0
#: After reading was paused: so long until the ends of partitions count as their present ends again.
_RESUMED_S = 10.0
_REFUSED = {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED}
_GONE = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
}


@dataclass(slots=True, eq=False)
class Partition:
    """One that is ours.

    Attributes
    ----------
    live_from : records before it are recalled, not forwarded.
    over : it is another's now.
    known, current : read to its end, once and at present.
    sent, stored : offset and metadata that were last committed; the broker has said so of `stored`.
    """

    number: int
    live_from: int
    progress: Progress
    over: bool = False
    known: bool = False
    current: bool = False
    sent: tuple[int, str] | None = None
    stored: tuple[int, str] | None = None
    seen: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def is_new(self, event_id: str) -> bool:
        """Whether an event has not come before; the newest are remembered."""
        if event_id in self.seen:
            return False
        self.seen[event_id] = None
        if len(self.seen) > _SEEN_MAX:
            self.seen.popitem(last=False)
        return True


@dataclass(frozen=True, slots=True)
class Read:
    """One record. received None = it is no alert, and `bad` says why."""

    partition: Partition
    offset: int
    received: Received | None
    bad: str = ""

    @property
    def live(self) -> bool:
        return self.offset >= self.partition.live_from


class AlertStream:
    """The alert topic for one member of a group.

    Parameters
    ----------
    since_ms : broker time from which a group begins that has no offsets yet; None = what comes from now on.
    recall_s : how far such a group looks back for what is open; 0 = it has no memory to fill.
    oldest : partition -> from which offset what is open must be read; None = nothing is.
    leaving : called with partitions before they are another's.
    forget : called with a partition whose open alerts are not ours to say.

    A broker that is away takes the partitions from us, too, but gives them to nobody: what is open in such orphans
    goes on being said, until the group is back or for `recall_s`.
    """

    def __init__(
        self,
        settings: Settings,
        group: str,
        since_ms: int | None,
        recall_s: float,
        oldest: Callable[[int], int | None],
        leaving: Callable[[list[Partition]], None],
        forget: Callable[[int], None],
    ) -> None:
        self.topic, self.group = topics(settings).alerts.name, group
        self.partitions: dict[int, Partition] = {}
        self._settings, self._since_ms, self._recall_s = settings, since_ms, recall_s
        self._oldest, self._leaving, self._forget = oldest, leaving, forget
        self._orphans: dict[int, float] = {}  # partition -> when it was lost
        self.paused = self._closing = False
        self._resumed_s = -_RESUMED_S
        self._consumer = consumer(
            settings,
            group,
            enable_partition_eof=True,
            partition_assignment_strategy="range",
            queued_max_messages_kbytes=4096,
            on_commit=self._stored,
            session_timeout_ms=int(settings.processing.session_timeout_s * 1000),
            heartbeat_interval_ms=int(settings.processing.heartbeat_s * 1000),
        )
        try:
            self._require_topic()
            self._consumer.subscribe(
                [self.topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
            )
        except BaseException:
            self._consumer.close()
            raise

    def _require_topic(self) -> None:
        found = cluster_metadata(self._consumer, self._settings).topics.get(self.topic)
        if found is None or found.error is not None:
            raise TopicError(
                f"topic {self.topic} does not exist at {self._settings.kafka.bootstrap} (or this login may not see "
                "it): create the topics with `fleetwatch topics apply`, or start a worker"
            )

    # -- whose partitions ---------------------------------------------------------------------------------------

    def _assigned(self, _consumer: Any, given: list[TopicPartition]) -> None:
        end = time.monotonic() + _ASSIGN_S
        while True:
            try:
                starts = self._starts(given)
                break
            except KafkaException as exc:
                if exc.args[0].code() not in PASSING or time.monotonic() > end:
                    raise BrokerUnavailableError(f"offsets of {self.topic}: {printable(str(exc))}") from exc
                time.sleep(_RETRY_S)
        for number in list(self._orphans):
            del self._orphans[number]
            self._forget(number)
        self._consumer.assign(starts)
        if self.paused:
            self._consumer.pause(starts)
        log.info("forwards partitions %s of %s", sorted(self.partitions), self.topic)

    def _starts(self, given: list[TopicPartition]) -> list[TopicPartition]:
        timeout_s = self._settings.kafka.connect_timeout_s
        numbers = [tp.partition for tp in given]
        committed = {tp.partition: tp for tp in self._consumer.committed(given, timeout=timeout_s)}
        for tp in committed.values():
            if tp.error is not None:
                raise KafkaException(tp.error)
        client = admin(self._settings)
        places = [(self.topic, number) for number in numbers]
        ends = offsets_of(client, places, OffsetSpec.latest(), timeout_s, stable=True)
        now_ms = time.time() * 1000
        back = self._offsets_at(numbers, int(now_ms - self._recall_s * 1000)) if self._recall_s else {}
        begin = self._offsets_at(numbers, self._since_ms) if self._since_ms is not None else {}
        starts = []
        for number in numbers:
            tp, end = committed[number], ends[self.topic, number]
            live_from = tp.offset
            if live_from < 0:
                live_from = begin.get(number, end)
            elif live_from > end:
                log.warning("%s[%d] ends before the committed offset: it was made anew", self.topic, number)
                live_from = 0
            start = min(live_from, back.get(number, live_from))
            if tp.offset >= 0 and self._recall_s and (since := state_since(tp.metadata)) is not None:
                start = min(live_from, since)
            self.partitions[number] = Partition(number, live_from, Progress(live_from))
            starts.append(TopicPartition(self.topic, number, start if start else OFFSET_BEGINNING))
        return starts

    def _offsets_at(self, numbers: list[int], ms: int) -> dict[int, int]:
        """The first offset not older than `ms`; partitions that have none such are left out."""
        at = [TopicPartition(self.topic, number, max(0, ms)) for number in numbers]
        found = self._consumer.offsets_for_times(at, timeout=self._settings.kafka.connect_timeout_s)
        for tp in found:
            if tp.error is not None:
                raise KafkaException(tp.error)
        return {tp.partition: tp.offset for tp in found if tp.offset >= 0}

    def _revoked(self, _consumer: Any, taken: list[TopicPartition]) -> None:
        self._drop(taken, commit=not self._closing)

    def _lost(self, _consumer: Any, taken: list[TopicPartition]) -> None:
        known = [tp.partition for tp in taken if (p := self.partitions.get(tp.partition)) is not None and p.known]
        self._orphans |= dict.fromkeys(known, time.monotonic())
        self._drop(taken, commit=False)
        log.warning("cut off from the group %s: goes on when a broker answers", self.group)

    def _drop(self, taken: list[TopicPartition], *, commit: bool) -> None:
        leaving = [self.partitions[tp.partition] for tp in taken if tp.partition in self.partitions]
        for partition in leaving:
            partition.over = True
        self._leaving(leaving)
        if commit:
            self.commit(wait=True)
        for partition in leaving:
            del self.partitions[partition.number]
            if partition.number not in self._orphans:
                self._forget(partition.number)

    # -- reading ------------------------------------------------------------------------------------------------

    def read(self, limit: int, timeout_s: float) -> Iterator[Read]:
        """Records that come within `timeout_s`; limit 0 = none, but the group is served.

        Raises
        ------
        AccessError, TopicError, BrokerUnavailableError : it cannot be read, and waiting will not mend that.
        """
        for message in self._consumer.consume(max(1, limit), timeout_s):
            error = message.error()
            if error is not None:
                self._heed(message, error)
                continue
            partition = self.partitions.get(message.partition())
            if partition is None or partition.over:
                continue
            partition.current = False
            yield self._taken(partition, message)

    def _heed(self, message: Any, error: KafkaError) -> None:
        code = error.code()
        if code == KafkaError._PARTITION_EOF:  # noqa: SLF001 (the client's own name for it)
            if (partition := self.partitions.get(message.partition())) is not None:
                partition.known = partition.current = True
        elif code in _REFUSED:
            raise AccessError(
                f"this login may not read {self.topic} in the group {self.group}: {printable(error.str())}. An "
                "administrator runs `fleetwatch topics apply --acls --principal forwarder=User:NAME`"
            )
        elif code in _GONE:
            raise TopicError(f"{self.topic} at {self._settings.kafka.bootstrap}: {printable(error.str())}")
        elif error.fatal():
            raise BrokerUnavailableError(f"reading {self.topic}: {printable(error.str())}")
        else:
            log.warning("reading %s: %s", self.topic, printable(error.str()))

    @staticmethod
    def _taken(partition: Partition, message: Any) -> Read:
        headers, offset = message.headers(), message.offset()
        try:
            alert = Alert.from_message(message.value(), headers)
        except ValueError as exc:
            return Read(partition, offset, None, str(exc))
        return Read(partition, offset, Received(alert, ce_attributes(headers), message.timestamp()[1]))

    def pause(self, wanted: bool) -> None:
        """Stop or go on fetching; the group is served meanwhile."""
        if wanted == self.paused:
            return
        mine = [TopicPartition(self.topic, number) for number in self.partitions]
        (self._consumer.pause if wanted else self._consumer.resume)(mine)
        self.paused = wanted
        self._resumed_s = time.monotonic()

    @property
    def standing(self) -> Standing:
        settled = not self.paused and time.monotonic() - self._resumed_s > _RESUMED_S
        known = frozenset(p.number for p in self.partitions.values() if p.known)
        current = frozenset(n for n in known if settled and self.partitions[n].current)
        return Standing(known | self._orphans.keys(), current)

    def let_go(self) -> None:
        """Orphans that nobody has come for."""
        for number in [n for n, at in self._orphans.items() if time.monotonic() - at > self._recall_s]:
            del self._orphans[number]
            self._forget(number)

    # -- offsets ------------------------------------------------------------------------------------------------

    def commit(self, *, wait: bool = False) -> None:
        """Store what is final. wait : for the answer; else a broker that is away holds up nothing.

        What could not be stored is tried again the next time, or done again by whoever is next.
        """
        changed = {}
        for partition in self.partitions.values():
            offset = partition.progress.final
            text = state_text(partition.progress.since(self._oldest(partition.number))) if self._recall_s else ""
            # before all is recalled, what is open is not known
            recalled = partition.known or offset > partition.live_from or not self._recall_s
            if recalled and (offset, text) not in ((partition.stored,) if wait else (partition.sent,)):
                changed[partition.number] = (offset, text)
        if not changed:
            return
        wanted = [TopicPartition(self.topic, number, *stored) for number, stored in changed.items()]
        for number, stored in changed.items():
            self.partitions[number].sent = stored
        try:
            done = self._consumer.commit(offsets=wanted, asynchronous=not wait)
        except KafkaException as exc:
            self._stored(exc.args[0], wanted)
            return
        if wait:
            self._stored(None, done)

    def _stored(self, error: KafkaError | None, done: list[TopicPartition]) -> None:
        """The client's answer to a commit; called while reading."""
        failed = error
        for tp in done:
            partition = self.partitions.get(tp.partition)
            if error is None and tp.error is None:
                if partition is not None:
                    partition.stored = (tp.offset, tp.metadata or "")
                continue
            failed = failed or tp.error
            if partition is not None:
                partition.sent = partition.stored
        if failed is not None:
            log.warning("offsets of %s were not stored: %s", self.group, printable(failed.str()))

    @property
    def settled(self) -> bool:
        """Whether all that was committed is stored."""
        return all(p.sent == p.stored for p in self.partitions.values())

    def close(self) -> None:
        """Leaves the group; what is final has been committed before. A broker that hangs is not waited for."""
        self._closing = True
        leaving = threading.Thread(target=self._consumer.close, name="leave", daemon=True)
        leaving.start()
        leaving.join(_LEAVE_S)
