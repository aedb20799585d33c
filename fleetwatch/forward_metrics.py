"""The forwarder's metrics and health, on one page. The rule: no label that a device can choose."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from telemetry.errors import SettingsError

log = logging.getLogger("fleetwatch.forward")

_SAY_AGAIN_S = 60.0
#: A loop that has not come round for so long is stuck: it never waits for the receiver.
STUCK_S = 60.0
#: Reasons why an open alert is not said again.
_WHY = {
    "silent": "there was no event for forward.silent_s",
    "open_max": "more are open than forward.open_max; what is dropped is over for it after forward.hold_s",
}
LOST = tuple(_WHY)
EVENTS = ("delivered", "refused", "filtered", "repeated", "bad")


class Told:
    """Logs each kind of trouble when it begins, and once a minute while it lasts; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at: dict[str, float] = {}

    def due(self, kind: str, every_s: float = _SAY_AGAIN_S) -> bool:
        with self._lock:
            now = time.monotonic()
            if now - self._at.get(kind, -1e9) < every_s:
                return False
            self._at[kind] = now
            return True


class ForwardMetrics:
    """Names begin with `fleetwatch_forward_`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def named(name: str) -> str:
            return f"fleetwatch_forward_{name}"

        self.registry, self._told = registry, Told()
        self.events = Counter(
            named("events"),
            "Alert events by how they ended; filtered = below --min-severity or nothing to say, bad = no alert.",
            ["outcome"],
            registry=registry,
        )
        for name in EVENTS:
            self.events.labels(name)
        self.attempts = Counter(
            named("attempts"),
            "Requests by HTTP status, or connect, timeout, reset, tls or protocol where none came.",
            ["answer"],
            registry=registry,
        )
        self.seconds = Histogram(
            named("request_seconds"),
            "Of a request, to its answer or failure.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        self.resent = Counter(named("resent"), "Open alerts said again.", ["outcome"], registry=registry)
        self.lost = Counter(
            named("ended"),
            "Open alerts that are no longer said: silent = no event for forward.silent_s, open_max = too many.",
            ["reason"],
            registry=registry,
        )
        for name in LOST:
            self.lost.labels(name)
        self.open = Gauge(named("open_alerts"), "Open alerts that Alertmanager is told of.", registry=registry)
        self.queued = Gauge(named("queued_events"), "Events in hand that are not final.", registry=registry)
        self.paused = Gauge(named("paused"), "1 = reading waits for the receiver.", registry=registry)
        self.retrying = Gauge(
            named("retrying_lanes"), "Lanes whose message was not taken at the last attempt.", registry=registry
        )
        self.lag = Gauge(
            named("lag_seconds"), "Age of the oldest event in hand; 0 = none waits.", registry=registry
        )
        self.success = Gauge(
            named("last_success_timestamp_seconds"), "When a receiver last took something.", registry=registry
        )
        self.partitions = Gauge(named("partitions"), "Partitions that this process forwards.", registry=registry)

    def no_longer(self, count: int, reason: str) -> None:
        """reason : one of LOST."""
        self.lost.labels(reason).inc(count)
        if self._told.due(reason):
            log.warning("open alerts that are no longer said to Alertmanager: %d, as %s", count, _WHY[reason])

    def attempt(self, answer: str, seconds: float) -> None:
        """answer : an HTTP status, of which there are a few hundred at most, or a kind of failure."""
        self.attempts.labels(answer).inc()
        self.seconds.observe(seconds)
        if answer.startswith("2"):
            self.success.set_to_current_time()


class Page:
    """/metrics and /healthz. `beat` is called each time the loop comes round."""

    def __init__(self, host: str, port: int, metrics: ForwardMetrics, health: Callable[[], dict[str, Any]]) -> None:
        self._beat, self._health, self._metrics = time.monotonic(), health, metrics
        ProcessCollector(registry=metrics.registry)
        page = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                status, kind, body = page.answer(self.path.partition("?")[0])
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its own name)
                pass

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except (OSError, OverflowError) as exc:
            why = getattr(exc, "strerror", None) or exc
            raise SettingsError(f"--metrics-port {port}: cannot listen at {host}:{port}: {why}") from None
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="page", daemon=True).start()

    def beat(self) -> None:
        self._beat = time.monotonic()

    def answer(self, path: str) -> tuple[int, str, bytes]:
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest(self._metrics.registry)
        if path != "/healthz":
            return 404, "text/plain", b"/metrics or /healthz\n"
        age_s = time.monotonic() - self._beat
        healthy = age_s < STUCK_S
        state = {"status": "ok" if healthy else f"stuck for {age_s:.0f} s"} | self._health()
        return 200 if healthy else 503, "application/json", json.dumps(state).encode() + b"\n"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
