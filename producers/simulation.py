"""A fleet's run: step, send, publish truth, hear orders. The rule: a frame is sent when its last step is over.

So event time never runs ahead of the clock at speed 1, and what the truth topic says of a fault was sent before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from producers.control import Listener, Order
from producers.driver import Progress, Status
from producers.faults import FaultError, FaultSpec, parse_inject
from producers.fleet import Fleet
from producers.pacing import Pacer
from producers.sink import KafkaSink
from telemetry import codec
from telemetry.log import printable
from telemetry.topics import Topics

#: Clock seconds between two looks at the control topic.
LISTEN_EVERY_S = 0.1


class Simulation:
    """One fleet on its way to Kafka.

    Parameters
    ----------
    frames : sink of the telemetry. side : sink of devices, truth and answers, so that frames are counted alone.
    end_us : event time to stop at; None = not by itself.
    """

    def __init__(
        self,
        fleet: Fleet,
        names: Topics,
        frames: KafkaSink,
        side: KafkaSink,
        listener: Listener,
        *,
        pacer: Pacer,
        status: Status,
        progress: Progress,
        end_us: int | None,
    ) -> None:
        self._fleet, self._frames, self._side = fleet, frames, side
        self._listener, self._pacer, self._status, self._progress = listener, pacer, status, progress
        self._topic = (names.vehicle if fleet.catalog.kind == "vehicle" else names.device).name
        self._names = names
        self._end_us = end_us
        self._samples = fleet.steps * len(fleet.catalog.signals)
        self._listened_s = -1e9

    def declare(self) -> None:
        """Publish what each device says of itself."""
        for device in self._fleet.devices():
            self._side.send(self._names.devices.name, device["device_id"].encode(), codec.encode("device", device))

    def order(self, spec: FaultSpec) -> dict[str, Any]:
        """Order a fault; returns its truth record.

        Raises
        ------
        FaultError : it does not fit this fleet.
        """
        truth = self._fleet.inject(spec)
        self._progress.say(f"fault ordered: {describe(truth, self._fleet.start_us)}")
        return truth

    def run(self, stopped: Callable[[], bool]) -> None:
        """Until the end or until stopped; does not flush."""
        fleet, send, topic = self._fleet, self._frames.send, self._topic
        while not stopped() and (self._end_us is None or fleet.now_us < self._end_us):
            if not self._pacer.wait(fleet.now_us + fleet.frame_period_us, self._idle, stopped):
                break
            self._idle(0.0)
            for frame in fleet.step():
                send(topic, frame.key, frame.value)
                self._status.frames += 1
            self._status.samples = self._status.frames * self._samples
            self._status.event_us = fleet.now_us
            self._publish_truth()

    def _publish_truth(self) -> None:
        for truth in self._fleet.truth():
            self._side.send(self._names.truth.name, truth["device_id"].encode(), codec.encode("truth", truth))
            if truth["end"] is None:
                self._status.faults += 1
                self._progress.say(f"fault begins: {describe(truth, self._fleet.start_us)}")
            else:
                self._progress.say(f"fault over: {truth['kind']} on {truth['device_id']}")

    def _idle(self, timeout_s: float) -> None:
        self._frames.poll(timeout_s)
        self._side.poll()
        self._progress.tick()
        now_s = time.monotonic()
        if now_s - self._listened_s >= LISTEN_EVERY_S:
            self._listened_s = now_s
            for order in self._listener.poll():
                self._obey(order)

    def _obey(self, order: Order) -> None:
        try:
            spec = parse_inject(order.inject)
            if spec.at_s is not None:  # counted from now
                spec = replace(spec, at_s=spec.at_s + (self._fleet.now_us - self._fleet.start_us) / 1e6)
            truth = self.order(spec)
        except FaultError as exc:
            self._progress.say(f"order refused: {printable(order.inject)}: {exc}")
            self._listener.answer(self._side, order, refused=str(exc))
        else:
            self._listener.answer(self._side, order, injected=truth)


def describe(truth: dict[str, Any], start_us: int | None = None) -> str:
    """A truth record in one line. start_us : of the run, to say when in it; None = leave that out."""
    text = f"{truth['kind']} on {truth['device_id']}"
    if start_us is not None:
        text += f" at {(truth['onset'] - start_us) / 1e6:g} s"
    many = truth["params"].get("devices")
    if many is not None and many != "1":
        text += f" (one of {many} devices)"
    return text + (f": {', '.join(truth['signals'][:4])}" if truth["signals"] else "")
