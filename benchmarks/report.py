"""results.json to a table for people. The rule: no figure in the table that is not in results.json."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from fleetwatch.kafka.manifest import KAFKA_VERSION

PACKAGES = ("fleetwatch", "faust-streaming", "aiokafka", "confluent-kafka", "numba", "numpy", "fastavro")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text(encoding="utf-8").splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def conditions() -> dict[str, Any]:
    """Date, machine and versions, for results.json."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            "system": f"{platform.system()} {platform.release()}",
            "load_average_at_start": round(os.getloadavg()[0], 2),
        },
        "versions": {name: metadata.version(name) for name in PACKAGES}
        | {"python": platform.python_version(), "kafka": KAFKA_VERSION},
    }


def _figure(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.1f}"


def _table(head: list[str], rows: list[list[Any]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" + "--:|" * (len(head) - 1)]
    return [*lines, *("| " + " | ".join(map(_figure, row)) + " |" for row in rows), ""]


def _throughput(results: dict[str, Any]) -> list[str]:
    head = ["the common job", "CPU ns/message", "CPU ns/sample", "messages/s, one worker", "RSS MB", "verified"]
    figures = ("ns_per_message", "ns_per_sample", "messages_per_s", "rss_mb", "verified")
    rows: list[list[Any]] = [
        [f"Fleetwatch, {name}", *(results[name][figure] for figure in figures)]
        for name in ("frames", "single")
        if name in results
    ]
    for kind in ("table", "take"):
        if r := results.get(f"faust_{kind}"):
            text = {"table": "plain Faust, an event at a time, Table", "take": "plain Faust, take(1000) + numpy"}
            rows.append(
                [f"{text[kind]}, frames", r["ns_per_message"], r["ns_per_sample"], None, None, r["verified"]]
            )
    if not rows:
        return []
    lines = ["## CPU", "", *_table(head, rows)]
    for kind, ratio in results.get("ratio_to_faust", {}).items():
        lines += [f"Plain Faust ({kind}) costs {ratio:,.0f} times as much a message of frames.", ""]
    return lines


def _stages(results: dict[str, Any]) -> list[str]:
    found = {
        name: results[name]["breakdown"] for name in ("frames", "single") if "breakdown" in results.get(name, {})
    }
    if not found:
        return []
    rows: list[list[Any]] = []

    def row(text: str, *path: str) -> None:
        cells: list[Any] = []
        for part in found.values():
            value: Any = part
            for key in path:
                value = value[key]
            cells.append(value)
        rows.append([text, *cells])

    row("fetch and Faust, the core left out", "fetch_ns_per_message")
    row("... of that the CRC check (difference)", "crc_ns_per_message")
    row("core, in process", "core_ns_per_message")
    for stage in next(iter(found.values()))["stages_ns_per_message"]:
        row(f"... {stage}", "stages_ns_per_message", stage)
    row("results handed to Kafka (difference)", "publish_ns_per_message")
    row("checkpoints (difference)", "checkpoint_ns_per_message")
    row("the whole, in the same series", "whole_ns_per_message")
    row("ns a state row: made", "state_row_ns")
    row("ns a state row: made and written (difference)", "checkpoint_ns_per_row")
    return ["## Where it goes", "", *_table(["CPU ns a message", *found], rows)]


def _devices(results: dict[str, Any]) -> list[str]:
    if not (sizes := results.get("devices")):
        return []
    figures = {
        "ns/sample, in turn": "ns_per_sample",
        "ns/sample, shuffled": "ns_per_sample_shuffled",
        "bytes a device": "bytes_per_device",
        "state row, bytes": "state_row_bytes",
        "RSS growth MB": "rss_growth_mb",
    }
    rows = [[f"{int(n):,}", *(size[key] for key in figures.values())] for n, size in sizes.items()]
    head = ["devices of 10 signals", *figures]
    return ["## Devices (the core alone)", "", *_table(head, rows)]


def _latency(results: dict[str, Any]) -> list[str]:
    if not (r := results.get("latency_ms")):
        return []
    head = ["frame sent to alert at the broker", "ms"]
    rows = [[name, r[name]] for name in ("p50", "p90", "p99", "max")]
    tails = ", ".join(f"{run['p99']:.0f}" for run in r["runs"])
    note = (
        f"At {r['rate']:,.0f} frames/s, half of the {r['capacity']:,.0f} that writer, broker and worker reach "
        f"together; medians of {len(r['runs'])} runs of {r['alerts']:.0f} alerts (p99: "
        f"{tails} ms); the worker used {r['worker_cores']:.2f} of a core, "
        f"a checkpoint took {r['checkpoint_ms']:.0f} ms."
    )
    return ["## Latency", "", *_table(head, rows), note, ""]


def markdown(results: dict[str, Any]) -> str:
    """The whole report."""
    m, v = results["machine"], results["versions"]
    lines = ["# Benchmark results", "", "Made by `make bench`; docs/performance.md says what is measured.", ""]
    machine = f"{m['processor']}, {m['cores']} cores, {m['memory_gb']} GB, {m['system']}"
    versions = ", ".join(f"{name} {version}" for name, version in v.items())
    load = f"load average {m['load_average_at_start']} at the start"
    lines += [f"{results['date']}: {machine}, {load}. {versions}.", ""]
    for part in (_throughput, _stages, _devices, _latency):
        lines += part(results)
    return "\n".join(lines)
