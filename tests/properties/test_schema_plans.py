"""Frames of other schema versions: the compiled decoder reads what Avro's resolution by fastavro reads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from schema_versions import BOOT_ID, EXTRAS, header_of, with_fields, write

from telemetry import catalog, codec, registry, schemas
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
from telemetry.schemas import SchemaRefusedError
from telemetry.schemas.book import SchemaBook
from telemetry.schemas.plan import STEPS_MAX, plan_of

CATALOGS = catalog.load()
KEY = "bench.frames/1"
RECORD = {
    "device_id": "veh-1",
    "catalog": KEY,
    "seq": 7,
    "ts": 1_760_000_000_000_001,
    "period_us": 100_000,
    "values": [float(i) for i in range(20)],
}


def scan(values: list[bytes], book: SchemaBook, *, framed: bool = True) -> tuple[np.ndarray, list[Reason], bytes]:
    classes = ClassTable(CATALOGS, writers=book.frames(), framed=framed)
    joined = b"".join(values)
    lengths = np.array([len(v) for v in values], np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    table = np.zeros((len(values), FRAME_COLUMNS), np.int64)
    reasons = np.zeros(len(values), np.uint8)
    scan_values(address(joined), starts, lengths, classes.array, 0, 1 << 62, table, reasons)
    return table, [Reason(int(r)) for r in reasons], joined


def assert_reads(row: np.ndarray, record: dict) -> None:
    assert sorted(CATALOGS)[row[F_CLASS]] == record["catalog"]
    assert copy_bytes(int(row[F_ID_AT]), int(row[F_ID_LEN])).decode() == record["device_id"]
    assert (row[F_SEQ], row[F_TS], row[F_PERIOD]) == (record["seq"], record["ts"], record["period_us"])
    out = np.zeros(len(record["values"]), np.float32)
    assert row[F_STEPS] * 10 == out.size
    gather_values(int(row[F_VALUES_AT]), out.size, out.view(np.uint32))
    np.testing.assert_array_equal(out, np.array(record["values"], np.float32))


@st.composite
def versions(draw):
    """A schema with some added fields in any order, and a record of it."""
    chosen = draw(st.lists(st.sampled_from(range(len(EXTRAS))), unique=True, max_size=6))
    schema = with_fields((EXTRAS[i][0] for i in chosen), draw(st.none() | st.integers(0, 100)))
    extra = {EXTRAS[i][0]["name"]: draw(st.sampled_from(EXTRAS[i][1])) for i in chosen}
    record = RECORD | {
        "device_id": draw(st.text("abcXYZ019._:-", min_size=1, max_size=64)),
        "seq": draw(st.integers(0, 2**62)),
        "ts": draw(st.integers(0, 253_402_300_000_000_000)),
        "values": draw(st.lists(st.floats(-1e6, 1e6, width=32), min_size=10, max_size=10)),
    }
    return schema, record | extra, record


@given(versions(), st.booleans())
def test_any_version_is_read_as_avro_resolves_it(version, framed):
    schema, written, wanted = version
    header = registry.header(2**31 + 5) if framed else header_of(schema)
    book = SchemaBook()
    book.add(header, schema, "test")
    value = write(schema, written, header)
    assert book.decode("frame", value) == wanted
    table, reasons, joined = scan([value, codec.encode("frame", wanted)], book)
    assert reasons == [Reason.OK, Reason.OK]
    assert_reads(table[0], wanted)
    assert_reads(table[1], wanted)
    assert joined


def test_damaged_bytes_never_pass_where_fastavro_refuses():
    rng = np.random.default_rng(13)
    book = SchemaBook()
    good = []
    for number in range(12):
        chosen = rng.permutation(len(EXTRAS))[: rng.integers(1, 8)]
        schema = with_fields((EXTRAS[i][0] for i in chosen), number)
        header = registry.header(number) if number % 2 else header_of(schema)
        book.add(header, schema, "test")
        extra = {EXTRAS[i][0]["name"]: EXTRAS[i][1][-1] for i in chosen}
        good.append(write(schema, RECORD | extra, header))
    mutants = [value[:n] for value in good for n in range(len(value))]
    prefixes = len(mutants)
    for i in range(20_000):
        value = bytearray(good[i % len(good)])
        for _ in range(int(rng.integers(1, 4))):
            value[rng.integers(0, len(value))] = rng.integers(0, 256)
        mutants.append(bytes(value))
    _, reasons, _ = scan(mutants, book)
    assert Reason.OK not in reasons[:prefixes]
    accepted = [m for m, r in zip(mutants, reasons, strict=True) if r is Reason.OK]
    assert 0 < len(accepted) < len(mutants)
    for value in accepted:
        book.decode("frame", value)
    seen = set(reasons)
    assert {Reason.AVRO_TRUNCATED, Reason.AVRO_LENGTH, Reason.AVRO_TRAILING, Reason.UNKNOWN_FINGERPRINT} <= seen


def test_a_schema_is_read_only_once_it_is_accepted():
    schema = with_fields([BOOT_ID])
    value = write(schema, RECORD | {"boot_id": 9})
    framed = write(schema, RECORD | {"boot_id": 9}, registry.header(3))
    assert scan([value, framed], SchemaBook())[1] == [Reason.UNKNOWN_FINGERPRINT] * 2
    assert scan([framed], SchemaBook(), framed=False)[1] == [Reason.BAD_HEADER]
    with pytest.raises(codec.RefusedError) as refused:
        codec.decode("frame", value)
    assert refused.value.reason is Reason.UNKNOWN_FINGERPRINT
    book = SchemaBook()
    book.add(header_of(schema), schema, "test")
    book.add(registry.header(4), schema, "test")
    assert scan([value, framed], book)[1] == [Reason.OK, Reason.UNKNOWN_FINGERPRINT]


def test_a_table_takes_a_new_schema_while_it_is_in_use():
    schema = with_fields([BOOT_ID])
    classes = ClassTable(CATALOGS)
    before = classes.array
    book = SchemaBook()
    book.add(header_of(schema), schema, "test")
    classes.accept(book.frames())
    assert len(classes.array) == len(before) + 1
    np.testing.assert_array_equal(classes.array[1 : len(before)], before[1:])


def changed(name: str, /, **changes: object) -> dict:
    """The frame schema with one field's entries changed."""
    schema = with_fields([])
    schema["fields"] = [f | changes if f["name"] == name else f for f in schema["fields"]]
    return schema


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (changed("ts", type={"type": "long", "logicalType": "timestamp-millis"}), "timestamp-millis"),
        (changed("ts", type="long"), "long cannot be read as long .timestamp-micros"),
        (changed("seq", type="string"), "string cannot be read as long"),
        (changed("period_us", type="long"), "long cannot be read as int"),
        (changed("values", type={"type": "array", "items": "double"}), "array of float"),
        (changed("values", name="columns"), "array"),
        (changed("seq", name="number"), "seq missing"),
        (with_fields([{"name": "tags", "type": {"type": "map", "values": "string"}, "default": {}}]), "map"),
        (with_fields([{"name": "u", "type": ["null", {"type": "array", "items": "int"}]}]), "array"),
        (with_fields([{"name": f"x{i}", "type": "int", "default": 0} for i in range(STEPS_MAX)]), "at most"),
        (with_fields([{"name": "f", "type": {"type": "fixed", "name": "F", "size": 5000}}]), "5000 bytes"),
    ],
)
def test_what_cannot_be_read_within_bounds_is_refused_with_its_field(schema, message):
    with pytest.raises(SchemaRefusedError, match=message):
        plan_of(schema)


def test_every_released_frame_has_a_plan():
    for version in schemas.versions("frame"):
        assert len(plan_of(version.schema)) >= 6
