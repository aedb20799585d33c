"""`fleetwatch scorecard`. The rule: the figures are on stdout, whatever else is said on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import click

from fleetwatch import scorecard_feed, scorecard_page
from fleetwatch.alert_feed import AlertFeed
from fleetwatch.alerts_cli import Since
from fleetwatch.pages import load_settings, quiet_end
from fleetwatch.scorecard import SECOND_US, Card, Event, Exposure, Rules, Scorer
from fleetwatch.scorecard_simulate import LAST_S, WARM_S, Evaluation, Plan
from producers.faults import KINDS
from producers.fleet import ALIASES, COUNT_MAX, MODELS
from producers.options import DurationType
from telemetry.errors import nearest
from telemetry.log import printable
from telemetry.settings import Settings
from telemetry.topics import topics

EXIT_INTERRUPTED = 130
_TELL_TERMINAL_S, _TELL_LINES_S = 0.5, 10.0
_SEEDS_MAX = 1000
#: Options that only a simulation has.
_SIMULATED = ("fleets", "devices", "hours", "warm", "seed", "runs", "kinds", "each", "each_detector")


class FleetType(click.ParamType):
    """CLASS or CLASS=COUNT, as (class, count); count 0 = as --devices says."""

    name = "class"

    def convert(
        self, value: str | tuple[str, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        name, equals, count = value.partition("=")
        name = ALIASES.get(name, name)
        if name not in MODELS:
            self.fail(f"no simulated class {name!r}{nearest(name, MODELS)}", param, ctx)
        if equals and not (count.isdigit() and 0 < len(count) < 9 and 1 <= int(count) <= COUNT_MAX):
            self.fail(f"{value!r}: the count must be 1 to {COUNT_MAX:,}, as in {name}=50", param, ctx)
        return name, int(count) if equals else 0


class KindsType(click.ParamType):
    """A comma-separated choice of fault kinds."""

    name = "kinds"

    def convert(
        self, value: str | frozenset[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> frozenset[str]:
        if isinstance(value, frozenset):
            return value
        wanted = [part.strip().replace("-", "_") for part in value.split(",")]
        for part in wanted:
            if part not in KINDS:
                self.fail(f"unknown fault kind {part!r}{nearest(part, KINDS)}", param, ctx)
        return frozenset(wanted)


class Teller:
    """Progress on stderr: one line that changes on a terminal, now and then a new one elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._told_s = time.monotonic()
        self._open = False

    def __call__(self, text: str) -> None:
        if time.monotonic() - self._told_s < (_TELL_TERMINAL_S if self._terminal else _TELL_LINES_S):
            return
        self._told_s = time.monotonic()
        if self._terminal:
            click.echo("\r\x1b[2K" + text, err=True, nl=False)
            self._open = True
        else:
            click.echo(text, err=True)

    def end(self) -> None:
        """Take the line that changes away."""
        if self._open:
            click.echo("\r\x1b[2K", err=True, nl=False)
            self._open = False


def read(settings: Settings, rules: Rules, since_ms: int, *, rated: bool) -> Card:
    """The card of what the configured topics hold now; what is odd about them is told on stderr.

    rated : read the features topic too, for the exposure.

    Raises
    ------
    TopicError : a topic is missing, or there is no fault. BrokerUnavailableError : no broker answers (any more).
    """
    faults, bad = scorecard_feed.faults(settings, since_ms)
    if bad:
        click.echo(f"{bad} records are no truth in {topics(settings).truth.name}", err=True)
    exposure: Exposure | None = None
    if rated:
        exposure, bad = scorecard_feed.exposure(settings, since_ms)
        if bad:
            click.echo(f"{bad} records are no windows in {topics(settings).features.name}", err=True)
        if not len(exposure):
            click.echo(
                f"{topics(settings).features.name} holds no window, so false alarms have no rate: do workers run, "
                "and is outputs.features on?",
                err=True,
            )
            exposure = None
    scorer = Scorer(faults, rules)
    with AlertFeed(settings, since_ms) as feed:
        for received in feed.to_end():
            scorer.add(Event.of(received.alert))
        if not feed.records:
            click.echo(f"{feed.topic} holds no alert: does a worker run? (`fleetwatch worker`)", err=True)
        if feed.bad:
            what = printable(str(feed.first_bad))
            click.echo(f"{feed.bad} records are no alerts in {feed.topic}; the first at {what}", err=True)
    return scorer.card(exposure)


def _print(card: Card, alone: Mapping[str, Card], extra: dict[str, Any], *, as_json: bool, by_class: bool) -> None:
    if as_json:
        found = extra | scorecard_page.data(card)
        if alone:
            found["alone"] = {name: scorecard_page.data(other) for name, other in alone.items()}
        click.echo(json.dumps(found, indent=2))
        return
    for line in scorecard_page.page(card, by_class=by_class, alone=alone):
        click.echo(line)


def _simulate(
    settings: Settings, plan: Plan, rules: Rules, *, each_detector: bool, as_json: bool, by_class: bool
) -> None:
    """Run and print; ends the process with 130 if it was interrupted."""
    evaluation, tell = Evaluation(settings, plan, each_detector=each_detector), Teller()
    gathered = evaluation.gathered
    try:
        evaluation.run(tell)
    except KeyboardInterrupt:
        pass
    finally:
        tell.end()
    if gathered.left and gathered.complete:
        click.echo(
            f"{gathered.left} faults found no device that was well and rested: ask for more devices", err=True
        )
    if gathered.refused:
        click.echo(f"{gathered.refused} frames were refused", err=True)
    if not gathered.complete:
        click.echo("interrupted: the figures are of what there was until then", err=True)
    extra = {
        "source": "simulation",
        "complete": gathered.complete,
        "hours": plan.hours,
        "seeds": list(plan.seeds),
        "fleets": dict(plan.fleets),
    }
    alone = {name: gathered.card(rules, name) for name in gathered.events if name}
    _print(gathered.card(rules), alone, extra, as_json=as_json, by_class=by_class)
    if not gathered.complete:
        sys.exit(EXIT_INTERRUPTED)


@click.command()
@click.option(
    "--since", type=Since(), metavar="SPAN|TIME", help="Only what arrived since then: 2h, 1d, or an ISO time."
)
@click.option(
    "--no-exposure", is_flag=True, help="Leave the features topic unread: false alarms then have no rate."
)
@click.option(
    "--grace",
    type=DurationType(),
    default="60s",
    show_default=True,
    help="A fault may still be found so long after its end.",
)
@click.option("--by-class", is_flag=True, help="A row for each fault kind of each device class.")
@click.option("--json", "as_json", is_flag=True, help="All figures as one JSON object; null = unknown.")
@click.option("--simulate", is_flag=True, help="No Kafka: simulated fleets through the worker's own core.")
@click.option(
    "--class",
    "fleets",
    type=FleetType(),
    multiple=True,
    metavar="CLASS[=N]",
    help="Simulated: a fleet of this class, of N devices; may be repeated. Default: every class.",
)
@click.option("--devices", type=click.IntRange(1, COUNT_MAX), default=50, show_default=True, help="Of a fleet.")
@click.option(
    "--hours", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="Of event time."
)
@click.option(
    "--warm",
    type=DurationType(),
    default=f"{WARM_S:g}s",
    show_default=True,
    help="No fault begins earlier: time to learn what is normal.",
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="The same seed, the same card.")
@click.option(
    "--runs",
    type=click.IntRange(1, _SEEDS_MAX),
    default=1,
    show_default=True,
    help="With so many seeds from --seed on.",
)
@click.option(
    "--faults",
    "kinds",
    type=KindsType(),
    metavar="KIND[,...]",
    help="Only these. Default: all that a class can have.",
)
@click.option(
    "--each", type=click.IntRange(0, 1000), default=3, show_default=True, help="Faults of a kind in each fleet."
)
@click.option(
    "--each-detector", is_flag=True, help="Also run each detector that may alert alone, over the same frames."
)
@click.pass_context
def scorecard(
    ctx: click.Context,
    since: int | None,
    no_exposure: bool,
    grace: float,
    by_class: bool,
    as_json: bool,
    simulate: bool,
    fleets: tuple[tuple[str, int], ...],
    devices: int,
    hours: float,
    warm: float,
    seed: int,
    runs: int,
    kinds: frozenset[str] | None,
    each: int,
    each_detector: bool,
) -> None:
    """Score the alerts against the faults that were injected: recall, precision, time to detect, false alarms.

    Reads the truth, features and alert topics from their beginning to where they end now, committed records only.
    With --simulate no Kafka is needed: fleets with faults of every kind, at random times, run through the worker's
    own code and settings.

    \b
    In the table:
      recall      found of injected; 95 % is Wilson's interval
      named       the alert names first a signal that the fault changes
      median, p90 event time from the fault's onset to the alert that finds it
      masked      missed while an earlier alert of the device was still open
      opened by   the detector that opened the alerts
      false       false alarms; per 1,000 device-days without a fault, with the Poisson interval
    docs/scorecard.md says what counts as found and as false.

    \b
    Examples:
      fleetwatch scorecard                                       what the cluster holds
      fleetwatch scorecard --since 2h --by-class
      fleetwatch scorecard --simulate --class vehicle.ev=100 --class gpu.node=20 --hours 2 --runs 3
      fleetwatch scorecard --simulate --each-detector            what each detector finds by itself
      fleetwatch scorecard --simulate --each 0                   false alarms of healthy fleets alone
      fleetwatch scorecard --json | jq '.kinds | map_values(.recall.value)'

    \b
    Exit codes: 0 the card is shown, whatever it says, 130 a simulation was interrupted; others as for all commands.
    """
    settings = load_settings(ctx)
    rules = Rules(grace_us=round(grace * SECOND_US))
    if simulate:
        _refuse(ctx, ("since", "no_exposure"), "is for topics, not for --simulate")
        sizes = {name: count or devices for name, count in fleets} or dict.fromkeys(MODELS, devices)
        plan = Plan(sizes, kinds or frozenset(KINDS), hours, range(seed, seed + runs), each, warm)
        if plan.event_us <= round((warm + LAST_S) * SECOND_US):
            when = f"after --warm ({warm:g} s) and before the last {LAST_S:g} s"
            raise click.UsageError(f"--hours {hours:g} leaves no time for faults: they begin {when}", ctx)
        with quiet_end():
            _simulate(settings, plan, rules, each_detector=each_detector, as_json=as_json, by_class=by_class)
        return
    _refuse(ctx, _SIMULATED, "needs --simulate")
    card = read(settings, rules, since or 0, rated=not no_exposure)
    with quiet_end():
        _print(card, {}, {"source": settings.kafka.bootstrap}, as_json=as_json, by_class=by_class)


def _refuse(ctx: click.Context, names: tuple[str, ...], why: str) -> None:
    """An option that would change nothing is an error."""
    for param in ctx.command.params:
        if param.name in names and ctx.get_parameter_source(param.name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{param.opts[-1] if len(param.opts) == 1 else param.opts[0]} {why}", ctx)
