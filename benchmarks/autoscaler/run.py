"""`make bench-autoscaler`: the policy and its peers in one world. The rule: every row is a run, none is quoted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.autoscaler import plot
from benchmarks.autoscaler.ours import Ours
from benchmarks.autoscaler.peers import Fixed, Scaler, all_peers
from benchmarks.autoscaler.traffic import PARTITIONS, bottleneck, fresh, standard
from benchmarks.autoscaler.world import CAPACITY_PER_S, Traffic, World

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "autoscaling-bench.md"
IMAGES = ROOT / "docs" / "img"
#: What is drawn beside ours.
DRAWN = tuple(name for name in plot.COLOURS if name != "fleetwatch")
WITHOUT = (
    ("as shipped: pages, capacity not given", {"hint": 0.0}),
    ("pages, capacity given right", {"hint": 1.0}),
    ("pages, capacity given 2 times too high", {"hint": 2.0}),
    ("pages, capacity given 2 times too low", {"hint": 0.5}),
    ("no pages, capacity given right", {"hint": 1.0, "pages": False}),
    ("no pages, capacity not given", {"hint": 0.0, "pages": False}),
    ("no pages, capacity given 2 times too high", {"hint": 2.0, "pages": False}),
    ("no pages, capacity given 2 times too low", {"hint": 0.5, "pages": False}),
)


def simulate(scaler: Scaler, traffic: Traffic) -> World:
    """One traffic under one scaler, from as many replicas as its first ten minutes need."""
    usual = traffic.arrivals[:, :600].sum(axis=0).mean() / CAPACITY_PER_S
    replicas = PARTITIONS if isinstance(scaler, Fixed) else max(1, math.ceil(usual / 0.7))
    world = World(traffic, replicas)
    while world.at_s < traffic.seconds:
        world.run_to(world.at_s + scaler.period_s)
        if world.at_s < traffic.seconds and (wanted := scaler.decide(world.look())) != world.replicas:
            world.scale(wanted)
    return world


@dataclass(frozen=True, slots=True)
class Row:
    """Sums over some traffics."""

    name: str
    violated_s: int
    late: float
    worker_h: float
    scalings: int
    rebalances: int

    @classmethod
    def of(cls, name: str, worlds: Sequence[World]) -> Row:
        """late : share of the records, by the mean of the traffics."""
        return cls(
            name,
            sum(int(w.violated.sum()) for w in worlds),
            sum(w.late_share for w in worlds) / len(worlds),
            sum(w.worker_s for w in worlds) / 3600,
            sum(w.scalings for w in worlds),
            sum(w.rebalances for w in worlds),
        )

    @property
    def cells(self) -> tuple[str, ...]:
        """As text."""
        return (
            self.name,
            f"{self.violated_s:,}",
            f"{self.late:.2%}",
            f"{self.worker_h:.0f}",
            f"{self.scalings:,}",
            f"{self.rebalances:,}",
        )


HEAD = ("policy", "SLO violated, s", "records late", "worker hours", "scalings", "rebalances")


def table(rows: Sequence[Row], first: str = HEAD[0]) -> list[str]:
    """Markdown."""
    lines = ["| " + " | ".join((first, *HEAD[1:])) + " |", "|---|--:|--:|--:|--:|--:|"]
    return lines + ["| " + " | ".join(row.cells) + " |" for row in rows]


def _say(lines: Sequence[str]) -> None:
    click.echo("\n".join(lines) + "\n")


def compare(traffics: Sequence[Traffic], makers: Sequence[Callable[[], Scaler]]) -> dict[str, list[World]]:
    """Every policy on every traffic, by the policy's name."""
    found: dict[str, list[World]] = {}
    for make in makers:
        name = make().name
        found[name] = [simulate(make(), traffic) for traffic in traffics]
        row = Row.of(name, found[name])
        click.echo(
            f"  {name:28s} {row.violated_s:>8,} s  {row.worker_h:>6.0f} h  {row.scalings:>6,} scalings", err=True
        )
    return found


def _makers() -> list[Callable[[], Scaler]]:
    return [Ours, *(lambda i=i: all_peers(PARTITIONS)[i] for i in range(len(all_peers(PARTITIONS))))]


def _notes(traffic: Traffic) -> list[str]:
    """What the policy said of one traffic, once a code."""
    ours = Ours(hint=0.0)
    simulate(ours, traffic)
    said: dict[str, str] = {}
    for at_s, decision in ours.decisions:
        for note in decision.notes:
            said.setdefault(note.code, f"- at {at_s / 60:.0f} min, {note.code}: {note.text}")
    return list(said.values())


@click.command()
@click.option("--fresh-seeds", default=3, show_default=True, help="Sets of other traffic like the five, 40 h each.")
@click.option("--write/--no-write", default=True, help="Write docs/autoscaling-bench.md and its pictures.")
def main(fresh_seeds: int, write: bool) -> None:
    """Simulate the scaling policies on the same traffic; print the tables, write the page and its pictures."""
    page = [
        "# The scaling policy against its peers'",
        "",
        "<!-- Written by `make bench-autoscaler`; do not edit. -->",
        "",
        "Simulated: 24 partitions, workers of 1,000 records/s (6 % apart), a pod is a member 20 s after it was",
        "asked for, a rebalance stops the group for 5 s, offsets are committed every 2.8 s. The SLO: no partition",
        "lags by more than 30 s. Seconds in which one does are counted; nobody can avoid those of the hot",
        "partition, which for half an hour gets more than a worker can do. Peers follow their published rules",
        "(`benchmarks/autoscaler/peers.py`).",
    ]
    click.echo("five traffics, 40 h in all:", err=True)
    traffics = standard()
    found = compare(traffics, _makers())
    parts = [("## Five traffics, 40 hours", table([Row.of(name, worlds) for name, worlds in found.items()]))]
    for i, traffic in enumerate(traffics):
        rows = [Row.of(name, [worlds[i]]) for name, worlds in found.items()]
        parts.append((f"### {traffic.name}", table(rows)))
        image = IMAGES / f"autoscaling-{traffic.name.replace(' ', '-')}.svg"
        if write:
            plot.draw({"fleetwatch": found["fleetwatch"][i], **{n: found[n][i] for n in DRAWN}}, image)
        parts.append(("", [f"![{traffic.name}: arrivals, replicas, lag](img/{image.name})"]))
    click.echo("without the workers' pages, and with a wrong hint:", err=True)
    variants = compare(traffics, [lambda n=n, kw=kw: Ours(n, **kw) for n, kw in WITHOUT])
    parts.append(("## With less to go by", table([Row.of(n, w) for n, w in variants.items()], "what is known")))
    click.echo(f"{fresh_seeds} other sets of five, 40 h each:", err=True)
    others = [traffic for seed in range(1000, 1000 + fresh_seeds) for traffic in fresh(seed)]
    again = compare(others, _makers())
    title = f"## Traffic that nothing was chosen on ({fresh_seeds} x 40 hours)"
    parts.append((title, table([Row.of(n, w) for n, w in again.items()])))
    parts.append(("## What it says of a bottleneck that all workers share", _notes(bottleneck())))
    for heading, lines in parts:
        _say([heading, "", *lines] if heading else lines)
        page += ["", heading, "", *lines] if heading else ["", *lines]
    if write:
        PAGE.write_text("\n".join(page) + "\n", encoding="utf-8")
        click.echo(f"written: {PAGE.relative_to(ROOT)}", err=True)


if __name__ == "__main__":
    main()
