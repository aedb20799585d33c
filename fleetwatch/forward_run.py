"""The forwarder's loop: read, hand to the lanes, commit what is final. The rule: all state is this thread's."""

from __future__ import annotations

import logging
import queue
import threading
import time
from dataclasses import dataclass
from typing import Any

from fleetwatch.forward import Outcome, Target
from fleetwatch.forward_lanes import Job, Lanes, Result
from fleetwatch.forward_metrics import ForwardMetrics, Page
from fleetwatch.forward_stream import AlertStream, Partition, Read
from telemetry.log import printable

log = logging.getLogger("fleetwatch.forward")

_POLL_S = 0.1
_BATCH_MAX = 500
_COMMIT_S = 1.0
_AGAIN_S = 1.0
#: Before partitions become another's: so long for the requests that are under way.
_HANDOVER_S = 3.0
#: At the end: so long for the broker to store the offsets.
_STORE_S = 5.0


@dataclass(frozen=True, slots=True)
class Pace:
    """queue_max : events in hand, above which reading waits. drain_s : for them, when stopped."""

    queue_max: int
    drain_s: float


class Forwarder:
    """Joins a stream, a target and its lanes."""

    def __init__(self, target: Target, lanes: Lanes, metrics: ForwardMetrics, pace: Pace) -> None:
        self._target, self._lanes, self._metrics, self._pace = target, lanes, metrics, pace
        self._stream: AlertStream | None = None
        self._jobs: dict[tuple[Partition, int], Job] = {}
        self._again_in: set[int] = set()  # lanes that have something to say again
        self._committed_s = self._again_s = 0.0
        self._abandoned = False

    def health(self) -> dict[str, Any]:
        """For the page; read from its thread."""
        return {
            "queued": len(self._jobs),
            "open": self._target.open,
            "retrying": self._lanes.retrying,
            "partitions": len(self._stream.partitions) if self._stream else 0,
        }

    def run(self, stream: AlertStream, stop: threading.Event, page: Page | None = None) -> int:
        """Until `stop`; then what is in hand is sent within `drain_s`. Returns how many events were left.

        Raises
        ------
        AccessError, TopicError, BrokerUnavailableError : see `AlertStream.read`.
        """
        self._stream = stream
        while not stop.is_set():
            self._once(stream)
            if page is not None:
                page.beat()
        self._lanes.stopping.set()
        end = time.monotonic() + self._pace.drain_s
        stream.pause(True)
        while self._jobs and time.monotonic() < end:
            for read in stream.read(0, _POLL_S):
                self._take(read)  # came with the last fetch
            self._collect()
            if page is not None:
                page.beat()
        self._abandoned = True
        self._settle(lambda job: job.place is not None)
        stream.commit()
        end = time.monotonic() + _STORE_S
        while not stream.settled and time.monotonic() < end:
            for read in stream.read(0, _POLL_S):
                self._take(read)
        return len(self._jobs)

    def _once(self, stream: AlertStream) -> None:
        self._collect()
        room = self._pace.queue_max - len(self._jobs)
        if room <= 0:
            stream.pause(True)
        elif room >= self._pace.queue_max / 2:
            stream.pause(False)
        for read in stream.read(0 if stream.paused else min(room, _BATCH_MAX), _POLL_S):
            self._take(read)
        now = time.monotonic()
        if now - self._again_s >= _AGAIN_S:
            self._again_s = now
            stream.let_go()
            self._say_again(stream)
        if now - self._committed_s >= _COMMIT_S:
            self._committed_s = now
            stream.commit()
        self._show(stream)

    def _show(self, stream: AlertStream) -> None:
        m = self._metrics
        m.queued.set(len(self._jobs))
        m.open.set(self._target.open)
        m.paused.set(stream.paused)
        m.retrying.set(self._lanes.retrying)
        m.partitions.set(len(stream.partitions))
        oldest = [ms for p in stream.partitions.values() if (ms := p.progress.oldest_ms) is not None]
        m.lag.set(max(0.0, time.time() - min(oldest) / 1000) if oldest else 0.0)

    def _take(self, read: Read) -> None:
        partition, received = read.partition, read.received
        if received is not None and not partition.is_new(received.attributes["id"]):
            self._skip(read, "repeated")
        elif received is None:
            if self._lanes.told.due("bad"):
                where = f"partition {partition.number}, offset {read.offset}"
                log.warning("%s is no alert and is passed over: %s", where, printable(read.bad))
            self._skip(read, "bad")
        elif not read.live:
            self._target.recall(received, partition.number, read.offset)
        else:
            message, since = self._target.accept(received, partition.number, read.offset)
            if message is None:
                self._skip(read, "filtered")
                return
            partition.progress.read(read.offset)
            partition.progress.owe(read.offset, since, received.arrived_ms)
            job = Job(
                message,
                received.attributes["id"],
                (partition.number, read.offset),
                dropped=lambda: partition.over or self._abandoned,
            )
            self._jobs[partition, read.offset] = job
            self._lanes.submit(self._lanes.lane_of(received.alert.device_id), job)

    def _skip(self, read: Read, why: str) -> None:
        if read.live:
            read.partition.progress.read(read.offset)
            self._metrics.events.labels(why).inc()

    def _say_again(self, stream: AlertStream) -> None:
        free = set(range(self._lanes.count)) - self._again_in
        for lane, message in self._target.again(time.time(), free, self._lanes.lane_of, stream.standing).items():
            self._again_in.add(lane)
            job = Job(message, "alerts said again", once=True, dropped=lambda: self._abandoned)
            self._lanes.submit(lane, job)

    def _collect(self) -> None:
        while True:
            try:
                result = self._lanes.results.get_nowait()
            except queue.Empty:
                return
            self._heed(result)

    def _heed(self, result: Result) -> None:
        if result.bug is not None:
            raise RuntimeError(f"lane {result.lane} failed") from result.bug
        if result.job.once:
            self._again_in.discard(result.lane)
            for message, how in result.parts or ():
                self._target.heard(message, time.time(), how)
                self._metrics.resent.labels(how.value).inc()
            return
        at = next((at for at, job in self._owed(result.job) if job is result.job), None)
        if at is None or result.parts is None:
            return
        del self._jobs[at]
        refused = any(how is Outcome.REFUSED for _, how in result.parts)
        self._metrics.events.labels("refused" if refused else "delivered").inc()
        at[0].progress.done(at[1])

    def _owed(self, job: Job) -> list[tuple[tuple[Partition, int], Job]]:
        assert job.place is not None
        assert self._stream is not None
        number, offset = job.place
        partition = self._stream.partitions.get(number)
        found = self._jobs.get((partition, offset)) if partition is not None else None
        return [((partition, offset), found)] if partition is not None and found is not None else []

    def leaving(self, partitions: list[Partition]) -> None:
        """Before they are another's: the requests under way end, what waits is the other's to send."""
        numbers = {partition.number for partition in partitions}
        self._settle(lambda job: job.place is not None and job.place[0] in numbers)
        for at in [at for at in self._jobs if at[0] in partitions]:
            del self._jobs[at]

    def _settle(self, mine: Any) -> None:
        end = time.monotonic() + _HANDOVER_S
        while self._lanes.busy_with(mine) and time.monotonic() < end:
            time.sleep(0.02)
        self._collect()
