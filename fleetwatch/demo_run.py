"""The demo's story: warm up, faults, a killed worker, the count. The rule: a fault without an alert is a miss."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fleetwatch import demo_plan as plan
from fleetwatch.alert_feed import AlertFeed, Received
from fleetwatch.demo_children import Child, DemoError
from fleetwatch.demo_page import Figures, seconds
from fleetwatch.demo_score import Injected, Result, explains, judge
from fleetwatch.demo_session import Session
from fleetwatch.demo_watch import TruthFeed, WorkerWatch, latencies, totals
from fleetwatch.scorecard import Exposure
from fleetwatch.scorecard_feed import see_window
from telemetry import catalog
from telemetry.alerts import AlertState

#: A device's clock, which dates its alerts, is off by up to half a second (the simulator's default).
CLOCK_TOLERANCE_US = 500_000
#: For the last frames to be processed and committed; longer than a failover takes.
DRAIN_TIMEOUT_S = 60.0
LAST_LOOK_S = 1.0
_LOOK_EVERY_S = 1.0
_SENT = re.compile(r"^sent ([\d,]+) frames? \(([\d,]+) samples?\), acknowledged ([\d,]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sent:
    """What a producing process says that it sent."""

    frames: int
    samples: int
    acknowledged: int


def sent(child: Child) -> Sent:
    """From its last line.

    Raises
    ------
    DemoError : it failed, or did not say.
    """
    if child.process.returncode:
        raise child.failure(f"ended with exit code {child.process.returncode}")
    found = _SENT.search(child.said())
    if found is None:
        raise child.failure("did not say what it sent")
    return Sent(*(int(text.replace(",", "")) for text in found.groups()))


def drain(ground: Session, frames: int, look: Callable[[], None]) -> int:
    """Wait until the workers have committed every frame; returns how many they have.

    Raises
    ------
    DemoError : not within `DRAIN_TIMEOUT_S`.
    """
    deadline_s = time.monotonic() + DRAIN_TIMEOUT_S
    while (processed := ground.cluster.processed()) < frames:
        if time.monotonic() > deadline_s:
            raise DemoError(
                f"{processed:,} of {frames:,} frames were processed {DRAIN_TIMEOUT_S:.0f} s after the end"
            )
        look()
    return processed


class Takeover:
    """Kills one worker, sees the others take its partitions, starts it anew."""

    def __init__(self, ground: Session, victim: WorkerWatch) -> None:
        self._ground, self._victim = ground, victim
        self._killed_s = math.nan
        self._again: WorkerWatch | None = None
        self._back = False
        self._from_ms = self._to_ms = math.inf
        self.took_s = math.nan

    def kill(self) -> None:
        """SIGKILL."""
        self._victim.scrape()
        child = self._victim.child
        self._ground.children.kill(child)
        self._killed_s = time.monotonic()
        self._from_ms = time.time() * 1000 - self._ground.settings.processing.commit_interval_ms
        self._ground.page.say(
            f"✝ {child.name} (pid {child.pid}) is killed with SIGKILL; its {self._victim.partitions} partitions "
            "have nobody",
            "bold yellow",
        )

    def disturbs(self, sent_ms: int) -> bool:
        """A frame sent then (or not yet committed at the kill) may have had to wait for a worker."""
        return self._from_ms <= sent_ms <= self._to_ms

    @property
    def killed(self) -> bool:
        return not math.isnan(self._killed_s)

    def look(self) -> None:
        """Go on with the story if it is time to; the pages were scraped just now."""
        if not self.killed or self._back:
            return
        page, others = self._ground.page, [w for w in self._ground.workers if w is not self._victim]
        if self._again is None:
            if sum(w.partitions for w in others) < 2 * self._ground.settings.topics.partitions:
                return
            self.took_s = time.monotonic() - self._killed_s
            names = " and ".join(w.child.name for w in others)
            page.say(
                f"{names} holds all partitions {seconds(self.took_s)} after the kill and goes on where "
                f"{self._victim.child.name} stopped",
                "yellow",
            )
            self._again = self._ground.start_worker(f"{self._victim.child.name}-again")
        elif self._again.partitions:
            self._back = True
            self._to_ms = time.time() * 1000
            child = self._again.child
            page.say(
                f"{child.name}: pid {child.pid}, {self._again.partitions} partitions, "
                f"{child.metrics_base()}/metrics"
            )


class Watching:
    """Reads truth and alerts while the fleet drives, and tells them."""

    def __init__(self, ground: Session) -> None:
        self._ground = ground
        self._feed = AlertFeed(ground.settings)
        self.truth = TruthFeed(ground.settings)
        self._told: set[str] = set()

    def close(self) -> None:
        self._feed.close()
        self.truth.close()

    def look(self, timeout_s: float) -> None:
        """Tell what comes within `timeout_s`. Faults are read after the alerts, so that theirs are known."""
        received = self._feed.read(timeout_s)
        for fault in self.truth.read(0.1 if received else 0.0):
            self._ground.page.fault(fault)
        for item in received:
            self._tell(item)

    def _tell(self, received: Received) -> None:
        faults = list(self.truth.faults.values())
        of = next((f for f in faults if explains(f, received, CLOCK_TOLERANCE_US)), None)
        state = received.alert.state
        if state is AlertState.OPEN:
            verdict = None
            if of is not None and of.device not in self._told:
                self._told.add(of.device)
                verdict = judge([of], [received], CLOCK_TOLERANCE_US).verdicts[0]
            self._ground.page.alert(received, verdict)
        elif state is AlertState.RESOLVED and of is not None:
            self._ground.page.alert(received, None)


class FleetRun:
    """The main demo: a fleet, its faults, and a worker that is killed.

    Parameters
    ----------
    seconds : wall time that the whole demo has, start and end included.
    """

    def __init__(self, ground: Session, seconds: float, vehicles: int, nodes: int, seed: int) -> None:
        self._ground, self._seconds, self._seed = ground, seconds, seed
        self._counts = {"vehicles": vehicles, "devices": nodes}
        self._classes = {"vehicles": plan.VEHICLE_CLASS, "devices": plan.NODE_CLASS}
        self._frame_s: dict[str, float] = {}
        self._takeover: Takeover | None = None

    def run(self) -> tuple[Figures, Result]:
        """All of it; leaves the stopping to the session."""
        ground, page = self._ground, self._ground.page
        first = [ground.start_worker(f"worker-{i + 1}") for i in range(plan.WORKERS)]
        ground.await_ready(first)
        run_s = max(plan.RUN_MIN_S, self._seconds - page.elapsed_s - plan.END_S)
        fleets = self._start_fleets(run_s)
        watching = Watching(ground)
        self._takeover = Takeover(ground, first[0])
        began_s = time.monotonic()
        try:
            while any(child.running for child in fleets):
                self._look(watching)
                for child in fleets:
                    if child.process.returncode:
                        self._ground.check(child)
            took_s = time.monotonic() - began_s
            page.still()
            said = [sent(child) for child in fleets]
            frames = sum(s.frames for s in said)
            page.say(f"the fleets have ended: {frames:,} frames; waiting for the last of them")
            processed = drain(ground, frames, lambda: self._look(watching))
            watching.look(LAST_LOOK_S)  # alerts are committed with their frames, and read a moment later
            while watching.truth.read(0.5):
                pass
            faults = list(watching.truth.faults.values())
        finally:
            watching.close()
        return self._count(said, processed, took_s, faults)

    def _start_fleets(self, run_s: float) -> list[Child]:
        settings, speed = self._ground.settings, plan.speed(run_s)
        catalogs = catalog.load(settings.catalog.paths)
        started = []
        for name, class_name in self._classes.items():
            entry = catalogs.latest(class_name)
            self._frame_s[name] = entry.period_ms * entry.steps_per_frame / 1000
            arguments = ["simulate", name, "--class", class_name, "--count", str(self._counts[name])]
            arguments += ["--seconds", f"{plan.EVENT_S:g}", "--speed", f"{speed:.6g}", "--seed", str(self._seed)]
            for fault in plan.FAULTS:
                if fault.fleet == name:
                    arguments += ["--inject", fault.order]
            started.append(self._ground.children.start(name, arguments))
        page = self._ground.page
        page.say(
            f"fleet: {self._counts['vehicles']} x {plan.VEHICLE_CLASS} (pid {started[0].pid}), "
            f"{self._counts['devices']} x {plan.NODE_CLASS} (pid {started[1].pid}), at {speed:.1f} times real time"
        )
        page.say(
            f"plan: {plan.FAULTS[0].at_s:.0f} s of event time to learn what is normal; {len(plan.FAULTS)} faults; "
            f"a worker is killed at {plan.KILL_AT_S:.0f} s; the end at {plan.EVENT_S:.0f} s"
        )
        self._looked_s = -math.inf
        return started

    def _look(self, watching: Watching) -> None:
        """One turn, about 0.2 s."""
        watching.look(0.2)
        ground, takeover = self._ground, self._takeover
        assert takeover is not None
        if time.monotonic() - self._looked_s < _LOOK_EVERY_S:
            return
        self._looked_s = time.monotonic()
        for watch in ground.workers:
            if watch.child.running:
                watch.scrape()
            elif not (takeover.killed and watch is ground.workers[0]):
                ground.check(watch.child)
        vehicles = ground.cluster.sent(ground.cluster.topics.vehicle)
        nodes = ground.cluster.sent(ground.cluster.topics.device)
        event_s = vehicles * self._frame_s["vehicles"] / self._counts["vehicles"]
        if event_s >= plan.KILL_AT_S and not takeover.killed:
            takeover.kill()
        takeover.look()
        phase = "learning what is normal" if event_s < plan.FAULTS[0].at_s else "watching"
        ground.page.progress(
            f"{phase}: {event_s:,.0f} of {plan.EVENT_S:,.0f} s of event time, {vehicles + nodes:,} frames sent"
        )

    def _count(
        self, said: Sequence[Sent], processed: int, took_s: float, faults: Sequence[Injected]
    ) -> tuple[Figures, Result]:
        ground, takeover = self._ground, self._takeover
        assert takeover is not None
        for watch in ground.workers:
            watch.scrape()
        with AlertFeed(ground.settings) as feed:
            alerts = list(feed.to_end())
            repeated = feed.repeated
        if len(faults) < len(plan.FAULTS):
            raise DemoError(f"{len(plan.FAULTS)} faults were ordered, the truth topic tells of {len(faults)}")
        topics, times = ground.cluster.topics, latencies(ground.settings, alerts)
        # at least once: a window that is published again has the same bytes
        windows = Counter((m.key(), m.value()) for m in ground.cluster.records(topics.features))
        exposure = Exposure()
        for _, value in windows:
            see_window(exposure, value)
        figures = Figures(
            fleet=", ".join(f"{self._counts[name]} x {of}" for name, of in self._classes.items()),
            run_s=took_s,
            event_s=plan.EVENT_S,
            frames=sum(s.frames for s in said),
            acknowledged=sum(s.acknowledged for s in said),
            samples=sum(s.samples for s in said),
            processed=processed,
            windows=len(windows),
            windows_repeated=sum(windows.values()) - len(windows),
            steady_s=[t.seconds for t in times if not takeover.disturbs(t.sent_ms)],
            failover_s=[t.seconds for t in times if takeover.disturbs(t.sent_ms)],
            late_rows=totals(ground.workers, "late_rows"),
            dead_letters=len(ground.cluster.records(topics.dlq)),
            duplicates=totals(ground.workers, "duplicates"),
            read_again=totals(ground.workers, "replayed"),
            alerts_repeated=repeated,
            takeover_s=takeover.took_s,
        )
        return figures, judge(faults, alerts, CLOCK_TOLERANCE_US, exposure)
