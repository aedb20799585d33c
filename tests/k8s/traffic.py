"""Traffic for the scaling story: large frames, so that few records are much work. The rule: every one is counted.

Values are whole quarters, which compress: what costs a worker its time costs the broker little disk.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from telemetry import codec
from telemetry.settings import Settings
from tests.chaos.sending import WAITING_MAX, Sender
from tests.chaos.workload import Record, partition_of

CATALOG, SIGNALS, STEPS, PERIOD_US = "bench.frames/1", 10, 100, 100_000
START_US = 1_760_000_000_000_000


def frames(seed: int, devices: int, partitions: int) -> Iterator[Record]:
    """Each device in turn, for ever: sines and noise, now and then a spike that should be an alert."""
    rng = np.random.default_rng(seed)
    base, phase = rng.normal(50, 20, (devices, SIGNALS)), rng.uniform(0, 6.28, (devices, SIGNALS))
    names = [f"veh-{d:05d}" for d in range(devices)]
    places = [partition_of(name.encode(), partitions) for name in names]
    steps = np.arange(STEPS)[None, :, None] * PERIOD_US / 1e6
    turn = 0
    while True:
        at_us = START_US + turn * STEPS * PERIOD_US
        wave = 3 * np.sin((turn * STEPS * PERIOD_US / 1e6 + steps) * 0.3 + phase[:, None, :])
        values = base[:, None, :] + wave + rng.normal(0, 1, (devices, STEPS, SIGNALS))
        strange = np.flatnonzero(rng.random(devices) < 0.02)
        values[strange, 20:40, rng.integers(0, SIGNALS, len(strange))] += 30.0
        rounded = (np.round(values * 4) / 4).astype(np.float32)
        for d, name in enumerate(names):
            frame = codec.Frame(name, CATALOG, turn, at_us, PERIOD_US, rounded[d])
            yield Record(0, places[d], name.encode(), codec.encode_frame(frame))
        turn += 1


class SteppedSender(Sender):
    """A sender whose rate may be changed while it sends. rate : records a second."""

    def __init__(self, settings: Settings, names: tuple[str, str], source: Iterator[Record], rate: float) -> None:
        super().__init__(settings, names, source, rate)
        self.rate = rate
        self.sent = 0

    def _run(self) -> None:
        due = time.monotonic()
        try:
            for record in self._source:
                if self._stop.is_set():
                    break
                while len(self._producer) >= WAITING_MAX and not self._stop.is_set():
                    self._producer.poll(0.1)
                self.send(record)
                self.sent += 1
                due = max(due + 1 / self.rate, time.monotonic() - 1.0)  # what a busy machine kept back comes soon
                ahead_s = due - time.monotonic()
                self._producer.poll(max(0.0, ahead_s) if ahead_s > 0.005 else 0)
        except Exception as exc:  # the test must hear of it
            self.problems.append(f"the sender ended: {type(exc).__name__}: {exc}")
            raise
