"""Records to bytes and back, in Avro single-object encoding. The rule: what we write, any Avro reader reads.

Written is the newest version of a schema, read every version ever released (`telemetry.schemas.writers`).

fastavro does everything here. Frames are also read by the compiled decoder (`telemetry.framescan`), which
is proven equal to `decode_frame` by property tests, and written by the faster `FrameEncoder`.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import fastavro
import numpy as np
from numpy.typing import ArrayLike, NDArray

from telemetry import schemas
from telemetry.reasons import Reason

#: The decoder's cap on a frame's bytes, checked before anything is decoded.
FRAME_BYTES_MAX = 64 * 1024

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RefusedError(ValueError):
    """The bytes are not a record of the schema. `reason` is the dead letter's code."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason.code}{': ' + detail if detail else ''}")
        self.reason = reason


def micros(moment: datetime) -> int:
    """Microseconds since the epoch of an aware datetime, exactly."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _plain(value: Any) -> Any:
    """fastavro turns timestamp-micros into datetimes; the contract's unit is integer microseconds."""
    return micros(value) if isinstance(value, datetime) else value


def encode(name: str, record: dict[str, Any], header: bytes | None = None) -> bytes:
    """One record of the named schema, for example ``encode("truth", {...})``; times are int microseconds.

    header : in the place of single-object encoding's, as a schema registry gives it.

    Raises
    ------
    ValueError, TypeError : the record does not fit the schema (fastavro's message says where).
    """
    out = io.BytesIO()
    out.write(schemas.header(name) if header is None else header)
    fastavro.schemaless_writer(out, schemas.parsed(name), record, strict_allow_default=True)
    return out.getvalue()


def decode(name: str, data: bytes) -> dict[str, Any]:
    """The inverse of `encode`, of any version ever released; defaults are filled in, times are int microseconds.

    Raises
    ------
    RefusedError : not the marker, a fingerprint that is not of this record, or not Avro of that schema.
    """
    if len(data) < 10 or data[:2] != schemas.SINGLE_OBJECT_MARKER:
        raise RefusedError(Reason.BAD_HEADER)
    writer = schemas.writers(name).get(data[:10])
    if writer is None:
        raise RefusedError(Reason.UNKNOWN_FINGERPRINT, data[2:10].hex())
    return decode_body(name, data, 10, writer)


def decode_body(name: str, data: bytes, start: int, writer: Any) -> dict[str, Any]:
    """What follows the header: a record written with `writer`, read as our newest schema by Avro's resolution.

    writer : as fastavro's `parse_schema` gives it, of a schema that `schemas.lint` has passed.

    Raises
    ------
    RefusedError : not Avro of the writer's schema.
    """
    stream = io.BytesIO(data)
    stream.seek(start)
    reader = schemas.parsed(name)
    try:
        record = fastavro.schemaless_reader(stream, writer, None if writer is reader else reader)
    except (EOFError, ValueError, IndexError, OverflowError, UnicodeDecodeError, MemoryError) as exc:
        raise RefusedError(Reason.AVRO_TRUNCATED, str(exc)) from exc
    if stream.tell() != len(data):
        raise RefusedError(Reason.AVRO_TRAILING)
    if not isinstance(record, dict):
        raise RefusedError(Reason.AVRO_TRUNCATED)
    return {key: _plain(value) for key, value in record.items()}


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded frame. values : float32 (steps, signals), NaN = missing; times in microseconds."""

    device_id: str
    catalog: str
    seq: int
    ts_us: int
    period_us: int
    values: NDArray[np.float32]


def zigzag(n: int) -> bytes:
    """Avro's variable-length encoding of an int or long."""
    u = (n << 1) ^ (n >> 63)
    out = bytearray()
    while u > 0x7F:
        out.append(u & 0x7F | 0x80)
        u >>= 7
    out.append(u)
    return bytes(out)


class FrameEncoder:
    """Writes one device's frames; the parts that never change are encoded once.

    Byte for byte what `encode("frame", ...)` writes (property-tested), several times faster: the floats of
    Avro's array are the array's own memory. header : see `encode`.
    """

    __slots__ = ("_counts", "_head", "_period")

    def __init__(self, device_id: str, catalog: str, period_us: int, header: bytes | None = None) -> None:
        device, entry = device_id.encode(), catalog.encode()
        if header is None:
            header = schemas.header("frame")
        self._head = header + zigzag(len(device)) + device + zigzag(len(entry)) + entry
        self._period = zigzag(period_us)
        self._counts: dict[int, bytes] = {}

    def encode(self, seq: int, ts_us: int, values: ArrayLike) -> bytes:
        """values : anything that becomes float32 (steps, signals); must not be empty."""
        data = np.ascontiguousarray(values, "<f4")
        count = self._counts.get(data.size)
        if count is None:
            count = self._counts[data.size] = zigzag(data.size)
        return b"".join((self._head, zigzag(seq), zigzag(ts_us), self._period, count, data.tobytes(), b"\x00"))


def encode_frame(frame: Frame) -> bytes:
    """One frame, for occasional use; producers keep a `FrameEncoder` a device."""
    return FrameEncoder(frame.device_id, frame.catalog, frame.period_us).encode(
        frame.seq, frame.ts_us, frame.values
    )


def decode_frame(data: bytes, signals: int) -> Frame:
    """By fastavro: the reference that the compiled decoder is compared with, and the offline tools' reader.

    Raises
    ------
    RefusedError : see `decode`; or the number of values is not a positive multiple of `signals`.
    """
    record = decode("frame", data)
    values = np.array(record["values"], np.float32)
    if values.size == 0 or values.size % signals:
        raise RefusedError(Reason.WRONG_COLUMN_COUNT, str(values.size))
    return Frame(
        record["device_id"],
        record["catalog"],
        record["seq"],
        record["ts"],
        record["period_us"],
        values.reshape(-1, signals),
    )
