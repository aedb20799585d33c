"""`python -m tests.chaos`: run, growth, clean. The rule: exit 0 only if nothing was lost, doubled or changed."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from types import FrameType

import click

from tests.chaos import net, report
from tests.chaos.faults import FAULTS
from tests.chaos.growth import grow
from tests.chaos.plan import schedule
from tests.chaos.session import Options, Outcome, opened

EXIT_DIFFERENCES = 1


# what the clients say of brokers that we broke ourselves
logging.getLogger("fleetwatch").addHandler(logging.NullHandler())
logging.getLogger("fleetwatch").propagate = False


def say(text: str) -> None:
    click.echo(text, err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def chaos() -> None:
    """Break a real cluster and real workers at random, then compare every result with an uninterrupted run's.

    Three brokers (replication 3, two in sync) and three workers, each in a network namespace of its own, are fed
    a seeded input and hit by a seeded schedule of faults. Namespaces need root; without it there are process
    faults only.

    \b
    Examples:
      python -m tests.chaos run                              some 45 minutes, 100 worker kills
      python -m tests.chaos run --kills 10 --broker-kills 2  a few minutes
      python -m tests.chaos run --kills 8 --broker-kills 0 --faults worker-kill --guarantee at_least_once
                                                             a control: duplicates must be found
      python -m tests.chaos growth                           an input topic grows while workers run
      python -m tests.chaos clean                            after a run that was itself killed
    """


def _names(text: str | None, loopback: bool) -> list[str]:
    possible = [name for name, fault in FAULTS.items() if not (loopback and fault.needs_network)]
    if text is None:
        return possible
    wanted = [name.strip() for name in text.split(",")]
    for name in wanted:
        if name not in FAULTS:
            raise click.UsageError(f"--faults: no fault {name!r}; there are: {', '.join(FAULTS)}")
        if name not in possible:
            raise click.UsageError(f"--faults: {name} needs network namespaces (root), and this is loopback mode")
    return wanted


def _loopback(asked: bool) -> bool:
    if asked:
        return True
    allowed, why = net.permitted()
    if not allowed:
        say(
            f"LOOPBACK MODE: network namespaces cannot be made here ({why}); process faults only, no network faults"
        )
    return not allowed


@chaos.command()
@click.option("--seed", type=int, default=1, show_default=True, help="Of the input and of the schedule.")
@click.option(
    "--kills", type=click.IntRange(0), default=100, show_default=True, help="SIGKILLs of workers, at least."
)
@click.option("--broker-kills", type=click.IntRange(0), default=20, show_default=True, help="... of brokers.")
@click.option("--minutes", type=float, default=0, help="No new fault after so long; 0 = until all have come.")
@click.option(
    "--rate", type=click.FloatRange(10, 5000), default=250, show_default=True, help="Input records a second."
)
@click.option(
    "--guarantee", type=click.Choice(["exactly_once", "at_least_once"]), default="exactly_once", show_default=True
)
@click.option("--faults", "subset", help="Only these, comma-separated: " + ", ".join(FAULTS) + ".")
@click.option("--report", "page", type=click.Path(path_type=Path), help="Write the figures into this document.")
@click.option("--json", "data", type=click.Path(path_type=Path), help="Write the figures as JSON.")
@click.option(
    "--loopback", is_flag=True, help="No namespaces: process faults only, as where root is not to be had."
)
@click.option("--keep", is_flag=True, help="Keep logs and data also after a run without differences.")
def run(
    seed: int, kills: int, broker_kills: int, minutes: float, rate: float, guarantee: str, subset: str | None,
    page: Path | None, data: Path | None, loopback: bool, keep: bool,
) -> None:  # fmt: skip
    """Break things, wait until all input is committed, compare.

    Exit code 0: no record missing, doubled, different, unexpected or out of order, and every fault really fired.
    Otherwise 1, with the first difference and the histories of its device in both runs.
    """
    loopback = _loopback(loopback)
    options = Options(seed, rate, guarantee, minutes, loopback, keep)
    steps = schedule(seed, kills, broker_kills, _names(subset, loopback))
    say(f"seed {seed}, {guarantee}: {len(steps)} faults")
    with opened(options, say) as session:
        session.settle()
        session.run(steps)
        session.finish()
        outcome = session.outcome
    if data:
        report.write_json(data, outcome)
    wishes = f"--seed {seed} --kills {kills} --broker-kills {broker_kills} --rate {rate:g}"
    text = report.as_markdown(
        outcome, f"python -m tests.chaos run {wishes}" + (f" --faults {subset}" if subset else "")
    )
    click.echo(text)
    if page and not outcome.problems:
        report.write(page, text)
    _end(outcome)


def _end(outcome: Outcome) -> None:
    if outcome.problems:
        say("\nNOT PASSED:\n" + "\n".join(f"- {problem}" for problem in outcome.problems))
        sys.exit(EXIT_DIFFERENCES)
    say("passed")


@chaos.command()
@click.option("--seed", type=int, default=1, show_default=True, help="Of the input.")
@click.option(
    "--guarantee", type=click.Choice(["exactly_once", "at_least_once"]), default="exactly_once", show_default=True
)
@click.option("--keep", is_flag=True, help="Keep logs and data also if all is well.")
def growth(seed: int, guarantee: str, keep: bool) -> None:
    """Add partitions to an input topic while workers run: they must refuse it, and lose nothing.

    Each worker has to end with exit code 78 and one clear line, without a result of a new partition; of what was
    committed until then, nothing may be missing or doubled.
    """
    with opened(Options(seed, 250, guarantee, loopback=True, keep=keep), say) as session:
        session.settle()
        grow(session)
        outcome = session.outcome
    _end(outcome)


@chaos.command()
def clean() -> None:
    """Remove what runs left behind whose own process was killed."""
    gone = net.remove_left_overs()
    click.echo(f"removed {len(gone)} namespaces" + (": " + ", ".join(gone) if gone else ""))


def _interrupted(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupted)
    chaos(prog_name="python -m tests.chaos")
