"""aiokafka's connection, receiving large responses in place. The rule: one copy from the socket, none after.

asyncio's StreamReader grows a buffer and copies a 4 MB response five times on its way; here a response's bytes
are received straight into their own buffer and decoded as views of it. Encrypted connections use aiokafka's own.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from asyncio.streams import FlowControlMixin
from typing import Any

import aiokafka.client
import aiokafka.conn
import aiokafka.errors
import async_timeout
from aiokafka.util import create_future

#: Responses shorter than this are decoded from a copy, as aiokafka does.
LARGE = 65_536


class FrameProtocol(FlowControlMixin, asyncio.BufferedProtocol):
    """A reader with StreamReader's `readexactly`, for a protocol whose frames tell their length."""

    SCRATCH = 1 << 16

    def __init__(self, closed: asyncio.Future[None], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._closed_future, self._event_loop = closed, loop
        self._scratch = bytearray(self.SCRATCH)
        self._view = memoryview(self._scratch)
        self._head = self._tail = 0  # what is unread in the scratch
        self._target: bytearray | None = None
        self._filled = self._wanted = 0
        self._waiter: asyncio.Future[None] | None = None
        self._eof = False
        self._paused_reading = False
        self._transport: Any = None
        self._close_waiter = loop.create_future()

    def at_eof(self) -> bool:
        return self._eof

    def _get_close_waiter(self, stream: Any) -> asyncio.Future[None]:
        del stream
        return self._close_waiter

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._eof = True
        self._wake()
        if not self._close_waiter.done():
            self._close_waiter.set_result(None)
        if not self._closed_future.done():
            self._closed_future.set_result(None)

    def eof_received(self) -> bool:
        self._eof = True
        self._wake()
        return False

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _make_room(self) -> None:
        """Move what is unread to the start of the scratch."""
        count = self._tail - self._head
        self._scratch[:count] = self._scratch[self._head : self._tail]
        self._head, self._tail = 0, count

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go. There is always room: a full scratch pauses reading in `buffer_updated`."""
        del sizehint
        if self._target is not None and self._filled < self._wanted:
            return memoryview(self._target)[self._filled :]
        if self._tail == self.SCRATCH:
            self._make_room()
        return self._view[self._tail :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._target is not None and self._filled < self._wanted:
            self._filled += nbytes
            if self._filled >= self._wanted:
                self._wake()
            return
        self._tail += nbytes
        if self._tail - self._head == self.SCRATCH:
            self._paused_reading = True
            self._transport.pause_reading()
        self._wake()

    def _resume(self) -> None:
        if self._paused_reading:
            self._paused_reading = False
            self._transport.resume_reading()

    async def _wait(self) -> None:
        if self._eof:
            raise asyncio.IncompleteReadError(b"", None)
        self._waiter = self._event_loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _take(self, count: int) -> memoryview:
        """The next `count` unread bytes of the scratch, good until it is written to again."""
        taken = self._view[self._head : self._head + count]
        self._head += count
        if self._head == self._tail:
            self._head = self._tail = 0
        return taken

    async def readexactly(self, count: int) -> bytes | bytearray:
        """`count` bytes; a large response is received straight into the object that is returned.

        Raises
        ------
        asyncio.IncompleteReadError : the connection ended first.
        """
        if count <= self.SCRATCH // 2:
            while self._tail - self._head < count:
                await self._wait()
            data = bytes(self._take(count))
            self._resume()
            return data
        target = bytearray(count)
        ready = min(self._tail - self._head, count)
        target[:ready] = self._take(ready)
        self._filled, self._wanted, self._target = ready, count, target
        self._resume()
        try:
            while self._filled < count:
                await self._wait()
        finally:
            self._target = None
        return target


class ViewReader:
    """What aiokafka's protocol types need of a BytesIO; large reads are views, not copies."""

    __slots__ = ("_at", "_view")

    VIEW_FROM = 4096

    def __init__(self, data: bytes | bytearray) -> None:
        self._view, self._at = memoryview(data), 0

    def read(self, count: int = -1) -> bytes | memoryview:
        end = len(self._view) if count < 0 else self._at + count
        piece = self._view[self._at : end]
        self._at += len(piece)
        return piece if count >= self.VIEW_FROM else bytes(piece)

    def tell(self) -> int:
        return self._at


class Connection(aiokafka.conn.AIOKafkaConnection):
    """aiokafka's connection with `FrameProtocol` under it where the transport is not encrypted."""

    async def connect(self) -> Any:
        if self._security_protocol not in ("PLAINTEXT", "SASL_PLAINTEXT"):
            return await super().connect()
        loop = self._loop
        self._closed_fut = create_future()
        protocol = FrameProtocol(self._closed_fut, loop)
        async with async_timeout.timeout(self._request_timeout):
            transport, _ = await loop.create_connection(lambda: protocol, self.host, self.port)
        writer = asyncio.StreamWriter(transport, protocol, None, loop)
        self._reader, self._writer, self._protocol = protocol, writer, protocol
        self._read_task = self._create_reader_task()
        if self._max_idle_ms is not None:
            self._idle_handle = loop.call_soon(self._idle_check, weakref.ref(self))
        try:
            await self._do_version_lookup()
            if self._security_protocol == "SASL_PLAINTEXT":
                await self._do_sasl_handshake()
        except BaseException:
            self.close()
            raise
        return protocol, writer

    def _handle_frame(self, resp: bytes | bytearray) -> None:
        if len(resp) < LARGE:
            super()._handle_frame(resp)
            return
        correlation_id, request, future = self._requests[0]
        reader = ViewReader(resp)
        header = request.parse_response_header(reader)
        if header.correlation_id != correlation_id:
            if not future.done():
                future.set_exception(
                    aiokafka.errors.CorrelationIdError(f"{header.correlation_id}, expected {correlation_id}")
                )
            self.close(reason=aiokafka.conn.CloseReason.OUT_OF_SYNC)
            return
        if not future.done():
            future.set_result(request.RESPONSE_TYPE.decode(reader))
        self._last_action = time.monotonic()
        self._requests.popleft()


async def create_connection(host: str, port: int, **options: Any) -> Connection:
    """Stands in for aiokafka.conn.create_conn."""
    connection = Connection(host, port, **options)
    await connection.connect()
    return connection


def install() -> None:
    """Let aiokafka's clients open our connections."""
    aiokafka.client.create_conn = create_connection
