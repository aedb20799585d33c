"""The compiled frame decoder reads what fastavro writes, and refuses what fastavro refuses."""

import io

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry import catalog, codec, schemas
from telemetry.framescan import (
    F_CLASS,
    F_ID_AT,
    F_ID_LEN,
    F_PERIOD,
    F_SEQ,
    F_STEPS,
    F_TS,
    F_VALUES_AT,
    FRAME_COLUMNS,
    ClassTable,
    gather_values,
    scan_values,
)
from telemetry.rawmem import address, copy_bytes
from telemetry.reasons import Reason

CATALOGS = catalog.load()
CLASSES = ClassTable(CATALOGS)
KEY = "bench.frames/1"
TS_MAX = 1 << 62


def scan(values: list[bytes]) -> tuple[np.ndarray, list[Reason], bytes]:
    joined = b"".join(values)
    lengths = np.array([len(v) for v in values], np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    table = np.zeros((len(values), FRAME_COLUMNS), np.int64)
    reasons = np.zeros(len(values), np.uint8)
    scan_values(address(joined), starts, lengths, CLASSES.array, 0, TS_MAX, table, reasons)
    return table, [Reason(int(r)) for r in reasons], joined


def blocks(values: np.ndarray, cuts: list[int], *, sized: bool) -> bytes:
    """An Avro array of several blocks, each with its size in bytes or without: both are standard."""
    out = b""
    for piece in np.split(values.ravel(), sorted({c % (values.size + 1) for c in cuts})):
        if piece.size:
            count = codec.zigzag(-piece.size) + codec.zigzag(4 * piece.size) if sized else codec.zigzag(piece.size)
            out += count + piece.astype("<f4").tobytes()
    return out + b"\0"


ids = st.text("abcXYZ019._:-", min_size=1, max_size=64)
frames = st.builds(
    codec.Frame,
    device_id=ids,
    catalog=st.just(KEY),
    seq=st.integers(0, 2**62),
    ts_us=st.integers(0, 253_402_300_000_000_000),
    period_us=st.integers(1, 2**31 - 1),
    values=st.integers(1, 8).flatmap(
        lambda steps: st.lists(st.floats(width=32), min_size=10 * steps, max_size=10 * steps).map(
            lambda v: np.array(v, np.float32).reshape(-1, 10)
        )
    ),
)


def as_read(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan).astype(np.float32)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(frames, min_size=1, max_size=8))
def test_reads_what_fastavro_writes(sent):
    values = []
    for frame in sent:
        record = {
            "device_id": frame.device_id,
            "catalog": frame.catalog,
            "seq": frame.seq,
            "ts": frame.ts_us,
            "period_us": frame.period_us,
            "values": frame.values.ravel().tolist(),
        }
        by_fastavro = codec.encode("frame", record)
        assert codec.encode_frame(frame) == by_fastavro
        values.append(by_fastavro)
    table, reasons, joined = scan(values)
    assert set(reasons) == {Reason.OK}
    for row, frame, value in zip(table, sent, values, strict=True):
        again = codec.decode_frame(value, 10)
        assert CLASSES.keys[row[F_CLASS]] == frame.catalog == again.catalog
        assert copy_bytes(int(row[F_ID_AT]), int(row[F_ID_LEN])).decode() == again.device_id
        assert (row[F_SEQ], row[F_TS], row[F_PERIOD]) == (again.seq, again.ts_us, again.period_us)
        assert row[F_STEPS] == len(again.values)
        out = np.zeros(again.values.size, np.float32)
        gather_values(int(row[F_VALUES_AT]), out.size, out.view(np.uint32))
        np.testing.assert_array_equal(out, as_read(again.values).ravel())
    assert joined


@settings(max_examples=100, deadline=None, derandomize=True)
@given(frames, st.lists(st.integers(0, 1000), max_size=4), st.booleans())
def test_arrays_of_many_blocks(frame, cuts, sized):
    whole = codec.encode_frame(frame)
    head = whole[: len(whole) - frame.values.size * 4 - 1 - len(codec.zigzag(frame.values.size))]
    value = head + blocks(frame.values, cuts, sized=sized)
    assert codec.decode_frame(value, 10).seq == frame.seq
    table, reasons, joined = scan([value])
    assert reasons == [Reason.OK]
    out = np.zeros(frame.values.size, np.float32)
    gather_values(int(table[0, F_VALUES_AT]), out.size, out.view(np.uint32))
    np.testing.assert_array_equal(out, as_read(frame.values).ravel())
    assert joined


def test_fuzzed_bytes_never_pass_where_fastavro_refuses():
    rng = np.random.default_rng(20)
    good = [
        codec.encode_frame(
            codec.Frame(f"veh-{i}", KEY, i, 10**15 + i, 1000, rng.normal(size=(3, 10)).astype(np.float32))
        )
        for i in range(50)
    ]
    mutants = []
    for i in range(20_000):
        value = bytearray(good[i % len(good)])
        if i % 3 == 0:
            value = value[: rng.integers(0, len(value))]
        for _ in range(int(rng.integers(1, 4)) if len(value) else 0):
            value[rng.integers(0, len(value))] = rng.integers(0, 256)
        if i % 7 == 0:
            value += bytes(rng.integers(0, 256, int(rng.integers(1, 5)), dtype=np.uint8))
        mutants.append(bytes(value))
    _, reasons, _ = scan(mutants)
    accepted = [m for m, r in zip(mutants, reasons, strict=True) if r is Reason.OK]
    assert 0 < len(accepted) < len(mutants)
    for value in accepted:
        codec.decode_frame(value, 10)
    refused = {r for r in reasons if r is not Reason.OK}
    assert {Reason.AVRO_TRUNCATED, Reason.BAD_HEADER, Reason.UNKNOWN_FINGERPRINT, Reason.AVRO_LENGTH} <= refused


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"device_id": ""}, Reason.BAD_DEVICE_ID),
        ({"device_id": "x" * 65}, Reason.BAD_DEVICE_ID),
        ({"device_id": "a b"}, Reason.BAD_DEVICE_ID),
        ({"catalog": "vehicle.unknown/1"}, Reason.UNKNOWN_CATALOG),
        ({"catalog": "c" * 300}, Reason.UNKNOWN_CATALOG),
        ({"seq": -1}, Reason.BAD_SEQ),
        ({"ts": -5}, Reason.ABSURD_TIME),
        ({"ts": TS_MAX + 1}, Reason.ABSURD_TIME),
        ({"period_us": -1}, Reason.BAD_PERIOD),
        ({"period_us": 0}, Reason.BAD_PERIOD),
        ({"values": [1.0] * 19}, Reason.WRONG_COLUMN_COUNT),
        ({"values": []}, Reason.WRONG_COLUMN_COUNT),
        ({"values": [0.0] * 17_000}, Reason.TOO_LARGE),
    ],
)
def test_each_refusal_has_its_reason(change, reason):
    record = {
        "device_id": "veh-1",
        "catalog": KEY,
        "seq": 1,
        "ts": 10**15,
        "period_us": 1000,
        "values": [1.0] * 20,
    } | change
    assert scan([codec.encode("frame", record)])[1] == [reason]


def test_golden_bytes():
    """A frame of this schema reads the same for ever: the fingerprint and the bytes are the contract."""
    frame = codec.Frame("veh-1", KEY, 3, 1_760_000_000_000_001, 100_000, np.arange(10, dtype=np.float32)[None])
    golden = (
        "c30159ee33ea0a03d6930a7665682d311c62656e63682e6672616d65732f31068280f0ecbdada006c09a0c14"
        "000000000000803f0000004000004040000080400000a0400000c0400000e040000000410000104100"
    )
    assert codec.encode_frame(frame).hex() == golden
    assert codec.decode_frame(bytes.fromhex(golden), 10).seq == 3


def test_schemas_are_safe_and_stable():
    for name in schemas.NAMES:
        assert schemas.lint(schemas.raw(name)) == []
    assert schemas.lint({"type": "record", "name": "R", "fields": [{"name": "next", "type": ["null", "R"]}]})
    bomb = {"type": "record", "name": "B", "fields": [{"name": "a", "type": {"type": "array", "items": "null"}}]}
    assert schemas.lint(bomb)
    stream = io.BytesIO(codec.encode_frame(codec.Frame("d", KEY, 0, 1, 1, np.ones((1, 10), np.float32)))[10:])
    assert fastavro.schemaless_reader(stream, schemas.parsed("frame"), None)["device_id"] == "d"
