"""`fleetwatch health`: whether a role works, for a container's health check. The rule: one small page, at once.

It is run every few seconds: with a URL nothing of ours but the fetching is imported.
"""

from __future__ import annotations

from pathlib import Path

import click

from telemetry.errors import FleetwatchError, SettingsError
from telemetry.page import PageError, fetch

PAGE_BYTES_MAX = 4 << 20
#: Producers and the forwarder serve a page only with this option.
METRICS_PORT = "--metrics-port"


class UnhealthyError(FleetwatchError):
    """The role does not answer, or says that it does not work."""

    exit_code = 1


def _option(words: list[str], name: str) -> str | None:
    """The value of `name` on a command line, as in --port 1 or --port=1; None = not there."""
    for i, word in enumerate(words):
        if word == name and i + 1 < len(words):
            return words[i + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def page_of(words: list[str], config: Path | None) -> str | None:
    """URL of the page that the command line `words` serves; None = it serves none.

    Raises
    ------
    SettingsError : a port that is chosen at the start (0) cannot be known; or wrong settings.
    """
    from telemetry import settings

    tree = settings.load(config)
    if "worker" in words:
        host, port, path = tree.service.host, _option(words, "--port") or tree.service.port, "/healthz"
    elif "autoscaler" in words:
        host, port, path = tree.autoscaler.host, tree.autoscaler.port, "/healthz"
    elif (given := _option(words, METRICS_PORT)) is None:
        return None
    elif "forward" in words:
        host, port, path = tree.forward.host, given, "/healthz"
    else:
        host, port, path = "127.0.0.1", given, "/metrics"
    if int(port) == 0:
        raise SettingsError("its port is chosen at its start: give a port, or its URL to `fleetwatch health`")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}{path}" if ":" in host else f"http://{host}:{port}{path}"


def command_line(pid: int) -> list[str]:
    """Words of a process's command line, from Linux's /proc.

    Raises
    ------
    SettingsError : it cannot be read.
    """
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError as exc:
        raise SettingsError(
            f"the command line of process {pid} cannot be read ({exc.strerror}): give the URL of a health page"
        ) from None
    return text.decode(errors="replace").split("\0")[:-1]


@click.command()
@click.argument("url", required=False)
@click.option("--pid", type=click.IntRange(1), default=1, show_default=True, help="Of whom, without a URL.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0.1, 60), default=4.0, show_default=True)
@click.pass_obj
def health(config: Path | None, url: str | None, pid: int, timeout_s: float) -> None:
    """Say whether a role works: exit 0, or 1 and why not. For health checks of containers.

    URL is a page of it that answers 200 while it does. Without one the role is taken from the command line of the
    container's first process: /healthz of a worker, an autoscaler or a forwarder, /metrics of a producer; of a
    command that serves no page, whether the brokers answer.

    \b
      fleetwatch health http://127.0.0.1:6066/readyz
    """
    url = url or page_of(command_line(pid), config)
    if url is None:
        from telemetry import settings
        from telemetry.clients import require_broker

        require_broker(settings.load(config))
        return
    try:
        fetch(url, timeout_s, PAGE_BYTES_MAX)
    except PageError as exc:
        raise UnhealthyError(f"{url}: {exc}") from None
