"""From a frame sent to its alert at a subscriber, at half of capacity. The rule: every alert counts, each once.

The frame's time is its record's timestamp, when its producer sent it. The alert's is the clock's when a live reader
of committed records has it: with transactions that is after the commit, not when the broker took the record.
Capacity is that of all three together on this machine: writer, broker and worker at full speed at once.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cluster, process
from benchmarks.job import FRAMES, PARTITIONS, Writer
from benchmarks.subscriber import Place, Subscriber
from telemetry.settings import Settings
from telemetry.topics import topics

DEVICES = 10_000
#: Before this nothing counts: the worker joins, the detectors warm.
WARM_S = 5.0
SECONDS = 20.0
#: Partitions of both input topics.
OWNED = 2 * PARTITIONS
#: What is compared: settings of `processing`. The first is the default; the last is what a low latency takes.
MODES: dict[str, dict[str, Any]] = {
    "exactly_once": {"guarantee": "exactly_once", "commit_interval_ms": 1000},
    "at_least_once": {"guarantee": "at_least_once", "commit_interval_ms": 1000},
    "exactly_once_100ms": {"guarantee": "exactly_once", "commit_interval_ms": 100},
}


def _start(bootstrap: str, folder: Path, name: str, processing: dict[str, Any]) -> tuple[Path, Settings]:
    config = folder / f"{name}.yaml"
    wanted = process.sections(bootstrap, FRAMES, "bench.latency", name, {"processing": processing})
    settings = process.write_settings(config, wanted)
    cluster.fresh_topics(settings, keep_input=False)
    return config, settings


def capacity(bootstrap: str, folder: Path, messages: int) -> float:
    """Frames a second from the first one written to the last one processed, everything at full speed."""
    config, settings = _start(bootstrap, folder, "capacity", MODES["exactly_once"])
    topic = topics(settings).vehicle.name
    writer = Writer(FRAMES, DEVICES)
    with process.WorkerProcess(config, folder / "capacity.log") as worker:
        worker.wait_owned(OWNED)
        started = time.perf_counter()
        writer.run(settings, topic, messages)
        worker.wait_frames(messages, 300.0, 0.05)
        return messages / (time.perf_counter() - started)


def _sent_ms(settings: Settings, wanted: set[Place]) -> tuple[dict[Place, int], int]:
    """When each of these frames was sent, and the first of all frames."""
    found: dict[Place, int] = {}
    first_ms = 1 << 62
    for message in cluster.records(settings, topics(settings).vehicle.name):
        at_ms = message.timestamp()[1]
        first_ms = min(first_ms, at_ms)
        if (place := (message.partition(), message.offset())) in wanted:
            found[place] = at_ms
    return found, first_ms


def _waits_ms(settings: Settings, frames: dict[Place, Place], arrived: dict[Place, float]) -> list[float]:
    """Of each alert that counts. frames : alert -> the last frame it came from."""
    sent_ms, first_ms = _sent_ms(settings, set(frames.values()))
    return [
        arrived[alert] - sent_ms[frame]
        for alert, frame in frames.items()
        if sent_ms[frame] - first_ms >= WARM_S * 1000
    ]


def measure(bootstrap: str, folder: Path, mode: str, run: int, rate: float, seconds: float) -> dict[str, Any]:
    """Latencies at `rate` frames a second, ms.

    Raises
    ------
    RuntimeError : an alert arrived twice, or there was none. TimeoutError : one did not arrive.
    """
    name = f"latency-{mode}-{run}"
    config, settings = _start(bootstrap, folder, name, MODES[mode])
    names = topics(settings)
    total = int(rate * seconds)
    with (
        process.WorkerProcess(config, folder / f"{name}.log") as worker,
        Subscriber(config, folder / f"{name}-subscriber.log") as subscriber,
    ):
        worker.wait_owned(OWNED)
        cpu_s, took_s = worker.cpu_s(), Writer(FRAMES, DEVICES).run(settings, names.vehicle.name, total, rate)
        cluster.wait_committed(settings, names.vehicle.name, total, 60.0)
        worker_share, totals = (worker.cpu_s() - cpu_s) / took_s, worker.totals()
        frames: dict[Place, Place] = {}
        for message in cluster.records(settings, names.alerts.name):
            evidence = json.loads(message.value())["evidence"]
            frames[message.partition(), message.offset()] = (evidence["partition"], evidence["offset_last"])
        arrived = subscriber.wait_received(list(frames))
    waits = _waits_ms(settings, frames, arrived)
    if not waits:
        raise RuntimeError(f"no alert in {seconds - WARM_S:.0f} s at {rate:,.0f} frames/s")
    p50, p90, p99 = np.percentile(waits, [50, 90, 99])
    figures = {
        "p50": float(p50),
        "p90": float(p90),
        "p99": float(p99),
        "max": float(max(waits)),
        "alerts": len(waits),
        "rate": total / took_s,
        "worker_cores": worker_share,
        "checkpoints_per_s": totals["checkpoints"] / took_s,
        "checkpoint_ms": totals["checkpoint_seconds"] / max(1.0, totals["checkpoints"]) * 1000,
    }
    print(f"latency, {mode}, at {figures['rate']:,.0f} frames/s: p50 {p50:.0f} ms, p99 {p99:.0f} ms, "
          f"{worker_share:.2f} of a core", flush=True)  # fmt: skip
    return figures


def repeated(bootstrap: str, folder: Path, rate: float, runs: int) -> dict[str, Any]:
    """Of each mode the median of each figure over so many runs, and the runs; the modes take turns."""
    done: dict[str, list[dict[str, Any]]] = {mode: [] for mode in MODES}
    for run in range(runs):
        for mode in MODES:
            done[mode].append(measure(bootstrap, folder, mode, run, rate, SECONDS))
    modes = {
        mode: {key: statistics.median(run[key] for run in found) for key in found[0]} | {"runs": found}
        for mode, found in done.items()
    }
    return {"rate_wanted": rate, "modes": modes}
