"""One POST at a time over one kept connection. The rule: only to an allowed host, never further than asked.

The standard library's client: it follows no redirect, keeps no cookie, knows no proxy and repeats nothing itself.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

from telemetry.errors import SettingsError
from telemetry.log import printable

_ANSWER_MAX = 4096
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """Where to post. path : with the query, if any."""

    scheme: str
    host: str
    port: int
    path: str

    def __str__(self) -> str:
        """Without path and query: those of a webhook are often secret."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def address_of(url: str, allowed: Iterable[str]) -> Address:
    """A URL, if its host is allowed.

    Raises
    ------
    SettingsError : it is no http or https URL, holds a login, or names another host.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise SettingsError(f"the URL is wrong: {exc}") from None
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme not in _PORTS or not host or not url.isascii() or not url.isprintable() or " " in url:
        raise SettingsError(
            f"{printable(url)} is not a URL such as http://127.0.0.1:9093 or https://example.org/hook"
        )
    if parts.username is not None or parts.password is not None:
        raise SettingsError("a login in the URL would be seen in the list of processes; it is not supported")
    if parts.fragment:
        raise SettingsError("a URL with a # part cannot be posted to")
    port = port or _PORTS[parts.scheme]
    bracketed = f"[{host}]" if ":" in host else host
    names = {host, bracketed, f"{bracketed}:{port}"}
    if names.isdisjoint(allowed):
        raise SettingsError(
            f"host {host} is not in forward.allowed_hosts ({', '.join(allowed) or 'none'}): add it there, or to "
            f"the variable FLEETWATCH_FORWARD__ALLOWED_HOSTS='[\"{host}\"]', if alerts may be sent to it"
        )
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Address(parts.scheme, host, port, path)


def tls_context(ca: Path | None) -> ssl.SSLContext:
    """Certificate and host name are verified, always.

    Raises
    ------
    SettingsError : `ca` holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=str(ca) if ca else None)
    except (ssl.SSLError, OSError):
        raise SettingsError(f"forward.ca: {ca}: no certificate in PEM form") from None


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    retry_after: str | None
    said: str


class UnansweredError(Exception):
    """No answer. kind : connect, timeout, reset, tls or protocol."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Poster:
    """Posts to one address; used by one thread.

    Parameters
    ----------
    timeout_s : of a whole request, however slowly the answer drips in.
    """

    def __init__(self, address: Address, path: str, context: ssl.SSLContext | None, timeout_s: float) -> None:
        self._address, self._path, self._timeout_s, self._context = address, path, timeout_s, context
        self._agent = f"fleetwatch/{version('fleetwatch')}"
        self._connection: http.client.HTTPConnection | None = None

    def post(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """One attempt. A kept connection that the server had closed meanwhile is opened anew.

        Raises
        ------
        UnansweredError : no status and headers in time.
        """
        kept = self._connection is not None
        try:
            return self._once(headers, body)
        except UnansweredError as exc:
            if not kept or exc.kind != "reset":
                raise
        return self._once(headers, body)

    def _once(self, headers: Mapping[str, str], body: bytes) -> Answer:
        late = threading.Event()
        timer = threading.Timer(self._timeout_s, self._cut, (late,))
        timer.daemon = True
        timer.start()
        try:
            return self._exchange(headers, body)
        except (OSError, http.client.HTTPException) as exc:
            self.close()
            raise self._explained(exc, late=late.is_set()) from exc
        finally:
            timer.cancel()

    def _exchange(self, headers: Mapping[str, str], body: bytes) -> Answer:
        connection = self._connection = self._connection or self._made()
        connection.request("POST", self._path, body, {"User-Agent": self._agent, **headers})
        answer = connection.getresponse()
        said = answer.read(_ANSWER_MAX)
        if answer.read(1) or answer.will_close:  # too much to say: a new connection is cheaper
            self.close()
        return Answer(answer.status, answer.getheader("Retry-After"), printable(said.decode(errors="replace")))

    def _made(self) -> http.client.HTTPConnection:
        a = self._address
        if self._context is None:
            made = http.client.HTTPConnection(a.host, a.port, timeout=self._timeout_s)
        else:
            made = http.client.HTTPSConnection(a.host, a.port, timeout=self._timeout_s, context=self._context)
        return made

    def _cut(self, late: threading.Event) -> None:
        """From the timer's thread: whoever waits for this connection is told that it is over."""
        late.set()
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with suppress(OSError):  # it is closed already
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _explained(self, exc: Exception, *, late: bool) -> UnansweredError:
        text = printable(str(exc) or type(exc).__name__)
        if late or isinstance(exc, TimeoutError):
            return UnansweredError("timeout", f"no answer within {self._timeout_s:g} s")
        if isinstance(exc, ssl.SSLCertVerificationError):
            return UnansweredError("tls", f"its certificate is not accepted: {text} (see forward.ca)")
        if isinstance(exc, ssl.SSLError):
            return UnansweredError("tls", text)
        if isinstance(exc, ConnectionRefusedError | socket.gaierror):
            return UnansweredError("connect", text)
        if isinstance(exc, ConnectionError):  # also http.client.RemoteDisconnected
            return UnansweredError("reset", text)
        if isinstance(exc, http.client.HTTPException):
            return UnansweredError("protocol", f"it does not speak HTTP as expected: {text}")
        return UnansweredError("connect", text)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
