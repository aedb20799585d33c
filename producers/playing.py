"""The replay's run: send frames, count bad rows and put them where they can be looked at. The rule: no row is lost
silently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from producers.driver import Progress, Status
from producers.mapping import RecordingError
from producers.pacing import Pacer
from producers.replay import PlayedFrame, Refused
from producers.sink import KafkaSink
from telemetry.log import printable
from telemetry.topics import Topics

#: So many bad rows are shown; all are counted.
SHOWN_MAX = 5

BadRows = Literal["dlq", "skip", "fail"]


def headers_of(item: Refused, topic: str) -> list[tuple[str, bytes]]:
    """Connect-style headers of a malformed row: what it was meant for, where it was refused, and why."""
    return [
        ("__connect.errors.topic", topic.encode()),
        ("__connect.errors.stage", b"replay"),
        ("__connect.errors.exception.message", item.row.message.encode("utf-8", "surrogateescape")[:1024]),
        ("x-reason", item.row.reason.encode()),
        ("x-source", item.row.source.encode("utf-8", "surrogateescape")),
        ("x-line", str(item.row.line).encode()),
    ]


class Player:
    """Sends a timeline. frames, side : as in `producers.simulation.Simulation`."""

    def __init__(
        self,
        names: Topics,
        frames: KafkaSink,
        side: KafkaSink,
        *,
        start_us: int,
        pacer: Pacer,
        status: Status,
        progress: Progress,
        bad_rows: BadRows,
    ) -> None:
        self._topics = {"vehicle": names.vehicle.name, "device": names.device.name}
        self._dlq = names.dlq.name
        self._frames, self._side = frames, side
        self._start_us, self._pacer, self._status, self._progress = start_us, pacer, status, progress
        self._bad_rows = bad_rows

    def run(self, timeline: Iterable[PlayedFrame | Refused], stopped: Callable[[], bool]) -> None:
        """Until the end or until stopped; does not flush.

        Raises
        ------
        RecordingError : a malformed row, if `bad_rows` is "fail"; or a file cannot be read further.
        """
        for item in timeline:
            if not self._pacer.wait(item.at_us, self._idle, stopped):
                return
            if isinstance(item, Refused):
                self._refuse(item)
            else:
                self._frames.send(self._topics[item.kind], item.key, item.value)
                self._status.frames += 1
                self._status.samples += item.samples
                self._status.event_us = self._start_us + item.at_us
            if self._status.frames % 256 == 0:
                self._idle(0.0)

    def _idle(self, timeout_s: float) -> None:
        self._frames.poll(timeout_s)
        self._side.poll()
        self._progress.tick()

    def _refuse(self, item: Refused) -> None:
        text = printable(item.row.message)
        if self._bad_rows == "fail":
            raise RecordingError(f"{text} (--bad-rows fail)")
        self._status.bad_rows += 1
        if self._status.bad_rows <= SHOWN_MAX:
            self._progress.say(f"bad row: {text}")
        if self._bad_rows == "dlq":
            self._side.send(self._dlq, item.key, item.row.raw, headers=headers_of(item, self._topics[item.kind]))
