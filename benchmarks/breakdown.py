"""What a message costs outside the core, by leaving a part out. The rule: a difference of two runs, named as such.

Five drains of the input that `throughput` has written: as it is; without results; without checkpoints; and with a
core that does nothing, with and without the CRC check.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import cluster, process, stages
from benchmarks.job import Variant
from benchmarks.throughput import Run, drain

#: No commit before the drain is over, when the CPU is read; the one transaction must last as long.
RARE_COMMITS = {"commit_interval_ms": 60_000, "commit_records_max": 1_000_000_000, "transaction_timeout_s": 300}


def _run(bootstrap: str, folder: Path, variant: Variant, messages: int, name: str, changes: process.Changes) -> Run:
    """One drain with some settings changed."""
    prefix, group = f"bench.{variant.name}", f"{variant.name}-{name}"
    wanted = process.sections(bootstrap, variant, prefix, group, changes)
    config = folder / f"{variant.name}-{name}.yaml"
    settings = process.write_settings(config, wanted)
    cluster.fresh_topics(settings, keep_input=True)
    module = "benchmarks.fetchonly" if name.startswith("fetch") else "fleetwatch"
    log = folder / f"{variant.name}-{name}.log"
    run = drain(config, settings, messages, log, module, committed=name != "no-checkpoint")
    print(f"{variant.name}, {name}: {run.ns_per_message:.0f} ns a message", flush=True)
    return run


def measure(bootstrap: str, folder: Path, variant: Variant, messages: int) -> dict[str, Any]:
    """ns a message of each part; a difference of two noisy runs may come out below zero."""
    silent: process.Changes = {"outputs": {"features": False}, "alerts": {"open_surprise": 300.0}}
    whole = _run(bootstrap, folder, variant, messages, "whole", {})
    quiet = _run(bootstrap, folder, variant, messages, "no-results", silent)
    rare = _run(bootstrap, folder, variant, messages, "no-checkpoint", {"processing": RARE_COMMITS})
    fetch = _run(bootstrap, folder, variant, messages, "fetch-only", {})
    unchecked = _run(bootstrap, folder, variant, messages, "fetch-no-crc", {"processing": {"check_crcs": False}})
    core = stages.measure(variant)
    inside = core["stages_ns_per_message"]
    made = inside["features"] + inside["alert writing"]
    rows = whole.state_rows
    return core | {
        "whole_ns_per_message": whole.ns_per_message,
        "fetch_ns_per_message": fetch.ns_per_message,
        "crc_ns_per_message": fetch.ns_per_message - unchecked.ns_per_message,
        "publish_ns_per_message": whole.ns_per_message - quiet.ns_per_message - made,
        "checkpoint_ns_per_message": whole.ns_per_message - rare.ns_per_message,
        "checkpoint_ns_per_row": (whole.ns_per_message - rare.ns_per_message) / rows if rows > 0 else None,
        "state_rows_per_message": whole.state_rows,
    }
