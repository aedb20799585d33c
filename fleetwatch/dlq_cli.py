"""`fleetwatch dlq`: look at refused records, send them again. The rule: text from records is printed escaped."""

from __future__ import annotations

import heapq
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click
from rich.table import Table

from fleetwatch.alerts_cli import Since
from fleetwatch.dlq_explain import ADVICE, batch_lines, frame_lines, hexdump
from fleetwatch.dlq_letters import Letter, LetterReader, Wanted, key_text
from fleetwatch.dlq_replay import plan, send
from fleetwatch.pages import load_settings, page_console, quiet_end
from telemetry.errors import TopicError, nearest
from telemetry.reasons import TEXT, Reason
from telemetry.schemas.book import SchemaBook
from telemetry.settings import Settings
from telemetry.topics import topics

TEXT_LIMIT = 100
_CODES = frozenset(reason.code for reason in Reason if reason)


class ReasonCode(click.ParamType):
    """A reason's code."""

    name = "reason"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in _CODES:
            self.fail(f"no reason {value!r}{nearest(value, _CODES)}", param, ctx)
        return value


class Place(click.ParamType):
    """A letter's own partition and offset."""

    name = "partition/offset"

    def convert(
        self, value: str | tuple[int, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        partition, slash, offset = value.partition("/")
        if not (slash and partition.isdigit() and offset.isdigit() and len(partition) < 10 and len(offset) < 19):
            self.fail(f"{value!r} is not PARTITION/OFFSET, as `fleetwatch dlq list` shows it", param, ctx)
        return int(partition), int(offset)


@dataclass(frozen=True, slots=True)
class Filters:
    """The options that list and replay share."""

    wanted: Wanted
    since_ms: int

    def letters(self, settings: Settings) -> Iterator[Letter]:
        """Those that are there now."""
        with LetterReader(settings, self.since_ms, self.wanted.places) as reader:
            yield from filter(self.wanted, reader.to_end())


def _filters(
    settings: Settings,
    reasons: tuple[str, ...],
    names: tuple[str, ...],
    devices: tuple[str, ...],
    since: int | None,
    until: int | None,
    places: tuple[tuple[int, int], ...] = (),
) -> Filters:
    """Topics may be named without their prefix."""
    inputs = [spec.name for spec in topics(settings).inputs]
    wanted = {name if name in inputs else f"{settings.topics.prefix}.{name}" for name in names}
    if unknown := sorted(wanted - set(inputs)):
        raise TopicError(f"{unknown[0]} is not an input topic{nearest(unknown[0], inputs)}")
    keys = frozenset(name.encode() for name in devices)
    return Filters(Wanted(frozenset(reasons), frozenset(wanted), keys, until or 0, frozenset(places)), since or 0)


def _filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--until", type=Since(), metavar="SPAN|TIME", help="Arrived before then."),
        click.option(
            "--since", type=Since(), metavar="SPAN|TIME", help="Arrived since then: 10m, 2h, 1d, or an ISO time."
        ),
        click.option(
            "--device", "devices", multiple=True, metavar="KEY", help="Only with this key; may be repeated."
        ),
        click.option("--topic", "names", multiple=True, metavar="TOPIC", help="Only from this input topic."),
        click.option("--reason", "reasons", type=ReasonCode(), multiple=True, help="Only refused for this reason."),
    ):
        command = option(command)
    return command


@click.group()
def dlq() -> None:
    """Look at refused records (dead letters), and send them again.

    \b
      fleetwatch dlq list --summary            how many of each reason, and what to do
      fleetwatch dlq list --reason key_mismatch --since 1h
      fleetwatch dlq show 3/1207               one of them, decoded as far as it goes
      fleetwatch dlq replay --reason unknown_catalog          what would be sent
      fleetwatch dlq replay --reason unknown_catalog --yes    send it
    """


# -- list -----------------------------------------------------------------------------------------------------


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


def _size(letter: Letter) -> int:
    return letter.number("x-truncated", len(letter.value or b""))


def as_line(letter: Letter) -> str:
    """One letter as text."""
    again = f"  attempt {letter.attempt}" if letter.attempt else ""
    return (
        f"{_time(letter.arrived_ms)}  {letter.place:>8}  {letter.reason:20} {letter.source}  "
        f"{key_text(letter.key)}  {_size(letter)} B{again}"
    )


def as_json(letter: Letter) -> str:
    """One letter as a JSON object on one line."""
    return json.dumps(
        {
            "partition": letter.partition,
            "offset": letter.offset,
            "arrived": _time(letter.arrived_ms),
            "reason": letter.reason,
            "stage": letter.text("__connect.errors.stage"),
            "topic": letter.topic,
            "source_partition": letter.source_partition,
            "source_offset": letter.source_offset,
            "source_last_offset": letter.last_offset if letter.last_offset >= 0 else None,
            "key": None if letter.key is None else key_text(letter.key),
            "value_bytes": None if letter.value is None else _size(letter),
            "worker": letter.text("x-worker"),
            "attempt": letter.attempt,
        }
    )


def _newest(letters: Iterable[Letter], limit: int, write: Callable[[Letter], str]) -> tuple[list[str], int]:
    """Lines of the `limit` newest, oldest first, and how many were left out; only the lines are kept."""
    heap: list[tuple[int, int, int, str]] = []
    left_out = 0
    for letter in letters:
        entry = (letter.arrived_ms, letter.partition, letter.offset, write(letter))
        if len(heap) < limit:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)
            left_out += 1
    return [line for *_, line in sorted(heap)], left_out


def _summary(letters: Iterable[Letter]) -> Table:
    counts: Counter[str] = Counter()
    records: Counter[str] = Counter()
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for letter in letters:
        code = letter.reason
        counts[code] += 1
        records[code] += letter.records
        first[code] = min(letter.arrived_ms, first.get(code, letter.arrived_ms))
        last[code] = max(letter.arrived_ms, last.get(code, 0))
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("reason", "letters", "records", "first", "last", "what to do"):
        table.add_column(name, justify="right" if name in ("letters", "records") else "left", overflow="fold")
    advice = {reason.code: text for reason, text in ADVICE.items()}
    for code, count in counts.most_common():
        times = (_time(first[code])[:19], _time(last[code])[:19])
        table.add_row(code, f"{count:,}", f"{records[code]:,}", *times, advice.get(code, ""))
    return table


@dlq.command(name="list")
@_filter_options
@click.option(
    "--limit", type=click.IntRange(min=0), help=f"The newest N; 0 = all. Default: {TEXT_LIMIT}, as JSON all."
)
@click.option("--json", "form_json", is_flag=True, help="A JSON object a line.")
@click.option("--summary", is_flag=True, help="Counts by reason, and what to do about each.")
@click.pass_context
def list_(
    ctx: click.Context,
    reasons: tuple[str, ...],
    names: tuple[str, ...],
    devices: tuple[str, ...],
    since: int | None,
    until: int | None,
    limit: int | None,
    form_json: bool,
    summary: bool,
) -> None:
    """List refused records: when, where the letter is, why, where the record was, its key and size."""
    settings = load_settings(ctx)
    letters = _filters(settings, reasons, names, devices, since, until).letters(settings)
    with quiet_end():
        if summary:
            page_console().print(_summary(letters))
            return
        write = as_json if form_json else as_line
        limit = (0 if form_json else TEXT_LIMIT) if limit is None else limit
        left_out = 0
        lines: Iterable[str] = map(write, letters)
        if limit:
            lines, left_out = _newest(letters, limit, write)
        for line in lines:
            sys.stdout.write(line + "\n")
        if left_out:
            click.echo(f"{left_out} older letters are not shown; see --limit, --since and --summary", err=True)


# -- show -----------------------------------------------------------------------------------------------------


def page(letter: Letter, book: SchemaBook, nbytes: int) -> Iterator[str]:
    """All that is to say about one letter."""
    reason = letter.known_reason
    yield f"dead letter {letter.place}, arrived {_time(letter.arrived_ms)}"
    yield ""
    yield f"reason    {letter.reason} ({letter.text('__connect.errors.stage') or 'no stage'})"
    yield f"meaning   {TEXT[reason] if reason else 'this version does not know the reason'}"
    yield f"to do     {ADVICE[reason] if reason else 'look with a newer version'}"
    yield f"was at    {letter.source}"
    yield f"refused   {letter.text('x-time') or 'no time'} by {letter.text('x-worker') or '?'}"
    yield f"attempts  {letter.attempt}"
    yield ""
    yield "headers"
    yield from (f"  {key_text(name.encode())}: {letter.text(name)}" for name in letter.headers)
    yield ""
    yield f"key       {key_text(letter.key)}"
    if letter.value is None:
        yield "value     (null)"
        return
    cut = f", cut from {_size(letter)}" if letter.is_cut else ""
    yield f"value     {len(letter.value)} bytes{cut}"
    lines = batch_lines(letter.value) if letter.last_offset >= 0 else frame_lines(letter.value, book)
    yield from (f"  {line}" for line in lines)
    yield ""
    yield from hexdump(letter.value, nbytes)


@dlq.command()
@click.argument("place", type=Place())
@click.option("--bytes", "nbytes", type=click.IntRange(min=0), default=256, show_default=True, help="0 = all.")
@click.pass_context
def show(ctx: click.Context, place: tuple[int, int], nbytes: int) -> None:
    """Show the dead letter at PARTITION/OFFSET: provenance, headers, and its bytes decoded as far as they go."""
    settings = load_settings(ctx)
    with LetterReader(settings, places=frozenset({place})) as reader:
        letter = next((x for x in reader.to_end() if x.offset >= place[1]), None)
    if letter is None or letter.offset != place[1]:
        raise TopicError(
            f"{reader.topic} has no letter at {place[0]}/{place[1]}: it is not written yet, or no longer held"
        )
    with quiet_end():
        for line in page(letter, SchemaBook(settings.schemas.accept), nbytes):
            sys.stdout.write(line + "\n")


# -- replay ---------------------------------------------------------------------------------------------------


@dlq.command()
@click.argument("places", type=Place(), nargs=-1)
@_filter_options
@click.option("--limit", type=click.IntRange(min=1), help="Send at most N.")
@click.option("--rate", type=click.FloatRange(min=0.1), default=1000.0, show_default=True, help="Records a second.")
@click.option(
    "--max-attempts",
    type=click.IntRange(1, 9999),
    default=3,
    show_default=True,
    help="Leave what was sent so often.",
)
@click.option("--force", is_flag=True, help="Also what a worker would refuse again.")
@click.option("--yes", is_flag=True, help="Send; without it only what would be sent is told.")
@click.pass_context
def replay(
    ctx: click.Context,
    places: tuple[tuple[int, int], ...],
    reasons: tuple[str, ...],
    names: tuple[str, ...],
    devices: tuple[str, ...],
    since: int | None,
    until: int | None,
    limit: int | None,
    rate: float,
    max_attempts: int,
    force: bool,
    yes: bool,
) -> None:
    """Send refused records again, as they were, to where they were; all, or those at PLACES (PARTITION/OFFSET).

    First each is checked as a worker with these settings would, in a process of its own; what would be refused
    again is left. The letters stay where they are: a record that is sent twice is dropped as a duplicate.
    """
    settings = load_settings(ctx)
    filters = _filters(settings, reasons, names, devices, since, until, places)
    found = plan(settings, ctx.obj, filters.letters(settings), max_attempts, force=force)
    chosen = found.send[:limit]
    with quiet_end():
        for why, count in found.left.most_common():
            click.echo(f"left: {count}  {why}", err=True)
        if found.full:
            click.echo("there are more letters than one replay holds; run it again with --since", err=True)
        if not yes:
            for letter in chosen[:TEXT_LIMIT]:
                click.echo(as_line(letter))
            click.echo(f"{len(chosen)} records would be sent; --yes sends them", err=True)
            return
        done = send(settings, chosen, rate, _progress(len(chosen))) if chosen else 0
        sent = Counter(letter.topic for letter in chosen[:done])
        where = ", ".join(f"{n} to {topic}" for topic, n in sent.items()) or "nothing"
        click.echo(
            f"sent {where}" + (f"; interrupted before {len(chosen) - done} more" if done < len(chosen) else "")
        )


def _progress(total: int) -> Callable[[int], None]:
    """Tells how far it is on stderr, about once a second."""
    told_s = time.monotonic()

    def tell(done: int) -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= 1 and done < total:
            told_s = time.monotonic()
            click.echo(f"{done} of {total}", err=True)

    return tell
