"""The `fleetwatch` command. The rule: a subcommand's module is imported only when it is called."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from fleetwatch import kernelcache
from telemetry.errors import FleetwatchError, nearest

#: name -> (module:attribute of the click command, one line of help)
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("fleetwatch.demo:demo", "A fleet, faults, alerts and a killed worker, in ninety seconds."),
    "kafka": ("fleetwatch.kafka.cli:kafka", "Run a real Kafka on this machine: start, stop, status, logs."),
    "simulate": ("producers.cli:simulate", "Drive a simulated fleet of vehicles or devices."),
    "inject": ("producers.cli:inject", "Inject a fault into a running simulation."),
    "replay": ("producers.cli:replay", "Replay recordings (CSV, Parquet, NPZ) as telemetry."),
    "load": ("producers.cli:load", "Write pre-encoded frames at full speed, for benchmarks."),
    "alerts": ("fleetwatch.alerts_cli:alerts", "Subscribe to the alerts."),
    "dlq": ("fleetwatch.dlq_cli:dlq", "Look at refused records (dead letters), and send them again."),
    "scorecard": ("fleetwatch.scorecard_cli:scorecard", "Score the alerts against the faults that were injected."),
    "top": ("fleetwatch.top:top", "Watch rates, lag, workers and open alerts in the terminal."),
    "health": ("fleetwatch.health_cli:health", "Say whether a role works, for health checks of containers."),
    "topics": ("fleetwatch.topics_cli:topics", "Create the topics, or show what exists."),
    "schemas": ("fleetwatch.schemas_cli:schemas", "List the Avro schemas, check a change, tell readers of it."),
    "catalog": ("fleetwatch.catalog_cli:catalog", "Show the signal catalogue."),
    "settings": ("fleetwatch.settings_cli:settings", "Show every setting, its default and its value."),
    "worker": ("streams.cli:worker", "Run a stream worker: frames in; features, scores and alerts out."),
    "autoscaler": ("autoscaler.cli:autoscaler", "Scale the workers on Kubernetes by their lag in seconds."),
    "score": ("fleetwatch.score_cli:score", "Score the rows of a CSV or Parquet file, as a worker would."),
    "train": ("fleetwatch.train_cli:train", "Learn a class's relations from healthy devices."),
}


class LazyGroup(click.Group):
    """Lists `COMMANDS` without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise click.UsageError(f"no command {args[0]!r}{nearest(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="YAML file of settings; see `fleetwatch settings`. Variables FLEETWATCH_<SECTION>__<KEY> win over it.",
)
@click.version_option(package_name="fleetwatch")
@click.pass_context
def cli(ctx: click.Context, config: Path | None) -> None:
    """Streaming telemetry ingestion and anomaly detection for fleets, on Kafka and Faust.

    \b
    First steps:
      fleetwatch kafka start                         a real Kafka, no Java needed
      fleetwatch worker                              one stream worker
      fleetwatch simulate vehicles --count 50        a fleet
      fleetwatch alerts --follow                     what is found
    """
    ctx.obj = config


class Terminated(KeyboardInterrupt):
    """SIGTERM came to a command that has no handler of its own."""


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    del signum, frame
    raise Terminated


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends what runs as Ctrl-C does: by default the first process of a container does not hear it."""
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_terminated() -> NoReturn:
    """As if SIGTERM had not been handled; a first process, which cannot end so, ends with the same code."""
    os.kill(os.getpid(), signal.SIGTERM)
    sys.exit(128 + signal.SIGTERM)


def main(argv: list[str] | None = None) -> Any:
    """Entry point: errors that a user can act on end with their message and exit code."""
    kernelcache.use()
    try:
        with _terminable():
            return cli.main(args=argv, prog_name="fleetwatch", standalone_mode=False)
    except FleetwatchError as exc:
        click.echo(f"fleetwatch: {exc}", err=True)
        sys.exit(exc.exit_code)
    except click.exceptions.Exit as exc:
        sys.exit(exc.exit_code)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except click.Abort as exc:
        if isinstance(exc.__cause__, Terminated):
            _end_terminated()
        click.echo("interrupted", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
