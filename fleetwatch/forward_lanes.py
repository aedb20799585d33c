"""Threads that deliver. The rule: a device's messages go through one lane, each until it is final.

A lane that cannot deliver waits with its message: what comes after it in the lane waits too, and is never dropped.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from fleetwatch.forward import Backoff, Message, Outcome, outcome, retry_after_s
from fleetwatch.forward_http import Poster, UnansweredError
from fleetwatch.forward_metrics import ForwardMetrics, Told
from telemetry.log import printable

log = logging.getLogger("fleetwatch.forward")

#: A stop shortens a pause to this, so that what is in hand is tried once more.
_STOPPING_PAUSE_S = 1.0
_STEP_S = 0.1


class Gate:
    """A receiver that says Retry-After is left alone by all lanes until then."""

    def __init__(self) -> None:
        self._until = 0.0

    def close_for(self, seconds: float) -> None:
        self._until = max(self._until, time.monotonic() + seconds)

    @property
    def remaining_s(self) -> float:
        return self._until - time.monotonic()


@dataclass(slots=True, eq=False)
class Job:
    """One message in hand. once : one attempt only. dropped : whether it is not ours any more."""

    message: Message
    what: str
    place: tuple[int, int] | None = None
    once: bool = False
    dropped: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True)
class Result:
    """parts : what became of each part of the message. None = it was not ours any more."""

    job: Job
    lane: int
    parts: list[tuple[Message, Outcome]] | None
    bug: BaseException | None = None


@dataclass(frozen=True, slots=True)
class LaneRules:
    backoff: Backoff
    retry_after_max_s: float
    poster: Callable[[], Poster]
    metrics: ForwardMetrics
    where: str


@dataclass(eq=False)
class Lanes:
    """`count` of them; `submit` from one thread, which also takes the `results`."""

    rules: LaneRules
    count: int
    results: queue.SimpleQueue[Result] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        self.gate, self.told, self.stopping = Gate(), Told(), threading.Event()
        self._lanes = [Lane(self, number) for number in range(self.count)]
        for lane in self._lanes:
            lane.start()

    def lane_of(self, device: str) -> int:
        return zlib.crc32(device.encode(errors="replace")) % self.count

    def submit(self, lane: int, job: Job) -> None:
        self._lanes[lane].jobs.put(job)

    @property
    def retrying(self) -> int:
        """Lanes whose message was not taken at the last attempt."""
        return sum(lane.retrying for lane in self._lanes)

    def busy_with(self, mine: Callable[[Job], bool]) -> bool:
        """Whether a request is under way for such a job."""
        return any(job is not None and mine(job) for job in [lane.posting for lane in self._lanes])


class Lane(threading.Thread):
    """Daemon: a request that outlasts the time to stop does not keep the process."""

    def __init__(self, lanes: Lanes, number: int) -> None:
        super().__init__(name=f"lane-{number}", daemon=True)
        self._lanes, self._rules, self._number = lanes, lanes.rules, number
        self._poster = lanes.rules.poster()
        self.jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self.retrying = False
        self.posting: Job | None = None

    def run(self) -> None:
        while True:
            job = self.jobs.get()
            try:
                parts = self._deliver(job)
            except BaseException as exc:  # our bug: the main thread ends the process with it
                self._lanes.results.put(Result(job, self._number, None, exc))
                raise
            self._lanes.results.put(Result(job, self._number, parts))

    def _deliver(self, job: Job) -> list[tuple[Message, Outcome]] | None:
        failures = 0
        while not job.dropped():
            result = self._attempt(job.message, job)
            self.retrying = result is Outcome.RETRY
            if result is not Outcome.RETRY:
                if failures and result is Outcome.DELIVERED and self._lanes.told.due("back"):
                    log.info("%s takes alerts again", self._rules.where)
                if result is Outcome.REFUSED and len(parts := job.message.parts()) > 1:
                    return [(part, self._attempt(part, job)) for part in parts]
                return [(job.message, result)]
            if job.once:
                return [(job.message, result)]
            failures += 1
            self._pause(self._rules.backoff.wait_s(failures), job)
        return None

    def _attempt(self, message: Message, job: Job) -> Outcome:
        self._pause(0.0, job)  # the gate
        if job.dropped():
            return Outcome.RETRY
        headers, body = message.render(time.time())
        begun = time.monotonic()
        self.posting = job
        try:
            answer = self._poster.post(headers, body)
        except UnansweredError as exc:
            self._rules.metrics.attempt(exc.kind, time.monotonic() - begun)
            if self._lanes.told.due(exc.kind):
                log.warning("%s: %s; tried again until it answers", self._rules.where, exc)
            return Outcome.RETRY
        finally:
            self.posting = None
        self._rules.metrics.attempt(str(answer.status), time.monotonic() - begun)
        result = outcome(answer.status)
        if result is Outcome.RETRY:
            wait_s = min(retry_after_s(answer.retry_after, time.time()), self._rules.retry_after_max_s)
            self._lanes.gate.close_for(wait_s)
            if self._lanes.told.due(str(answer.status)):
                asked = f", asks to wait {wait_s:.0f} s" if wait_s else ""
                log.warning("%s answers %d%s: %s", self._rules.where, answer.status, asked, answer.said)
        elif result is Outcome.REFUSED and self._lanes.told.due(str(answer.status)):
            hint = " (redirects are not followed)" if answer.status < 400 else ""
            log.error(
                "%s refuses %s for good, %d%s: %s",
                self._rules.where,
                printable(job.what),
                answer.status,
                hint,
                answer.said,
            )
        return result

    def _pause(self, seconds: float, job: Job) -> None:
        """The backoff, and the gate; a Retry-After is kept to also when stopping."""
        end = time.monotonic() + seconds
        while not job.dropped():
            if self._lanes.stopping.is_set():
                end = min(end, time.monotonic() + _STOPPING_PAUSE_S)
            left = max(end - time.monotonic(), self._lanes.gate.remaining_s)
            if left <= 0:
                return
            time.sleep(min(left, _STEP_S))
