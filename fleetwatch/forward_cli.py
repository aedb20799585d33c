"""`fleetwatch alerts forward`. The rule: what is wrong is said before anything is sent."""

from __future__ import annotations

import re
import signal
import threading
from typing import Literal

import click
from prometheus_client import CollectorRegistry

from fleetwatch.alerts_cli import Since
from fleetwatch.forward import Backoff, Target
from fleetwatch.forward_alertmanager import Alertmanager
from fleetwatch.forward_http import Address, Poster, address_of, tls_context
from fleetwatch.forward_lanes import LaneRules, Lanes
from fleetwatch.forward_metrics import ForwardMetrics, Page
from fleetwatch.forward_run import Forwarder, Pace
from fleetwatch.forward_stream import AlertStream
from fleetwatch.forward_webhook import Webhook
from telemetry import log as logs
from telemetry import settings as settings_module
from telemetry.alerts import Severity
from telemetry.errors import SettingsError
from telemetry.settings import Settings

To = Literal["alertmanager", "webhook"]


class Group(click.ParamType):
    """A consumer group's name."""

    name = "group"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,248}", value):
            self.fail(f"{value!r} is not a group's name: letters, digits and ._-", param, ctx)
        return value


@click.command()
@click.argument("url")
@click.option("--to", type=click.Choice(["alertmanager", "webhook"]), required=True, help="What listens at URL.")
@click.option(
    "--group",
    type=Group(),
    help="Consumer group, one for each receiver. Default: processing.group, -forward- and what --to says.",
)
@click.option("--min-severity", type=click.Choice([str(s) for s in Severity]), default="info", show_default=True)
@click.option(
    "--since",
    type=Since(),
    metavar="SPAN|TIME",
    help="Where a group begins that has no offsets yet: 1h, 2d or an ISO time. Default: what comes from now on; "
    "Alertmanager is told of what is open, too.",
)
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Of /metrics and /healthz; 0 = any free one.")
@click.pass_context
def forward(
    ctx: click.Context,
    url: str,
    to: To,
    group: str | None,
    min_severity: str,
    since: int | None,
    metrics_port: int | None,
) -> None:
    """Send the alerts on to Alertmanager, or to a webhook.

    \b
      fleetwatch alerts forward --to alertmanager http://127.0.0.1:9093
      fleetwatch alerts forward --to webhook https://example.org/hooks/fleet --min-severity major
    Hosts other than this one must be allowed first:
      FLEETWATCH_FORWARD__ALLOWED_HOSTS='["example.org"]'

    Alertmanager: an open alert is sent at once and again each forward.resend_s, and ended when it resolves. Labels
    are alertname, source, device, device_class, kind, signal and severity; a severity that rises begins a new alert
    and ends the old one. Words and figures are annotations.

    Webhook: one POST an event, a CloudEvent in structured mode (application/cloudevents+json). Its id, also in the
    header Idempotency-Key, names the event: drop what you have seen. With a key in forward.hmac_key_file or the
    variable FLEETWATCH_FORWARD__HMAC_KEY, X-Fleetwatch-Signature is sha256= and the HMAC-SHA256, in hex, of the
    header X-Fleetwatch-Timestamp, a dot and the body.

    At least once: an offset is committed when all before it were answered with 2xx or refused for good (3xx, 4xx).
    No answer, 5xx, 408, 425 and 429 are tried again for as long as it takes, with pauses; reading waits meanwhile.
    Stopped by Ctrl-C or SIGTERM it sends what it has in hand, for forward.drain_s at most; nothing is lost.
    """
    tree = settings_module.load(ctx.obj)
    logs.setup(tree.service.log_level, tree.service.log_format)
    address = address_of(url, tree.forward.allowed_hosts)
    _check(tree, to, address)
    metrics = ForwardMetrics(CollectorRegistry())
    target = _target(tree, to, address, Severity(min_severity), metrics)
    stop = threading.Event()
    before = {n: signal.signal(n, lambda *_: stop.set()) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        _run(
            tree,
            group or f"{tree.processing.group}-forward-{to}",
            since,
            metrics_port,
            address,
            target,
            metrics,
            stop,
        )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(
    tree: Settings,
    group: str,
    since: int | None,
    metrics_port: int | None,
    address: Address,
    target: Target,
    metrics: ForwardMetrics,
    stop: threading.Event,
) -> None:
    lanes = _lanes(tree, address, target.path, metrics)
    forwarder = Forwarder(target, lanes, metrics, Pace(tree.forward.queue_max, tree.forward.drain_s))
    page = Page(tree.forward.host, metrics_port, metrics, forwarder.health) if metrics_port is not None else None
    recall_s = tree.forward.silent_s if target.stateful else 0.0
    stream = None
    try:
        stream = AlertStream(tree, group, since, recall_s, target.oldest, forwarder.leaving, target.forget)
        served = f"; http://{tree.forward.host}:{page.port}/metrics" if page else ""
        click.echo(f"forwards {stream.topic} to {address} as {group}{served}", err=True)
        left = forwarder.run(stream, stop, page)
    finally:
        if stream is not None:
            stream.close()
        if page:
            page.close()
    if left:
        noun = "event was" if left == 1 else "events were"
        click.echo(f"{left} {noun} not taken by {address} and will be sent at the next start", err=True)


def _check(tree: Settings, to: To, address: Address) -> None:
    """What can only be said of the receiver and the settings together."""
    if to == "alertmanager" and "?" in address.path:
        raise SettingsError("Alertmanager's URL has no query: give the address, such as http://127.0.0.1:9093")
    if to == "alertmanager" and tree.forward.key() is not None:
        raise SettingsError("forward.hmac_key signs webhooks; Alertmanager does not check signatures: unset it")


def _target(tree: Settings, to: To, address: Address, least: Severity, metrics: ForwardMetrics) -> Target:
    f = tree.forward
    if to == "webhook":
        return Webhook(address.path, least, f.key())
    return Alertmanager(
        address.path,
        least,
        resend_s=f.resend_s,
        hold_s=f.hold_s,
        silent_s=f.silent_s,
        open_max=f.open_max,
        generator_url=f.generator_url,
        lost=metrics.no_longer,
    )


def _lanes(tree: Settings, address: Address, path: str, metrics: ForwardMetrics) -> Lanes:
    f = tree.forward
    context = tls_context(f.ca) if address.scheme == "https" else None

    def poster() -> Poster:
        return Poster(address, path, context, f.timeout_s)

    rules = LaneRules(Backoff(f.retry_first_s, f.retry_max_s), f.retry_after_max_s, poster, metrics, str(address))
    return Lanes(rules, f.connections)
