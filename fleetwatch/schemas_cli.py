"""`fleetwatch schemas`: what was released, whether a change may be, and telling readers of it.

The rule: a schema that would break a reader or a writer is refused before anybody learns of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from fleetwatch.pages import load_settings, page_console, quiet_end
from telemetry import registry
from telemetry import schemas as contract
from telemetry.clients import require_broker
from telemetry.errors import SettingsError
from telemetry.schemas import SchemaRefusedError, announce, check
from telemetry.schemas.book import Learner, SchemaBook, Writer
from telemetry.schemas.reading import learner
from telemetry.settings import Settings

FILES = click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))


@click.group()
def schemas() -> None:
    """The Avro schemas: list the versions, check a change, tell readers of it.

    \b
    Examples:
      fleetwatch schemas list                  every version released
      fleetwatch schemas list --live           ... and what the topic and the registry hold
      fleetwatch schemas check                 may the schemas be released as they stand?
      fleetwatch schemas check my-frame.avsc   may this be the frame's next version?
      fleetwatch schemas register              tell readers what this release writes
    """


def _table(writers: Iterable[Writer]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("schema", "header", "from"):
        table.add_column(name, no_wrap=True)
    table.add_column("fields", justify="right")
    table.add_column("written now", no_wrap=True)
    for writer in writers:
        now = "yes" if writer.header == contract.header(writer.name) else ""
        table.add_row(writer.name, writer.header.hex(), writer.origin, str(len(writer.schema["fields"])), now)
    return table


@schemas.command("list")
@click.option("--live", is_flag=True, help="Ask the topic of announced schemas, and the registry if there is one.")
@click.pass_context
def list_(ctx: click.Context, live: bool) -> None:
    """Show the schemas that are read: released, in `schemas.accept`, and with --live learnt from others.

    The header is what messages written with it begin with: c301 and the schema's CRC-64-AVRO fingerprint, or 00 and
    the schema registry's id.
    """
    with quiet_end():
        settings = load_settings(ctx)
        if live:
            require_broker(settings)
            known = learner(settings)
            known.refresh()
        else:
            known = Learner(SchemaBook(settings.schemas.accept), [])
        page_console().print(_table(known.book.writers()))


def _candidate(path: Path) -> tuple[str, dict[str, Any]]:
    """(name, schema) of a file.

    Raises
    ------
    SchemaRefusedError : not a schema, or of no record of ours.
    """
    try:
        schema = contract.parse(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as exc:
        raise SchemaRefusedError(f"{path}: not UTF-8 text: {exc}") from exc
    name = contract.name_of(contract.full_name(schema))
    if name is None:
        known = ", ".join(sorted(contract.full_name(contract.raw(each)) for each in contract.NAMES))
        raise SchemaRefusedError(f"{path}: {contract.full_name(schema)} is not a record of ours; known: {known}")
    return name, schema


def _checked(files: Iterable[Path]) -> list[tuple[str, dict[str, Any]]]:
    candidates = [_candidate(path) for path in files]
    problems = [
        problem
        for name, schema in candidates
        for problem in check.candidate_problems(name, schema, contract.versions(name))
    ]
    if problems:
        raise SchemaRefusedError("this breaks readers or writers:\n  " + "\n  ".join(problems))
    return candidates


@schemas.command("check")
@FILES
def check_(files: tuple[Path, ...]) -> None:
    """Refuse a change that breaks: against every version released, in both directions.

    Without FILES: the schemas as they stand in the source, and that no released file was edited (`make check` runs
    this). With FILES: whether each .avsc may be the next version of the record that it names.

    Ends with 65 and the reasons if not. What may be changed and how to release it: docs/schemas.md.
    """
    if files:
        for (name, schema), path in zip(_checked(files), files, strict=True):
            click.echo(f"{path}: {name} {contract.rabin_of(schema).hex()}, reads and is read by every version")
        return
    if problems := check.problems():
        raise SchemaRefusedError("the schemas cannot be released as they stand:\n  " + "\n  ".join(problems))
    count = sum(len(contract.versions(name)) for name in contract.NAMES)
    click.echo(f"{len(contract.NAMES)} schemas, {count} versions released: each reads what the others write")


def _register(settings: Settings, wanted: list[tuple[str, dict[str, Any]]]) -> None:
    client = registry.client(settings.schemas)
    for name, schema in wanted:
        number = registry.register(settings.schemas, schema, client)
        click.echo(f"{settings.schemas.registry_url}: {name} has id {number}")


@schemas.command()
@FILES
@click.option("--topic/--no-topic", default=True, help="Announce on the topic `<prefix>.schemas`.")
@click.pass_context
def register(ctx: click.Context, files: tuple[Path, ...], topic: bool) -> None:
    """Tell readers of a schema before anything is written with it.

    Without FILES: what this release writes. With FILES: schemas of others, for example of a device maker who adds
    a field; they are checked first. They are announced on the topic and, with `schemas.registry_url`, registered.

    Producers do this by themselves at their start. Do it by hand where they have no right to, before they start.
    """
    settings = load_settings(ctx)
    if not topic and not settings.schemas.registry_url:
        raise SettingsError("nowhere to register: leave --no-topic out, or set schemas.registry_url")
    wanted = _checked(files) or [(name, contract.raw(name)) for name in contract.NAMES]
    if topic:
        require_broker(settings)
        told = announce.announce(settings, [schema for _, schema in wanted])
        where = announce.topic(settings).name
        click.echo(f"{where}: {len(told)} announced, {len(wanted) - len(told)} were there")
    if settings.schemas.registry_url:
        _register(settings, wanted)
