"""Receivers of forwarded alerts: a webhook that misbehaves as it is told, and a real Alertmanager."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pki
from debian_programs import command


@dataclass(frozen=True)
class Got:
    """One request. status : what was answered; 0 = nothing."""

    path: str
    headers: dict[str, str]
    body: bytes
    status: int
    at_s: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Webhook:
    """Answers as `how(number of the request, its body)` says: a status, "reset", "hang", or (status, headers)."""

    how: Callable[[int, bytes], Any]
    got: list[Got] = field(default_factory=list)
    port: int = 0
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/hook?token=secret"

    @property
    def taken(self) -> list[Got]:
        return [g for g in self.got if 200 <= g.status < 300]

    def ids(self) -> Counter[str]:
        """Of the events that were taken."""
        return Counter(g.json["id"] for g in self.taken)


@contextmanager
def webhook(
    how: Callable[[int, bytes], Any] = lambda _n, _body: 204, port: int = 0, certificate: pki.Pair | None = None
) -> Iterator[Webhook]:
    """certificate : it speaks TLS, with this one."""
    made = Webhook(how, scheme="https" if certificate else "http")
    lock = threading.Lock()
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if closing.is_set():  # a kept connection of a server that is no more
                self.close_connection = True
                return
            with lock:
                number = len(made.got)
                answer = made.how(number, body)
                status, headers = answer if isinstance(answer, tuple) else (answer, {})
                shown = status if isinstance(status, int) else 0
                made.got.append(Got(self.path, dict(self.headers), body, shown, time.time()))
            if status == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()
                return
            if status == "hang":
                closing.wait(60)
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            text = b"" if status == 204 else b"as told\x1b[31m"
            if status != 204:
                self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args: Any) -> None:
            pass

        def handle(self) -> None:
            with suppress(OSError, ValueError):  # it was reset on purpose
                super().handle()

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    server = Server(("127.0.0.1", port), Handler)
    made.port = server.server_address[1]
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.certificate, certificate.key)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        closing.set()
        server.shutdown()
        server.server_close()


@dataclass
class RealAlertmanager:
    port: int
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def alerts(self) -> list[dict[str, Any]]:
        """Those that are on, as /api/v2/alerts has them."""
        with urllib.request.urlopen(f"{self.url}/api/v2/alerts", timeout=5) as answer:
            return json.load(answer)

    def count(self, name: str) -> float:
        """Sum of a counter's series on its metrics page."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name) and line[0] != "#")


@contextmanager
def alertmanager(folder: Path, notify: str) -> Iterator[RealAlertmanager]:
    """A real one that notifies the webhook `notify` at once; skips where Debian's package cannot be had."""
    started_by = command("prometheus-alertmanager", shared="prometheus/alertmanager")
    config = folder / "alertmanager.yml"
    config.write_text(
        "route: {receiver: hook, group_by: [device], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}\n"
        f"receivers: [{{name: hook, webhook_configs: [{{url: '{notify}', send_resolved: true}}]}}]\n"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [
        f"--config.file={config}",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    with (folder / "alertmanager.log").open("w") as log:
        process = subprocess.Popen([*started_by, *arguments], stdout=log, stderr=log, cwd=folder)
    made = RealAlertmanager(port, folder)
    try:
        end = time.monotonic() + 30
        while True:
            try:
                made.alerts()
                break
            except OSError:
                assert process.poll() is None, (folder / "alertmanager.log").read_text()
                assert time.monotonic() < end, "Alertmanager does not answer"
                time.sleep(0.1)
        yield made
    finally:
        process.terminate()
        process.wait(10)
