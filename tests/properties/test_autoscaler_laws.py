"""Laws of the scaling policy. The rule: whatever is seen, the limits hold and nothing is changed in place."""

from __future__ import annotations

import copy
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler import words
from autoscaler.limits import Limits
from autoscaler.observation import Observation, WorkerLoad
from autoscaler.packing import busiest, fewest, ladder, spread
from autoscaler.policy import Memory, decide

RATES = st.floats(0, 1e6, allow_nan=False)


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    low = draw(st.integers(0, 6))
    return Limits(
        replicas_min=low,
        replicas_max=draw(st.sampled_from([0, low + 1, low + 5])),
        capacity_per_s=draw(st.sampled_from([0.0, 100.0, 1e5])),
        ladder=draw(st.booleans()),
        idle_s=60.0,
        down_window_s=60.0,
        down_cooldown_s=30.0,
    )


@st.composite
def looks(draw: st.DrawFn) -> list[Observation]:
    """Some minutes of anything: topics made anew, members that come and go, pages that lie, other hands."""
    partitions, at_s, found = draw(st.integers(1, 8)), 0.0, []
    ends = np.zeros(partitions)
    for _ in range(draw(st.integers(1, 25))):
        at_s += draw(st.sampled_from([1.0, 10.0, 10.0, 10.0, 300.0]))
        if draw(st.integers(0, 15)) == 0:
            partitions = draw(st.integers(1, 8))
            ends = np.zeros(partitions)
        ends = ends + np.array(draw(st.lists(RATES, min_size=partitions, max_size=partitions)))
        members = draw(st.integers(0, 5))
        owner = np.array(draw(st.lists(st.integers(-1, members - 1), min_size=partitions, max_size=partitions)))
        found.append(
            Observation(
                at_s=at_s,
                ends=ends,
                committed=ends * draw(st.floats(0, 1.1)),
                lag_s=np.full(partitions, np.nan),
                replicas=draw(st.integers(0, 9)),
                ready=members,
                members=members,
                epoch=str(draw(st.integers(0, 2))),
                rebalancing=draw(st.booleans()),
                owner=owner.astype(np.int64),
                workers=tuple(
                    WorkerLoad(str(w), (0,), draw(RATES), draw(st.floats(0, 2)))
                    for w in range(draw(st.integers(0, 3)))
                ),
                scaled_by=draw(st.sampled_from(["", "fleetwatch-autoscaler", "kubectl"])),
            )
        )
    return found


@given(limits(), looks())
@settings(max_examples=150)
def test_whatever_is_seen_the_limits_hold_and_the_words_are_known(limit: Limits, seen: list[Observation]) -> None:
    memory = Memory()
    for look in seen:
        before = copy.deepcopy((memory, look))
        decision, after = decide(memory, look, limit)
        again, _ = decide(memory, look, limit)
        assert (again.replicas, again.code, again.text) == (decision.replicas, decision.code, decision.text)
        assert repr(before) == repr((memory, look))
        assert decision.code in words.CODES
        assert decision.text
        assert {note.code for note in decision.notes} <= set(words.NOTES)
        assert isinstance(decision.replicas, int)
        if decision.replicas != look.replicas:
            most = limit.most(look.partitions)
            assert min(limit.replicas_min, most) <= decision.replicas <= most
        assert after.capacity.per_s >= 0
        assert math.isfinite(after.capacity.per_s)
        memory = after


@given(
    st.lists(st.floats(0, 1e5), min_size=1, max_size=40),
    st.floats(1, 1e5),
    st.integers(1, 50),
    st.booleans(),
)
def test_the_fewest_workers_carry_the_load_and_one_fewer_do_not(
    load: list[float], limit: float, most: int, by_ladder: bool
) -> None:
    """Against every count tried in turn."""
    values = np.array(load)
    found = fewest(values, limit, most, by_ladder=by_ladder)
    counts = ladder(len(load), most) if by_ladder else range(1, min(len(load), most) + 1)
    capped = np.minimum(values, limit)
    enough = [n for n in counts if busiest(capped, spread(len(load), n)) <= limit + 1e-6]
    assert found == (enough[0] if enough else most)


@given(st.integers(1, 200), st.integers(1, 200))
def test_each_rung_takes_partitions_off_the_busiest(partitions: int, most: int) -> None:
    rungs = ladder(partitions, most)
    shares = [math.ceil(partitions / n) for n in rungs]
    assert shares == sorted(set(shares), reverse=True)
    assert rungs[0] == 1
    assert shares[-1] == math.ceil(partitions / min(partitions, most))
