"""`fleetwatch autoscaler --once`: a few looks, one decision, one page. The rule: nothing is changed."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import replace

import numpy as np
from rich.console import Console
from rich.table import Table

from autoscaler.limits import Limits
from autoscaler.observation import BlindError, Decision, Observation
from autoscaler.service import Decider, cluster, collector
from telemetry.errors import FleetwatchError
from telemetry.settings import Settings

#: Rates need looks so far apart at most, and so many.
STEP_S, LOOKS = 2.5, 3
_PIPE_COLUMNS = 160


class NotSeenError(FleetwatchError):
    """Group or workload cannot be looked at now."""

    exit_code = 69  # EX_UNAVAILABLE


def _seconds(value: float) -> str:
    return "?" if math.isnan(value) else f"{value:.1f}"


def _count(value: float) -> str:
    return "?" if math.isnan(value) else f"{value:,.0f}"


def _owner(seen: Observation, partition: int) -> str:
    """A worker by its page's name, else a member by its place among their ids."""
    for worker in seen.workers:
        if partition in worker.partitions:
            return worker.name
    index = int(seen.owner[partition])
    return f"member {index + 1}" if index >= 0 else "nobody"


def table(first: Observation, seen: Observation) -> Table:
    """By partition; rates are those between the two."""
    page = Table(box=None, pad_edge=False)
    page.add_column("partition", justify="right")
    for name in ("end", "committed", "lag", "lag s", "in /s"):
        page.add_column(name, justify="right")
    page.add_column("owner")
    span_s = seen.at_s - first.at_s
    same = first.partitions == seen.partitions and span_s > 0
    rates = (seen.ends - first.ends) / span_s if same else np.full(seen.partitions, math.nan)
    for p in range(seen.partitions):
        page.add_row(
            str(p),
            _count(seen.ends[p]),
            _count(seen.committed[p]),
            _count(max(0.0, seen.ends[p] - seen.committed[p])),
            _seconds(seen.lag_s[p]),
            _seconds(rates[p]),
            _owner(seen, p),
        )
    return page


def verdict(seen: Observation, decision: Decision, target: str) -> list[str]:
    """What follows the table."""
    lines = [
        f"{target}: {seen.replicas} replicas, {seen.ready} ready; {seen.members} members in the group"
        + (", which is being assigned anew" if seen.rebalancing else ""),
        f"wanted: {decision.replicas} ({decision.code}): {decision.text}",
    ]
    lines += [f"{note.code}: {note.text}" for note in decision.notes]
    return lines + [f"not seen: {problem}" for problem in seen.problems]


def run(settings: Settings) -> None:
    """Prints the page.

    Raises
    ------
    NotSeenError : there is nothing to print.
    """
    step_s = min(settings.autoscaler.interval_s, STEP_S)
    at = cluster(settings)
    source = collector(settings, at)
    decider = Decider(replace(Limits.of(settings), interval_s=step_s))
    print(f"looking for {step_s * (LOOKS - 1):g} s, for rates ...", file=sys.stderr)
    try:
        first = seen = source.look(time.monotonic())
        decision = decider(seen)
        for _ in range(LOOKS - 1):
            time.sleep(step_s)
            seen = source.look(time.monotonic())
            decision = decider(seen)
    except BlindError as exc:
        raise NotSeenError(str(exc)) from exc
    finally:
        source.close()
    console = Console(
        width=None if sys.stdout.isatty() else _PIPE_COLUMNS, highlight=False, markup=False, emoji=False
    )
    console.print(table(first, seen))
    for line in verdict(seen, decision, str(at.target) if at else "group"):
        console.print(line, soft_wrap=True)
