"""What is fuzzed, and the laws that each input is held to. A target's `run` raises when one is broken."""

from __future__ import annotations

import json
import struct
import zlib
from collections import Counter
from typing import Any

import cramjam
import fastavro
import google_crc32c
import numpy as np
from aiokafka import TopicPartition
from bad_input import BATCH_CASES, CASES, T0, frame, raw, section
from batches import batch
from frame_twin import Contract, Refused, finite, read_frame, read_records, valid_id
from guarded import GuardedMemory
from mutate import zigzag

from streams.core.records import (
    R_KEY_AT,
    R_KEY_LEN,
    R_OFFSET,
    R_REASON,
    R_VALUE_AT,
    R_VALUE_LEN,
    Part,
    RecordScanner,
    attempts,
)
from streams.transport import rawfetch
from streams.transport.rawfetch import HEADER, RawPartitionRecords
from telemetry import catalog, codec, schemas
from telemetry.framescan import (
    F_CLASS,
    F_ID_AT,
    F_ID_LEN,
    F_OFFSET,
    F_PERIOD,
    F_SEQ,
    F_STEPS,
    F_TS,
    F_VALUE_AT,
    F_VALUE_LEN,
    F_VALUES_AT,
    FRAME_COLUMNS,
    ClassTable,
    gather_values,
    scan_values,
)
from telemetry.rawmem import copy_bytes
from telemetry.reasons import Reason
from telemetry.schemas.plan import plan_of

TS_MIN, TS_MAX = 0, T0 + 300_000_000
CATALOGS = catalog.load()
SIZE_MAX = 72 * 1024


def wider() -> dict[str, Any]:
    """The frame's schema with one field of every kind that a decoder may have to pass over."""
    schema = json.loads(json.dumps(schemas.raw("frame")))
    extra = [
        ("flag", "boolean", False),
        ("count", "int", 0),
        ("note", "string", ""),
        ("mode", ["null", "string", "double"], None),
        ("digest", {"type": "fixed", "name": "Digest", "size": 6}, "\0" * 6),
        ("level", {"type": "enum", "name": "Level", "symbols": ["A", "B"]}, "A"),
        ("inner", {"type": "record", "name": "Inner", "fields": [{"name": "x", "type": "float"}]}, {"x": 0.0}),
    ]
    fields = [{"name": name, "type": kind, "default": default} for name, kind, default in extra]
    schema["fields"] = [*fields[:3], *schema["fields"], *fields[3:]]
    return schema


WIDER = wider()
WRITERS = {
    schemas.header("frame"): schemas.raw("frame"),
    schemas.SINGLE_OBJECT_MARKER + schemas.rabin_of(WIDER): WIDER,
    b"\0\0\0\0\x07": schemas.raw("frame"),
}
CLASSES = ClassTable(CATALOGS, None, {header: plan_of(schema) for header, schema in WRITERS.items()}, framed=True)
CONTRACT = Contract(WRITERS, {key: len(CATALOGS[key].signals) for key in CATALOGS}, TS_MIN, TS_MAX)
PARSED = {header: fastavro.parse_schema(json.loads(json.dumps(schema))) for header, schema in WRITERS.items()}


def good_frames() -> list[bytes]:
    """Frames of every class and writer, in one block and in many."""
    found = []
    for key, entry in CATALOGS.items():
        values = np.ones((entry.steps_per_frame, len(entry.signals)), np.float32)
        found.append(codec.encode_frame(codec.Frame("veh-1", key, 3, T0, 1000, values)))
    head, body = len(schemas.header("frame")), found[0]
    found.append(b"\0\0\0\0\x07" + body[head:])
    wide = b"\x01\x08" + zigzag(4) + b"note" + raw()[head:] + b"\x02\x04abcdefgh"[:1] + zigzag(2) + b"ab" + bytes(6)
    found.append(list(WRITERS)[1] + wide + b"\0" + bytes(4))
    found.append(list(WRITERS)[1] + b"\0\0\0" + raw()[head:] + b"\0" + bytes(6) + b"\x02" + bytes(4))
    for sized in (False, True):
        blocks = b"".join((zigzag(-n) + zigzag(4 * n) if sized else zigzag(n)) + bytes(4 * n) for n in (1, 2, 3, 4))
        found.append(raw(array=blocks + b"\0"))
    return found


def _corpus() -> list[bytes]:
    """What frames' mutants are made from: no monsters, which cost time and find nothing."""
    bad = [value for case in CASES for _, value in case.records[:50] if value is not None and len(value) < 3000]
    return good_frames() + bad


class FrameTarget:
    """`scan_values` on one value, which ends where readable memory ends, or begins where it begins."""

    name = "frames"

    def __init__(self) -> None:
        self.corpus = _corpus()
        self.reasons: Counter[str] = Counter()
        self._memory = GuardedMemory(1 + SIZE_MAX // 4096)
        self._starts, self._lengths = np.zeros(1, np.int64), np.zeros(1, np.int64)
        self._table, self._out = np.zeros((1, FRAME_COLUMNS), np.int64), np.zeros(1, np.uint8)

    def run(self, data: bytes) -> object:
        place = self._memory.at_end if zlib.adler32(data) & 1 else self._memory.at_begin
        self._lengths[0] = len(data)
        table = self._table
        scan_values(place(data), self._starts, self._lengths, CLASSES.array, TS_MIN, TS_MAX, table, self._out)
        reason = Reason(int(self._out[0]))
        self.reasons[reason.code] += 1
        try:
            frame_read, wanted = read_frame(data, CONTRACT), "ok"
            if not valid_id(frame_read.device):
                wanted = "bad_device_id"
        except Refused as refused:
            frame_read, wanted = None, refused.args[0]
        assert reason.code == wanted, f"compiled {reason.code}, twin {wanted}"
        if reason is Reason.OK:
            self._same_values(data, table[0], frame_read)
        self._fastavro(data, reason)
        row = table[0].tolist() if reason is Reason.OK else [0] * FRAME_COLUMNS
        return reason, len(data).bit_length(), row[F_CLASS], row[F_STEPS].bit_length(), row[F_SEQ].bit_length()

    def _same_values(self, data: bytes, row: Any, wanted: Any) -> None:
        assert copy_bytes(int(row[F_ID_AT]), int(row[F_ID_LEN])) == wanted.device
        found = (CLASSES.keys[row[F_CLASS]], *(int(row[c]) for c in (F_SEQ, F_TS, F_PERIOD, F_STEPS)))
        assert found == (wanted.catalog, wanted.seq, wanted.ts_us, wanted.period_us, wanted.steps)
        out = np.zeros(len(wanted.values) // 4, np.float32)
        gather_values(int(row[F_VALUES_AT]), out.size, out.view(np.uint32))
        assert out.tobytes() == finite(wanted.values)
        header = next(h for h in WRITERS if data.startswith(h))
        by_fastavro = codec.decode_body("frame", data, len(header), PARSED[header])
        assert np.array(by_fastavro["values"], np.float32).tobytes() == wanted.values or np.isnan(out).any()
        assert by_fastavro["device_id"].encode() == wanted.device
        assert (by_fastavro["seq"], by_fastavro["ts"], by_fastavro["period_us"]) == found[1:4]

    def _fastavro(self, data: bytes, reason: Reason) -> None:
        """What fastavro reads and would write again byte for byte is not refused as bad Avro."""
        if reason not in (Reason.AVRO_TRUNCATED, Reason.AVRO_VARINT, Reason.AVRO_LENGTH, Reason.AVRO_TRAILING):
            return
        if not data.startswith(schemas.header("frame")):
            return
        try:
            record = codec.decode("frame", data)
        except codec.RefusedError:
            return
        if not -(2**31) <= record["period_us"] < 2**31:  # fastavro does not know that an int has 32 bits
            return
        try:
            again = codec.encode("frame", record)
        except (ValueError, OverflowError, struct.error):
            return
        assert again != data, f"fastavro reads and writes what is refused as {reason.code}"


class RecordTarget:
    """`scan_records` on a records section, with arrays so small that it pauses."""

    name = "records"

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        frames = good_frames()[:4]
        records = [(b"veh-1", value) for value in frames]
        records += [(None, b"x"), (b"veh-1", None), (b"k", frames[0]), (b"veh-1", raw(b"veh-1", seq=-1))]
        self.corpus = [section(records[i : i + n]) for n in (1, 2, 5, 8) for i in (0, 2, 4)]
        self.corpus += [batch(records, headers=[("x-attempt", b"1"), ("h", b"")])[HEADER.size :]]
        self.corpus += [
            case.make()[HEADER.size :] for case in BATCH_CASES if case.name.startswith(("record", "key"))
        ]
        self.corpus = [data for data in self.corpus if data]
        self._memory = GuardedMemory(1 + SIZE_MAX // 4096)
        self._scanner = RecordScanner(CLASSES, frames_max=3, refusals_max=2)

    def run(self, data: bytes) -> object:
        dice = zlib.crc32(data)
        count, base = 1 + dice % 9, 1000
        last, wanted_from = base + count - 1 + (dice >> 8) % 3, base + (dice >> 12) % 3
        part = Part(self._memory.view(data), 0, len(data), count, base, 0, last)
        found = []
        scanner = self._scanner
        scanner.learn = (lambda: None) if dice >> 16 & 1 else None  # it pauses, asks, learns nothing, goes on
        for frames, refusals in scanner.scan([part], wanted_from, TS_MIN, TS_MAX):
            for row in scanner.table[:frames].tolist():
                key, value = copy_bytes(row[F_ID_AT], row[F_ID_LEN]), copy_bytes(row[F_VALUE_AT], row[F_VALUE_LEN])
                found.append((row[F_OFFSET], "", key, value))
            for row in scanner.refusals[:refusals].tolist():
                key = copy_bytes(row[R_KEY_AT], row[R_KEY_LEN]) if row[R_KEY_LEN] >= 0 else None
                value = copy_bytes(row[R_VALUE_AT], row[R_VALUE_LEN]) if row[R_VALUE_LEN] >= 0 else None
                found.append((row[R_OFFSET], Reason(row[R_REASON]).code, key, value))
        found.sort(key=lambda record: record[0])
        wanted, stop = read_records(data, count, base, last, wanted_from, CONTRACT)
        assert found == wanted
        stops = [max(stop, wanted_from)] if stop is not None and max(stop, wanted_from) <= last else []
        assert [lost.first_offset for lost in scanner.unreadable] == stops
        numbers = attempts(part, [offset for offset, *_ in found])
        assert all(0 <= n <= 9999 for n in numbers)
        self.reasons.update(reason or "ok" for _, reason, *_ in found)
        self.reasons.update(["batch_corrupt"] * len(stops))
        return tuple(reason for _, reason, *_ in found), tuple(stops), any(numbers)


class ResponseTarget:
    """A whole fetch response: nothing raises, reading gets on, and parts lie within their buffers."""

    name = "responses"

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        some = [(b"veh-1", frame("veh-1", i, T0 + i)) for i in range(5)]
        whole = [batch(some, codec=number) for number in range(5)]
        control = bytearray(batch([(b"\0\0\0\0", b"\0\0\0\0\0\0")]))
        struct.pack_into(">h", control, 21, 0x30)
        struct.pack_into(">q", control, 43, 7)
        self.corpus = [*whole, whole[0] + whole[4], bytes(control) + whole[0], whole[2] + bytes(control)]
        self.corpus += [data for case in BATCH_CASES if len(data := case.make()) < 5000]
        self.corpus += [batch([(b"k", bytes(100_000))], codec=4), batch([(b"k", bytes(5000))], codec=2)]
        self._scanner = RecordScanner(CLASSES, frames_max=64, refusals_max=16)
        self._memory = GuardedMemory(1 + SIZE_MAX // 4096)

    def run(self, data: bytes) -> object:
        dice = zlib.crc32(data)
        data = _mended(data) if dice & 3 else data
        rawfetch._damage.clear()
        at, seen = (dice >> 4) % 4, []
        for _ in range(rawfetch.READS):
            response = RawPartitionRecords(
                TopicPartition("t", 0),
                self._memory.view(data),
                [(7, 0)] if dice & 16 else None,
                at,
                check_crcs=bool(dice & 32),
                committed_only=True,
            )
            for batches in response:
                assert batches.next_offset > batches.fetched_from == at
                assert batches.first_offset <= batches.last_offset < batches.next_offset
                seen += self._parts(batches)
                at = batches.next_offset
            assert response.next_fetch_offset == at
        self.reasons.update(seen or ["nothing"])
        return tuple(seen), len(data).bit_length()

    def _parts(self, batches: Any) -> list[str]:
        seen = []
        for part in batches.parts:
            seen.append(part.refused.code)
            assert 0 <= part.start <= part.end <= len(part.buffer)
            assert len(part.raw) > 0
        for frames, refusals in self._scanner.scan(batches.parts, batches.first_offset, TS_MIN, TS_MAX):
            seen += ["frames"] * (frames > 0)
            seen += sorted({Reason(int(row[R_REASON])).code for row in self._scanner.refusals[:refusals]})
        for lost in self._scanner.unreadable:
            assert lost.first_offset <= lost.last_offset
        return seen


def _mended(data: bytes) -> bytes:
    """Every batch's length and checksum put right, so that what lies behind them is reached."""
    out, at = bytearray(data), 0
    while len(out) - at > HEADER.size:
        (length,) = struct.unpack_from(">i", out, at + 8)
        if not HEADER.size - 12 <= length <= len(out) - at - 12:
            length = len(out) - at - 12
            struct.pack_into(">i", out, at + 8, length)
        end = at + 12 + length
        struct.pack_into(">I", out, at + 17, google_crc32c.value(bytes(out[at + 21 : end])))
        at = end
    return bytes(out)


class CodecTarget:
    """The four decompressors, through the bounded buffer: a small cap must hold."""

    name = "codecs"

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        plain = section([(b"veh-1", frame("veh-1", i, T0 + i)) for i in range(5)])
        packed = [bytes(getattr(cramjam, name).compress(plain)) for name in ("gzip", "lz4", "zstd")]
        packed.append(bytes(cramjam.snappy.compress_raw(plain)))
        self.corpus = [bytes([i]) + data for i, data in enumerate((*packed, *packed))]
        self.corpus += [b"\x02" + bytes(cramjam.zstd.compress(bytes(10_000_000)))]
        self.corpus += [b"\x00" + bytes(cramjam.gzip.compress(bytes(1_000_000)))]

    def run(self, data: bytes) -> object:
        from streams.transport.decompress import UnreadableBatchError, decompress

        kind = (1, 3, 4, 2)[data[0] & 3] if data else 5
        cap = 4096
        try:
            size = len(decompress(kind, memoryview(data)[1:], cap))
            assert size <= cap
            outcome = "ok"
        except UnreadableBatchError as error:
            outcome, size = error.reason.code, 0
        self.reasons[outcome] += 1
        return kind, outcome, size.bit_length()


TARGETS = {target.name: target for target in (FrameTarget, RecordTarget, ResponseTarget, CodecTarget)}
