"""Runs plain Faust on the job, beside the worker. The rule: its outputs are counted too, or its figure is void.

Fewer messages, since it takes so long; fewer devices, so that their windows close as often as in the whole job.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from confluent_kafka.admin import NewTopic

from benchmarks import cluster, process, reference
from benchmarks.job import FRAMES, PARTITIONS, Writer
from telemetry import clients
from telemetry.topics import topics

DEVICES = 100
MESSAGES = 20_000
RUN_S = 300.0


def measure(bootstrap: str, folder: Path, messages: int) -> dict[str, dict[str, Any]]:
    """CPU a message of both variants: {"faust_table": ..., "faust_take": ...}."""
    wanted = process.sections(bootstrap, FRAMES, "bench.faust", "faust")
    settings = process.write_settings(folder / "faust.yaml", wanted)
    cluster.fresh_topics(settings, keep_input=False)
    topic = topics(settings).vehicle.name
    Writer(FRAMES, DEVICES).run(settings, topic, messages)
    want = reference.expected(FRAMES, DEVICES, messages)
    expected = {"features": sum(len(w) for w in want.features.values()), "alerts": len(want.alerts)}
    found: dict[str, dict[str, Any]] = {}
    admin = clients.admin(settings)
    for kind in ("table", "take"):
        made = [f"{topic}.{kind}.{name}" for name in expected]
        if kind == "table":
            made.append(f"{topic}.{kind}-state-changelog")
        for future in admin.create_topics([NewTopic(t, PARTITIONS, 1) for t in made]).values():
            future.result(30)
        log = folder / f"faust-{kind}.log"
        arguments = ["-m", "benchmarks.faust_plain", kind, bootstrap, topic, str(messages)]
        with process.Process(arguments, log) as faust:
            faust.wait(RUN_S)
        text = log.read_text(encoding="utf-8")
        last = text[text.rindex("{") :]  # Faust's cursor codes stand before it
        counted = {name: len(cluster.read_all(settings, f"{topic}.{kind}.{name}")) for name in expected}
        figures = json.loads(last)
        figures["ns_per_sample"] = figures["ns_per_message"] / FRAMES.samples
        figures |= {"messages": messages, "verified": counted == expected}
        found[f"faust_{kind}"] = figures
        print(f"plain Faust, {kind}: {figures['ns_per_message']:,.0f} ns a message", flush=True)
        if counted != expected:
            print(f"plain Faust, {kind}: NOT VERIFIED: {counted}, not {expected}", flush=True)
    return found
