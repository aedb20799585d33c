"""`fleetwatch worker`. The rule: settings are loaded here, once, and a wrong one is said before anything starts."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import click

from streams import quiet
from telemetry import log as logs
from telemetry import settings as settings_module


def free_port(host: str) -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@click.command()
@click.option("--port", type=int, help="Of metrics, health and Faust's page; 0 = any free one.")
@click.option("--name", help="Of this worker, in logs and dead letters.")
@click.option(
    "--compile-only", is_flag=True, help="Compile the kernels into numba's cache and end; no broker needed."
)
@click.pass_obj
def worker(config: Path | None, port: int | None, name: str | None, compile_only: bool) -> None:
    """Run a stream worker: frames in; features, scores, alerts and dead letters out.

    Start as many as there are partitions, at most: they share them. Ctrl-C finishes the work in hand, commits
    and leaves.
    """
    os.environ.setdefault("NUMBA_SLP_VECTORIZE", "1")
    if port is not None:
        os.environ["FLEETWATCH_SERVICE__PORT"] = str(port)
    if name is not None:
        os.environ["FLEETWATCH_SERVICE__NAME"] = name
    settings = settings_module.load(config)
    service = settings.service
    if service.port == 0:
        os.environ["FLEETWATCH_SERVICE__PORT"] = str(free_port(service.host))
        settings = settings_module.load(config)
    logs.setup(service.log_level, service.log_format)
    quiet.install()
    if compile_only:
        from streams.warmup import warm_up

        warm_up(settings)
        return
    from streams.app import create_app
    from streams.drain import DrainingWorker

    app = create_app(settings)
    click.echo(f"worker: http://{settings.service.host}:{settings.service.port}/metrics", err=True)
    DrainingWorker(
        app,
        loglevel=service.log_level,
        quiet=True,
        override_logging=False,
        redirect_stdouts=False,
    ).execute_from_commandline()
