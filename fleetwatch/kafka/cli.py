"""`fleetwatch kafka`: start, stop, status, logs. The rule: results go to stdout, all else to stderr."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from fleetwatch.kafka.cluster import DEFAULT_PORT, EmbeddedKafka, Status
from fleetwatch.kafka.paths import default_cluster_dir
from fleetwatch.kafka.progress import shown
from telemetry.errors import SettingsError

EXIT_NOT_RUNNING = 3  # as `systemctl status`
FOLLOW_INTERVAL_S = 0.25

F = TypeVar("F", bound=Callable[..., Any])


def _dir_option(function: F) -> F:
    return click.option(
        "--dir",
        "directory",
        type=click.Path(path_type=Path, file_okay=False),
        help="Where the cluster's data and logs are. Default: "
        "$XDG_STATE_HOME/fleetwatch/kafka, ~/.local/state/fleetwatch/kafka.",
    )(function)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def kafka() -> None:
    """Run a real Apache Kafka on this machine. No Java, no Docker, no root.

    The first start fetches Kafka (45 MB, once) into the user's cache; later starts need no network and take a
    second. Data is kept between starts. The brokers listen on 127.0.0.1 only.

    \b
    Examples:
      fleetwatch kafka start                          one broker on 127.0.0.1:9092
      fleetwatch kafka start --brokers 3 --dir ./k3   three brokers on 9092, 9094, 9096
      fleetwatch kafka status                         exit 0 running, 3 not
      fleetwatch kafka logs --follow
      fleetwatch kafka stop                           the data stays
      fleetwatch kafka stop --purge                   the data goes

    To use another cluster instead, set FLEETWATCH_KAFKA__BOOTSTRAP=host:port.
    """


@kafka.command()
@click.option("--brokers", type=click.Choice(["1", "3"]), help="Default: what the directory holds, else 1.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help=f"Of the first broker; each further one takes the next two. 0: any free ports. "
    f"Default: what the directory holds, else {DEFAULT_PORT}.",
)
@click.option(
    "--heap-mb", type=click.IntRange(128, 1 << 17), help="JVM heap of each broker. Default: 512, or 3 x 192."
)
@_dir_option
def start(brokers: str | None, port: int | None, heap_mb: int | None, directory: Path | None) -> None:
    """Start the brokers; prints their address when they answer.

    Starting what already runs does nothing and succeeds.

    \b
    Examples:
      fleetwatch kafka start
      fleetwatch kafka start --brokers 3 --port 19092 --dir ./three
      export FLEETWATCH_KAFKA__BOOTSTRAP=$(fleetwatch kafka start --port 0 --dir ./k)
    """
    cluster = EmbeddedKafka(directory or default_cluster_dir(), int(brokers) if brokers else None, port, heap_mb)
    started_s = time.monotonic()
    already = cluster.status().running
    with shown() as progress:
        bootstrap = cluster.start(progress)
    if already:
        click.echo(f"already running, in {cluster.directory}", err=True)
    else:
        click.echo(f"ready in {time.monotonic() - started_s:.1f} s; data and logs in {cluster.directory}", err=True)
    click.echo(bootstrap)


@kafka.command()
@click.option("--purge", is_flag=True, help="Also remove the cluster's data and logs.")
@_dir_option
def stop(purge: bool, directory: Path | None) -> None:
    """End the brokers; the data stays, unless --purge."""
    cluster = EmbeddedKafka(directory or default_cluster_dir())
    ran = cluster.stop(purge=purge)
    click.echo("stopped" if ran else "was not running", err=True)
    if purge:
        click.echo(f"removed the data in {cluster.directory}", err=True)


@kafka.command()
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text", show_default=True)
@_dir_option
def status(style: str, directory: Path | None) -> None:
    """Say whether the brokers run, where, and what they use. Exit code 0: all run; 3: not."""
    found = EmbeddedKafka(directory or default_cluster_dir()).status()
    click.echo(json.dumps(_as_json(found), indent=2) if style == "json" else _as_text(found))
    if not found.running:
        sys.exit(EXIT_NOT_RUNNING)


def _state(found: Status) -> str:
    return "running" if found.running else "degraded" if found.degraded else "not running"


def _as_json(found: Status) -> dict[str, Any]:
    return {
        "state": _state(found),
        "bootstrap": found.bootstrap,
        "kafka_version": found.kafka_version,
        "directory": str(found.directory),
        "brokers": [
            {
                "index": broker.index,
                "port": broker.port,
                "pid": broker.pid,
                "answers": broker.answers,
                "rss_bytes": broker.rss_bytes,
                "cpu_s": round(broker.cpu_s, 2),
                "log": str(broker.log),
            }
            for broker in found.brokers
        ],
    }


def _as_text(found: Status) -> str:
    lines = [f"state      {_state(found)}"]
    if found.bootstrap:
        lines += [f"bootstrap  {found.bootstrap}", f"version    Apache Kafka {found.kafka_version}"]
    lines.append(f"directory  {found.directory}")
    for broker in found.brokers:
        if broker.pid is None:
            lines.append(f"broker {broker.index}   port {broker.port}  not running; log: {broker.log}")
            continue
        lines.append(
            f"broker {broker.index}   port {broker.port}  pid {broker.pid}  RSS {broker.rss_bytes / 1e6:.0f} MB  "
            f"CPU {broker.cpu_s:.1f} s{'' if broker.answers else '  does not answer'}"
        )
    return "\n".join(lines)


@kafka.command()
@click.option("--broker", type=click.IntRange(0), default=0, show_default=True, help="Which one, from 0.")
@click.option("--lines", type=click.IntRange(0), default=50, show_default=True, help="How many from the end.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what is written, until Ctrl-C.")
@_dir_option
def logs(broker: int, lines: int, follow: bool, directory: Path | None) -> None:
    """Show a broker's log since its last start."""
    path = EmbeddedKafka(directory or default_cluster_dir()).log_path(broker)
    try:
        content = path.read_bytes()
    except FileNotFoundError as exc:
        raise SettingsError(
            f"there is no log {path}: that broker was never started here (--dir, --broker)"
        ) from exc
    shown_lines = content.splitlines(keepends=True)[-lines:] if lines else []
    click.echo(b"".join(shown_lines).decode(errors="replace"), nl=False)
    if follow:
        _follow(path, len(content))


def _follow(path: Path, offset_bytes: int) -> NoReturn:
    """Print what is appended, for ever; a restart of the broker begins a new file, which is read from its start."""
    inode = path.stat().st_ino
    while True:
        time.sleep(FOLLOW_INTERVAL_S)
        if not path.exists():  # between two starts
            continue
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_ino != inode:
                inode, offset_bytes = os.fstat(file.fileno()).st_ino, 0
            file.seek(offset_bytes)
            more = file.read()
        offset_bytes += len(more)
        click.echo(more.decode(errors="replace"), nl=False)
