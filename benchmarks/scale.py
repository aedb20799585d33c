"""The core with many devices: CPU a sample, memory a device. The rule: each size in a process of its own.

Run as a module with a number of devices: prints one line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks import memory
from benchmarks.job import FRAMES, ROUND_US, T0_US
from benchmarks.process import environment
from benchmarks.stages import job_core
from streams.core.core import Core
from streams.core.effects import Effects

#: At least so many frames are measured in each order, and at least one window of each device closes.
FRAMES_MIN = 2_000_000
WINDOW_ROUNDS = 20
CALL_FRAMES = 16_384


class _Feed:
    """Rounds of all devices into a core, CPU time counted."""

    def __init__(self, core: Core, topic: str, devices: int) -> None:
        self._core, self._topic, self._devices = core, topic, devices
        rng = np.random.default_rng(7)
        shape = (devices, FRAMES.steps, FRAMES.signals)
        self._base = rng.normal(50, 20, (devices, 1, FRAMES.signals)).astype(np.float32)
        self._noise = rng.standard_normal(shape, np.float32)
        self._frames = memory.Frames(FRAMES, devices)
        self._rng, self._round, self._offset = rng, 0, 0

    def round(self, order: NDArray[np.int64] | None) -> float:
        """One frame of every device, in this order; CPU seconds in the core."""
        shift = self._round * 7919 % self._devices
        values = np.roll(self._noise, shift, axis=0)
        values += self._base
        matrix = self._frames.encode(self._round, T0_US + self._round * ROUND_US, values)
        used = 0.0
        for at in range(0, self._devices, CALL_FRAMES):
            chosen = slice(at, at + CALL_FRAMES) if order is None else order[at : at + CALL_FRAMES]
            batch = memory.parts(self._frames.keys[chosen], matrix[chosen], self._offset)
            self._offset += sum(part.count for part in batch)
            started = time.thread_time()
            self._core.process(self._topic, 0, batch, 0, T0_US, Effects())
            used += time.thread_time() - started
        self._round += 1
        return used

    def ns_per_sample(self, *, shuffled: bool) -> float:
        count = max(WINDOW_ROUNDS, FRAMES_MIN // self._devices)
        used = 0.0
        for _ in range(count):
            used += self.round(self._rng.permutation(self._devices) if shuffled else None)
        return used / (count * self._devices * FRAMES.samples) * 1e9


def measure(devices: int) -> dict[str, Any]:
    """Figures of one size. rss : growth of the process from the first frame on, the feed's memory taken before."""
    core, topic = job_core(FRAMES)
    warm = _Feed(core, topic, 1024)
    for _ in range(2 * WINDOW_ROUNDS + 1):
        warm.round(None)
    core, topic = job_core(FRAMES)
    feed = _Feed(core, topic, devices)
    np.roll(feed._noise, 1, axis=0)
    process = psutil.Process()
    before = process.memory_info().rss
    insert_s = feed.round(None)
    ordered, shuffled = feed.ns_per_sample(shuffled=False), feed.ns_per_sample(shuffled=True)
    grown = process.memory_info().rss - before
    engine = core.engine(FRAMES.entry)
    assert core.devices_held() == {FRAMES.entry: devices}
    return {
        "ns_per_sample": ordered,
        "ns_per_sample_shuffled": shuffled,
        "first_frame_ns": insert_s / devices * 1e9,
        "bytes_per_device": core.state_nbytes() / devices,
        "state_row_bytes": engine.row_nbytes,
        "rss_growth_mb": grown / 1e6,
    }


def measure_apart(devices: int) -> dict[str, Any]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", str(devices)]
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment(), check=True, timeout=900)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
