"""CPU a message of the real worker on the whole job. The rule: a figure counts only with its outputs verified.

Runs of both guarantees take turns over the same input, so that what disturbs the machine disturbs both alike.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import cluster, process, reference
from benchmarks.job import Variant, Writer
from telemetry.alerts import Alert
from telemetry.settings import Settings
from telemetry.topics import topics

DEVICES = 10_000
#: The share of the input after which the CPU time is counted.
FROM = 0.2
DRAIN_S = 300.0
#: The default first.
GUARANTEES = ("exactly_once", "at_least_once")


@dataclass(frozen=True, slots=True)
class Run:
    """One worker over the whole input; ns and rate from 20 % of it to its end. state_rows : a message."""

    ns_per_message: float
    messages_per_s: float
    rss_mb: float
    state_rows: float


def drain(
    config: Path, settings: Settings, total: int, log: Path, module: str = "fleetwatch", *, committed: bool = True
) -> Run:
    """Start a worker on a topic that holds `total` frames and wait until all are committed.

    committed : wait for, and count, the last commit; else only until all are processed.
    """
    topic = topics(settings).vehicle.name
    with process.WorkerProcess(config, log, module) as worker:
        first = worker.wait_frames(int(FROM * total), process.START_S, 0.02)
        cpu_s, wall_s = worker.cpu_s(), time.perf_counter()
        rows = worker.totals().get("state_rows", 0.0)
        worker.wait_frames(total, DRAIN_S, 0.1)
        drained_s = time.perf_counter()
        if committed:
            cluster.wait_committed(settings, topic, total, DRAIN_S)
        worker.check()
        used_s = worker.cpu_s() - cpu_s
        if first >= 0.9 * total:
            raise RuntimeError(f"{total:,} frames are too few: {first:,} were done at the first look")
        rows = (worker.totals()["state_rows"] - rows) / (total - first)
        rate = (total - first) / (drained_s - wall_s)
        return Run(used_s / (total - first) * 1e9, rate, worker.rss_bytes() / 1e6, rows)


def verify(settings: Settings, want: reference.Expected) -> list[str]:
    """What is wrong with the outputs of the last run."""
    names = topics(settings)
    features = [m.value() for m in cluster.read_all(settings, names.features.name)]
    alerts = [Alert.from_message(m.value(), m.headers()) for m in cluster.read_all(settings, names.alerts.name)]
    problems = reference.differences(want, DEVICES, features, alerts)
    for spec in (names.dlq, names.late):
        if found := len(cluster.read_all(settings, spec.name)):
            problems.append(f"{spec.name}: {found} records")
    state = {m.key() for m in cluster.read_all(settings, names.state.name)}
    if len(state) != DEVICES:
        problems.append(f"state: rows of {len(state)} devices")
    return problems


def _figures(variant: Variant, done: list[Run]) -> dict[str, Any]:
    """Medians of the runs, and the runs."""
    ns = statistics.median(run.ns_per_message for run in done)
    return {
        "ns_per_message": ns,
        "ns_per_sample": ns / variant.samples,
        "messages_per_s": statistics.median(run.messages_per_s for run in done),
        "rss_mb": max(run.rss_mb for run in done),
        "state_rows_per_message": statistics.median(run.state_rows for run in done),
        "runs": [asdict(run) for run in done],
    }


def overhead(exactly_once: list[Run], at_least_once: list[Run]) -> dict[str, Any]:
    """What exactly once costs more, as a share of the CPU a message of at least once: 0.05 = 5 %.

    Of the medians, and of each two runs that followed one another.
    """
    pairs = [a.ns_per_message / b.ns_per_message - 1.0 for a, b in zip(exactly_once, at_least_once, strict=True)]
    medians = [statistics.median(run.ns_per_message for run in runs) for runs in (exactly_once, at_least_once)]
    return {
        "exactly_once_overhead": medians[0] / medians[1] - 1.0,
        "exactly_once_overhead_of_pairs": sorted(pairs),
    }


def measure(bootstrap: str, folder: Path, variant: Variant, messages: int, runs: int) -> dict[str, Any]:
    """Write the input once, drain it `runs` times under each guarantee, each time with a new worker and group.

    The figures are those of exactly once, the default; `at_least_once` has the others'. Every run is verified.
    """
    prefix = f"bench.{variant.name}"
    config = folder / f"{variant.name}.yaml"
    settings = process.write_settings(config, process.sections(bootstrap, variant, prefix, f"{variant.name}-0"))
    cluster.fresh_topics(settings, keep_input=False)
    took_s = Writer(variant, DEVICES).run(settings, topics(settings).vehicle.name, messages)
    print(f"{variant.name}: {messages:,} messages written in {took_s:.1f} s", flush=True)
    want = reference.expected(variant, DEVICES, messages)
    done: dict[str, list[Run]] = {guarantee: [] for guarantee in GUARANTEES}
    problems: list[str] = []
    for n in range(runs):
        for guarantee in GUARANTEES if n % 2 == 0 else GUARANTEES[::-1]:
            name = f"{variant.name}-{guarantee}-{n}"
            changes = {"processing": {"guarantee": guarantee}}
            settings = process.write_settings(config, process.sections(bootstrap, variant, prefix, name, changes))
            cluster.fresh_topics(settings, keep_input=True)
            run = drain(config, settings, messages, folder / f"{name}.log")
            done[guarantee].append(run)
            print(f"{variant.name}, {guarantee}, run {n + 1}: {run.ns_per_message:.0f} ns a message, "
                  f"{run.messages_per_s:,.0f} messages/s, {run.rss_mb:.0f} MB", flush=True)  # fmt: skip
            problems += [f"{guarantee}, run {n + 1}: {p}" for p in verify(settings, want)]
    for problem in problems[:20]:
        print(f"{variant.name}: NOT VERIFIED: {problem}", flush=True)
    exactly_once, at_least_once = (done[guarantee] for guarantee in GUARANTEES)
    return _figures(variant, exactly_once) | {
        "messages": messages,
        "features": sum(len(w) for w in want.features.values()),
        "alerts": len(want.alerts),
        "verified": not problems,
        "problems": problems[:20],
        "at_least_once": _figures(variant, at_least_once),
        **overhead(exactly_once, at_least_once),
    }
