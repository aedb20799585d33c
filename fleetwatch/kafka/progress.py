"""What a start is doing, told while it does it. The rule: progress is a plain value; how it is shown is apart."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One report.

    Attributes
    ----------
    text : a sentence for a person.
    size_bytes, size_total_bytes : of the downloads so far; total 0 when the step is no download.
    final : False for a mere tick of the byte counter, which a plain log leaves out.
    """

    text: str
    size_bytes: int = 0
    size_total_bytes: int = 0
    final: bool = True


Progress = Callable[[Step], None]


def silent(step: Step) -> None:
    """Show nothing: for tests and libraries."""
    del step


def _plain(step: Step) -> None:
    if step.final:
        sys.stderr.write(step.text + "\n")
        sys.stderr.flush()


@contextmanager
def shown() -> Iterator[Progress]:
    """Progress on stderr: a moving bar on a terminal, plain lines elsewhere."""
    if not sys.stderr.isatty():
        yield _plain
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        task = None

        def show(step: Step) -> None:
            nonlocal task
            if not step.size_total_bytes:
                console.print(step.text, markup=False, highlight=False)
                return
            if task is None:
                task = bars.add_task("", total=step.size_total_bytes)
            bars.update(task, completed=step.size_bytes, description=step.text)

        yield show
