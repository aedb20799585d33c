"""What the commands that show something share. The rule: a page is on stdout, whatever else is said on stderr."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console

from telemetry import log, settings
from telemetry.settings import Settings

_PIPE_COLUMNS = 160


def load_settings(ctx: click.Context) -> Settings:
    """The settings of this command; also sets up logging, for warnings only."""
    tree = settings.load(ctx.obj)
    log.setup("WARNING", "text" if tree.service.log_format == "auto" else tree.service.log_format)
    # librdkafka logs each failed connection attempt; the clients' error callback says the same once a minute
    logging.getLogger("fleetwatch.librdkafka").setLevel(logging.CRITICAL)
    return tree


def colour_wanted() -> bool:
    """Stdout is a terminal, and NO_COLOR is not set."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


@contextmanager
def quiet_end() -> Iterator[None]:
    """Ctrl-C and a reader that went away (`| head`) are ordinary ways to stop what only shows."""
    try:
        with quiet_pipe():
            yield
    except KeyboardInterrupt:
        pass


@contextmanager
def quiet_pipe() -> Iterator[None]:
    """A reader that went away is an ordinary end; what is interrupted is not done, and says so by its exit code."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # what is still in Python's buffer must go nowhere, or the interpreter complains on its way out
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def page_console() -> Console:
    """Writes to stdout; as wide as the terminal, or 160 columns where there is none."""
    terminal = sys.stdout.isatty()
    # no markup: a device may be named "[/]", and a page must show that, not fail
    return Console(width=None if terminal else _PIPE_COLUMNS, highlight=False, markup=False, emoji=False)
