"""The frame decoder and the record scanner again, in plain Python by the formats' texts: slow, and easy to believe.

Avro 1.12 ("Binary Encoding", "Single-object encoding") and Kafka's record format v2. The compiled code must agree
with this in every reason and every value.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FRAME_BYTES_MAX = 65_536
_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_SIZES = {"null": 0, "boolean": 1, "float": 4, "double": 8}


class Refused(Exception):
    """args[0] is the reason's code."""


@dataclass(frozen=True)
class Accepted:
    """A frame. values : the array's bytes, float32 one after another."""

    catalog: str
    device: bytes
    seq: int
    ts_us: int
    period_us: int
    steps: int
    values: bytes


@dataclass(frozen=True)
class Contract:
    """What a frame may name. writers : header -> schema; catalogs : name -> number of signals."""

    writers: Mapping[bytes, dict[str, Any]]
    catalogs: Mapping[str, int]
    ts_min_us: int
    ts_max_us: int


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A zigzag varint of at most 64 bits."""
    bits = 0
    for i in range(10):
        if at + i >= len(data):
            raise Refused("avro_truncated")
        byte = data[at + i]
        bits |= (byte & 0x7F) << (7 * i)
        if bits >= 1 << 64 or (i == 9 and byte >= 0x80):
            raise Refused("avro_varint")
        if byte < 0x80:
            return (bits >> 1) ^ -(bits & 1), at + i + 1
    raise AssertionError("a tenth byte ends it or is refused")


def _bytes(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = varint(data, at)
    if not 0 <= size <= len(data) - at:
        raise Refused("avro_length")
    return data[at : at + size], at + size


def _int(data: bytes, at: int) -> tuple[int, int]:
    number, at = varint(data, at)
    if not -(2**31) <= number < 2**31:
        raise Refused("avro_varint")
    return number, at


def _floats(data: bytes, at: int) -> tuple[bytes, int]:
    out = b""
    while True:
        count, at = varint(data, at)
        if count == 0:
            return out, at
        if count < 0:
            size, at = varint(data, at)
            count = -count
            if size != 4 * count or count > FRAME_BYTES_MAX:
                raise Refused("avro_length")
        if count > (len(data) - at) // 4:
            raise Refused("avro_length")
        out += data[at : at + 4 * count]
        at += 4 * count


def _pass_over(data: bytes, at: int, node: Any) -> int:
    kind = node["type"] if isinstance(node, dict) else node
    if isinstance(kind, list):
        branch, at = varint(data, at)
        if not 0 <= branch < len(kind):
            raise Refused("avro_length")
        return _pass_over(data, at, kind[branch])
    if kind == "record":
        for field in node["fields"]:
            at = _pass_over(data, at, field["type"])
        return at
    if kind in ("string", "bytes"):
        return _bytes(data, at)[1]
    if kind in ("int", "enum"):
        return _int(data, at)[1]
    if kind == "long":
        return varint(data, at)[1]
    size = node["size"] if kind == "fixed" else _SIZES[kind]
    if size > len(data) - at:
        raise Refused("avro_truncated")
    return at + size


def _header(data: bytes, writers: Mapping[bytes, dict[str, Any]]) -> bytes:
    framed = any(len(header) == 5 for header in writers)
    size = (
        10 if len(data) >= 10 and data[:2] == b"\xc3\x01" else 5 if framed and len(data) >= 5 and not data[0] else 0
    )
    if not size:
        raise Refused("bad_header")
    if data[:size] not in writers:
        raise Refused("unknown_fingerprint")
    return data[:size]


def read_frame(data: bytes | None, contract: Contract) -> Accepted:
    """The frame.

    Raises
    ------
    Refused : with the reason's code.
    """
    if data is None:
        raise Refused("null_value")
    if len(data) > FRAME_BYTES_MAX:
        raise Refused("too_large")
    header = _header(data, contract.writers)
    at, got = len(header), {}
    readers = {
        "device_id": _bytes,
        "catalog": _bytes,
        "seq": varint,
        "ts": varint,
        "period_us": _int,
        "values": _floats,
    }
    for field in contract.writers[header]["fields"]:
        name = field["name"]
        if name not in readers:
            at = _pass_over(data, at, field["type"])
            continue
        got[name], at = readers[name](data, at)
        if name == "device_id" and not 1 <= len(got[name]) <= 64:
            raise Refused("bad_device_id")
    if at != len(data):
        raise Refused("avro_trailing")
    return _judge(got, contract)


def _judge(got: dict[str, Any], contract: Contract) -> Accepted:
    catalog = got["catalog"].decode("latin-1")
    if catalog not in contract.catalogs:
        raise Refused("unknown_catalog")
    if got["seq"] < 0:
        raise Refused("bad_seq")
    steps, rest = divmod(len(got["values"]) // 4, contract.catalogs[catalog])
    if rest or not steps:
        raise Refused("wrong_column_count")
    period, ts = got["period_us"], got["ts"]
    if period < 0 or (period == 0 and steps > 1):
        raise Refused("bad_period")
    if not contract.ts_min_us <= ts <= ts + period * (steps - 1) <= contract.ts_max_us:
        raise Refused("absurd_time")
    return Accepted(catalog, got["device_id"], got["seq"], ts, period, steps, got["values"])


def valid_id(device: bytes) -> bool:
    return _ID.fullmatch(device) is not None


# -- records --------------------------------------------------------------------------------------------------

#: (offset, reason's code or "" if accepted, key, value)
Read = tuple[int, str, bytes | None, bytes | None]


def _field(data: bytes, at: int) -> tuple[bytes | None, int]:
    size, at = varint(data, at)
    if size < -1 or size > len(data) - at:
        raise Refused("batch_corrupt")
    return (None, at) if size < 0 else (data[at : at + size], at + size)


def read_records(
    section: bytes, count: int, base: int, last: int, first_wanted: int, contract: Contract
) -> tuple[list[Read], int | None]:
    """A batch's records from offset `first_wanted` on, and the offset from which it cannot be read, or None."""
    out: list[Read] = []
    at, before = 0, base - 1
    for _ in range(count):
        try:
            size, at = varint(section, at)
            if not 0 <= size <= len(section) - at:
                raise Refused("batch_corrupt")
            record, at = section[at : at + size], at + size
            _, p = varint(record, 1)
            delta, p = varint(record, p)
            if not before < base + delta <= last:
                raise Refused("batch_corrupt")
            key, p = _field(record, p)
            value, p = _field(record, p)
        except Refused:
            return out, before + 1
        before = base + delta
        if before >= first_wanted:
            out.append((before, _verdict(key, value, contract), key, value))
    return out, None


def _verdict(key: bytes | None, value: bytes | None, contract: Contract) -> str:
    try:
        frame = read_frame(value, contract)
    except Refused as refused:
        return str(refused.args[0])
    return "" if key == frame.device else "key_mismatch"


def finite(values: bytes) -> bytes:
    """The values as the core sees them: infinite is missing."""
    words = struct.unpack(f"<{len(values) // 4}I", values)
    return struct.pack(f"<{len(words)}I", *(0x7FC00000 if w & 0x7FFFFFFF == 0x7F800000 else w for w in words))
