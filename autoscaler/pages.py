"""The autoscaler's page: /metrics, /healthz, /readyz, /desired. The rule: answered from memory, whatever hangs."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from autoscaler.loop import Standing
from telemetry.errors import SettingsError

#: A client that sends nothing for so long is let go.
IDLE_S = 10.0


@dataclass(frozen=True, slots=True)
class Answers:
    """What the pages are made from; each is called for every request, by the server's threads."""

    registry: CollectorRegistry
    alive: Callable[[], bool]
    ready: Callable[[], bool]
    leading: Callable[[], bool]
    standing: Callable[[], Standing | None]


def _plain(status: int, text: str) -> tuple[int, str, bytes]:
    return status, "text/plain; charset=utf-8", text.encode() + b"\n"


def desired(standing: Standing | None, *, leading: bool) -> tuple[int, str, bytes]:
    """/desired: for KEDA's metrics-api scaler (valueLocation: replicas), and for people."""
    if standing is None:  # a scaler that sees an error falls back to what there is
        return _plain(503, "nothing is decided yet: group and workload have not been seen")
    body = {
        "replicas": standing.replicas,
        "code": standing.code,
        "text": standing.text,
        "at": standing.at.isoformat(timespec="milliseconds"),
        "current": standing.current,
        "held": standing.held,
        "leader": leading,
    }
    return 200, "application/json", json.dumps(body).encode() + b"\n"


def answer(path: str, answers: Answers) -> tuple[int, str, bytes]:
    """Status, content type and body."""
    if path == "/metrics":
        return 200, CONTENT_TYPE_LATEST, generate_latest(answers.registry)
    if path == "/healthz":
        return _plain(200, "ok") if answers.alive() else _plain(503, "the loop stands still")
    if path == "/readyz":
        if answers.ready():
            return _plain(200, "ready")
        return _plain(503, "group and workload have not been seen yet; the log says why")
    if path == "/desired":
        return desired(answers.standing(), leading=answers.leading())
    return _plain(404, "there are /metrics, /healthz, /readyz and /desired")


log = logging.getLogger("fleetwatch.autoscaler")


class Page:
    """Serves from `start` to `stop`, by threads of its own.

    Raises
    ------
    SettingsError : the address cannot be had.
    """

    def __init__(self, host: str, port: int, answers: Answers) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = IDLE_S
            server_version = "fleetwatch"
            sys_version = ""

            def do_GET(self) -> None:
                status, kind, body = answer(self.path.partition("?")[0], answers)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                """A probe every few seconds is no news."""

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                log.debug(format, *args)

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except (OSError, OverflowError) as exc:
            raise SettingsError(
                f"the page cannot be served at {host}:{port}: {exc}. Set autoscaler.host and autoscaler.port "
                "(--port; 0 = any free one)."
            ) from exc
        self._server.daemon_threads = True
        self.url = f"http://{host}:{self._server.server_address[1]}"

    def start(self) -> None:
        """At once, also before anything was seen."""
        threading.Thread(target=self._server.serve_forever, name="page", daemon=True).start()

    def stop(self) -> None:
        """Closes the port."""
        self._server.shutdown()
        self._server.server_close()
