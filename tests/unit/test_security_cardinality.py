"""Ten thousand hostile names through the real core: no metric grows a series for any of them."""

from __future__ import annotations

import random

import numpy as np
from batches import Record, part
from prometheus_client import CollectorRegistry, generate_latest

from streams.core.effects import Effects
from streams.metrics import WorkerMetrics
from streams.worker import Worker
from telemetry import codec
from telemetry import settings as settings_module

T0 = 1_760_000_000_000_000
#: Ids are bounded (64 bytes) and of few characters; what is outside is refused, which must not name them either.
ALPHABET = 'abcXYZ0189._:-"{}=,\\\n\r\x00\x1b é\u2028'


def words(rng: random.Random) -> str:
    return "".join(rng.choices(ALPHABET, k=rng.randrange(1, 80)))


def frames(rng: random.Random, count: int) -> list[Record]:
    """Good frames of devices never heard of, and frames that lie about every name there is."""
    found: list[Record] = []
    for i in range(count):
        device, entry, width = f"veh-{rng.getrandbits(64):x}", "bench.frames/1", 10
        kind = i % 6
        if kind == 1:
            device = words(rng)
        elif kind == 2:
            entry = f"{words(rng)}/{rng.randrange(10**6)}"
        elif kind == 3:
            entry = f"bench.frames/{rng.randrange(2, 10**6)}"
        elif kind == 4:
            width = rng.randrange(1, 40)
        value = codec.encode_frame(codec.Frame(device, entry, i, T0 + i, 1000, np.ones((1, width), np.float32)))
        if kind == 5:
            value = bytes(rng.randrange(256) for _ in range(10)) + value[10:]
        found.append((device.encode("utf-8"), value))
    return found


def series(registry: CollectorRegistry) -> set[str]:
    """Name and labels of every series on the page."""
    lines = generate_latest(registry).decode().splitlines()
    return {line.rpartition(" ")[0] for line in lines if line and not line.startswith("#")}


def test_hostile_names_make_no_series() -> None:
    # nobody answers at that address; without transactions a worker does not wait for it to begin
    settings = settings_module.load(
        environ={},
        kafka={"bootstrap": "127.0.0.1:1"},
        topics={"partitions": 1},
        processing={"guarantee": "at_least_once"},
    )
    worker = Worker(settings, "w", lambda: False)
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    metrics.watch(worker, None)
    core, rng = worker.core, random.Random(11)
    found: list[set[str]] = []
    offset = 0
    for count in (600, 3_000, 12_000):
        for _ in range(0, count, 500):
            records = frames(rng, 500)
            core.process(core.topics[0], 0, [part(records, offset)], offset, T0 + 10_000_000, Effects())
            offset += len(records)
        found.append(series(registry))
    assert core.counters()["frames"] > 2_000
    assert sum(core.refused.values()) > 8_000
    assert len(core.refused) >= 4
    assert found[0] == found[1] == found[2]
    assert not any("veh-" in name for name in found[2])
