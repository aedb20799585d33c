"""`fleetwatch demo`. The rule: it ends by itself, leaves nothing running, and fails if a fault was missed."""

from __future__ import annotations

import sys

import click

from fleetwatch import demo_plan as plan
from fleetwatch.demo_page import Page, summary
from fleetwatch.demo_replay import ReplayRun, replay_summary
from fleetwatch.demo_run import FleetRun
from fleetwatch.demo_session import session
from fleetwatch.pages import load_settings, page_console
from producers.options import DurationType

EXIT_MISSED = 1


@click.command()
@click.option(
    "--seconds",
    type=DurationType(),
    default=f"{plan.SECONDS:g}",
    show_default=True,
    help="How long all of it may take; the fleet's speed follows from it. At least half a minute is needed.",
)
@click.option("--vehicles", type=click.IntRange(1, 5000), default=plan.VEHICLES, show_default=True)
@click.option("--nodes", type=click.IntRange(1, 1000), default=plan.NODES, show_default=True, help="GPU nodes.")
@click.option("--seed", type=click.IntRange(0), default=plan.SEED, show_default=True, help="Of the fleet.")
@click.option("--replay", is_flag=True, help="Instead: the shipped recording of a real drive through a worker.")
@click.pass_context
def demo(ctx: click.Context, seconds: float, vehicles: int, nodes: int, seed: int, replay: bool) -> None:
    """Watch a fleet's faults being found, end to end.

    Starts a Kafka of its own in a temporary folder, two workers and a simulated fleet, faster than real time;
    waits until the workers know what is normal; injects five faults of different kinds; shows each alert with
    its time to detect; kills a worker with SIGKILL on the way and starts it anew; ends with a summary. Nothing
    is left running, also after Ctrl-C.

    \b
    Exit codes: 0 every fault was found, 1 one was missed, 130 interrupted; others as for all commands.

    \b
    Examples:
      fleetwatch demo
      fleetwatch demo --seconds 3m
      fleetwatch demo --replay
      FLEETWATCH_KAFKA__BOOTSTRAP=broker:9092 fleetwatch demo     on another cluster, topics of its own
      NO_COLOR=1 fleetwatch demo | tee demo.txt
    """
    given = load_settings(ctx)
    page = Page(page_console())
    if replay:
        with session(page, given, plan.REPLAY_CHANGED) as ground:
            figures = ReplayRun(ground).run()
            replay_summary(page, figures)
        return
    with session(page, given, plan.CHANGED) as ground:
        fleet_figures, result = FleetRun(ground, seconds, vehicles, nodes, seed).run()
        summary(page, fleet_figures, result)
    page.plain(f"  everything is stopped; {page.elapsed_s:.1f} s in all")
    if result.missed:
        kinds = ", ".join(v.fault.kind for v in result.missed)
        click.echo(f"fleetwatch: missed: {kinds}", err=True)
        sys.exit(EXIT_MISSED)
