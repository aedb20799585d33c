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
    figures = ("ns_per_message", "ns_per_sample", "messages_per_s", "rss_mb")
    rows: list[list[Any]] = []
    for name in ("frames", "single"):
        if name not in results:
            continue
        verified = results[name]["verified"]
        for title, found in ((name, results[name]), (f"{name}, at least once", results[name]["at_least_once"])):
            rows.append([f"Fleetwatch, {title}", *(found[figure] for figure in figures), verified])
    for kind in ("table", "take"):
        if r := results.get(f"faust_{kind}"):
            text = {"table": "plain Faust, an event at a time, Table", "take": "plain Faust, take(1000) + numpy"}
            rows.append(
                [f"{text[kind]}, frames", r["ns_per_message"], r["ns_per_sample"], None, None, r["verified"]]
            )
    if not rows:
        return []
    lines = ["## CPU", "", *_table(head, rows)]
    lines += _overhead(results)
    for kind, ratio in results.get("ratio_to_faust", {}).items():
        lines += [f"Plain Faust ({kind}) costs {ratio:,.0f} times as much a message of frames.", ""]
    return lines


def _overhead(results: dict[str, Any]) -> list[str]:
    """One line: what exactly once costs more than at least once."""
    parts = []
    for name in ("frames", "single"):
        if name in results:
            pairs = results[name]["exactly_once_overhead_of_pairs"]
            parts.append(
                f"{name} {results[name]['exactly_once_overhead']:+.1%} "
                f"(by pairs of runs {pairs[0]:+.1%} to {pairs[-1]:+.1%})"
            )
    text = "; ".join(parts)
    return (
        [f"Exactly once, the default, over at least once, CPU a message: {text}. Goal: under 10 %.", ""]
        if parts
        else []
    )


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


MODES = {
    "exactly_once": "exactly once, commits each second (default)",
    "at_least_once": "at least once, commits each second",
    "exactly_once_100ms": "exactly once, commits each 100 ms",
}


def _latency(results: dict[str, Any]) -> list[str]:
    if not (r := results.get("latency_ms")):
        return []
    modes = {mode: r["modes"][mode] for mode in MODES if mode in r["modes"]}
    figures = {"p50 ms": "p50", "p90 ms": "p90", "p99 ms": "p99", "max ms": "max"}
    head = ["frame sent to alert at a subscriber", *figures, "frames/s", "worker, cores", "a checkpoint, ms"]
    rows = [
        [
            MODES[mode],
            *(f[key] for key in figures.values()),
            f["rate"],
            f"{f['worker_cores']:.2f}",
            f["checkpoint_ms"],
        ]
        for mode, f in modes.items()
    ]
    first = next(iter(modes.values()))
    note = (
        f"At {r['rate_wanted']:,.0f} frames/s, half of the {r['capacity']:,.0f} that writer, broker and worker "
        f"reach together; medians of {len(first['runs'])} runs of {first['alerts']:.0f} alerts, each received once "
        "by a reader of committed records."
    )
    return ["## Latency", "", *_table(head, rows), note, ""]


def _restore(results: dict[str, Any]) -> list[str]:
    if not (r := results.get("restore")):
        return []
    head = [
        "a fresh worker restores",
        "devices",
        "records",
        "s",
        "CPU s",
        "records/s",
        "RSS MB before",
        "peak",
        "all",
    ]
    row = [
        "assigned to restored",
        *(r[key] for key in ("devices", "records", "assigned_to_restored_s", "cpu_s", "records_per_s")),
        *(r[key] for key in ("rss_before_mb", "rss_peak_mb", "verified")),
    ]
    runs = ", ".join(f"{run['assigned_to_restored_s']:.1f}" for run in r["runs"])
    return ["## Restore", "", *_table(head, [row]), f"Goal: under 10 s. The runs: {runs} s.", ""]


FAILOVER = {
    "total": "total_s",
    "session timeout": "session_timeout_s",
    "rebalance": "rebalance_s",
    "pending transaction": "pending_transaction_s",
    "restore": "restore_s",
    "first commit": "first_commit_s",
}


def _failover(results: dict[str, Any]) -> list[str]:
    if not (r := results.get("failover")):
        return []
    kinds = {"between_checkpoints": "between two checkpoints", "within_checkpoint": "within a checkpoint"}
    rows = [[f"killed {text}", *(r[kind][key] for key in FAILOVER.values())] for kind, text in kinds.items()]
    shares = [
        ["... of the whole", *(f"{r[kind][key] / r[kind]['total_s']:.0%}" for key in FAILOVER.values())]
        for kind in kinds
    ]
    rows = [row for pair in zip(rows, shares, strict=True) for row in pair]
    note = (
        f"One of two workers killed, {r['devices']:,} devices, {r['frames_per_s']:,.0f} frames/s; until each of "
        f"its partitions is committed past where it was. Session timeout {r['session_timeout_s']:g} s, heartbeat "
        f"{r['heartbeat_s']:g} s, transaction timeout {r['transaction_timeout_s']:g} s, commits each "
        f"{r['commit_interval_ms']:,} ms; medians; kills of each kind: {len(r['within_checkpoint']['runs'])}."
    )
    return ["## Failover", "", *_table(["seconds", *FAILOVER], rows), note, ""]


def markdown(results: dict[str, Any]) -> str:
    """The whole report."""
    m, v = results["machine"], results["versions"]
    lines = ["# Benchmark results", "", "Made by `make bench`; docs/performance.md says what is measured.", ""]
    machine = f"{m['processor']}, {m['cores']} cores, {m['memory_gb']} GB, {m['system']}"
    versions = ", ".join(f"{name} {version}" for name, version in v.items())
    load = f"load average {m['load_average_at_start']} at the start"
    lines += [f"{results['date']}: {machine}, {load}. {versions}.", ""]
    for part in (_throughput, _stages, _devices, _latency, _restore, _failover):
        lines += part(results)
    return "\n".join(lines)
