"""The common job's input: sines, noise and rare spikes. The rule: the same seed gives the same samples anywhere.

10,000 devices send a frame each half second of event time: 5 steps of 10 signals (`FRAMES`), or one step of one
signal (`SINGLE`). About 0.02 % of the frames carry a spike. Samples are drawn in the job's own order, so that they
are the ones that the peers were measured on; the frames are this project's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from producers.loadgen import RoundEncoder
from producers.sink import KafkaSink
from telemetry import catalog
from telemetry.catalog import Catalog
from telemetry.partitioner import partitions_of
from telemetry.settings import Settings

SEED = 7
T0_US = 1_760_000_000_000_000
ROUND_US = 500_000
STEP_S = 0.1
SPIKE = 30.0
SPIKE_RATE = 0.0002
PARTITIONS = 4
#: Frames handed over at a time.
CHUNK_FRAMES = 4096


@dataclass(frozen=True, slots=True)
class Variant:
    """One shape of the job. entry : catalogue entry of its frames."""

    name: str
    entry: str
    steps: int
    signals: int

    @property
    def samples(self) -> int:
        """Values in a frame."""
        return self.steps * self.signals

    @property
    def period_us(self) -> int:
        return round(STEP_S * 1e6) if self.steps > 1 else 0

    @property
    def catalog(self) -> Catalog:
        return catalog.load()[self.entry]


FRAMES = Variant("frames", "bench.frames/1", 5, 10)
SINGLE = Variant("single", "bench.single/1", 1, 1)


def device_ids(count: int) -> list[str]:
    return [f"veh-{i:07d}" for i in range(count)]


def rounds(
    variant: Variant, devices: int, count: int, spike_rate: float = SPIKE_RATE
) -> Iterator[NDArray[np.float32]]:
    """float32 (devices, steps, signals) of each of `count` rounds, the first at `T0_US`."""
    rng = np.random.default_rng(SEED)
    steps, signals = variant.steps, variant.signals
    base = rng.normal(50, 20, (devices, signals))
    phase = rng.uniform(0, 6.28, (devices, signals))
    for r in range(count):
        t_s = np.arange(steps)[None, :, None] * STEP_S + r * ROUND_US * 1e-6
        wave = 3 * np.sin(t_s * 0.3 + phase[:, None, :])
        x = (base[:, None, :] + wave + rng.normal(0, 1, (devices, steps, signals))).astype("<f4")
        hit = np.nonzero(rng.random(devices) < spike_rate)[0]
        x[hit, rng.integers(0, steps, len(hit)), rng.integers(0, signals, len(hit))] += SPIKE
        yield x


class Writer:
    """Writes the job to Kafka, a frame of every device a round, by this project's load encoder."""

    def __init__(self, variant: Variant, devices: int, partitions: int = PARTITIONS) -> None:
        self.variant, self.devices, self.partitions = variant, devices, partitions
        ids = device_ids(devices)
        self._encoder = RoundEncoder(ids, variant.catalog, variant.steps, variant.period_us)
        self._records = [{"key": name.encode(), "value": b""} for name in ids]
        self._partition = partitions_of(self._encoder.keys, partitions)

    def _chunks(self, size: int) -> list[tuple[int, NDArray[np.int64], list[dict[str, bytes]]]]:
        """Partition, devices, records: the devices in order, `size` at a time."""
        found = []
        for first in range(0, self.devices, size):
            part = self._partition[first : first + size]
            for p in range(self.partitions):
                members = first + np.flatnonzero(part == p)
                if len(members):
                    found.append((p, members, [self._records[i] for i in members.tolist()]))
        return found

    def run(
        self,
        settings: Settings,
        topic: str,
        total: int,
        rate: float = 0.0,
        each: Callable[[int], None] | None = None,
        first_round: int = 0,
    ) -> float:
        """Write `total` frames and wait for their acknowledgement; returns the seconds.

        rate : frames a second, 0 = as fast as it goes. each : called after each round with the frames sent so far.
        first_round : where an earlier call left off.

        Raises
        ------
        DeliveryError : not all were acknowledged.
        """
        sink = KafkaSink(settings, reports="failures", **({"linger_ms": 5} if rate else {}))
        chunks = self._chunks(max(64, int(rate / 100)) if rate else CHUNK_FRAMES)
        count = first_round + -(-total // self.devices)
        drawn = islice(enumerate(rounds(self.variant, self.devices, count)), first_round, None)
        first = next(drawn)
        started, sent = time.perf_counter(), 0
        for r, values in chain([first], drawn):
            matrix = self._encoder.encode(r, T0_US + r * ROUND_US, values.reshape(self.devices, -1))
            width = matrix.shape[1]
            for partition, members, records in chunks:
                data = matrix[members].tobytes()
                for i, record in enumerate(records):
                    record["value"] = data[i * width : (i + 1) * width]
                part = records[: total - sent]
                if not part:
                    break
                if rate:
                    while (wait_s := started + sent / rate - time.perf_counter()) > 0:
                        sink.poll(min(wait_s, 0.01))
                sink.send_batch(topic, partition, part)
                sent += len(part)
            if each:
                each(sent)
        sink.close(60.0)
        return time.perf_counter() - started
