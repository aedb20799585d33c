"""Fetch one small page over HTTP. The rule: it ends in time and in size, whatever the other side does."""

from __future__ import annotations

import http.client
import socket
import threading
from contextlib import suppress
from urllib.parse import urlsplit

_CHUNK_BYTES = 1 << 16


class PageError(Exception):
    """There is no page; the text says why in a few words."""


def fetch(url: str, timeout_s: float, bytes_max: int) -> str:
    """The page's text. Neither proxies nor redirects are followed: it is asked for where it is said to be.

    timeout_s : to connect, and again from then to the last byte.

    Raises
    ------
    PageError : no answer in time, another status than 200, larger than `bytes_max`, not UTF-8.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise PageError(f"not an http address: {exc}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise PageError("not an http address")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(host, port, timeout=timeout_s)
    try:
        connection.connect()
    except (OSError, ValueError) as exc:  # ValueError: a host that no name server can be asked for
        raise PageError(_words(exc)) from exc
    late, sock = threading.Event(), connection.sock  # a response that ends with its connection takes it away there

    def give_up() -> None:
        late.set()
        with suppress(OSError):  # it has just ended by itself
            sock.shutdown(socket.SHUT_RDWR)  # whoever waits for a byte gets the end of the stream

    timer = threading.Timer(timeout_s, give_up)
    timer.daemon = True
    timer.start()
    try:
        path = parts.path or "/"
        body = _body(connection, f"{path}?{parts.query}" if parts.query else path, bytes_max)
    except (OSError, ValueError, http.client.HTTPException) as exc:
        raise PageError(f"not whole within {timeout_s:g} s" if late.is_set() else _words(exc)) from exc
    finally:
        timer.cancel()
        connection.close()
    if late.is_set():
        raise PageError(f"not whole within {timeout_s:g} s")
    return body


def _body(connection: http.client.HTTPConnection, target: str, bytes_max: int) -> str:
    connection.request("GET", target, headers={"Accept": "text/plain"})
    response = connection.getresponse()
    if response.status != 200:
        raise PageError(f"{response.status} {response.reason}")
    body = bytearray()
    while chunk := response.read(_CHUNK_BYTES):
        body += chunk
        if len(body) > bytes_max:
            raise PageError(f"larger than {bytes_max} bytes")
    if response.length:
        raise PageError(f"cut short: {response.length} bytes are missing")
    return body.decode()


def _words(exc: Exception) -> str:
    if isinstance(exc, TimeoutError):
        return "timed out"
    return getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
