"""The input of the benchmarks' common job, in small, in the project's own frames."""

from __future__ import annotations

import numpy as np

from telemetry import codec

T0 = 1_760_000_000_000_000
Record = tuple[bytes, bytes]


def job(devices: int, rounds: int, seed: int = 7) -> list[Record]:
    """The common job's input in small: sines, noise and spikes, a frame a device each half second."""
    rng = np.random.default_rng(seed)
    base, phase = rng.normal(50, 20, (devices, 10)), rng.uniform(0, 6.28, (devices, 10))
    records = []
    for r in range(rounds):
        t = np.arange(5)[None, :, None] * 0.1 + r * 0.5
        x = base[:, None, :] + 3 * np.sin(t * 0.3 + phase[:, None, :]) + rng.normal(0, 1, (devices, 5, 10))
        spikes = np.flatnonzero(rng.random(devices) < 0.02)
        x[spikes, rng.integers(0, 5, len(spikes)), rng.integers(0, 10, len(spikes))] += 30
        for d in range(devices):
            name = f"veh-{d:07d}"
            frame = codec.Frame(name, "bench.frames/1", r, T0 + r * 500_000, 100_000, x[d].astype(np.float32))
            records.append((name.encode(), codec.encode_frame(frame)))
    return records
