"""Ends a worker that no longer works. The rule: never for what a restart cannot mend, as a broker that is away.

A thread of its own, since it watches for an event loop that hangs, a member that its group has forgotten, and
topics that were changed under the worker. It asks the broker only when nothing has moved for a while.
"""

from __future__ import annotations

import faulthandler
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

from confluent_kafka import KafkaException
from confluent_kafka.admin import OffsetSpec

from streams.ownership import TopicPart
from telemetry import clients, offsets
from telemetry.errors import FleetwatchError, TopicError
from telemetry.settings import Settings
from telemetry.topics import topics

log = logging.getLogger("fleetwatch.watchdog")

EVERY_S = 5.0
#: Topics are looked at so often, also while work goes on.
TOPICS_EVERY_S = 15.0
TELL_EVERY_S = 60.0
ANSWER_S = 5.0


class StalledError(FleetwatchError):
    """Work waits and is not done; a new process may do it."""


class Watched(Protocol):
    """What the watchdog sees of a worker."""

    @property
    def progress_at(self) -> float:
        """When something last moved: a batch, a checkpoint, a portion of a restore; monotonic clock, s."""
        ...

    @property
    def holding(self) -> dict[TopicPart, int] | None:
        """Next offset of each partition that it works on; None = it is waiting for its group."""
        ...


class Cluster:
    """The watchdog's questions to the cluster."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        names = topics(settings)
        outputs = (names.state, names.features, names.scores, names.alerts, names.late, names.dlq)
        self._watched = [spec.name for spec in (*names.inputs, *outputs)]

    def problem(self) -> str | None:
        """What has become of the topics that the worker cannot live with; None = nothing.

        Raises
        ------
        KafkaException : no broker answers.
        """
        found = clients.admin(self._settings).list_topics(timeout=ANSWER_S).topics
        wanted = self._settings.topics.partitions
        for name in self._watched:
            if name not in found or found[name].error is not None:
                return f"topic {name} is gone; make it again (`fleetwatch topics apply`) before the worker starts"
            if (n := len(found[name].partitions)) != wanted:
                return (
                    f"topic {name} has {n} partitions now, topics.partitions says {wanted}: devices would change "
                    "partition and leave their state behind; see docs/topics.md"
                )
        return None

    def ends(self, partitions: list[TopicPart]) -> dict[TopicPart, int]:
        """Raises KafkaException if no broker answers."""
        return offsets.offsets_of(
            clients.admin(self._settings), partitions, OffsetSpec.latest(), ANSWER_S, stable=True
        )


class Watchdog:
    """Calls `end` with the cause once the worker should be ended.

    stall_timeout_s : work may wait so long without progress; half of it the event loop may hang.
    """

    def __init__(
        self,
        worker: Watched,
        cluster: Cluster,
        stall_timeout_s: float,
        end: Callable[[BaseException], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worker, self._cluster, self._end, self._clock = worker, cluster, end, clock
        self._stall_s = stall_timeout_s
        now = clock()
        self._beat_at = self._back_at = self._topics_at = now
        self._away_since = self._told_at = 0.0
        self._gone: str | None = None
        self.verdict = ""

    def beat(self) -> None:
        """Called by the event loop, about once a second."""
        self._beat_at = self._clock()

    def start(self) -> None:
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(EVERY_S)
            try:
                self.look()
            except Exception as exc:  # its own bug, too: a worker without a watchdog must not look well
                self.verdict = f"{type(exc).__name__}: {exc}"
                self._end(exc)
                return

    def look(self) -> None:
        """One look.

        Raises
        ------
        StalledError : the event loop hangs, or work waits and is not done.
        TopicError : topics were deleted or have grown.
        """
        now = self._clock()
        if now - self._beat_at > self._stall_s / 2:
            faulthandler.dump_traceback(sys.stderr, all_threads=True)
            raise StalledError(
                f"the event loop has not run for {now - self._beat_at:.0f} s; its stack is in the log above"
            )
        if now - self._topics_at >= TOPICS_EVERY_S and self._answered(self._look_at_topics):
            self._topics_at = now
        still_s = now - max(self._worker.progress_at, self._back_at)
        if still_s > self._stall_s:
            self._answered(lambda: self._look_at_work(still_s))

    def _answered(self, question: Callable[[], None]) -> bool:
        """Ask the cluster; while it does not answer, nothing is held against the worker."""
        now = self._clock()
        try:
            question()
        except KafkaException as exc:
            self._away_since = self._away_since or now
            self._back_at = now
            if now - self._told_at >= TELL_EVERY_S:
                self._told_at = now
                log.warning(
                    "no broker has answered for %.0f s: waiting (%s)", now - self._away_since, exc.args[0].str()
                )
            return False
        if self._away_since:
            log.warning("brokers answer again after %.0f s", now - self._away_since)
            self._away_since, self._back_at = 0.0, now
        return True

    def _look_at_topics(self) -> None:
        """A topic must be gone at two looks: a broker that has just started knows none."""
        problem = self._cluster.problem()
        if problem is not None and problem == self._gone:
            raise TopicError(problem)
        self._gone = problem

    def _look_at_work(self, still_s: float) -> None:
        holding = self._worker.holding
        if holding is None:
            self._look_at_topics()
            if still_s > 2 * self._stall_s:
                raise StalledError(f"the group has given this worker no partitions for {still_s:.0f} s")
            return
        ends = self._cluster.ends(sorted(holding))
        waiting = sum(max(0, ends[at] - offset) for at, offset in holding.items())
        if waiting:
            raise StalledError(f"{waiting} records wait and nothing was done for {still_s:.0f} s")
