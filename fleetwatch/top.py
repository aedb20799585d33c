"""`fleetwatch top`: rates, lag, workers, open alerts live. The rule: it asks little and commits nothing."""

from __future__ import annotations

import logging
import time
from datetime import datetime

import click
from rich.console import Console
from rich.live import Live

from fleetwatch.alert_feed import AlertFeed, OpenAlerts
from fleetwatch.alerts_cli import Since
from fleetwatch.cluster_probe import ClusterPage, ClusterProbe
from fleetwatch.pages import load_settings, page_console, quiet_end
from fleetwatch.scrape import WorkerPage
from fleetwatch.top_page import TopPage, render
from telemetry.clients import require_broker
from telemetry.errors import BrokerUnavailableError, TopicError
from telemetry.settings import Settings


class Watch:
    """Collects page after page. since_ms : broker time from which alert events are read."""

    def __init__(self, settings: Settings, metrics: tuple[str, ...], since_ms: int) -> None:
        self._settings = settings
        self._since_ms = since_ms
        self._probe = ClusterProbe(settings)
        self._workers = [WorkerPage(url) for url in metrics]
        self._alerts = OpenAlerts()
        self._feed: AlertFeed | None = None
        self._last: ClusterPage | None = None

    def _follow_alerts(self, wait_s: float) -> None:
        """Takes in what comes within `wait_s`; the first time, all that is there already."""
        end_s = time.monotonic() + wait_s
        if self._feed is None:
            try:
                self._feed = AlertFeed(self._settings, self._since_ms)
            except TopicError:  # not there yet: the page says so
                time.sleep(wait_s)
                return
            for received in self._feed.to_end():
                self._alerts.apply(received)
        while (left_s := end_s - time.monotonic()) > 0:
            for received in self._feed.read(left_s):
                self._alerts.apply(received)

    def page(self, wait_s: float) -> TopPage:
        """The page after `wait_s`. Brokers that do not answer leave the last figures there, with a remark."""
        problem = ""
        try:
            self._follow_alerts(wait_s)
            self._last = self._probe.look()
        except BrokerUnavailableError as exc:
            problem = str(exc)
        now_s = time.monotonic()
        return TopPage(
            at=datetime.now().astimezone(),
            bootstrap=self._settings.kafka.bootstrap,
            group=self._settings.processing.group,
            cluster=self._last,
            workers=tuple(worker.scrape(now_s) for worker in self._workers),
            open_alerts=self._alerts.urgent_first(),
            problem=problem,
        )

    def close(self) -> None:
        if self._feed is not None:
            self._feed.close()


@click.command()
@click.option("--once", is_flag=True, help="Print one page (after one interval, for the rates) and end.")
@click.option("--interval", type=click.FloatRange(0.2, 60), default=1.0, show_default=True, help="Seconds.")
@click.option(
    "--metrics", multiple=True, metavar="URL", help="A worker's metrics page, http://host:port/metrics; repeatable."
)
@click.option(
    "--since", type=Since(), default="1h", show_default=True, help="Open alerts with news since then: 10m, 2h, 1d."
)
@click.pass_context
def top(ctx: click.Context, once: bool, interval: float, metrics: tuple[str, ...], since: int) -> None:
    """Watch rates, lag, workers and open alerts, from Kafka itself.

    The lag in seconds is the age of the oldest frame that waits; ~ marks an estimate. Ctrl-C ends it.
    """
    tree = load_settings(ctx)
    require_broker(tree)
    watch = Watch(tree, metrics, since)
    console = page_console()
    with quiet_end():
        try:
            watch.page(0.0)
            if once:
                _once(console, watch, interval)
            else:
                _live(console, watch, interval)
        finally:
            watch.close()


def _once(console: Console, watch: Watch, interval_s: float) -> None:
    page = watch.page(interval_s)
    if page.problem:
        raise BrokerUnavailableError(page.problem)
    console.print(render(page))


def _live(console: Console, watch: Watch, interval_s: float) -> None:
    logging.getLogger("fleetwatch.kafka").setLevel(logging.CRITICAL)  # the page itself says what is wrong
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while True:
            page = watch.page(interval_s)
            live.update(render(page, console.height if console.is_terminal else None), refresh=True)
