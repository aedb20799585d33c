"""From looks at Kafka to figures by partition number. The rule: lag that nobody can work off is told, not counted.

Offsets differ though nothing waits where the log ends in markers of transactions or in aborted records. A worker
knows (it reads committed records only); by offsets alone it cannot be told from a worker that stands still.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autoscaler.kafka_source import KafkaLook, Key, Member
from autoscaler.observation import Array
from telemetry.lag import OffsetHistory

#: Neither the commit nor the end has moved for so long: no worker commits as seldom while records wait.
STILL_S = 30.0


@dataclass(frozen=True, slots=True)
class Figures:
    """Sums over the input topics by partition number; see `observation.Observation`."""

    ends: Array
    committed: Array
    lag_s: Array
    owner: NDArray[np.int64]
    problems: tuple[str, ...]


@dataclass(slots=True)
class _Track:
    """One partition of one topic over time.

    end, done : at the last look that saw it; -1 = none yet. lag_s : then. raw : the commit as it was, -1 = none.
    passed : up to here nothing waits, by the owner's own word. still_s : since when nothing has moved.
    """

    history: OffsetHistory = field(default_factory=OffsetHistory)
    end: int = -1
    done: int = -1
    lag_s: float = math.nan
    raw: int = -1
    passed: int = 0
    still_s: float = math.inf
    epoch: str = ""

    def forget(self) -> None:
        """As if it had never been seen."""
        self.history, self.end, self.done, self.lag_s = OffsetHistory(), -1, -1, math.nan
        self.raw, self.passed, self.still_s, self.epoch = -1, 0, math.inf, ""


class Positions:
    """Knows what was seen before: the age of what waits, what has not moved, the last figures of what is silent."""

    def __init__(self, partitions: int) -> None:
        """partitions : as the setting says."""
        self._partitions = partitions
        self._tracks: dict[Key, _Track] = {}
        self._ids: dict[str, str] = {}

    def add(self, look: KafkaLook, now_s: float, waiting: Mapping[Key, float] | None = None) -> Figures:
        """One look's figures.

        waiting : records by the owner's own page, of the partitions whose owner answered.
        """
        said: defaultdict[str, list[Key]] = defaultdict(list)
        self._forget(look, said)
        count = max(look.topics.values())
        ends, done, lag_s = np.zeros(count), np.zeros(count), np.zeros(count)
        for topic, partitions in look.topics.items():
            for number in range(partitions):
                key = (topic, number)
                track = self._tracks.setdefault(key, _Track())
                if key in look.ends:
                    self._see(track, key, look, now_s, said)
                    if track.done < track.end:
                        self._judge(track, key, look, now_s, (waiting or {}).get(key, math.nan), said)
                    track.lag_s = track.history.lag(track.done, now_s).seconds
                elif track.end < 0:
                    said[f"{look.silent[key]}, and never seen: counted as if nothing waited"].append(key)
                    ends[number] += (done_ := look.committed.get(key, 0))
                    done[number] += done_
                    lag_s[number] = math.nan
                    continue
                else:
                    said[f"{look.silent[key]}: the last figures known are kept"].append(key)
                ends[number] += track.end
                done[number] += track.done
                lag_s[number] = np.maximum(lag_s[number], track.lag_s)  # not known: neither is the worst
        owner, split = owners(look.members, look.topics)
        problems = (*self._shape(look, split), *(f"{where(keys)}: {text}" for text, keys in said.items()))
        return Figures(ends, done, lag_s, owner, problems)

    def _forget(self, look: KafkaLook, said: dict[str, list[Key]]) -> None:
        for topic, made in look.topic_ids.items():
            if self._ids.get(topic, made) != made:
                gone = sorted(key for key in self._tracks if key[0] == topic)
                for key in gone:
                    self._tracks[key].forget()
                said["the topic was made anew: what was known of it is forgotten"] += gone
            self._ids[topic] = made

    def _see(self, track: _Track, key: Key, look: KafkaLook, now_s: float, said: dict[str, list[Key]]) -> None:
        begin, end, raw = look.begins[key], look.ends[key], look.committed.get(key, -1)
        if end < track.end:
            said["its end went back: what was known of it is forgotten"].append(key)
            track.forget()
        done = raw
        if raw < 0:
            done = begin
            if end > begin:
                said["no committed offset: counted from its beginning, where a worker would begin"].append(key)
        elif raw < begin:
            done = begin
            said[
                "records were removed before the group processed them: counted from the first that is left"
            ].append(key)
        elif raw > end:
            done = end
            said[
                "the committed offset is beyond the end (made anew, or records were lost): nothing waits; records "
                "up to that offset will not be read unless it is reset"
            ].append(key)
        if raw < track.raw:
            track.passed = 0  # set back by hand: what is below may wait after all
        if (raw, end, look.epoch) != (track.raw, track.end, track.epoch) or not look.stable:
            track.still_s = now_s
        track.raw, track.end, track.epoch = raw, end, look.epoch
        track.done = min(max(done, track.passed), end)
        track.history.add(now_s, end)

    def _judge(
        self, track: _Track, key: Key, look: KafkaLook, now_s: float, waits: float, said: dict[str, list[Key]]
    ) -> None:
        """What to hold of offsets that differ and do not move, in a group that is well."""
        if not look.stable or not look.members or now_s - track.still_s < STILL_S:
            return
        if waits == 0:
            track.done = track.passed = track.end
            said["its end is markers of transactions or aborted records, by its worker: nothing waits"].append(key)
        elif waits > 0:
            said[
                f"neither commit nor end has moved for {STILL_S:g} s or more, and by its worker records wait: it "
                "stands still (see its log)"
            ].append(key)
        else:
            said[
                f"offsets differ, but neither commit nor end has moved for {STILL_S:g} s or more: markers of "
                "transactions or aborted records, or a worker that stands still; its metrics page, which is not "
                "read, would tell"
            ].append(key)

    def _shape(self, look: KafkaLook, split: Iterable[int]) -> list[str]:
        found = []
        if len(set(look.topics.values())) > 1:
            each = ", ".join(f"{topic} {count}" for topic, count in look.topics.items())
            found.append(
                f"the input topics have different numbers of partitions ({each}): the largest counts; workers "
                "refuse them, see docs/topics.md"
            )
        for topic, count in look.topics.items():
            if count != self._partitions:
                found.append(
                    f"topic {topic} has {count} partitions, the setting topics.partitions says {self._partitions}: "
                    "what the topic has counts here, but workers refuse it (exit 78); see docs/topics.md"
                )
        if numbers := list(split):
            found.append(
                f"partitions {ranges(numbers)} belong to one member in one topic and to another in the other: the "
                "first topic's counts"
            )
        if look.state == "dead":
            found.append("the group does not exist: no worker has joined yet, or processing.group is another here")
        return found


def owners(members: Iterable[Member], topics: Mapping[str, int]) -> tuple[NDArray[np.int64], tuple[int, ...]]:
    """(owner of each partition number by index of the member, -1 = nobody; the numbers with more than one).

    Of several it is the one with the number in the first of the topics.
    """
    count = max(topics.values())
    owner = np.full(count, -1, np.int64)
    split: set[int] = set()
    holder = {key: n for n, member in enumerate(members) for key in member.partitions}
    for topic in topics:
        for number in range(count):
            n = holder.get((topic, number), -1)
            if n < 0:
                continue
            if owner[number] < 0:
                owner[number] = n
            elif owner[number] != n:
                split.add(number)
    return owner, tuple(sorted(split))


def ranges(numbers: Iterable[int]) -> str:
    """0-2,5."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def where(keys: Iterable[Key]) -> str:
    """``t.vehicle 0-2,5 and t.device 1``."""
    held: defaultdict[str, list[int]] = defaultdict(list)
    for topic, number in keys:
        held[topic].append(number)
    return " and ".join(f"{topic} {ranges(numbers)}" for topic, numbers in held.items())
