"""From a frame at the broker to its alert at the broker, at half of capacity. The rule: every alert counts.

Both times are record timestamps: of the frame, when its producer sent it, and of the alert, when the broker took
it. Capacity is that of all three together on this machine: writer, broker and worker at full speed at once.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cluster, process
from benchmarks.job import FRAMES, Writer
from telemetry.settings import Settings
from telemetry.topics import topics

DEVICES = 10_000
#: Before this nothing counts: the worker joins, the detectors warm.
WARM_S = 5.0
SECONDS = 20.0


def _start(bootstrap: str, folder: Path, name: str) -> tuple[Path, Settings]:
    config = folder / f"{name}.yaml"
    settings = process.write_settings(config, process.sections(bootstrap, FRAMES, f"bench.{name}", name))
    cluster.fresh_topics(settings, keep_input=False)
    return config, settings


def capacity(bootstrap: str, folder: Path, messages: int) -> float:
    """Frames a second from the first one written to the last one processed, everything at full speed."""
    config, settings = _start(bootstrap, folder, "capacity")
    topic = topics(settings).vehicle.name
    writer = Writer(FRAMES, DEVICES)
    with process.WorkerProcess(config, folder / "capacity.log") as worker:
        _ready(worker)
        started = time.perf_counter()
        writer.run(settings, topic, messages)
        worker.wait_frames(messages, 300.0, 0.05)
        return messages / (time.perf_counter() - started)


def _ready(worker: process.WorkerProcess) -> None:
    """Return when the worker has its partitions."""
    end = time.monotonic() + process.START_S
    while not worker.totals().get("rebalances"):
        worker.check()
        if time.monotonic() > end:
            raise TimeoutError("the worker got no partitions")
        time.sleep(0.1)


def measure(bootstrap: str, folder: Path, rate: float, seconds: float) -> dict[str, Any]:
    """Latencies at `rate` frames a second, ms."""
    config, settings = _start(bootstrap, folder, "latency")
    names = topics(settings)
    total = int(rate * seconds)
    writer = Writer(FRAMES, DEVICES)
    with process.WorkerProcess(config, folder / "latency.log") as worker:
        _ready(worker)
        cpu_s, took_s = worker.cpu_s(), writer.run(settings, names.vehicle.name, total, rate)
        cluster.wait_committed(settings, names.vehicle.name, total, 60.0)
        worker_share, totals = (worker.cpu_s() - cpu_s) / took_s, worker.totals()
    alerts = cluster.read_all(settings, names.alerts.name)
    sent_ms = {
        (m.partition(), m.offset()): m.timestamp()[1] for m in cluster.read_all(settings, names.vehicle.name)
    }
    first_ms = min(sent_ms.values())
    waits = []
    for message in alerts:
        evidence = json.loads(message.value())["evidence"]
        frame_ms = sent_ms[evidence["partition"], evidence["offset_last"]]
        if frame_ms - first_ms >= WARM_S * 1000:
            waits.append(message.timestamp()[1] - frame_ms)
    if not waits:
        raise RuntimeError(f"no alert in {seconds - WARM_S:.0f} s at {rate:,.0f} frames/s")
    p50, p90, p99 = np.percentile(waits, [50, 90, 99])
    figures = {
        "p50": float(p50),
        "p90": float(p90),
        "p99": float(p99),
        "max": float(max(waits)),
        "alerts": len(waits),
        "rate_wanted": rate,
        "rate": total / took_s,
        "worker_cores": worker_share,
        "checkpoint_ms": totals["checkpoint_seconds"] / max(1.0, totals["checkpoints"]) * 1000,
    }
    print(f"latency at {figures['rate']:,.0f} frames/s: p50 {p50:.0f} ms, p99 {p99:.0f} ms", flush=True)
    return figures


def repeated(bootstrap: str, folder: Path, rate: float, runs: int) -> dict[str, Any]:
    """The median of each figure over so many runs, and the runs."""
    done = [measure(bootstrap, folder, rate, SECONDS) for _ in range(runs)]
    return {key: statistics.median(run[key] for run in done) for key in done[0]} | {"runs": done}
