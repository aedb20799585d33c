"""Stories of the loop, by a clock that is moved by hand: what is scaled, what is held, and what is said."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from autoscaler.kube import AwayError, ConflictError, DeniedError
from autoscaler.loop import FALLS_SHORT, GONE_S, SAY_AGAIN_S, Loop
from autoscaler.metrics import AutoscalerMetrics
from autoscaler.observation import BlindError, Decision, Note, Observation
from autoscaler.words import CODES
from autoscaler.workload import WorkloadError

INTERVAL_S, STALE_S = 10.0, 60.0
OURS = "fleetwatch-autoscaler"


class World:
    """A group and a workload of so many replicas, and a policy that wants so many."""

    def __init__(self, *, scales: bool = True, leads: bool = True) -> None:
        self.now_s = 500.0
        self.replicas, self.wanted, self.scaled_by = 2, 2, OURS
        self.code = "Steady"
        self.notes: tuple[Note, ...] = ()
        self.problems: tuple[str, ...] = ()
        self.look_fails: Exception | None = None
        self.scale_fails: Exception | None = None
        self.decide_fails: Exception | None = None
        self.look_takes_s = 0.0
        self.decided = 0
        self.leads = leads
        self.differs = ""
        self.scalings: list[tuple[int, int]] = []
        self.posts: list[tuple[str, str, str]] = []
        self.registry = CollectorRegistry()
        self.loop = Loop(
            self.look,
            self.decide,
            metrics=AutoscalerMetrics(self.registry, lambda: self.leads, lambda: bool(self.differs)),
            interval_s=INTERVAL_S,
            stale_s=STALE_S,
            scale=self.scale if scales else None,
            leading=lambda: self.leads,
            post=lambda *told: self.posts.append(told),
            differing=lambda: self.differs,
            clock=lambda: self.now_s,
        )

    def look(self) -> Observation:
        at_s = self.now_s
        self.now_s += self.look_takes_s
        if self.look_fails is not None:
            raise self.look_fails
        ends = np.array([100.0, 200.0])
        return Observation(
            at_s=at_s,
            ends=ends,
            committed=ends - 5,
            lag_s=np.array([1.0, np.nan]),
            replicas=self.replicas,
            ready=self.replicas,
            members=self.replicas,
            epoch="e",
            rebalancing=False,
            owner=np.array([0, 1]),
            scaled_by=self.scaled_by,
            problems=self.problems,
        )

    def decide(self, seen: Observation) -> Decision:
        self.decided += 1
        if self.decide_fails is not None:
            raise self.decide_fails
        return Decision(self.wanted, self.code, f"lag 1 s at {seen.at_s:.0f}", self.notes, {"load": 0.5})

    def scale(self, replicas: int, seen: int, allowed: Callable[[], bool]) -> None:
        assert type(replicas) is int
        if self.scale_fails is not None:
            raise self.scale_fails
        assert allowed()
        self.scalings.append((seen, replicas))
        self.replicas, self.scaled_by = replicas, OURS

    def turns(self, count: int = 1) -> None:
        for _ in range(count):
            self.now_s += INTERVAL_S
            self.loop.turn()

    def want(self, replicas: int, code: str) -> None:
        self.wanted, self.code = replicas, code

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"fleetwatch_autoscaler_{name}", labels)

    def reasons(self) -> list[str]:
        return [reason for _, reason, _ in self.posts]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("INFO", "fleetwatch.autoscaler")
    return caplog


def test_a_decision_is_applied_told_once_and_posted_once(said: pytest.LogCaptureFixture) -> None:
    world = World()
    world.turns(3)
    world.want(5, "ScaleUp")
    world.turns(3)
    assert world.scalings == [(2, 5)]
    assert [r.getMessage().partition(":")[0] for r in said.records] == [
        "2 replicas stay (Steady)",
        "scaled from 2 to 5 replicas (ScaleUp)",
    ]
    assert world.reasons() == ["Steady", "ScaleUp"]
    assert world.metric("scalings_total", direction="up") == 1
    assert world.metric("decisions_total", code="ScaleUp") == 3
    assert world.metric("replicas", kind="current") == 5


def test_numpy_counts_are_plain_when_they_are_applied() -> None:
    world = World()
    world.want(np.int64(4), "ScaleUp")  # type: ignore[arg-type]
    world.turns()
    assert world.scalings == [(2, 4)]
    assert world.loop.standing is not None
    assert type(world.loop.standing.replicas) is int


def test_a_follower_decides_and_leaves_scaling_and_events_to_the_leader(said: pytest.LogCaptureFixture) -> None:
    world = World(leads=False)
    world.want(5, "ScaleUp")
    world.turns(3)
    assert (world.scalings, world.posts, world.decided) == ([], [], 3)
    assert "which does not lead" in said.text
    world.leads = True
    world.turns()
    assert world.scalings == [(2, 5)]
    assert world.reasons() == ["ScaleUp"]


def test_a_dry_run_never_scales_and_says_what_it_would(said: pytest.LogCaptureFixture) -> None:
    world = World(scales=False, leads=False)
    world.want(5, "ScaleUp")
    world.turns(3)
    assert world.scalings == []
    assert [r.getMessage().partition(" (")[0] for r in said.records] == ["would scale from 2 to 5 replicas"]


def test_leadership_lost_while_deciding_scales_nothing() -> None:
    world = World()
    world.want(5, "ScaleUp")
    decide = world.decide

    def slow(seen: Observation) -> Decision:
        world.leads = False
        return decide(seen)

    world.loop._decide = slow
    world.turns()
    assert world.scalings == []


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (BlindError("no Kafka broker answers; start one"), "blind"),
        (WorkloadError("there is no Deployment"), "workload"),
        (AwayError("the API server does not answer"), "workload"),
    ],
)
def test_without_sight_the_last_decision_holds_and_that_is_said_twice(
    said: pytest.LogCaptureFixture, failure: Exception, reason: str
) -> None:
    world = World()
    world.turns()
    said.clear()
    world.posts.clear()
    world.look_fails = failure
    world.want(1, "ScaleDown")
    world.turns(5)
    assert world.scalings == []
    assert world.decided == 1
    assert world.metric("held", reason=reason) == 1
    assert world.metric("errors_total", part=reason) == 5
    assert [(r.levelname, r.getMessage()) for r in said.records] == [
        ("WARNING", f"the last decision, 2 replicas, holds: {failure}")
    ]
    standing = world.loop.standing
    assert standing is not None
    assert (standing.replicas, standing.held) == (2, reason)
    world.look_fails = None
    world.want(2, "Steady")
    world.turns(2)
    assert [r.getMessage() for r in said.records][1:] == [f"over after 50 s: {failure}"]
    assert world.reasons() == ["Holding", "Resumed"]
    assert world.metric("held", reason=reason) == 0
    assert world.loop.standing is not None
    assert world.loop.standing.held == ""


def test_a_workload_error_that_the_collector_wrapped_is_told_as_one() -> None:
    world = World()
    failure = BlindError("there is no Deployment")
    failure.__cause__ = WorkloadError("there is no Deployment")
    world.look_fails = failure
    world.turns()
    assert world.metric("held", reason="workload") == 1
    assert world.metric("held", reason="blind") == 0


def test_another_cause_is_told_again_and_another_figure_is_not(said: pytest.LogCaptureFixture) -> None:
    world = World()
    for text in ("no answer for 10 s", "no answer for 20.5 s", "the topic is gone", "the topic is gone"):
        world.look_fails = BlindError(text)
        world.turns()
    assert [r.getMessage().partition(": ")[2] for r in said.records] == ["no answer for 10 s", "the topic is gone"]
    assert said.records[0].getMessage().startswith("nothing is decided yet")


def test_old_figures_are_not_decided_upon(said: pytest.LogCaptureFixture) -> None:
    world = World()
    world.turns()
    world.look_takes_s = STALE_S + 1
    world.want(1, "ScaleDown")
    world.turns(2)
    assert (world.decided, world.scalings) == (1, [])
    assert world.metric("held", reason="stale") == 1
    assert "61 s old" in said.text
    world.look_takes_s = 0
    world.turns()
    assert world.scalings == [(2, 1)]
    assert world.metric("held", reason="stale") == 0


def test_figures_that_grow_old_while_deciding_are_not_acted_upon() -> None:
    world = World()
    world.want(1, "ScaleDown")
    decide = world.decide

    def frozen(seen: Observation) -> Decision:
        world.now_s += STALE_S + 1
        return decide(seen)

    world.loop._decide = frozen
    world.turns()
    assert world.scalings == []


def test_a_scaling_that_fails_is_tried_again_on_the_next_figures(said: pytest.LogCaptureFixture) -> None:
    world = World()
    world.scale_fails = DeniedError("the right is lacking: patch deployments/scale")
    world.want(5, "ScaleUp")
    world.turns(4)
    assert world.metric("held", reason="scale") == 1
    assert said.text.count("the right is lacking") == 1
    assert world.reasons().count("Holding") == 1
    world.scale_fails = None
    world.turns()
    assert world.scalings == [(2, 5)]
    assert world.metric("held", reason="scale") == 0
    assert "Resumed" in world.reasons()


def test_a_failed_scaling_is_over_once_nothing_is_to_be_scaled() -> None:
    world = World()
    world.scale_fails = AwayError("no answer")
    world.want(5, "ScaleUp")
    world.turns()
    world.want(2, "Steady")
    world.turns()
    assert world.metric("held", reason="scale") == 0


def test_a_count_that_was_changed_meanwhile_is_looked_at_again() -> None:
    world = World()
    world.scale_fails = ConflictError("the count was changed meanwhile")
    world.want(5, "ScaleUp")
    world.turns()
    assert world.metric("errors_total", part="conflict") == 1
    assert world.metric("held", reason="scale") == 0
    world.scale_fails = None
    world.replicas, world.scaled_by = 3, "kubectl"
    world.turns()
    assert world.scalings == [(3, 5)]


@pytest.mark.parametrize("scaled_by", ["kubectl", ""])
def test_replicas_changed_by_hand_are_told_and_the_new_count_is_what_is_decided_from(
    said: pytest.LogCaptureFixture, scaled_by: str
) -> None:
    world = World()
    world.turns(2)
    said.clear()
    world.replicas, world.scaled_by = 7, scaled_by
    world.want(7, "Steady")
    world.turns(3)
    changed = [r.getMessage() for r in said.records if "went from" in r.getMessage()]
    assert changed == [f"the replicas went from 2 to 7, set by {scaled_by or 'somebody'} and not by the autoscaler"]
    assert world.reasons().count("ReplicasChanged") == 1


def test_a_change_that_the_policy_tells_of_is_not_told_twice(said: pytest.LogCaptureFixture) -> None:
    world = World()
    world.turns()
    world.replicas, world.scaled_by = 7, "kubectl"
    world.notes = (Note("ReplicasChanged", "2 -> 7 replicas, set by kubectl"),)
    world.turns()
    assert world.reasons().count("ReplicasChanged") == 1
    assert "went from" not in said.text


def test_a_scaling_whose_answer_was_lost_is_not_taken_for_another_hand(said: pytest.LogCaptureFixture) -> None:
    world = World()
    world.turns()
    world.scale_fails = AwayError("timed out")
    world.want(5, "ScaleUp")
    world.turns()
    world.scale_fails, world.replicas, world.scaled_by = None, 5, ""
    world.turns()
    assert "went from" not in said.text


def test_a_follower_takes_the_leaders_scaling_for_what_it_is(said: pytest.LogCaptureFixture) -> None:
    world = World(leads=False)
    world.turns()
    world.replicas = 5
    for scaled_by in (OURS, ""):
        world.scaled_by = scaled_by
        world.turns()
    assert "went from" not in said.text


def test_a_note_is_said_once_again_after_ten_minutes_and_when_it_comes_back(
    said: pytest.LogCaptureFixture,
) -> None:
    world = World()
    hot = Note("HotPartition", "partition 5 alone needs 1.3 workers")
    world.notes = (hot,)
    world.turns(round(SAY_AGAIN_S / INTERVAL_S))
    assert world.reasons().count("HotPartition") == 1
    world.turns()
    assert world.reasons().count("HotPartition") == 2
    assert world.metric("note", code="HotPartition") == 1
    world.notes = ()
    world.turns(2)  # gone for less than a minute: it flickers
    assert world.metric("note", code="HotPartition") == 0
    world.notes = (hot,)
    world.turns()
    assert world.reasons().count("HotPartition") == 2
    world.notes = ()
    world.turns(round(GONE_S / INTERVAL_S))
    assert "HotPartition: no longer found" in said.text
    world.notes = (hot,)
    world.turns()
    assert world.reasons().count("HotPartition") == 3
    assert all(kind == "Warning" for kind, reason, _ in world.posts if reason == "HotPartition")


def test_problems_of_a_look_are_logged_once_each(said: pytest.LogCaptureFixture) -> None:
    world = World()
    for n in range(5):
        world.problems = (f"{n} of 3 workers' pages do not answer",)
        world.turns()
    assert said.text.count("pages do not answer") == 1


def test_differing_settings_are_told_once_also_by_a_follower(said: pytest.LogCaptureFixture) -> None:
    world = World(leads=False)
    world.differs = "this autoscaler's settings are not those of the leader"
    world.turns(3)
    assert world.posts == [("Warning", "SettingsDiffer", world.differs)]
    assert world.metric("settings_differ") == 1
    world.differs = ""
    world.turns()
    assert "no longer differ" in said.text
    assert world.metric("settings_differ") == 0


def test_a_defect_in_the_policy_ends_the_loop() -> None:
    world = World()
    world.decide_fails = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        world.loop.run(threading.Event())
    assert world.scalings == []


def test_it_is_alive_while_it_turns_and_ready_once_it_saw() -> None:
    world = World()
    assert world.loop.alive()
    world.look_fails = BlindError("no broker")
    world.turns(20)
    assert world.loop.alive()  # a restart would not bring the broker back
    assert not world.loop.ready()
    world.look_fails = None
    world.turns()
    assert world.loop.ready()
    world.now_s += 3 * INTERVAL_S + 30
    assert world.loop.alive()
    world.now_s += 0.1
    assert not world.loop.alive()


@pytest.mark.parametrize("code", sorted(FALLS_SHORT))
def test_a_decision_that_falls_short_is_a_warning(said: pytest.LogCaptureFixture, code: str) -> None:
    assert code in CODES
    world = World()
    world.want(2, code)
    world.turns()
    assert [(kind, reason) for kind, reason, _ in world.posts] == [("Warning", code)]
    assert [r.levelname for r in said.records] == ["WARNING"]


def test_who_begins_to_lead_does_not_wait_for_the_interval() -> None:
    world = World(leads=False)
    world.want(5, "ScaleUp")
    world.loop._interval_s = 3600.0
    stop = threading.Event()
    thread = threading.Thread(target=world.loop.run, args=(stop,))
    thread.start()
    for _ in range(500):
        if world.decided:
            break
        thread.join(0.02)
    assert world.scalings == []
    world.leads = True
    world.loop.wake()
    for _ in range(500):
        if world.scalings:
            break
        thread.join(0.02)
    stop.set()
    world.loop.wake()
    thread.join(5)
    assert not thread.is_alive()
    assert world.scalings == [(2, 5)]


def test_run_turns_until_it_is_stopped() -> None:
    world = World()
    world.loop._interval_s = 0.01
    stop = threading.Event()
    thread = threading.Thread(target=world.loop.run, args=(stop,))
    thread.start()
    for _ in range(500):
        if world.decided >= 2:
            break
        thread.join(0.02)
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
    assert world.decided >= 2
