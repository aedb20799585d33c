"""What a dead letter holds, decoded as far as it goes, and what to do. The rule: bytes are shown, never executed.

Nothing here makes an object of the size that the bytes claim: numbers are read one by one, and arrays are counted.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import google_crc32c

from telemetry import schemas
from telemetry.log import printable
from telemetry.reasons import Reason
from telemetry.schemas.book import SchemaBook

#: What to do about each reason.
ADVICE: dict[Reason, str] = {
    Reason.OK: "nothing",
    Reason.NULL_VALUE: "find the producer that sends tombstones; an input topic is not compacted",
    Reason.TOO_LARGE: "let the device send fewer steps a frame; a frame has 64 KiB at most",
    Reason.BAD_HEADER: "the producer does not write Avro single-object encoding; see docs/producers.md",
    Reason.UNKNOWN_FINGERPRINT: "if the schema is ours and newer, roll the workers forward or accept it in the "
    "setting schemas.accept, then replay; else find the producer",
    Reason.AVRO_TRUNCATED: "the producer or something between cuts messages short; the device may send again",
    Reason.AVRO_VARINT: "the bytes are damaged, or written by a faulty encoder",
    Reason.AVRO_LENGTH: "the bytes are damaged, cut short, or written by a faulty encoder",
    Reason.AVRO_TRAILING: "two frames in one message, or a schema with more fields under our fingerprint",
    Reason.BAD_DEVICE_ID: "rename the device: A-Z, a-z, 0-9 and . _ : - are allowed, 64 characters at most",
    Reason.UNKNOWN_CATALOG: "add the entry to the folder that catalog.paths names, restart the workers, "
    "then replay; or the frame is on the wrong topic",
    Reason.WRONG_COLUMN_COUNT: "the device's list of signals differs from its catalogue entry; give the new list a "
    "new version of the entry",
    Reason.ABSURD_TIME: "set the device's clock; if the time is right, raise processing.past_max_days or "
    "processing.future_max_s, then replay",
    Reason.BAD_PERIOD: "a faulty encoder: steps must follow one another in time",
    Reason.BAD_SEQ: "a faulty encoder: frames are numbered from 0",
    Reason.KEY_MISMATCH: "someone speaks for another device, or the producer sets no key; look at who may write",
    Reason.STATE_FULL: "raise processing.devices_max or add workers, then replay",
    Reason.BATCH_TOO_LARGE: "a decompression bomb, or a producer with very large batches; look at who may write",
    Reason.BATCH_CORRUPT: "damage on a broker's disk or a faulty client; compare the partition's replicas",
    Reason.BATCH_CODEC: "a client that is newer than this worker, or a faulty one",
    Reason.BATCH_CRC: "damage on a broker's disk; compare the partition's replicas",
    Reason.WRONG_PARTITION: "a producer without the partitioner murmur2_random (librdkafka's default is another)",
    Reason.BATCH_FORMAT: "the topic holds messages from before Kafka 0.11; let a newer client write them again",
}

_CODECS = {0: "none", 1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
_BATCH = struct.Struct(">qiibIhiqqqhii")
_FIXED = {"float": 4, "double": 8, "boolean": 1}


class _StopError(Exception):
    """Decoding goes no further; the text says why."""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    for i in range(at, len(data)):
        value |= (data[i] & 0x7F) << shift
        if data[i] < 0x80:
            return (value >> 1) ^ -(value & 1), i + 1
        shift += 7
        if shift > 63:
            raise _StopError("a varint of more than 10 bytes")
    raise _StopError("the bytes end within a varint")


def moment(us: int) -> str:
    """Microseconds since the epoch as a time, whatever they are."""
    try:
        return datetime.fromtimestamp(us / 1e6, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return "no time of a calendar"


def _span(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = _varint(data, at)
    if size < 0 or size > len(data) - at:
        raise _StopError(f"a length of {size}, but {len(data) - at} bytes are left")
    return data[at : at + size], at + size


def _array(data: bytes, at: int, item: int) -> tuple[str, int]:
    """Counts an array's items of `item` bytes each."""
    total = blocks = 0
    while True:
        count, at = _varint(data, at)
        if count == 0:
            return f"{total} values in {blocks} block{'s' * (blocks != 1)}", at
        if count < 0:
            _, at = _varint(data, at)
            count = -count
        if count > (len(data) - at) // item:
            raise _StopError(f"a block of {count} values after {total}, but {len(data) - at} bytes are left")
        total, blocks, at = total + count, blocks + 1, at + item * count


def _field(data: bytes, at: int, node: Any) -> tuple[str, int]:
    """(text, next) of one field's value."""
    kind = node.get("type") if isinstance(node, dict) else node
    if isinstance(kind, list) or isinstance(node, list):
        branches = kind if isinstance(kind, list) else node
        n, at = _varint(data, at)
        if not 0 <= n < len(branches):
            raise _StopError(f"branch {n} of a union of {len(branches)}")
        return _field(data, at, branches[n])
    if kind == "null":
        return "null", at
    if kind in ("string", "bytes"):
        piece, at = _span(data, at)
        return printable(piece.decode("utf-8", "backslashreplace"), 80), at
    if kind in ("int", "long"):
        n, at = _varint(data, at)
        is_time = isinstance(node, dict) and node.get("logicalType") == "timestamp-micros"
        return f"{n}  ({moment(n)})" if is_time else str(n), at
    if kind == "array" and node["items"] in _FIXED:
        return _array(data, at, _FIXED[node["items"]])
    if kind in _FIXED:
        if _FIXED[kind] > len(data) - at:
            raise _StopError("the bytes end here")
        return data[at : at + _FIXED[kind]].hex(), at + _FIXED[kind]
    raise _StopError(f"a field of type {kind} is not shown")


def frame_lines(data: bytes, book: SchemaBook) -> Iterator[str]:
    """A frame, field by field, with the position of each, up to where it goes wrong."""
    writer = next((w for w in book.writers() if data.startswith(w.header)), None)
    if writer is None:
        if data[:2] != schemas.SINGLE_OBJECT_MARKER or len(data) < 10:
            yield f"@0 no header of a frame: it begins with {data[:10].hex(' ') or 'nothing'}"
            return
        yield f"@2 fingerprint {data[2:10].hex()}: no schema that is accepted here; read as our newest frame:"
    else:
        yield f"@2 schema {writer.name} ({writer.origin})"
    header = len(writer.header) if writer else 10
    fields = (writer.schema if writer else schemas.raw("frame"))["fields"]
    at = header
    for field in fields:
        try:
            text, after = _field(data, at, field["type"])
        except _StopError as stop:
            yield f"@{at} {field['name']}: {stop}"
            return
        yield f"@{at} {field['name']} = {text}"
        at = after
    if at < len(data):
        yield f"@{at} {len(data) - at} bytes are left over"


def batch_lines(data: bytes) -> Iterator[str]:
    """The header of a record batch."""
    if len(data) < 17:
        yield f"{len(data)} bytes, too few for a batch"
        return
    base, length, _, magic = struct.unpack_from(">qiib", data)
    yield f"base offset {base}, length {length} ({len(data) - 12} bytes are here), format v{magic}"
    if magic != 2 or len(data) < _BATCH.size:
        return
    _, _, epoch, _, crc, attributes, last_delta, first_ts, _, pid, _, _, count = _BATCH.unpack_from(data)
    right = google_crc32c.value(data[21:]) == crc
    codec = _CODECS.get(attributes & 7, f"{attributes & 7}, which Kafka does not have")
    yield f"checksum {crc:#010x}: {'right' if right else 'wrong'}; compression {codec}; leader epoch {epoch}"
    yield f"{count} records, last offset {base + last_delta}, first timestamp {moment(first_ts * 1000)}"
    yield f"producer id {pid}" if pid >= 0 else "no producer id"


def hexdump(data: bytes, limit: int) -> Iterator[str]:
    """16 bytes a line: position, hex, and what is printable ASCII; 0 = all."""
    shown = data[:limit] if limit else data
    for at in range(0, len(shown), 16):
        row = shown[at : at + 16]
        text = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
        yield f"{at:08x}  {row[:8].hex(' '):23}  {row[8:].hex(' '):23}  |{text}|"
    if len(shown) < len(data):
        yield f"... {len(data) - len(shown)} more bytes; --bytes 0 shows all"
