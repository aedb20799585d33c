"""`make bench`: measures all, writes results.json and results.md. The rule: ends with 1 if an output was wrong.

A part that is left out keeps no figure of an earlier run.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks import breakdown, failover, faust_peer, latency, report, restore, scale, throughput
from benchmarks.job import FRAMES, SINGLE
from fleetwatch.kafka.cluster import EmbeddedKafka

PARTS = ("frames", "single", "faust", "scale", "latency", "restore", "failover")
VERIFIED = ("frames", "single", "faust_table", "faust_take", "restore")
HERE = Path(__file__).parent
SIZES = (10_000, 100_000, 1_000_000)
#: Fewer frames than this close no window and end before the first look.
FRAMES_MIN = 500_000


def _parts(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    del ctx, param
    chosen = tuple(part.strip() for part in value.split(","))
    if unknown := [part for part in chosen if part not in PARTS]:
        raise click.BadParameter(f"{', '.join(unknown)}: choose from {', '.join(PARTS)}")
    return chosen


def _job(bootstrap: str, folder: Path, chosen: tuple[str, ...], messages: int, runs: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for variant in (FRAMES, SINGLE):
        if variant.name in chosen:
            figures = throughput.measure(bootstrap, folder, variant, messages, runs)
            figures["breakdown"] = breakdown.measure(bootstrap, folder, variant, messages)
            found[variant.name] = figures
    return found


def _latency(bootstrap: str, folder: Path, messages: int, runs: int) -> dict[str, Any]:
    most = latency.capacity(bootstrap, folder, messages)
    print(f"capacity with the writer beside: {most:,.0f} frames/s", flush=True)
    return latency.repeated(bootstrap, folder, most / 2, runs) | {"capacity": most}


def _state(bootstrap: str, folder: Path, chosen: tuple[str, ...], runs: int) -> dict[str, Any]:
    """`restore` and `failover`, which share a fleet's state."""
    found: dict[str, Any] = {}
    fleet = restore.prepare(bootstrap, folder)
    if "restore" in chosen:
        found["restore"] = restore.measure(fleet, runs)
    if "failover" in chosen:
        found["failover"] = failover.measure(fleet, runs)
    return found


def _scale() -> dict[str, Any]:
    found = {}
    for devices in SIZES:
        found[str(devices)] = figures = scale.measure_apart(devices)
        print(f"{devices:,} devices: {figures['ns_per_sample']:.1f} ns a sample in turn, "
              f"{figures['ns_per_sample_shuffled']:.1f} shuffled, {figures['bytes_per_device']:.0f} bytes a device",
              flush=True)  # fmt: skip
    return found


def _with_kafka(folder: Path, chosen: tuple[str, ...], messages: int, runs: int) -> dict[str, Any]:
    kafka = EmbeddedKafka(folder / "kafka", brokers=1, port=0)
    try:
        bootstrap = kafka.start()
        found = _job(bootstrap, folder, chosen, messages, runs)
        if "faust" in chosen:
            found |= faust_peer.measure(bootstrap, folder, faust_peer.MESSAGES)
        if "latency" in chosen:
            found["latency_ms"] = _latency(bootstrap, folder, messages, runs)
        if {"restore", "failover"} & set(chosen):
            found |= _state(bootstrap, folder, chosen, runs)
        return found
    finally:
        kafka.stop()


def _summary(results: dict[str, Any]) -> None:
    """Adds what follows from the parts' figures."""
    checked = [results[part]["verified"] for part in VERIFIED if part in results]
    results["verified"] = bool(checked) and all(checked)
    if sizes := results.get("devices"):
        results["bytes_per_device"] = max(figures["bytes_per_device"] for figures in sizes.values())
    if "frames" in results and "faust_table" in results:
        ns = results["frames"]["ns_per_message"]
        results["ratio_to_faust"] = {
            kind: results[f"faust_{kind}"]["ns_per_message"] / ns for kind in ("table", "take")
        }


@click.command()
@click.option("--frames", "messages", type=click.IntRange(FRAMES_MIN), default=2_000_000, show_default=True)
@click.option(
    "--runs",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Of each variant and guarantee, of each latency, restore and failover; the median counts.",
)
@click.option("--only", callback=_parts, default=",".join(PARTS), show_default=True, help="Parts, comma-separated.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=HERE,
    show_default="benchmarks/",
    help="Where results.json and results.md go.",
)
def main(messages: int, runs: int, only: tuple[str, ...], out: Path) -> None:
    """Measure the worker on the common job."""
    os.environ.setdefault("NUMBA_SLP_VECTORIZE", "1")
    messages -= messages % throughput.DEVICES
    results = report.conditions()
    with tempfile.TemporaryDirectory(prefix="fleetwatch-bench-") as name:
        if set(only) - {"scale"}:
            results |= _with_kafka(Path(name), only, messages, runs)
    if "scale" in only:
        results["devices"] = _scale()
    _summary(results)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (out / "results.md").write_text(report.markdown(results), encoding="utf-8")
    print("\n" + report.markdown(results))
    checked = set(only) & {"frames", "single", "faust", "restore"}
    sys.exit(0 if results["verified"] or not checked else "an output was wrong, or could not be verified")


if __name__ == "__main__":
    main()
