"""From looks at Kafka to figures by partition number: sums, owners, what does not move. A clock moved by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.kafka_source import KafkaLook, Key, Member
from autoscaler.positions import STILL_S, Figures, Positions, owners, ranges, where

A, B = "t.vehicle", "t.device"
ONE = (Member("m-0", ((A, 0), (B, 0))),)


def look(
    ends: Mapping[Key, int],
    committed: Mapping[Key, int] | None = None,
    *,
    begins: Mapping[Key, int] | None = None,
    topics: Mapping[str, int] | None = None,
    members: tuple[Member, ...] = ONE,
    state: str = "stable",
    made: str = "1",
) -> KafkaLook:
    """A look of partitions that all answered, or have no leader where `ends` names none."""
    topics = topics or {A: 1, B: 1}
    every = [(topic, number) for topic, count in topics.items() for number in range(count)]
    return KafkaLook(
        topics=topics,
        topic_ids=dict.fromkeys(topics, made),
        begins={key: (begins or {}).get(key, 0) for key in ends},
        ends=ends,
        silent={key: "no leader" for key in every if key not in ends},
        committed=committed or {},
        state=state,
        members=members,
    )


def one(end: int, committed: int, **more: object) -> KafkaLook:
    """Of one partition in which something may wait."""
    return look({(A, 0): end, (B, 0): 0}, {(A, 0): committed, (B, 0): 0}, **more)  # type: ignore[arg-type]


def has(figures: Figures, text: str) -> bool:
    return any(text in problem for problem in figures.problems)


OFFSETS = st.integers(0, 10**6)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[dict[str, int], dict[Key, tuple[int, int, int | None]]]:
    """(topics, (first, end, committed or None) of each partition)."""
    topics = {A: draw(st.integers(1, 6)), B: draw(st.integers(1, 6))}
    found = {}
    for topic, count in topics.items():
        for number in range(count):
            begin, end = sorted((draw(OFFSETS), draw(OFFSETS)))
            found[topic, number] = (begin, end, draw(st.none() | OFFSETS))
    return topics, found


@given(worlds())
def test_figures_are_sums_over_the_topics(
    world: tuple[dict[str, int], dict[Key, tuple[int, int, int | None]]],
) -> None:
    topics, at = world
    seen = look(
        {key: end for key, (_, end, _) in at.items()},
        {key: done for key, (_, _, done) in at.items() if done is not None},
        begins={key: begin for key, (begin, _, _) in at.items()},
        topics=topics,
    )
    figures = Positions(topics[A]).add(seen, 0.0)
    assert len(figures.ends) == max(topics.values())
    for number in range(len(figures.ends)):
        here = [at[topic, number] for topic in topics if (topic, number) in at]
        assert figures.ends[number] == sum(end for _, end, _ in here)
        stands = [min(max(begin if done is None else done, begin), end) for begin, end, done in here]
        assert figures.committed[number] == sum(stands)
        waits = any(done < end for done, (_, end, _) in zip(stands, here, strict=True))
        assert math.isnan(figures.lag_s[number]) if waits else figures.lag_s[number] == 0
    assert (figures.committed <= figures.ends).all()


@given(st.integers(1, 12), st.integers(1, 5), st.randoms(use_true_random=False))
def test_every_partition_number_has_the_member_that_holds_it(count: int, workers: int, random: object) -> None:
    chosen = [random.randrange(-1, workers) for _ in range(count)]  # type: ignore[attr-defined]
    members = tuple(
        Member(f"m-{n}", tuple((topic, p) for topic in (A, B) for p in range(count) if chosen[p] == n))
        for n in range(workers)
    )
    owner, split = owners(members, {A: count, B: count})
    assert owner.dtype == np.int64
    assert list(owner) == chosen
    assert split == ()


def test_a_number_that_two_hold_is_the_first_topics() -> None:
    members = (Member("a", ((B, 0), (A, 1))), Member("b", ((A, 0), (B, 1), (B, 2))))
    owner, split = owners(members, {A: 2, B: 3})
    assert list(owner) == [1, 0, 1]
    assert split == (0, 1)
    ends = {(A, 0): 0, (A, 1): 0, (B, 0): 0, (B, 1): 0, (B, 2): 0}
    figures = Positions(3).add(look(ends, topics={A: 2, B: 3}, members=members), 0.0)
    assert has(figures, "partitions 0-1 belong to one member in one topic and to another in the other")


@given(st.sets(st.integers(0, 40)))
def test_ranges_name_each_number_once(numbers: set[int]) -> None:
    read: list[int] = []
    for part in ranges(numbers).split(",") if numbers else ():
        first, _, last = part.partition("-")
        read += range(int(first), int(last or first) + 1)
    assert read == sorted(numbers)
    assert where([(A, 2), (B, 1), (A, 1)]) == f"{A} 1-2 and {B} 1"


def test_the_epoch_follows_members_and_assignment() -> None:
    base = one(0, 0)
    assert base.epoch == one(5, 3, state="preparing_rebalancing").epoch
    other = Member("m-1", ())
    assert len({base.epoch, replace(base, members=()).epoch, replace(base, members=(*ONE, other)).epoch}) == 3
    moved = (Member("m-0", ((A, 0),)), Member("m-1", ((B, 0),)))
    assert replace(base, members=moved).epoch != replace(base, members=(*ONE, other)).epoch


def test_the_worst_of_the_topics_counts_and_unknown_is_unknown() -> None:
    positions = Positions(1)
    stands = {(A, 0): 0, (B, 0): 0}
    positions.add(look({(A, 0): 0, (B, 0): 0}, stands), 0.0)
    positions.add(look({(A, 0): 10, (B, 0): 0}, stands), 10.0)
    figures = positions.add(look({(A, 0): 10, (B, 0): 10}, stands), 20.0)
    assert figures.lag_s[0] == pytest.approx(20.0)
    fresh = Positions(1)
    fresh.add(look({(A, 0): 0, (B, 0): 5}, stands), 0.0)
    assert math.isnan(fresh.add(look({(A, 0): 9, (B, 0): 5}, stands), 10.0).lag_s[0])


def test_what_its_worker_says_nothing_waits_in_is_none_for_good() -> None:
    positions, nothing = Positions(1), {(A, 0): 0.0}
    for at_s in (0.0, STILL_S - 1):
        assert positions.add(one(100, 60), at_s, nothing).committed[0] == 60
    found = positions.add(one(100, 60), STILL_S, nothing)
    assert (found.committed[0], found.lag_s[0]) == (100, 0)
    assert has(found, "nothing waits")
    later = positions.add(one(100, 60), STILL_S + 1, nothing)
    assert (later.committed[0], later.problems) == (100, ())
    assert positions.add(one(130, 60), STILL_S + 2, {(A, 0): 30.0}).committed[0] == 100
    assert positions.add(one(130, 110), STILL_S + 3, {(A, 0): 20.0}).committed[0] == 110
    assert positions.add(one(130, 20), STILL_S + 4, {(A, 0): 110.0}).committed[0] == 20  # set back: all of it again


@pytest.mark.parametrize(
    ("then", "waits"),
    [
        (one(101, 60), 0.0),  # the end moved
        (one(100, 61), 0.0),  # the commit moved
        (one(100, 60, state="preparing_rebalancing"), 0.0),
        (one(100, 60, state="empty", members=()), 0.0),
        (one(100, 60, members=(*ONE, Member("m-1", ()))), 0.0),  # another epoch: its owner may be new
        (one(100, 60), 40.0),
        (one(100, 60), None),
    ],
)
def test_else_what_waits_waits(then: KafkaLook, waits: float | None) -> None:
    positions = Positions(1)
    for at_s in (0.0, STILL_S - 1):
        positions.add(one(100, 60), at_s)
    figures = positions.add(then, STILL_S, {} if waits is None else {(A, 0): waits})
    assert figures.committed[0] == then.committed[A, 0]
    moved = then.epoch != one(0, 0).epoch or not then.stable or (then.ends[A, 0], then.committed[A, 0]) != (100, 60)
    assert has(figures, "neither commit nor end has moved") is not moved


def test_a_silent_partition_keeps_its_figures() -> None:
    positions = Positions(1)
    positions.add(one(0, 0), 0.0)
    known = positions.add(one(10, 0), 10.0)
    silent = positions.add(look({(B, 0): 0}, {(A, 0): 9, (B, 0): 0}), 20.0)
    assert (silent.ends[0], silent.committed[0]) == (10, 0)
    assert silent.lag_s[0] == known.lag_s[0]
    assert has(silent, f"{A} 0: no leader: the last figures known are kept")
    back = positions.add(one(10, 4), 30.0)
    assert back.lag_s[0] == pytest.approx(26.0)
    assert back.problems == ()


def test_a_partition_never_seen_is_not_guessed() -> None:
    figures = Positions(1).add(look({(B, 0): 3}, {(A, 0): 9, (B, 0): 3}), 0.0)
    assert (figures.ends[0], figures.committed[0]) == (12, 12)
    assert math.isnan(figures.lag_s[0])
    assert has(figures, f"{A} 0: no leader, and never seen")


def test_an_end_that_went_back_begins_anew() -> None:
    positions = Positions(1)
    positions.add(one(0, 0), 0.0)
    positions.add(one(1000, 0), 10.0)
    back = positions.add(one(5, 0), 20.0)
    assert math.isnan(back.lag_s[0])
    assert has(back, f"{A} 0: its end went back")
    anew = positions.add(one(9, 5), 30.0)
    assert anew.lag_s[0] == pytest.approx(10.0)
    assert anew.problems == ()


def test_a_topic_made_anew_is_told_apart_though_its_end_is_higher() -> None:
    positions = Positions(1)
    positions.add(one(100, 100), 0.0)
    anew = positions.add(one(5000, 0, made="2"), 10.0)
    assert math.isnan(anew.lag_s[0])
    assert has(anew, f"{A} 0 and {B} 0: the topic was made anew")
    assert anew.committed[0] == 0
