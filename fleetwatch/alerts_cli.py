"""`fleetwatch alerts`. The rule: stdout carries alerts only, everything else goes to stderr."""

from __future__ import annotations

import heapq
import itertools
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import click
from click.core import ParameterSource

from fleetwatch.alert_feed import AlertFeed, Received
from fleetwatch.alert_text import LineWriter
from fleetwatch.pages import colour_wanted, load_settings, quiet_end
from telemetry.alerts import AlertState, Severity
from telemetry.errors import nearest
from telemetry.log import one_line, printable

TEXT_LIMIT = 1000
_POLL_S = 0.2
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


class Since(click.ParamType):
    """Milliseconds since the epoch, from a span before now (10m, 1h30m) or an ISO time (local if without zone)."""

    name = "since"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        now = datetime.now(UTC).timestamp()
        parts = _SPAN.findall(value)
        if parts and "".join(number + unit for number, unit in parts) == value:
            return max(1, int((now - sum(float(n) * _UNITS_S[unit] for n, unit in parts)) * 1000))
        try:
            return max(1, int(datetime.fromisoformat(value).timestamp() * 1000))
        except (ValueError, OverflowError, OSError):
            self.fail(f"{value!r} is neither a span (90s, 10m, 2h, 1d) nor an ISO 8601 time", param, ctx)


class States(click.ParamType):
    """A comma-separated choice of states."""

    name = "states"

    def convert(
        self, value: str | frozenset[AlertState], param: click.Parameter | None, ctx: click.Context | None
    ) -> frozenset[AlertState]:
        if isinstance(value, frozenset):
            return value
        wanted = [part.strip() for part in value.split(",")]
        for part in wanted:
            if part not in set(AlertState):
                self.fail(f"no state {part!r}{nearest(part, AlertState)}", param, ctx)
        return frozenset(AlertState(part) for part in wanted)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which alerts to show. devices, classes : empty = all; a class also means those below it."""

    devices: frozenset[str] = frozenset()
    classes: tuple[str, ...] = ()
    min_severity: Severity = Severity.INFO
    states: frozenset[AlertState] = frozenset(AlertState)

    def __call__(self, received: Received) -> bool:
        alert = received.alert
        return (
            alert.state in self.states
            and alert.severity.rank >= self.min_severity.rank
            and (not self.devices or alert.device_id in self.devices)
            and (not self.classes or any(_is_class(alert.device_class, name) for name in self.classes))
        )


def _is_class(name: str, wanted: str) -> bool:
    return name == wanted or name.startswith(f"{wanted}.")


def structured(received: Received) -> str:
    """The event in CloudEvents' JSON format, on one line."""
    event = {**received.attributes, "datacontenttype": "application/json", "data": received.alert.to_data()}
    return one_line(json.dumps(event, ensure_ascii=False, separators=(",", ":")))


def newest(received: Iterable[Received], limit: int) -> tuple[list[Received], int]:
    """The last `limit` in order of event time, and how many were left out."""
    heap: list[tuple[int, int, Received]] = []
    left_out = 0
    for number, item in enumerate(received):
        entry = (item.alert.ts_us, number, item)
        if len(heap) < limit:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)
            left_out += 1
    return [item for _, _, item in sorted(heap)], left_out


def _for_ever(feed: AlertFeed, wanted: Wanted) -> Iterator[Received]:
    told = False
    while True:
        yield from filter(wanted, feed.read(_POLL_S))
        sys.stdout.flush()
        if feed.bad and not told:
            told = True
            _tell_bad(feed)


def _tell_bad(feed: AlertFeed) -> None:
    if feed.bad:
        what = printable(str(feed.first_bad))
        noun = "record is" if feed.bad == 1 else "records are"
        click.echo(f"{feed.bad} {noun} no alert in {feed.topic}; the first at {what}", err=True)


def _formatter(form: Literal["text", "json"]) -> Callable[[Received], str]:
    if form == "json":
        return structured
    terminal = sys.stdout.isatty()
    writer = LineWriter(
        colour=colour_wanted(),
        width=shutil.get_terminal_size().columns if terminal else None,
    )
    return lambda received: writer.line(received.alert, datetime.now(UTC))


class _Alerts(click.Group):
    """`fleetwatch alerts` shows; what else is done with alerts is a command below it, imported when called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return ["forward"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name != "forward":
            return None
        from fleetwatch.forward_cli import forward

        return forward


@click.group(cls=_Alerts, invoke_without_command=True, subcommand_metavar="[COMMAND]")
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until Ctrl-C; else stop at the end.")
@click.option(
    "--since",
    type=Since(),
    metavar="SPAN|TIME",
    help="Arrived since then: 90s, 10m, 1h30m, or an ISO time. Default: all; with --follow, only new ones.",
)
@click.option("--device", "devices", multiple=True, metavar="ID", help="Only this device; may be repeated.")
@click.option(
    "--class", "classes", multiple=True, metavar="CLASS", help="Only this class, such as vehicle or gpu.node."
)
@click.option("--min-severity", type=click.Choice([str(s) for s in Severity]), default="info", show_default=True)
@click.option(
    "--state", "states", type=States(), default="open,update,resolved", show_default=True, metavar="STATE[,...]"
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    help=f"The newest N; 0 = all. Default: {TEXT_LIMIT} as text, all as json. With --follow: stop after N.",
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def alerts(
    ctx: click.Context,
    follow: bool,
    since: int | None,
    devices: tuple[str, ...],
    classes: tuple[str, ...],
    min_severity: str,
    states: frozenset[AlertState],
    limit: int | None,
    form: Literal["text", "json"],
) -> None:
    """Subscribe to the alerts; or forward them, with the command below.

    As text, one line each: when (event time, local), severity, ▲ new, ● still on or ✔ over with how long it has
    lasted, device, kind, what is wrong. As json, one CloudEvents object a line, for jq:

    \b
      fleetwatch alerts --follow --min-severity major
      fleetwatch alerts --since 1h --format json | jq -r '.data.device' | sort | uniq -c
    """
    if ctx.invoked_subcommand:
        _no_options(ctx)
        return
    tree = load_settings(ctx)
    wanted = Wanted(frozenset(devices), classes, Severity(min_severity), states)
    write = _formatter(form)
    if limit is None:
        limit = 0 if follow or form == "json" else TEXT_LIMIT
    start_ms = since if since is not None else None if follow else 0
    with quiet_end(), AlertFeed(tree, start_ms) as feed:
        try:
            _show(feed, wanted, write, limit, follow=follow)
        finally:
            _tell_bad(feed)


def _no_options(ctx: click.Context) -> None:
    """Options before a command would be passed over silently."""
    for name in ctx.params:
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"options of `{ctx.invoked_subcommand}` stand behind it", ctx)


def _show(feed: AlertFeed, wanted: Wanted, write: Callable[[Received], str], limit: int, *, follow: bool) -> None:
    left_out = 0
    found: Iterable[Received] = _for_ever(feed, wanted) if follow else filter(wanted, feed.to_end())
    if limit and follow:
        found = itertools.islice(found, limit)
    elif limit:
        found, left_out = newest(found, limit)
    for received in found:
        sys.stdout.write(write(received) + "\n")
    if left_out:
        click.echo(f"{left_out} older events are not shown; see --limit and --since", err=True)
