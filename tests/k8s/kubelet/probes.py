"""Startup, readiness and liveness probes. The rule: no answer in time is a failure, and holds nobody up."""

from __future__ import annotations

import http.client
import socket
import ssl
import subprocess
from concurrent.futures import Executor, Future

from tests.k8s.api import Object
from tests.k8s.kubelet.sandbox import Sandbox, Started


def _port(container: Object, named: int | str) -> int:
    if isinstance(named, int):
        return named
    for port in container.get("ports") or []:
        if port.get("name") == named:
            return int(port["containerPort"])
    raise ValueError(f"the container has no port {named!r}")


def _http(action: Object, container: Object, ip: str, timeout_s: float) -> str:
    host, port = action.get("host") or ip, _port(container, action["port"])
    connection: http.client.HTTPConnection
    if str(action.get("scheme", "HTTP")).upper() == "HTTPS":
        unchecked = ssl._create_unverified_context()  # as kubelets do
        connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=unchecked)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        headers = {header["name"]: header["value"] for header in action.get("httpHeaders") or []}
        connection.request("GET", action.get("path") or "/", headers=headers)
        answer = connection.getresponse()
        body = answer.read(200).decode(errors="replace")
    finally:
        connection.close()
    return "" if 200 <= answer.status < 400 else f"HTTP probe failed with statuscode: {answer.status}: {body}"


def ask(probe: Object, container: Object, ip: str, sandbox: Sandbox, started: Started) -> str:
    """One look: empty = success, else what is wrong."""
    timeout_s = float(probe.get("timeoutSeconds", 1))
    try:
        if "httpGet" in probe:
            return _http(probe["httpGet"], container, ip, timeout_s)
        if "tcpSocket" in probe:
            at = probe["tcpSocket"].get("host") or ip, _port(container, probe["tcpSocket"]["port"])
            socket.create_connection(at, timeout_s).close()
            return ""
        if "exec" in probe:
            code = sandbox.inside(started, probe["exec"]["command"], timeout_s)
            return f"command ended with {code}" if code else ""
        return f"probes of kind {sorted(probe)} are not known to this node"
    except (OSError, ValueError, http.client.HTTPException, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}: {error}"


class Probe:
    """One probe of one run of a container.

    passed : the verdict after the thresholds; None = none yet. said : the last failure.
    """

    def __init__(self, spec: Object, began_s: float) -> None:
        self._spec = spec
        self._next_s = began_s + float(spec.get("initialDelaySeconds", 0))
        self._pending: Future[str] | None = None
        self._good = self._bad = 0
        self.passed: bool | None = None
        self.said = ""

    def step(
        self, now_s: float, executor: Executor, container: Object, ip: str, sandbox: Sandbox, started: Started
    ) -> None:
        """Take an answer that has come; ask when it is time."""
        if self._pending is not None:
            if not self._pending.done():
                return
            self._count(self._pending.result())
            self._pending = None
        if now_s >= self._next_s:
            self._next_s = now_s + float(self._spec.get("periodSeconds", 10))
            self._pending = executor.submit(ask, self._spec, container, ip, sandbox, started)

    def _count(self, problem: str) -> None:
        if problem:
            self._good, self._bad, self.said = 0, self._bad + 1, problem
            if self._bad >= int(self._spec.get("failureThreshold", 3)):
                self.passed = False
        else:
            self._good, self._bad = self._good + 1, 0
            if self._good >= int(self._spec.get("successThreshold", 1)):
                self.passed = True
