"""Look, decide, apply, every interval. The rule: who does not see, or sees old figures, leaves everything as it is.

Trouble is said once when it begins and once when it is over, however long it lasts.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from autoscaler.events import Kind, Post, nowhere
from autoscaler.kube import ConflictError
from autoscaler.limits import FIELD_MANAGER
from autoscaler.metrics import AutoscalerMetrics
from autoscaler.observation import BlindError, Decision, Note, Observation
from autoscaler.workload import WorkloadError

log = logging.getLogger("fleetwatch.autoscaler")

#: Reasons of Events that are neither a decision's nor a note's.
REASONS = {
    "Holding": "Nothing new is decided, or it could not be done: the last decision holds.",
    "ReplicasChanged": "Another than the autoscaler has set the replicas.",
    "Resumed": "What was held up goes on.",
    "SettingsDiffer": "Two autoscalers of this workload have different settings.",
}
#: Codes of decisions by which the workers do not get what they need.
FALLS_SHORT = {"AtMaximum", "Blocked", "HotPartition", "TwoOwners"}
#: A note that stays is said again after this time.
SAY_AGAIN_S = 600.0
#: A note that was not there for so long went away.
GONE_S = 60.0
#: Of one look, that are told.
PROBLEMS_MAX = 16
#: The loop has stopped when it has not turned for so many intervals and seconds.
LATE_INTERVALS = 3
LATE_S = 30.0
#: A turn that took longer than the interval is followed by at least this pause.
PAUSE_S = 0.1


class Scaler(Protocol):
    """As `ScaleTarget.scale_to`."""

    def __call__(self, replicas: int, seen: int, allowed: Callable[[], bool]) -> None: ...


@dataclass(frozen=True, slots=True)
class Standing:
    """The last decision, and how it stands. at : of the decision, UTC. held : why it is not renewed; "" = it is."""

    replicas: int
    code: str
    text: str
    at: datetime
    current: int
    held: str = ""


def _wall() -> datetime:
    return datetime.now(UTC)


class Loop:
    """One autoscaler.

    look : raises BlindError or WorkloadError. decide : any exception of it is a defect, and ends `run`.
    scale : None = nothing is ever scaled. leading : asked again before anything is changed.
    differing : what is to be said about another autoscaler's settings. clock : the one of `Observation.at_s`.
    """

    def __init__(
        self,
        look: Callable[[], Observation],
        decide: Callable[[Observation], Decision],
        *,
        metrics: AutoscalerMetrics,
        interval_s: float,
        stale_s: float,
        scale: Scaler | None = None,
        leading: Callable[[], bool] = lambda: False,
        post: Post = nowhere,
        differing: Callable[[], str] = lambda: "",
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = _wall,
    ) -> None:
        self._look, self._decide, self._scale = look, decide, scale
        self._leading, self._post, self._differing = leading, post, differing
        self._metrics, self._interval_s, self._stale_s = metrics, interval_s, stale_s
        self._clock, self._wall = clock, wall
        self._turned_s = clock()
        self._awake = threading.Event()
        self._held: dict[str, tuple[float, str]] = {}  # reason -> since, text
        self._said: tuple[int, str] | None = None
        self._notes: dict[str, tuple[float, float]] = {}  # code -> said, last found
        self._expected: int | None = None
        self._tried: int | None = None
        self._problems: dict[str, float] = {}  # shape -> last found
        self._differed = False
        self.standing: Standing | None = None

    def alive(self) -> bool:
        """It turned lately."""
        return self._clock() - self._turned_s <= LATE_INTERVALS * self._interval_s + LATE_S

    def ready(self) -> bool:
        """Group and workload were seen once."""
        return self.standing is not None

    def wake(self) -> None:
        """The next turn begins now: whoever begins to lead does not wait for an interval."""
        self._awake.set()

    def run(self, stop: threading.Event) -> None:
        """Turns until `stop` is set (and `wake` called); raises what `decide` raises."""
        while not stop.is_set():
            began_s = self._clock()
            self._awake.clear()
            self.turn()
            self._awake.wait(max(PAUSE_S, self._interval_s - (self._clock() - began_s)))

    def turn(self) -> None:
        """One look, one decision, and what follows from it."""
        self._say_differing()
        began_s = self._clock()
        try:
            seen = self._look()
        except BlindError as exc:
            self._hold("workload" if isinstance(exc.__cause__, WorkloadError) else "blind", str(exc))
        except WorkloadError as exc:
            self._hold("workload", str(exc))
        else:
            self._seen(seen)
        finally:
            self._metrics.looked(self._clock() - began_s)
            self._turned_s = self._clock()

    def _seen(self, seen: Observation) -> None:
        if self._stale(seen):
            return
        decision = self._decide(seen)
        self._metrics.seen(seen, self._wall().timestamp())
        self._metrics.decided(decision)
        for reason in ("blind", "workload", "stale"):
            self._over(reason)
        self._by_hand(seen, decision)
        scaled = self._apply(seen, decision)
        current = decision.replicas if scaled else seen.replicas
        self.standing = Standing(
            int(decision.replicas), decision.code, decision.text, self._wall(), current, self._reason()
        )
        self._tell(seen, decision, scaled=scaled)
        self._tell_notes(decision.notes)
        self._tell_problems(seen.problems)

    def _stale(self, seen: Observation) -> bool:
        age_s = self._clock() - seen.at_s
        if age_s <= self._stale_s:
            return False
        limit = f"autoscaler.stale_s is {self._stale_s:g} s"
        self._hold("stale", f"the figures are {age_s:.0f} s old, and {limit}: the look or this process stood still")
        return True

    def _apply(self, seen: Observation, decision: Decision) -> bool:
        if self._scale is None or decision.replicas == seen.replicas or not self._leading():
            self._over("scale")  # there is nothing to scale, or it is no longer ours to do
            return False
        if self._stale(seen):
            return False
        self._tried = int(decision.replicas)
        try:
            self._scale(int(decision.replicas), seen.replicas, self._leading)
        except ConflictError as exc:
            self._metrics.failed("conflict")
            log.info("%s", exc)
            return False
        except WorkloadError as exc:
            self._hold("scale", str(exc), f"{decision.replicas} replicas are wanted, {seen.replicas} stay")
            return False
        self._over("scale")
        self._expected = int(decision.replicas)
        self._metrics.scaled(seen.replicas, int(decision.replicas))
        return True

    def _announce(self, kind: Kind, reason: str, note: str) -> None:
        """As an Event, by the leader alone: the others see the same."""
        if self._leading():
            self._post(kind, reason, note)

    def _hold(self, reason: str, text: str, what: str = "") -> None:
        self._metrics.failed(reason)
        self._metrics.held(reason, on=True)
        since_s, said = self._held.get(reason, (self._clock(), ""))
        kept = self.standing.replicas if self.standing else None
        if _shape(said) != _shape(text):
            what = what or (
                "nothing is decided yet" if kept is None else f"the last decision, {kept} replicas, holds"
            )
            log.warning("%s: %s", what, text)
            self._announce("Warning", "Holding", f"{what}: {text}")
        self._held[reason] = since_s, text
        if (last := self.standing) is not None:
            self.standing = Standing(last.replicas, last.code, last.text, last.at, last.current, self._reason())

    def _over(self, reason: str) -> None:
        if (held := self._held.pop(reason, None)) is None:
            return
        self._metrics.held(reason, on=False)
        text = f"over after {self._clock() - held[0]:.0f} s: {held[1]}"
        log.info("%s", text)
        self._announce("Normal", "Resumed", text)

    def _reason(self) -> str:
        return next(iter(self._held), "")

    def _by_hand(self, seen: Observation, decision: Decision) -> None:
        """The policy tells of a change whose author is known; here of the others."""
        before, self._expected = self._expected, seen.replicas
        if before in (None, seen.replicas) or seen.scaled_by == FIELD_MANAGER:
            return
        if any(note.code == "ReplicasChanged" for note in decision.notes):
            return
        if not seen.scaled_by and (seen.replicas == self._tried or not self._leading()):
            return  # our own, whose answer was lost, or the leader's
        who = seen.scaled_by or "somebody"
        text = f"the replicas went from {before} to {seen.replicas}, set by {who} and not by the autoscaler"
        log.warning("%s", text)
        self._announce("Warning", "ReplicasChanged", text)

    def _tell(self, seen: Observation, decision: Decision, *, scaled: bool) -> None:
        now = int(decision.replicas), decision.code
        if not scaled and now == self._said:
            return
        self._said = now
        if decision.replicas == seen.replicas:
            what = f"{seen.replicas} replicas stay"
        elif scaled:
            what = f"scaled from {seen.replicas} to {decision.replicas} replicas"
        elif self._scale is None:
            what = f"would scale from {seen.replicas} to {decision.replicas} replicas"
        else:
            what = f"not scaled from {seen.replicas} to {decision.replicas} replicas{self._why_not()}"
        short = decision.code in FALLS_SHORT
        log.log(logging.WARNING if short else logging.INFO, "%s (%s): %s", what, decision.code, decision.text)
        self._announce("Warning" if short else "Normal", decision.code, f"{what}: {decision.text}")

    def _why_not(self) -> str:
        return " yet" if self._leading() else " by this autoscaler, which does not lead"

    def _tell_notes(self, notes: tuple[Note, ...]) -> None:
        now_s = self._clock()
        for note in notes:
            said_s, found_s = self._notes.get(note.code, (-SAY_AGAIN_S, -GONE_S))
            again = note.code not in self._notes or now_s - said_s >= SAY_AGAIN_S or now_s - found_s >= GONE_S
            if again:
                log.warning("%s: %s", note.code, note.text)
                self._announce("Warning", note.code, note.text)
            self._notes[note.code] = now_s if again else said_s, now_s
        found = {note.code for note in notes}
        for code in [c for c, (_, last_s) in self._notes.items() if c not in found and now_s - last_s >= GONE_S]:
            del self._notes[code]
            log.info("%s: no longer found", code)

    def _tell_problems(self, problems: tuple[str, ...]) -> None:
        """Each kind once, and again if it comes back; kinds are few, as texts differ by figures only."""
        now_s = self._clock()
        for text in problems[:PROBLEMS_MAX]:
            if _shape(text) not in self._problems:
                log.warning("%s", text)
            self._problems[_shape(text)] = now_s
        self._problems = {shape: at_s for shape, at_s in self._problems.items() if now_s - at_s < GONE_S}

    def _say_differing(self) -> None:
        text = self._differing()
        if text and not self._differed:
            log.warning("%s", text)
            self._post("Warning", "SettingsDiffer", text)  # also a follower's, as its leader may not tell
        elif self._differed and not text:
            log.info("the autoscalers' settings no longer differ")
        self._differed = bool(text)


def _shape(text: str) -> str:
    """Without its figures: a message whose seconds go up is the same message."""
    return re.sub(r"\d+(\.\d+)?", "#", text)
