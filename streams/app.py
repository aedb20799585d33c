"""The Faust app. The rule: Faust owns the group, the agents, the web page; the worker owns the work.

``faust -A streams.app worker`` and ``fleetwatch worker`` run the same app; importing this module does nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
from functools import cache
from typing import Any

import faust
from faust.tables import TableManager
from mode.utils.loops import get_event_loop
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from streams import busy, foresight
from streams.credentials import credentials
from streams.drain import DrainingWorker
from streams.metrics import WorkerMetrics
from streams.transport.driver import BatchSchema, CommitHook
from streams.watchdog import Cluster, Watchdog
from streams.worker import Worker
from telemetry import acls
from telemetry import settings as settings_module
from telemetry.settings import Settings
from telemetry.topics import ensure

#: How often it is asked whether other workers are about to leave.
LOOK_AROUND_S = 0.5


class NoTables(TableManager):
    """Faust gives agents a second to declare their tables before it joins the group; here there are none."""

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()


def create_app(settings: Settings) -> faust.App:
    """The app, with its agent, handlers and pages; it connects when a worker is started.

    Raises
    ------
    BrokerUnavailableError, TopicError : no broker, or topics of another shape.
    """
    p = settings.processing
    timer = busy.install()
    name = settings.service.name or f"{socket.gethostname()}-{os.getpid()}"
    app = faust.App(
        p.group,
        broker=[f"rawbatch://{address.strip()}" for address in settings.kafka.bootstrap.split(",")],
        broker_credentials=credentials(settings),
        broker_commit_interval=p.commit_interval_ms / 1000,
        broker_session_timeout=p.session_timeout_s,
        broker_heartbeat_interval=p.heartbeat_s,
        broker_request_timeout=max(30.0, p.session_timeout_s + 1),
        broker_check_crcs=p.check_crcs,
        consumer_max_fetch_size=p.fetch_max_bytes,
        consumer_auto_offset_reset="earliest",
        stream_buffer_maxsize=4,
        stream_wait_empty=True,
        store="memory://",
        TableManager=NoTables,
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_host=settings.service.host,
        web_port=settings.service.port,
        worker_redirect_stdouts=False,
        Worker=DrainingWorker,
    )
    app._create_directories = lambda: None  # no file of its own is ever used: a read-only root will do
    app.batch_fetch = {"max_wait_ms": p.fetch_wait_ms, "min_bytes": p.fetch_min_bytes}
    ensure(settings)
    acls.require(settings, "worker")
    worker = Worker(settings, name, lambda: bool(app.should_stop))
    worker.warm_up()
    if timer is not None:
        get_event_loop().run_until_complete(worker.foresight.look_ahead())
    app.fleetwatch = worker
    stall_s = max(p.stall_timeout_s, 2 * p.transaction_timeout_s + 30)  # a commit may rightly take so long
    watchdog = Watchdog(worker, Cluster(settings), stall_s, worker.fail)
    _handlers(app, worker, watchdog)
    _pages(app, worker, watchdog, timer)
    return app


def _handlers(app: Any, worker: Worker, watchdog: Watchdog) -> None:
    names = [spec.name for spec in worker.topics.inputs]
    source = app.topic(*names, schema=BatchSchema())

    @app.agent(source, isolated_partitions=True, name="fleetwatch")
    async def process(stream: Any) -> None:
        # Acknowledging by hand: Faust's own ack is in a `finally`, so that an exception would lose the batch.
        async for event in stream.noack().events():
            try:
                await worker.process(event.value)
            except Exception as exc:  # ends the process
                worker.fail(exc)
            event.ack()
            if worker.checkpoint_due:
                await app.consumer.commit()

    @app.task
    async def beat() -> None:
        watchdog.start()
        while not app.should_stop:
            watchdog.beat()
            await asyncio.sleep(1.0)

    @app.timer(LOOK_AROUND_S, on_leader=False)
    async def look_around() -> None:
        heir_of = {tp.partition for tp in app.assignor.assigned_standbys()}
        try:
            await foresight.look_around(worker, app.consumer, heir_of)
        except Exception as exc:  # ends the process
            worker.fail(exc)

    async def commit() -> bool:
        try:
            return await worker.checkpoint()
        except Exception as exc:  # ends the process
            worker.fail(exc)
            raise

    _assignments(app, worker, commit)


def _assignments(app: Any, worker: Worker, commit: CommitHook) -> None:
    @app.on_partitions_revoked.connect
    async def rest(app: Any, revoked: Any, **kwargs: Any) -> None:
        del app, revoked, kwargs
        try:
            await worker.rest()
        except Exception as exc:  # ends the process
            worker.fail(exc)

    @app.on_rebalance_complete.connect
    async def own(app: Any, **kwargs: Any) -> None:
        del kwargs
        app.consumer.commit_hook = commit
        app.consumer.progress = lambda: worker.applied
        try:
            await worker.own(app.consumer)
        except Exception as exc:  # ends the process
            worker.fail(exc)


def _pages(app: Any, worker: Worker, watchdog: Watchdog, timer: busy.WaitTimer | None) -> None:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    metrics = WorkerMetrics(registry)
    metrics.watch(worker, app, timer)
    worker.latency = metrics.observe_latency
    worker.batch_size = metrics.observe_batch

    @app.page("/metrics")
    async def metrics_page(web: Any, request: Any) -> Any:
        del request
        return web.bytes(generate_latest(registry), content_type=CONTENT_TYPE_LATEST.partition(";")[0])

    @app.page("/healthz")
    async def healthz(web: Any, request: Any) -> Any:
        del request
        return web.text(f"{watchdog.verdict or 'ok'}\n", status=503 if watchdog.verdict else 200)

    @app.page("/readyz")
    async def readyz(web: Any, request: Any) -> Any:
        del request
        log = worker.changelog
        text = f"restoring: {log.done} of {log.total} records\n" if log.total else "waiting for its group\n"
        return web.text("ready\n" if worker.ready else text, status=200 if worker.ready else 503)


@cache
def _default_app() -> faust.App:
    return create_app(settings_module.load())


def __getattr__(name: str) -> Any:
    if name == "app":
        return _default_app()
    raise AttributeError(name)
