"""The catalogue of bad input: records and batches, and where each must end; docs/bad-input.md is made from it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import cramjam
import google_crc32c
import numpy as np
from batches import batch

from streams.transport.rawfetch import HEADER
from telemetry import codec, schemas
from telemetry.codec import FRAME_BYTES_MAX, zigzag

T0 = 1_760_000_000_000_000
YEAR_US = 31_557_600_000_000
CATALOG = "bench.frames/1"
SIGNALS = 10
MAX64 = 2**63 - 1

Record = tuple[bytes | None, bytes | None]

ACCEPTED, DUPLICATE, LATE = "accepted", "duplicate", "late"


def frame(
    device: str, seq: int, ts_us: int, values: np.ndarray | None = None, period_us: int = 100_000, steps: int = 1
) -> bytes:
    if values is None:
        values = np.arange(steps * SIGNALS, dtype=np.float32).reshape(steps, SIGNALS)
    return codec.encode_frame(codec.Frame(device, CATALOG, seq, ts_us, period_us, values))


def raw(
    device: bytes = b"bad-1",
    catalog: bytes = CATALOG.encode(),
    seq: bytes | int = 0,
    ts: bytes | int = T0,
    period: bytes | int = 0,
    array: bytes | None = None,
    id_len: bytes | None = None,
    catalog_len: bytes | None = None,
    end: bytes = b"",
) -> bytes:
    """A frame with any of its parts put in by hand."""

    def number(part: bytes | int) -> bytes:
        return zigzag(part) if isinstance(part, int) else part

    if array is None:
        array = zigzag(SIGNALS) + bytes(4 * SIGNALS) + b"\0"
    return b"".join(
        (
            schemas.header("frame"),
            zigzag(len(device)) if id_len is None else id_len,
            device,
            zigzag(len(catalog)) if catalog_len is None else catalog_len,
            catalog,
            number(seq),
            number(ts),
            number(period),
            array,
            end,
        )
    )


@dataclass(frozen=True, slots=True)
class Case:
    """Records of one kind. ends : where each must end: a reason's code, or accepted, duplicate, late.

    headers : so many headers has each record. by_clock : it is wrong only while the clock shows about T0.
    """

    name: str
    records: tuple[Record, ...]
    ends: tuple[str, ...]
    headers: int = 0

    @property
    def by_clock(self) -> bool:
        return self.name == "last step 39 days ahead"


def _one(name: str, value: bytes | None, ends: str, key: bytes | None = b"bad-1", headers: int = 0) -> Case:
    return Case(name, ((key, value),), (ends,), headers)


def _same(name: str, device: bytes, ends: str) -> Case:
    """Key and id agree, so that only the id itself can be wrong."""
    return _one(name, raw(device), ends, device)


GOOD = raw()
HEADER_BYTES = 10


def _schema_cases() -> list[Case]:
    rng = np.random.default_rng(5)
    strangers = tuple((b"bad-1", b"\xc3\x01" + rng.bytes(8) + GOOD[HEADER_BYTES:]) for _ in range(1000))
    return [
        _one("empty value", b"", "bad_header"),
        _one("one byte", b"\xc3", "bad_header"),
        _one("only the marker", b"\xc3\x01", "bad_header"),
        _one("another marker", b"\xc3\x02" + GOOD[2:], "bad_header"),
        _one("JSON text", b'{"device_id": "bad-1", "values": [1, 2, 3]}', "bad_header"),
        _one("Confluent wire format", b"\0\0\0\0\x07" + GOOD[HEADER_BYTES:], "bad_header"),
        _one("a pickle that runs a command", b"\x80\x04cposix\nsystem\n(S'true'\ntR.", "bad_header"),
        _one("zeros", bytes(200), "bad_header"),
        _one("fingerprint of another schema", schemas.header("truth") + GOOD[HEADER_BYTES:], "unknown_fingerprint"),
        Case("1,000 random fingerprints", strangers, ("unknown_fingerprint",) * 1000),
    ]


def _avro_cases() -> list[Case]:
    floats = bytes(4 * SIGNALS)
    pairs = b"".join(zigzag(1) + bytes(4) for _ in range(SIGNALS)) + b"\0"
    cut = range(HEADER_BYTES, len(GOOD))
    truncated = tuple((b"bad-1", GOOD[:n]) for n in cut)
    # a cut within a string or the array's values leaves a length that is too large, elsewhere too few bytes
    inside = {*range(11, 16), *range(17, 17 + len(CATALOG)), *range(len(GOOD) - 1 - len(floats), len(GOOD) - 1)}
    ends = tuple("avro_length" if n in inside else "avro_truncated" for n in cut)
    return [
        Case("truncated after each byte", truncated, ends),
        _one("id length negative", raw(id_len=zigzag(-1)), "avro_length"),
        _one("id length 2^31", raw(id_len=zigzag(2**31)), "avro_length"),
        _one("id length 2^62", raw(id_len=zigzag(2**62)), "avro_length"),
        _one("catalogue name's length negative", raw(catalog_len=zigzag(-5)), "avro_length"),
        _one("catalogue name's length INT64_MIN", raw(catalog_len=zigzag(-(2**63))), "avro_length"),
        _one("varint of 11 bytes", raw(seq=b"\x80" * 10 + b"\0"), "avro_varint"),
        _one("varint of 20 bytes", raw(seq=b"\xff" * 19 + b"\0"), "avro_varint"),
        _one("varint of 60,000 bytes", raw(seq=b"\x80" * 60_000 + b"\0"), "avro_varint"),
        _one("varint over 64 bits", raw(ts=b"\xff" * 9 + b"\x7f"), "avro_varint"),
        _one("varint without an end", raw(array=b"\xff\xff"), "avro_truncated"),
        _one("period beyond an int", raw(period=2**31), "avro_varint"),
        _one("period INT64_MIN", raw(period=-(2**63)), "avro_varint"),
        _one("block count 2^62", raw(array=zigzag(2**62) + floats + b"\0"), "avro_length"),
        _one("block count INT64_MAX", raw(array=zigzag(MAX64) + floats + b"\0"), "avro_length"),
        _one("block count 10^12", raw(array=zigzag(10**12) + floats + b"\0"), "avro_length"),
        _one("block count INT64_MIN", raw(array=zigzag(-(2**63)) + zigzag(40) + floats + b"\0"), "avro_length"),
        _one("block count one too many", raw(array=zigzag(SIGNALS + 1) + floats + b"\0"), "avro_length"),
        _one(
            "negative block count, wrong size", raw(array=zigzag(-10) + zigzag(44) + floats + b"\0"), "avro_length"
        ),
        _one(
            "negative block count, negative size",
            raw(array=zigzag(-10) + zigzag(-40) + floats + b"\0"),
            "avro_length",
        ),
        _one("negative block count, right size", raw(array=zigzag(-10) + zigzag(40) + floats + b"\0"), ACCEPTED),
        _one("a block for each value", raw(array=pairs, seq=1, ts=T0 + 1), ACCEPTED),
        _one("array without its end", raw(array=zigzag(SIGNALS) + floats), "avro_truncated"),
        _one("a byte too many", raw(end=b"\0"), "avro_trailing"),
        _one("two frames in one value", GOOD + GOOD, "avro_trailing"),
    ]


def _id_cases() -> list[Case]:
    return [
        _same("empty id", b"", "bad_device_id"),
        _same("id of 65 bytes", b"x" * 65, "bad_device_id"),
        _same("id of 60,000 bytes", b"x" * 60_000, "bad_device_id"),
        _same("id that is not UTF-8", b"veh-\xff\xfe", "bad_device_id"),
        _same("id with NUL", b"veh\x00", "bad_device_id"),
        _same("id with CRLF", b"veh\r\nINFO all is well", "bad_device_id"),
        _same("id with ANSI colours", b"\x1b[31mveh\x1b[0m", "bad_device_id"),
        _same("id with markup", b"<script>alert(1)</script>", "bad_device_id"),
        _same("id with a path", b"../../etc/passwd", "bad_device_id"),
        _same("id with a right-to-left override", "veh\u202e1".encode(), "bad_device_id"),
        _same("id of 64 bytes", b"y" * 64, ACCEPTED),
        _one("null key", raw(), "key_mismatch", None),
        _one("empty key", raw(), "key_mismatch", b""),
        _one("key of another device", raw(), "key_mismatch", b"veh-0000000"),
        _one("id of another device", raw(b"veh-0000000", ts=T0 + 9_000_000, seq=10**6), "key_mismatch"),
        _one("key with a NUL more", raw(), "key_mismatch", b"bad-1\0"),
        _one("key that begins like the id", raw(), "key_mismatch", b"bad-"),
        _one("binary key of 100 kB", raw(), "key_mismatch", bytes(range(256)) * 400),
        _one("tombstone", None, "null_value"),
        _one("neither key nor value", None, "null_value", None),
    ]


def _contract_cases() -> list[Case]:
    array = lambda n: zigzag(n) + bytes(4 * n) + b"\0"
    return [
        _one("unknown catalogue", raw(catalog=b"vehicle.unknown/1"), "unknown_catalog"),
        _one("catalogue without a name", raw(catalog=b""), "unknown_catalog"),
        _one("catalogue of another version", raw(catalog=b"bench.frames/2"), "unknown_catalog"),
        _one("catalogue name of 30,000 bytes", raw(catalog=b"c" * 30_000), "unknown_catalog"),
        _one("catalogue of the other topic", raw(catalog=b"gpu.node/1"), "unknown_catalog"),
        _one("catalogue name with a NUL more", raw(catalog=CATALOG.encode() + b"\0"), "unknown_catalog"),
        _one("no values", raw(array=b"\0"), "wrong_column_count"),
        _one("a column missing", raw(array=array(SIGNALS - 1)), "wrong_column_count"),
        _one("a column too many", raw(array=array(SIGNALS + 1)), "wrong_column_count"),
        _one("frame of 70 kB", raw(array=array(17_500)), "too_large"),
        _one("value of 900 kB", b"\xc3\x01" + bytes(900_000), "too_large"),
        _one(
            "largest frame",
            raw(b"bad-l", array=array((FRAME_BYTES_MAX - 100) // 40 * 10), period=1),
            ACCEPTED,
            b"bad-l",
        ),
        _one("sequence negative", raw(seq=-1), "bad_seq"),
        _one("sequence INT64_MIN", raw(seq=-(2**63)), "bad_seq"),
        _one("period negative", raw(period=-1), "bad_period"),
        _one("period zero of two steps", raw(array=array(2 * SIGNALS)), "bad_period"),
        _one("ten years ahead", raw(ts=T0 + 10 * YEAR_US), "absurd_time"),
        _one("year 9999", raw(ts=253_402_300_799_000_000), "absurd_time"),
        _one("time INT64_MAX", raw(ts=MAX64), "absurd_time"),
        _one("time INT64_MIN", raw(ts=-(2**63)), "absurd_time"),
        _one("before 1970", raw(ts=-1), "absurd_time"),
        _one("1970: a clock that was never set", raw(ts=0), "absurd_time"),
        _one("last step 39 days ahead", raw(array=array(16_000), period=2**31 - 1), "absurd_time"),
    ]


def _stream_cases() -> list[Case]:
    """Right by themselves; what is wrong is how they follow one another, or what they hold."""
    second = 1_000_000

    def at(device: str, seq: int, t: float, values: np.ndarray | None = None) -> Record:
        return device.encode(), frame(device, seq, T0 + int(t * second), values)

    full = lambda x: np.full((1, SIGNALS), x, np.float32)
    extremes = [3.4e38, -3.4e38, 1e-45, -0.0, np.inf, -np.inf, np.nan]
    storm = tuple(at("bad-n", i, i, full(extremes[i % len(extremes)])) for i in range(140))
    once = at("bad-d", 0, 0)
    ahead = [at("bad-f", 0, 0), at("bad-f", 1, 240), *(at("bad-f", 2 + i, 1 + i) for i in range(30))]
    return [
        Case("NaN, infinity and extremes", storm, (ACCEPTED,) * len(storm)),
        Case("sent three times", (once,) * 3, (ACCEPTED, DUPLICATE, DUPLICATE)),
        Case(
            "disorder within the grace", (at("bad-o", 0, 0), at("bad-o", 2, 2), at("bad-o", 1, 1)), (ACCEPTED,) * 3
        ),
        Case(
            "disorder beyond the grace",
            (at("bad-p", 0, 0), at("bad-p", 5, 50), at("bad-p", 1, 3)),
            (ACCEPTED, ACCEPTED, LATE),
        ),
        Case(
            "a clock four minutes ahead, once", tuple(ahead), (ACCEPTED, ACCEPTED, *(LATE,) * 15, *(ACCEPTED,) * 15)
        ),
        Case("sequence INT64_MAX, then 0", (at("bad-s", MAX64, 0), at("bad-s", 0, 1)), (ACCEPTED, ACCEPTED)),
        Case("2,000 headers", (at("bad-h", 0, 0),), (ACCEPTED,), 2000),
    ]


CASES: tuple[Case, ...] = (
    *_schema_cases(),
    *_avro_cases(),
    *_id_cases(),
    *_contract_cases(),
    *_stream_cases(),
)


# -- whole batches --------------------------------------------------------------------------------------------


def sealed(data: bytearray) -> bytes:
    """The batch with its length and checksum put right."""
    struct.pack_into(">i", data, 8, len(data) - 12)
    struct.pack_into(">I", data, 17, google_crc32c.value(bytes(data[21:])))
    return bytes(data)


def with_section(
    section: bytes, codec_no: int, count: int = 1, base: int = 0, last_delta: int | None = None
) -> bytes:
    """A batch with any bytes as its records section."""
    data = bytearray(HEADER.size) + section
    HEADER.pack_into(
        data, 0, base, 0, 0, 2, 0, codec_no, count - 1 if last_delta is None else last_delta,
        T0 // 1000, T0 // 1000, -1, -1, -1, count,
    )  # fmt: skip
    return sealed(data)


def section(records: Sequence[Record]) -> bytes:
    return batch(records)[HEADER.size :]


@cache
def _zeros(megabytes: int) -> bytes:
    return section([(b"bad-1", bytes(megabytes << 20))])


def xerial(*blocks: bytes, lengths: Sequence[int] = ()) -> bytes:
    sizes = lengths or [len(b) for b in blocks]
    head = struct.pack(">bccccccBii", -126, b"S", b"N", b"A", b"P", b"P", b"Y", 0, 1, 1)
    return head + b"".join(struct.pack(">i", n) + b for n, b in zip(sizes, blocks, strict=True))


@dataclass(frozen=True, slots=True)
class BatchCase:
    """One batch. reason : of the dead letter that it becomes.

    make : its bytes at base offset 0. spans : how many offsets the letter covers. read : how many records before
    the damage are read. patchable : a broker can be made to serve it.
    """

    name: str
    make: Callable[[], bytes]
    reason: str
    spans: int = 1
    read: int = 0
    patchable: bool = True


def _flipped(data: bytes, at: int) -> bytes:
    out = bytearray(data)
    out[at] ^= 0x55
    return bytes(out)


def _records(n: int) -> list[Record]:
    return [(b"bad-b", frame("bad-b", i, T0 + i * 1_000_000)) for i in range(n)]


def _legacy(magic: int) -> bytes:
    body = struct.pack(">bb", magic, 0) + (struct.pack(">q", T0 // 1000) if magic else b"")
    body += struct.pack(">i", 5) + b"bad-1" + struct.pack(">i", len(GOOD)) + GOOD
    return struct.pack(">qiI", 0, len(body) + 4, zlib.crc32(body)) + body


def _damaged_section(change: Callable[[bytearray, list[int]], None], n: int = 3) -> bytes:
    """n records, with something done to the section; `change` is told where each record begins."""
    parts = [section(_records(n)[: i + 1]) for i in range(n)]
    starts = [0, *(len(p) for p in parts[:-1])]
    data = bytearray(parts[-1])
    change(data, starts)
    return with_section(bytes(data), 0, n)


def _set(record: int, at: int, to: bytes) -> Callable[[bytearray, list[int]], None]:
    def change(data: bytearray, starts: list[int]) -> None:
        data[starts[record] + at : starts[record] + at + len(to)] = to

    return change


def _compressed(name: str, n: int = 3) -> bytes:
    return bytes(getattr(cramjam, name).compress(section(_records(n))))


BATCH_CASES: tuple[BatchCase, ...] = (
    BatchCase(
        "zstd bomb, 95 MB", lambda: with_section(bytes(cramjam.zstd.compress(_zeros(95))), 4), "batch_too_large"
    ),
    BatchCase(
        "gzip bomb, 95 MB", lambda: with_section(bytes(cramjam.gzip.compress(_zeros(95))), 1), "batch_too_large"
    ),
    BatchCase(
        "lz4 bomb, 95 MB", lambda: with_section(bytes(cramjam.lz4.compress(_zeros(95))), 3), "batch_too_large"
    ),
    BatchCase(
        "snappy bomb, 18 MB",
        lambda: with_section(bytes(cramjam.snappy.compress_raw(_zeros(18))), 2),
        "batch_too_large",
    ),
    BatchCase(
        "snappy that claims 4 GB", lambda: with_section(b"\xff\xff\xff\xff\x0f" + bytes(50), 2), "batch_too_large"
    ),
    BatchCase("zstd, damaged", lambda: with_section(_flipped(_compressed("zstd"), 8), 4, 3), "batch_corrupt", 3),
    BatchCase("gzip, damaged", lambda: with_section(_flipped(_compressed("gzip"), 30), 1, 3), "batch_corrupt", 3),
    BatchCase("lz4, damaged", lambda: with_section(_flipped(_compressed("lz4"), 30), 3, 3), "batch_corrupt", 3),
    BatchCase("snappy, damaged", lambda: with_section(b"\xff" * 80, 2, 3), "batch_corrupt", 3),
    BatchCase(
        "snappy frames, negative block", lambda: with_section(xerial(bytes(9), lengths=[-4]), 2), "batch_corrupt"
    ),
    BatchCase("zstd, cut off", lambda: with_section(_compressed("zstd")[:-9], 4, 3), "batch_corrupt", 3),
    BatchCase("zstd by name, text inside", lambda: with_section(b"not zstd at all", 4), "batch_corrupt"),
    BatchCase("codec 5", lambda: with_section(section(_records(2)), 5, 2), "batch_codec", 2),
    BatchCase("codec 7", lambda: with_section(section(_records(2)), 7, 2), "batch_codec", 2),
    BatchCase("wrong checksum", lambda: _flipped(batch(_records(3)), 80), "batch_crc", 3),
    BatchCase("message format v0", lambda: _legacy(0), "batch_format"),
    BatchCase("message format v1", lambda: _legacy(1), "batch_format"),
    BatchCase("message format 9", lambda: _magic(9), "batch_corrupt", patchable=False),
    BatchCase("batch length negative", lambda: _length(-100), "batch_corrupt", patchable=False),
    BatchCase("batch length zero", lambda: _length(0), "batch_corrupt", patchable=False),
    BatchCase("batch length 2^31-1", lambda: _length(2**31 - 1), "batch_corrupt", patchable=False),
    BatchCase(
        "more records than offsets", lambda: with_section(section(_records(3)), 0, 3, 0, 1), "batch_corrupt", 2
    ),
    BatchCase("record count negative", lambda: with_section(section(_records(1)), 0, -1, 0, 0), "batch_corrupt"),
    BatchCase(
        "fewer records than it says", lambda: with_section(section(_records(2)), 0, 3), "batch_corrupt", 1, 2
    ),
    BatchCase("records section empty", lambda: with_section(b"", 0, 2), "batch_corrupt", 2),
    BatchCase("record length negative", lambda: _damaged_section(_set(1, 0, b"\x03")), "batch_corrupt", 2, 1),
    BatchCase("record length too large", lambda: _damaged_section(_set(2, 0, b"\xfe\x7f")), "batch_corrupt", 1, 2),
    BatchCase(
        "record length without an end", lambda: _damaged_section(_set(2, 0, b"\xff" * 60)), "batch_corrupt", 1, 2
    ),
    BatchCase("key length too large", lambda: _damaged_section(_set(0, 5, b"\xfe\x7f")), "batch_corrupt", 3),
    BatchCase("key length -3", lambda: _damaged_section(_set(0, 5, b"\x05")), "batch_corrupt", 3),
    BatchCase("an offset twice", lambda: _damaged_section(_set(1, 4, b"\x00")), "batch_corrupt", 2, 1),
    BatchCase("an offset before the batch", lambda: _damaged_section(_set(1, 4, b"\x01")), "batch_corrupt", 2, 1),
    BatchCase("an offset behind the batch", lambda: _damaged_section(_set(1, 4, b"\x7e")), "batch_corrupt", 2, 1),
)


def _magic(number: int) -> bytes:
    data = bytearray(batch(_records(1)))
    data[16] = number
    return bytes(data)


def _length(n: int) -> bytes:
    data = bytearray(batch(_records(1)))
    struct.pack_into(">i", data, 8, n)
    return bytes(data)


def at_offset(data: bytes, base: int) -> bytes:
    """The same batch elsewhere: the base offset is not under the checksum."""
    return struct.pack(">q", base) + data[8:]
