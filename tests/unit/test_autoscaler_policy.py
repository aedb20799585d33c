"""Stories of the scaling policy, told with a hand-moved clock. The rule: the words are checked, too."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scaled_group import Story, noted

from autoscaler import words
from autoscaler.limits import Limits
from autoscaler.packing import fewest, ladder
from autoscaler.policy import decide

LIMITS = Limits(capacity_per_s=1000.0, commit_s=3.0)


def test_the_ladder_names_counts_that_lower_the_busiest() -> None:
    assert ladder(24, 24) == (1, 2, 3, 4, 5, 6, 8, 12, 24)
    assert ladder(12, 5) == (1, 2, 3, 4)
    assert ladder(1, 9) == (1,)


def test_a_partition_above_the_limit_fills_one_worker_and_asks_for_no_more() -> None:
    load = np.array([5000.0, 10.0, 10.0, 10.0])
    assert fewest(load, 1000.0, 4, by_ladder=False) == 4
    assert fewest(np.array([5000.0, 10.0]), 1000.0, 2, by_ladder=False) == 2
    assert fewest(np.array([900.0, 0.0, 0.0]), 1000.0, 3, by_ladder=False) == 1


def test_steady_traffic_changes_nothing() -> None:
    story = Story(LIMITS)
    decisions = story.go(3600)
    assert {d.replicas for d in decisions} == {2}
    assert {d.code for d in decisions[3:]} == {"Steady"}
    assert decisions[-1].text == "1,200 records/s come in: this takes the busiest of 2 to 60 % of 1,000 records/s"


def test_four_times_the_traffic_scales_up_at_once_and_down_late_with_reasons() -> None:
    story = Story(LIMITS)
    story.go(600)
    story.arrivals = story.arrivals * 4
    up = story.until("ScaleUp", 60)
    assert up.replicas >= 6
    assert f"2 -> {up.replicas} replicas: " in up.text
    assert "(at most 90 %)" in up.text
    story.go(900)
    assert story.replicas in (6, 12)
    story.arrivals = story.arrivals / 4
    down_at = story.at_s
    down = story.until("ScaleDown")
    assert story.at_s - down_at >= LIMITS.down_window_s - LIMITS.interval_s
    assert "no more were needed in the last" in down.text
    story.go(1800)
    assert story.replicas == 2
    assert len([d for d in story.decisions if d.code in ("ScaleUp", "ScaleDown")]) <= 5


def test_nothing_goes_down_while_the_traffic_is_rising_again() -> None:
    story = Story(LIMITS, replicas=12, arrivals=100.0)
    story.go(290)
    story.arrivals = story.arrivals * 8
    assert all(d.replicas == 12 for d in story.go(600))


def test_no_scale_down_before_the_backlog_is_gone() -> None:
    story = Story(LIMITS, replicas=4, arrivals=100.0)
    story.obey = False
    story.go(700)
    story.committed = story.committed - 1000.0
    story.capacity = 330.0  # hardly more than what comes in
    assert "ScaleDown" not in {d.code for d in story.go(50)}


def test_a_minimum_of_none_sleeps_after_idling_and_wakes_on_the_first_record() -> None:
    story = Story(LIMITS, replicas=1, arrivals=0.0)
    story.limit(replicas_min=0)
    assert {d.replicas for d in story.go(580)} == {1}
    idle = story.until("Idle", 100)
    assert idle.replicas == 0
    assert "no record has come for 600 s" in idle.text
    assert {d.code for d in story.go(300)} == {"Asleep"}
    story.arrivals = np.where(np.arange(12) == 7, 0.1, 0.0)
    wake = story.turn()
    assert (wake.code, wake.replicas) == ("Wake", 1)
    assert wake.text == "0 -> 1 replicas: 1 records wait"


def test_a_backlog_wakes_as_many_as_it_needs() -> None:
    story = Story(LIMITS, replicas=0, arrivals=0.0)
    story.limit(replicas_min=0)
    story.go(300)
    story.ends = story.ends + 20_000
    assert story.turn().replicas >= 4


def test_none_with_a_minimum_of_one_is_mended_at_once() -> None:
    story = Story(LIMITS, replicas=0)
    decision = story.turn()
    assert (decision.code, decision.replicas) == ("Minimum", 1)
    assert "not within 1 to 12 (12 partitions)" in decision.text


def test_replicas_beyond_the_partitions_or_the_maximum_are_taken_away() -> None:
    story = Story(LIMITS, partitions=4, replicas=7, arrivals=10.0)
    assert story.until("Maximum", 60).replicas == 4
    story = Story(LIMITS, replicas=7, arrivals=10.0)
    story.limit(replicas_max=5)
    assert story.until("Maximum", 60).replicas == 5


def test_a_minimum_above_the_partitions_is_capped_by_them() -> None:
    limits = Limits(replicas_min=20)
    assert limits.within(1, 6) == 6


def test_a_hot_partition_is_named_and_more_replicas_are_not_asked_for() -> None:
    story = Story(LIMITS, replicas=4, arrivals=100.0)
    story.go(300)
    story.arrivals[5] = 1300.0
    decisions = story.go(1200)
    held = [d for d in decisions if d.code == "HotPartition"]
    assert held
    assert "partition 5 alone needs 1.3 workers: more replicas cannot help" in held[-1].text
    assert story.replicas < 12 or {d.replicas for d in decisions[-20:]} == {12}
    assert len({d.replicas for d in decisions[60:]}) == 1


def test_workers_that_become_slow_are_named_and_scaled_for() -> None:
    story = Story(LIMITS, replicas=4, arrivals=200.0)
    story.go(600)
    for _ in range(60):
        story.capacity *= 0.985
        story.go(30)
    text = noted(story.decisions)["Slowdown"]
    assert text.startswith("a worker now does ")
    assert "scaling hides it, its cause is elsewhere" in text
    assert story.replicas > 4


def test_a_trickle_is_not_taken_for_a_load() -> None:
    """Of a record a second most of the busy time is the worker's own: 3.6 records/s is no capacity."""
    story = Story(Limits(commit_s=3.0), partitions=4, replicas=2, arrivals=0.0)
    for turn in range(120):
        story.arrivals = np.full(4, 0.5 if turn < 60 else 2.0)
        seen = story.look()
        said = tuple(type(w)(w.name, w.partitions, w.records_per_s, 0.3) for w in seen.workers)
        seen = type(seen)(**{f: getattr(seen, f) for f in seen.__slots__} | {"workers": said})
        decision, story.memory = decide(story.memory, seen, story.limits)
        assert decision.replicas <= 2, decision.text
    assert story.memory.capacity.per_s < 100


def test_workers_with_little_to_do_are_not_called_slow() -> None:
    """A worker at rest takes small batches, which cost more a record: half as much a busy second."""
    story = Story(LIMITS, replicas=4, arrivals=240.0)
    story.go(600)
    story.obey, story.arrivals, story.capacity = False, story.arrivals / 6, 400.0
    assert 0.25 < story.look().workers[0].busy < 0.5
    assert "Slowdown" not in noted(story.go(1200))


def test_workers_that_are_busier_for_less_are_not_kept_for_ever() -> None:
    """Busy by the cube root of the load, as small batches make it: in the end as few as if in proportion."""
    story = Story(Limits(commit_s=3.0), replicas=12, arrivals=25.0)
    story.batching = 1 / 3
    for factor in (4.0, 0.25, 4.0, 0.25):
        story.go(1800)
        story.arrivals = story.arrivals * factor
    story.go(3600)
    assert story.memory.capacity.curve.exponent == pytest.approx(1 / 3, abs=0.1)
    assert story.replicas <= 2
    assert (story.ends - story.committed).max() < 30 * 25


@pytest.mark.parametrize("pages", [True, False])
def test_a_scale_up_that_gained_nothing_is_told_and_blocks_the_next(pages: bool) -> None:
    """All workers together can do 1,500 records/s, whatever their number."""
    story = Story(LIMITS, partitions=48, replicas=2, arrivals=25.0)
    story.pages, story.total_max = pages, 1500.0
    story.go(600)
    story.arrivals = np.full(48, 37.5)
    story.until("ScaleUp", 300)
    said = noted(story.go(600))["IneffectiveScaleUp"]
    assert re.match(
        r"\d+ -> \d+ replicas did not help: 1,\d+ records/s were processed before and 1,\d+ are now", said
    )
    assert "look for another bottleneck" in said
    replicas = story.replicas
    assert replicas < 48
    story.arrivals = np.full(48, 100.0)
    held = story.go(900)
    assert {d.replicas for d in held} == {replicas}
    blocked = [d for d in held if d.code == "Blocked"]
    assert blocked
    assert "the last ones gained nothing" in blocked[0].text
    assert story.until("ScaleUp", 900).replicas > replicas  # it is tried again


def test_a_scale_up_that_helped_blocks_nothing() -> None:
    story = Story(LIMITS, replicas=2, arrivals=100.0)
    story.go(600)
    story.arrivals = np.full(12, 300.0)
    story.go(900)
    assert "IneffectiveScaleUp" not in noted(story.decisions)


def test_a_count_set_by_hand_is_taken_and_told_once() -> None:
    story = Story(LIMITS)
    story.go(600)
    story.replicas, story.scaled_by = 4, "kubectl-scale"
    decisions = story.go(200)
    assert {d.replicas for d in decisions} == {4}
    told = [n for d in decisions for n in d.notes if n.code == "ReplicasChanged"]
    assert [n.text for n in told] == ["2 -> 4 replicas, set by kubectl-scale: taken as it is"]
    assert story.until("ScaleDown").replicas < 4


def test_another_owner_of_the_replicas_is_named_and_not_fought() -> None:
    story = Story(LIMITS)
    story.go(300)
    for count in (4, 2, 4):
        story.replicas, story.scaled_by = count, "kube-controller-manager"
        decision = story.go(30)[-1]
    assert decision.code == "TwoOwners"
    assert "kube-controller-manager has set the replicas 3 times in a quarter of an hour" in decision.text
    assert decision.replicas == 4
    story.arrivals = story.arrivals * 10
    assert {d.replicas for d in story.go(300)} == {4}


def test_a_topic_made_anew_begins_anew_and_scales_nothing() -> None:
    story = Story(LIMITS, replicas=4, arrivals=200.0)
    story.go(900)
    story.ends, story.committed = np.zeros(12), np.zeros(12)
    decision = story.turn()
    assert noted([decision])["OffsetsWentBack"].endswith("the topic was made anew, rates are measured anew")
    assert decision.code == "Learning"
    assert {d.replicas for d in story.go(600)} == {4}


def test_partitions_that_were_added_are_told_and_counted() -> None:
    story = Story(LIMITS, replicas=4, arrivals=200.0)
    story.go(300)
    story.ends, story.committed = np.append(story.ends, np.zeros(4)), np.append(story.committed, np.zeros(4))
    story.arrivals = np.full(16, 200.0)
    decision = story.turn()
    assert noted([decision])["PartitionsChanged"] == "16 partitions, 12 before: rates are measured anew"
    assert {d.replicas for d in story.go(100)} <= {4, 6, 8}


def test_members_that_never_come_are_told_and_not_waited_for() -> None:
    story = Story(LIMITS, replicas=4, arrivals=200.0)
    story.go(300)
    story.obey, story.replicas = False, 6
    assert {d.code for d in story.go(80)} <= {"InFlight", "Steady"}
    decisions = story.go(300)
    assert "4 members in the group, 6 replicas" in noted(decisions)["MembersDiffer"]
    assert decisions[-1].code != "InFlight"


def test_a_start_that_takes_longer_is_measured_and_one_that_waited_for_a_node_is_not() -> None:
    story = Story(LIMITS, replicas=2)
    story.go(300)
    story.obey, story.replicas = False, 4
    story.go(40)
    story.members, story.epoch = 4, 1
    assert story.turn().figures["start_s"] == pytest.approx(50, abs=10)
    story.replicas = 6
    story.go(5000)
    story.members, story.epoch = 6, 2
    assert story.turn().figures["start_s"] < 100


def test_a_worker_with_two_partitions_too_many_is_relieved_by_as_many_as_it_takes() -> None:
    """Where the first scale-up leaves it a heavy partition and a light one: that is no bottleneck of all."""
    story = Story(LIMITS, replicas=4)
    story.go(300)
    story.arrivals[5] = 950.0
    decisions = story.go(600)
    assert story.replicas == 12
    assert "IneffectiveScaleUp" not in noted(decisions)


def test_lag_that_was_seen_counts_before_one_that_is_estimated() -> None:
    story = Story(LIMITS, replicas=12)
    story.arrivals[5] = 950.0
    story.go(300)
    seen = story.look()
    late = np.zeros(12)
    late[5] = 45.0
    assert decide(story.memory, seen, story.limits)[0].code != "HotPartition"
    seen = type(seen)(**{f: getattr(seen, f) for f in seen.__slots__} | {"lag_s": late})
    assert decide(story.memory, seen, story.limits)[0].code == "HotPartition"


def test_nothing_is_learnt_across_a_rebalance() -> None:
    story = Story(LIMITS, replicas=2)
    story.go(300)
    before = story.memory.capacity.per_s
    story.capacity, story.epoch = 100.0, story.epoch + 1
    story.turn()
    assert story.memory.capacity.per_s == before
    story.rebalancing = True
    story.go(60)
    assert story.memory.capacity.per_s == before


def test_a_worker_that_waits_though_it_has_a_backlog_lowers_what_full_means() -> None:
    """Pages that say 60 % of a worker that can do no more: capacity is what it does, not 1 / 0.6 of it."""
    story = Story(LIMITS, replicas=2, arrivals=100.0)
    story.obey, story.capacity = False, 500.0
    for _ in range(200):
        seen = story.look()
        said = tuple(type(w)(w.name, w.partitions, w.records_per_s, 0.6 * w.busy) for w in seen.workers)
        seen = type(seen)(**{f: getattr(seen, f) for f in seen.__slots__} | {"workers": said})
        _, story.memory = decide(story.memory, seen, story.limits)
    assert story.memory.capacity.ceiling == pytest.approx(0.6, abs=0.02)
    assert story.memory.capacity.per_s == pytest.approx(500, rel=0.03)


def test_without_pages_or_hint_capacity_is_learnt_from_a_backlog() -> None:
    story = Story(Limits(commit_s=3.0), replicas=1, arrivals=0.0)
    story.pages = False
    story.go(100)
    story.arrivals = np.full(12, 150.0)
    story.until("ScaleUp", 120)
    story.go(900)
    assert story.memory.capacity.source == "full"
    assert story.memory.capacity.per_s == pytest.approx(1000, rel=0.1)
    assert (story.ends - story.committed).max() < 30 * 150


def test_a_wrong_hint_is_forgotten_at_the_first_measurement() -> None:
    for hint in (300.0, 3500.0):
        story = Story(Limits(capacity_per_s=hint, commit_s=3.0))
        story.go(60)
        assert story.memory.capacity.per_s == pytest.approx(1000, rel=0.01)


def test_a_scale_down_that_was_regretted_makes_the_next_more_careful() -> None:
    story = Story(LIMITS, replicas=6, arrivals=100.0)
    down = story.until("ScaleDown")
    story.arrivals = story.arrivals * 4
    story.until("ScaleUp", 120)
    story.turn()
    assert down.figures["down_window_s"] == LIMITS.down_window_s
    assert story.turn().figures["down_window_s"] == 2 * LIMITS.down_window_s


def test_a_standby_that_saw_the_same_decides_the_same() -> None:
    story = Story(LIMITS)
    standby, apart = story.memory, 0
    for turn in range(300):
        if turn == 100:
            story.arrivals = story.arrivals * 4
        if turn == 180:
            story.arrivals = story.arrivals / 4
        seen = story.look()
        decision, story.memory = decide(story.memory, seen, story.limits)
        other, standby = decide(standby, seen, story.limits)
        apart += (decision.replicas, decision.text) != (other.replicas, other.text)
        if story.members != story.replicas or decision.replicas < story.members:
            story.epoch += 1
        story.members = min(story.replicas, decision.replicas)
        story.replicas = decision.replicas
    assert apart == 0


def test_every_code_that_is_used_is_explained() -> None:
    source = Path(decide.__code__.co_filename).read_text()
    used = set(re.findall(r'"([A-Z][a-z]+(?:[A-Z][a-z]+)*)"', source))
    assert used == set(words.CODES)
    noted_codes = set(re.findall(r'Note\("(\w+)"', Path(words.__file__).read_text()))
    assert noted_codes == set(words.NOTES)
