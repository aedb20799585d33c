"""What Kafka itself knows of the work: ends, committed offsets, group members. The rule: it joins no group."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException
from confluent_kafka.admin import OffsetSpec

from telemetry.clients import admin, cluster_metadata
from telemetry.errors import BrokerUnavailableError
from telemetry.lag import LagSeconds, OffsetHistory, Rate
from telemetry.offsets import list_offsets
from telemetry.settings import Settings
from telemetry.topics import topics

_Key = tuple[str, int]
_MINUTE_MS = 60_000
#: A page must not stand still for longer than this because of one question.
_ANSWER_S = 3.0


@dataclass(frozen=True, slots=True)
class TopicRow:
    """One input, its partitions summed. lag : the partition that is furthest behind. NaN = not known yet."""

    topic: str
    partitions: int
    produced_per_s: float
    processed_per_s: float
    lag_records: int
    lag: LagSeconds


@dataclass(frozen=True, slots=True)
class Member:
    """One worker as the group coordinator sees it. partitions : topic -> those assigned to it."""

    member_id: str
    client_id: str
    host: str
    partitions: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class ClusterPage:
    """One look at the cluster. The counts are of the last minute, by the brokers' clock; None = no such topic."""

    inputs: tuple[TopicRow, ...]
    missing: tuple[str, ...]
    group_state: str
    members: tuple[Member, ...]
    alerts_last_minute: int | None
    dead_letters_last_minute: int | None
    late_last_minute: int | None


class ClusterProbe:
    """Looks again and again; rates and lag in seconds come from what was seen before."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._group = settings.processing.group
        self._topics = topics(settings)
        self._admin = admin(settings)
        self._timeout_s = min(settings.kafka.connect_timeout_s, _ANSWER_S)
        self._partitions: dict[str, int] = {}
        self._history: dict[_Key, OffsetHistory] = {}
        self._produced: dict[str, Rate] = {spec.name: Rate() for spec in self._topics.inputs}
        self._processed: dict[str, Rate] = {spec.name: Rate() for spec in self._topics.inputs}

    def _watched(self) -> tuple[str, ...]:
        t = self._topics
        return tuple(spec.name for spec in (*t.inputs, t.alerts, t.dlq, t.late))

    def _find_topics(self) -> None:
        """Once all watched topics are found, they are not asked for again."""
        if len(self._partitions) == len(self._watched()):
            return
        found = cluster_metadata(self._admin, self._settings).topics
        self._partitions = {
            name: len(found[name].partitions)
            for name in self._watched()
            if name in found and found[name].error is None
        }

    def _offsets(self, names: Iterable[str], spec: OffsetSpec) -> dict[_Key, int]:
        partitions = {name: self._partitions[name] for name in names if name in self._partitions}
        return list_offsets(self._admin, partitions, spec, self._timeout_s)

    def _committed(self) -> dict[_Key, int]:
        wanted = [ConsumerGroupTopicPartitions(self._group)]
        futures = self._admin.list_consumer_group_offsets(wanted, request_timeout=self._timeout_s)
        result = futures[self._group].result()
        return {(tp.topic, tp.partition): tp.offset for tp in result.topic_partitions or () if tp.offset >= 0}

    def _members(self) -> tuple[str, tuple[Member, ...]]:
        futures = self._admin.describe_consumer_groups([self._group], request_timeout=self._timeout_s)
        group = futures[self._group].result()
        members = []
        for m in group.members:
            held: dict[str, list[int]] = {}
            for tp in m.assignment.topic_partitions if m.assignment else ():
                held.setdefault(tp.topic, []).append(tp.partition)
            partitions = {topic: tuple(sorted(numbers)) for topic, numbers in sorted(held.items())}
            members.append(Member(m.member_id, m.client_id, m.host, partitions))
        return group.state.name.lower(), tuple(sorted(members, key=lambda m: m.member_id))

    def look(self) -> ClusterPage:
        """One page.

        Raises
        ------
        BrokerUnavailableError : the brokers do not answer in time, or refuse.
        """
        try:
            self._find_topics()
            ends = self._offsets(self._watched(), OffsetSpec.latest())
            now_s = time.monotonic()
            committed = self._committed()
            names = [spec.name for spec in self._topics.inputs]
            if any(key not in committed for key in ends if key[0] in names):  # not begun: from what is left there
                committed = self._offsets(names, OffsetSpec.earliest()) | committed
            state, members = self._members()
            minute = self._minute(ends)
        except KafkaException as exc:
            self._partitions = {}  # a topic may be gone: look again
            # after a restart of the whole cluster, an old client waits for the group's coordinator in vain
            self._admin = admin(self._settings)
            raise BrokerUnavailableError(
                f"asking {self._settings.kafka.bootstrap} about the group {self._group}: {exc.args[0].str()}"
            ) from exc
        rows = tuple(
            self._row(spec.name, ends, committed, now_s)
            for spec in self._topics.inputs
            if spec.name in self._partitions
        )
        t = self._topics
        return ClusterPage(
            inputs=rows,
            missing=tuple(name for name in self._watched() if name not in self._partitions),
            group_state=state,
            members=members,
            alerts_last_minute=minute.get(t.alerts.name),
            dead_letters_last_minute=minute.get(t.dlq.name),
            late_last_minute=minute.get(t.late.name),
        )

    def _minute(self, ends: Mapping[_Key, int]) -> dict[str, int]:
        """Records of the last minute by topic."""
        names = [s.name for s in (self._topics.alerts, self._topics.dlq, self._topics.late)]
        counted = Counter({name: 0 for name in names if name in self._partitions})
        since = OffsetSpec.for_timestamp(int(time.time() * 1000) - _MINUTE_MS)
        for (topic, partition), first in self._offsets(names, since).items():
            if first >= 0:  # -1: nothing so young
                counted[topic] += max(ends[topic, partition] - first, 0)
        return dict(counted)

    def _row(self, topic: str, ends: Mapping[_Key, int], committed: Mapping[_Key, int], now_s: float) -> TopicRow:
        waiting, worst = 0, LagSeconds(0.0, estimated=False)
        produced = processed = 0
        for partition in range(self._partitions[topic]):
            key = (topic, partition)
            history = self._history.setdefault(key, OffsetHistory())
            history.add(now_s, ends[key])
            done = min(committed.get(key, 0), ends[key])
            produced, processed = produced + ends[key], processed + done
            if ends[key] > done:
                waiting += ends[key] - done
                lag = history.lag(done, now_s)
                if math.isnan(lag.seconds) or not lag.seconds <= worst.seconds:
                    worst = lag
        self._produced[topic].add(now_s, produced)
        self._processed[topic].add(now_s, processed)
        return TopicRow(
            topic,
            self._partitions[topic],
            self._produced[topic].per_s,
            self._processed[topic].per_s,
            waiting,
            worst,
        )
