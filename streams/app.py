"""The Faust app. The rule: Faust owns the group, the agents, the web page; the worker owns the work.

``faust -A streams.app worker`` and ``fleetwatch worker`` run the same app; importing this module does nothing.
"""

from __future__ import annotations

import os
import socket
from functools import cache
from typing import Any

import faust
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from streams.credentials import credentials
from streams.metrics import WorkerMetrics
from streams.transport.driver import BatchSchema
from streams.worker import Worker
from telemetry import settings as settings_module
from telemetry.settings import Settings
from telemetry.topics import ensure


def create_app(settings: Settings) -> faust.App:
    """The app, with its agent, handlers and pages; it connects when a worker is started.

    Raises
    ------
    BrokerUnavailableError, TopicError : no broker, or topics of another shape.
    """
    p = settings.processing
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
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_host=settings.service.host,
        web_port=settings.service.port,
        worker_redirect_stdouts=False,
    )
    app.batch_fetch = {"max_wait_ms": p.fetch_wait_ms, "min_bytes": p.fetch_min_bytes}
    ensure(settings)
    worker = Worker(settings, name, lambda: bool(app.should_stop))
    worker.warm_up()
    app.fleetwatch = worker
    _handlers(app, worker)
    _pages(app, worker)
    return app


def _handlers(app: Any, worker: Worker) -> None:
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

    async def commit() -> bool:
        try:
            return await worker.checkpoint()
        except Exception as exc:  # ends the process
            worker.fail(exc)
            raise

    @app.on_rebalance_complete.connect
    async def own(app: Any, **kwargs: Any) -> None:
        del kwargs
        app.consumer.commit_hook = commit
        app.consumer.progress = lambda: worker.applied
        try:
            await worker.own(app.consumer)
        except Exception as exc:  # ends the process
            worker.fail(exc)


def _pages(app: Any, worker: Worker) -> None:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    metrics = WorkerMetrics(registry)
    metrics.watch(worker, app)
    worker.latency = metrics.observe_latency
    worker.batch_size = metrics.observe_batch

    @app.page("/metrics")
    async def metrics_page(web: Any, request: Any) -> Any:
        del request
        return web.bytes(generate_latest(registry), content_type=CONTENT_TYPE_LATEST.partition(";")[0])

    @app.page("/healthz")
    async def healthz(web: Any, request: Any) -> Any:
        del request
        ok, text = metrics.alive()
        return web.text(text, status=200 if ok else 503)

    @app.page("/readyz")
    async def readyz(web: Any, request: Any) -> Any:
        del request
        return web.text("ready\n" if worker.restored else "restoring\n", status=200 if worker.restored else 503)


@cache
def _default_app() -> faust.App:
    return create_app(settings_module.load())


def __getattr__(name: str) -> Any:
    if name == "app":
        return _default_app()
    raise AttributeError(name)
