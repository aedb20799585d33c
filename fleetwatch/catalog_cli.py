"""`fleetwatch catalog`: the signals of each device class. The rule: a user's own entry is checked as ours are."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from fleetwatch.pages import load_settings, page_console, quiet_end
from telemetry import catalog as contract
from telemetry.catalog import Catalog, CatalogSet
from telemetry.errors import CatalogError
from telemetry.words import humanise


def _bound(value: float | None) -> str:
    return "" if value is None else f"{value:,.10g}"


def entries_table(entries: CatalogSet) -> Table:
    """One row an entry."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("entry", "kind"):
        table.add_column(name, no_wrap=True)
    for name in ("signals", "period ms", "steps a frame"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("description", overflow="fold")
    for entry in entries.values():
        table.add_row(
            entry.key,
            entry.kind,
            str(len(entry.signals)),
            f"{entry.period_ms:g}",
            str(entry.steps_per_frame),
            entry.description,
        )
    return table


def signals_table(entry: Catalog) -> Table:
    """One row a signal, in the frame's order."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("#", justify="right")
    table.add_column("signal", overflow="fold")
    table.add_column("unit", no_wrap=True)
    for name in ("min", "max", "rate max /s", "stuck after s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("in words", overflow="fold")
    for number, signal in enumerate(entry.signals):
        bounds = (signal.min, signal.max, signal.rate_max, signal.stuck_after_s)
        table.add_row(str(number), signal.name, signal.unit, *map(_bound, bounds), humanise(signal.name))
    return table


def check(path: Path) -> list[Catalog]:
    """The entries of a user's file or folder, having been read beside ours.

    Raises
    ------
    CatalogError : an entry is wrong, contradicts one that there is, or there is none in the folder.
    """
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    if not files:
        raise CatalogError(f"{path}: no *.yaml file in this folder")
    problems, found = [], []
    for file in files:
        try:
            found.append(contract.parse(file.read_text(encoding="utf-8"), str(file)))
        except UnicodeDecodeError as exc:
            problems.append(f"{file}: not UTF-8 text: {exc}")
        except CatalogError as exc:
            problems.append(str(exc))
    if problems:
        raise CatalogError("\n  ".join(["wrong catalogue entries:", *problems]))
    CatalogSet([*contract.load().values(), *found])
    return found


@click.command()
@click.argument("entry", required=False)
@click.option(
    "--check",
    "checked",
    type=click.Path(path_type=Path, exists=True),
    metavar="PATH",
    help="Validate your own file, or a folder of them, instead.",
)
@click.pass_context
def catalog(ctx: click.Context, entry: str | None, checked: Path | None) -> None:
    """Show the signal catalogue: all entries, or the signals of one.

    ENTRY is a class (vehicle.ev: its newest version) or a class and version (vehicle.ev/1).
    """
    with quiet_end():
        if checked is not None:
            for found in check(checked):
                click.echo(f"{found.key}: {len(found.signals)} signals, good")
            return
        entries = contract.load(load_settings(ctx).catalog.paths)
        console = page_console()
        if entry is None:
            console.print(entries_table(entries))
            return
        found = entries[entry] if "/" in entry else entries.latest(entry)
        pace = f"steps a frame: {found.steps_per_frame}, one every {found.period_ms:g} ms"
        console.print(Text.assemble((found.key, "bold"), f"  {found.kind}  {pace}"))
        if found.description:
            console.print(found.description, style="dim")
        console.print(signals_table(found))
