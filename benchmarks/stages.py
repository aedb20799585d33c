"""Where the core's time goes, stage by stage. The rule: the stages are timed where they run, in the core itself."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from benchmarks import memory
from benchmarks.job import PARTITIONS, ROUND_US, T0_US, Variant, rounds
from benchmarks.process import sections
from streams.core import engine as _engine
from streams.core.core import Core
from streams.core.effects import Effects
from streams.core.records import Part
from streams.core.state import dirty_rows
from streams.wiring import make_core
from telemetry import settings as settings_module
from telemetry.partitioner import partitions_of
from telemetry.topics import topics

#: As it is, so that a stage can be replaced by a timed one.
engine_module: Any = _engine
DEVICES = 10_000
ROUNDS = 120
#: Rounds whose windows and detectors are still warming, or that compile: not counted.
WARM_ROUNDS = 40
#: Rounds handed over in one call: 15,000 frames of a partition, as in a fetch of 4 MiB.
CALL_ROUNDS = 6


class Clock:
    """CPU nanoseconds of this thread by stage."""

    def __init__(self) -> None:
        self.ns: defaultdict[str, int] = defaultdict(int)

    def call(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*args: Any, **options: Any) -> Any:
            started = time.thread_time_ns()
            try:
                return function(*args, **options)
            finally:
                self.ns[stage] += time.thread_time_ns() - started

        return timed

    def steps(self, stage: str, function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """The generator function, its steps timed, not what its caller does between them."""

        def timed(*args: Any, **options: Any) -> Iterator[Any]:
            iterator = function(*args, **options)
            step = self.call(stage, lambda: next(iterator, None))
            while (item := step()) is not None:
                yield item

        return timed


@contextmanager
def watched(core: Core, entry: str, clock: Clock) -> Iterator[None]:
    """Time the stages of the core's engine of one class."""
    engine: Any = core.engine(entry)
    scanner: Any = core._scanners[0]
    original = engine_module.place
    engine_module.place = clock.call("place", original)
    core._scanners[0] = _Proxy(scanner, clock)  # type: ignore[call-overload]
    engine._score = clock.call("detector", engine._score)
    engine.windows.advance = clock.steps("windows", engine.windows.advance)
    engine._publish = clock.call("features", engine._publish)
    engine.alerts.judge = clock.call("alert policy", engine.alerts.judge)
    engine._writer.write = clock.call("alert writing", engine._writer.write)
    try:
        yield
    finally:
        engine_module.place = original


class _Proxy:
    """A scanner whose `scan` is timed (its class has slots)."""

    def __init__(self, scanner: Any, clock: Clock) -> None:
        self._scanner = scanner
        self.scan = clock.steps("scan", scanner.scan)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scanner, name)


def job_core(variant: Variant) -> tuple[Core, str]:
    """A core with the job's settings, and its input topic."""
    settings = settings_module.load(environ={}, **sections("127.0.0.1:9", variant, "bench", "stages"))
    return make_core(settings), topics(settings).vehicle.name


def measure(variant: Variant) -> dict[str, Any]:
    """ns a message of each stage and in all, ns a changelog row."""
    core, topic = job_core(variant)
    clock, frames = Clock(), memory.Frames(variant, DEVICES)
    of_device = partitions_of(frames.keys, PARTITIONS)
    members = [np.flatnonzero(of_device == p) for p in range(PARTITIONS)]
    waiting: list[list[Part]] = [[] for _ in members]
    counted, total_ns = 0, 0
    with watched(core, variant.entry, clock):
        for r, values in enumerate(rounds(variant, DEVICES, ROUNDS)):
            if r == WARM_ROUNDS:
                clock.ns.clear()
                counted = total_ns = 0
            matrix = frames.encode(r, T0_US + r * ROUND_US, values)
            for p, chosen in enumerate(members):
                waiting[p] += memory.parts(frames.keys[chosen], matrix[chosen], r * len(chosen))
            if (r + 1) % CALL_ROUNDS and r + 1 not in (WARM_ROUNDS, ROUNDS):
                continue
            for p, batch in enumerate(waiting):
                started = time.thread_time_ns()
                core.process(topic, p, batch, 0, T0_US, Effects())
                total_ns += time.thread_time_ns() - started
                counted += sum(part.count for part in batch)
                batch.clear()
    started = time.thread_time_ns()
    rows = len(dirty_rows(core))
    row_ns = (time.thread_time_ns() - started) / rows
    by_stage = {stage: ns / counted for stage, ns in clock.ns.items()}
    by_stage["alert policy"] = by_stage.get("alert policy", 0.0)
    by_stage["other"] = total_ns / counted - sum(by_stage.values())
    return {"core_ns_per_message": total_ns / counted, "stages_ns_per_message": by_stage, "state_row_ns": row_ns}
