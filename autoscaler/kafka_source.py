"""What Kafka itself says of the group and its input topics. The rule: every question has an end.

It needs no more than DESCRIBE (the role `observer`): it reads no record and joins no group.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import OffsetSpec

from autoscaler.observation import BlindError
from telemetry.clients import admin, cluster_metadata
from telemetry.errors import FleetwatchError, SettingsError
from telemetry.log import printable
from telemetry.passing import PASSING
from telemetry.settings import Settings
from telemetry.topics import topics

Key = tuple[str, int]
#: A question and its answer; a quiet broker takes some 5 ms.
ANSWER_S = 2.0
#: Beyond the client's own time-out, which ends first.
_GRACE_S = 1.0
_REFUSED = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
_MISSING = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC})  # noqa: SLF001


@dataclass(frozen=True, slots=True)
class Member:
    """One worker as the group's coordinator sees it. partitions : of the input topics, sorted."""

    member_id: str
    partitions: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class KafkaLook:
    """One look.

    Attributes
    ----------
    topics : the inputs in a fixed order -> how many partitions each has.
    topic_ids : that a topic has another one after it was made anew.
    begins, ends : of the partitions that answered. An end is where a reader of committed records stops.
    silent : the partitions that did not answer, and why in a few words.
    committed : of the partitions that the group has committed, read before the ends; never a pending transaction's.
    state : of the group, as Kafka names it; dead = there is no such group.
    members : in order of their ids.
    """

    topics: Mapping[str, int]
    topic_ids: Mapping[str, str]
    begins: Mapping[Key, int]
    ends: Mapping[Key, int]
    silent: Mapping[Key, str]
    committed: Mapping[Key, int]
    state: str
    members: tuple[Member, ...] = ()

    @property
    def stable(self) -> bool:
        return self.state == "stable"

    @property
    def rebalancing(self) -> bool:
        return self.state in ("preparing_rebalancing", "completing_rebalancing")

    @property
    def epoch(self) -> str:
        """Of the membership and the assignment."""
        said = repr([(member.member_id, member.partitions) for member in self.members])
        return hashlib.sha256(said.encode()).hexdigest()[:16]


@dataclass(slots=True)
class _Layout:
    """Of the input topics: leaders : partition -> broker, None = it has no leader."""

    ids: dict[str, str] = field(default_factory=dict)
    leaders: dict[Key, int | None] = field(default_factory=dict)


class _WentWrongError(Exception):
    """A question without an answer. passing : asking again may help."""

    def __init__(self, text: str, *, passing: bool) -> None:
        super().__init__(text)
        self.passing = passing


class KafkaSource:
    """Looks again and again with one client; with a new one after a failure though some broker answers.

    A client of before may wait in vain for a coordinator or a controller that died (librdkafka 2.16.0). While a
    group's coordinator fails over, that release may abort the process (assertion "eonce->refcnt > 0" in
    rd_kafka_admin_coord_response_parse; also if asked one by one): a supervisor starts it again.
    """

    def __init__(self, settings: Settings, answer_s: float = ANSWER_S) -> None:
        """Raises SettingsError : a certificate, key or secret cannot be used."""
        self._settings = settings
        self._inputs = tuple(spec.name for spec in topics(settings).inputs)
        self._group = settings.processing.group
        self._answer_s = answer_s
        self._admin = admin(settings)
        self._members = 0

    @property
    def group(self) -> str:
        return self._group

    def members(self) -> int:
        """Of the group, at the last look that succeeded; 0 before the first."""
        return self._members

    def look(self) -> KafkaLook:
        """One look; a question that fails in passing is asked once more, by a new client.

        Raises
        ------
        BlindError : no broker, a topic missing, not allowed, no answer in time, no partition with a leader.
        """
        try:
            found = self._look()
        except _WentWrongError as exc:
            if not exc.passing:
                raise BlindError(str(exc)) from exc
            found = self._look_again()
        self._members = len(found.members)
        return found

    def _look_again(self) -> KafkaLook:
        try:
            try:
                cluster_metadata(self._admin, self._settings)  # says best why nobody answers
            except SettingsError:
                self._admin = admin(self._settings)  # reads a password that was changed meanwhile
                raise
            self._admin = admin(self._settings)
            return self._look()
        except (FleetwatchError, _WentWrongError) as exc:
            raise BlindError(str(exc)) from exc

    def _look(self) -> KafkaLook:
        limit = {"request_timeout": self._answer_s}
        layout = self._admin.describe_topics(TopicCollection(list(self._inputs)), **limit)
        group = self._admin.describe_consumer_groups([self._group], **limit)[self._group]
        # without require_stable: it would wait for transactions under way, and what they are to commit never counts
        commits = self._admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(self._group)], **limit)
        at = self._layout(layout)
        described = self._answer(group, f"group {self._group}")
        held = self._answer(commits[self._group], f"offsets of group {self._group}").topic_partitions or ()
        begins, ends, silent = self._offsets(at.leaders)
        if not ends:
            raise _WentWrongError(
                f"no partition of {' or '.join(self._inputs)} can be asked for its end: {_commonest(silent)}; "
                "bring the brokers back that hold them",
                passing=True,
            )
        counts = {name: sum(key[0] == name for key in at.leaders) for name in self._inputs}
        return KafkaLook(
            topics=counts,
            topic_ids=at.ids,
            begins=begins,
            ends=ends,
            silent=silent,
            committed={(e.topic, e.partition): e.offset for e in held if e.topic in counts and e.offset >= 0},
            state=described.state.name.lower(),
            members=self._held(described.members),
        )

    def _held(self, members: Iterable[Any]) -> tuple[Member, ...]:
        found = []
        for member in members:
            parts = member.assignment.topic_partitions if member.assignment else ()
            keys = sorted((e.topic, e.partition) for e in parts if e.topic in self._inputs)
            found.append(Member(member.member_id, tuple(keys)))
        return tuple(sorted(found, key=lambda each: each.member_id))

    def _layout(self, asked: Mapping[str, Future[Any]]) -> _Layout:
        at = _Layout()
        for name in self._inputs:
            described = self._answer(asked[name], f"topic {name}")
            at.ids[name] = str(described.topic_id)
            for partition in described.partitions:
                at.leaders[name, partition.id] = partition.leader.id if partition.leader else None
        return at

    def _offsets(self, leaders: Mapping[Key, int | None]) -> tuple[dict[Key, int], dict[Key, int], dict[Key, str]]:
        """(first, end, what did not answer). Asked leader by leader: a dead one holds up no other's answer."""
        led: defaultdict[int, list[Key]] = defaultdict(list)
        silent: dict[Key, str] = {}
        for key, leader in leaders.items():
            if leader is None:
                silent[key] = "no leader"
            else:
                led[leader].append(key)
        asked = [
            self._admin.list_offsets(
                {TopicPartition(*key): spec for key in keys},
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=self._answer_s,
            )
            for keys in led.values()
            for spec in (OffsetSpec.earliest(), OffsetSpec.latest())
        ]
        begins: dict[Key, int] = {}
        ends: dict[Key, int] = {}
        deadline = time.monotonic() + self._answer_s + _GRACE_S
        for n, answers in enumerate(asked):
            for tp, future in answers.items():
                key = (tp.topic, tp.partition)
                try:
                    offset = int(future.result(max(0.0, deadline - time.monotonic())).offset)
                except KafkaException as exc:
                    if exc.args[0].code() in _REFUSED:
                        raise self._refused(f"topic {tp.topic}") from exc
                    silent[key] = printable(exc.args[0].str())
                    continue
                except TimeoutError:
                    offset = -1
                if offset < 0:  # librdkafka's answer, without an error, for a leader that did not answer in time
                    silent[key] = "its leader does not answer"
                else:
                    (begins, ends)[n % 2][key] = offset
        for key in silent:
            begins.pop(key, None)
            ends.pop(key, None)
        return begins, ends, silent

    def _answer(self, future: Future[Any], what: str) -> Any:
        try:
            return future.result(self._answer_s + _GRACE_S)
        except KafkaException as exc:
            code = exc.args[0].code()
            if code in _REFUSED:
                raise self._refused(what) from exc
            if code in _MISSING:
                text = f"{what} does not exist: `fleetwatch topics apply` makes it, unless topics.prefix is wrong"
                raise _WentWrongError(text, passing=True) from exc  # a broker that has just started may not know
            text = f"asking {self._settings.kafka.bootstrap} about the {what}: {printable(exc.args[0].str())}"
            raise _WentWrongError(text, passing=code in PASSING) from exc
        except TimeoutError as exc:
            text = f"asking {self._settings.kafka.bootstrap} about the {what}: no answer"
            raise _WentWrongError(text, passing=True) from exc

    def _refused(self, what: str) -> _WentWrongError:
        who = self._settings.kafka.sasl_username or self._settings.kafka.ssl_certificate or "this client"
        return _WentWrongError(
            f"{who} may not see the {what}: an administrator runs `fleetwatch topics apply --acls --principal "
            "observer=User:NAME`",
            passing=False,
        )


def _commonest(silent: Mapping[Key, str]) -> str:
    said = list(silent.values())
    return max(set(said), key=said.count) if said else "they have no partitions"
