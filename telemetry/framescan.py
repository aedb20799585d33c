"""The compiled frame decoder. The rule: total and bounded; any bytes give one frame or one reason, never more.

It reads standard Avro (`telemetry.codec` writes it, any Avro library may) without making a Python object:
`scan_frame` checks a value completely and writes where its parts are into a row of the frame table. The
values stay where they are; `copy_values` fetches them, from one Avro block or many. The order and types of the
fields are those of the writer's schema, which its header names: `telemetry.schemas.plan` makes the steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from telemetry import schemas
from telemetry.catalog import CatalogSet
from telemetry.codec import FRAME_BYTES_MAX
from telemetry.rawmem import INLINE, load_u8, load_u32, load_u64, read_zigzag
from telemetry.reasons import Reason
from telemetry.schemas.plan import (
    ARGUMENT,
    FETCH_CATALOG,
    FETCH_ID,
    FETCH_PERIOD,
    FETCH_SEQ,
    FETCH_TS,
    FETCH_VALUES,
    SKIP_BYTES,
    SKIP_FIXED,
    SKIP_INT,
    SKIP_UNION,
    STEPS_MAX,
    plan_of,
)

# Columns of the frame table, int64 (n, FRAME_COLUMNS). *_AT are memory addresses.
F_CLASS, F_ID_AT, F_ID_LEN, F_SEQ, F_TS, F_PERIOD, F_VALUES_AT, F_STEPS = range(8)
F_OFFSET, F_RECORD_TS, F_VALUE_AT, F_VALUE_LEN = range(8, 12)
FRAME_COLUMNS = 12

#: Parts of a float32's bits: all of the exponent set = infinite or NaN.
_EXPONENT, _MAGNITUDE, _NAN = np.uint32(0x7F800000), np.uint32(0x7FFFFFFF), np.uint32(0x7FC00000)

ID_MAX = 64
CATALOG_MAX = 64
PERIOD_US_MAX = 1 << 31

_BAD_HEADER = int(Reason.BAD_HEADER)
_UNKNOWN_FINGERPRINT = int(Reason.UNKNOWN_FINGERPRINT)
_TRUNCATED = int(Reason.AVRO_TRUNCATED)
_VARINT = int(Reason.AVRO_VARINT)
_LENGTH = int(Reason.AVRO_LENGTH)
_TRAILING = int(Reason.AVRO_TRAILING)
_BAD_ID = int(Reason.BAD_DEVICE_ID)
_CATALOG = int(Reason.UNKNOWN_CATALOG)
_COLUMNS = int(Reason.WRONG_COLUMN_COUNT)
_TIME = int(Reason.ABSURD_TIME)
_PERIOD = int(Reason.BAD_PERIOD)
_SEQ = int(Reason.BAD_SEQ)
_NULL = int(Reason.NULL_VALUE)
_LARGE = int(Reason.TOO_LARGE)

#: Which bytes a device id may hold.
ID_BYTES = np.zeros(256, np.bool_)
ID_BYTES[[ord(c) for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-"]] = True


# Row 0 of a class table, and a writer's row: its header's word, the number of steps, the steps.
N_CLASSES, N_SINGLE, N_FRAMED, FRAMED = range(4)
W_WORD, W_STEPS, W_PLAN = range(3)
_WIDTH = W_PLAN + STEPS_MAX
_KIND_MASK = (1 << ARGUMENT) - 1


class ClassTable:
    """The catalogue entries that frames may name and the schemas that they may be written with, for the decoder.

    keys : the entries in class order (``vehicle.ev/1``).
    framed : headers of the Confluent wire format are looked up; without it they are no headers.
    array : int64 (1 + n + m, _WIDTH): row 0 = [n, m of single-object headers, m of Confluent headers, framed];
        row 1+c = [length, signals, 8 words of name]; row 1+n+w = a writer's word and plan.
    """

    def __init__(
        self,
        catalogs: CatalogSet,
        keys: tuple[str, ...] | None = None,
        writers: Mapping[bytes, tuple[int, ...]] | None = None,
        *,
        framed: bool = False,
    ) -> None:
        self._framed = framed
        self.keys = tuple(sorted(catalogs)) if keys is None else keys
        self._classes = np.zeros((len(self.keys), _WIDTH), np.int64)
        for c, key in enumerate(self.keys):
            name = key.encode()
            assert len(name) < CATALOG_MAX
            self._classes[c, 0] = len(name)
            self._classes[c, 1] = len(catalogs[key].signals)
            self._classes[c, 2:10] = np.frombuffer(name.ljust(64, b"\0"), "<i8")
        self.accept(released_frames() if writers is None else writers)

    def accept(self, writers: Mapping[bytes, tuple[int, ...]]) -> None:
        """Take these writers' schemas, by header, in the place of those accepted so far; likeliest first.

        Parameters
        ----------
        writers : header (10 bytes of single-object encoding, or 5 of the Confluent wire format) -> plan.
        """
        rows: dict[bool, list[list[int]]] = {True: [], False: []}
        for header, plan in writers.items():
            single = header[:2] == schemas.SINGLE_OBJECT_MARKER
            word = int.from_bytes(header[2:10] if single else header[1:5], "little", signed=single)
            rows[single].append([word, len(plan), *plan, *[0] * (STEPS_MAX - len(plan))])
        head = [len(self.keys), len(rows[True]), len(rows[False]), int(self._framed)]
        table = [[*head, *[0] * (_WIDTH - len(head))]]
        self.array = np.vstack([np.array(table, np.int64), self._classes])
        if writers:
            self.array = np.vstack([self.array, np.array(rows[True] + rows[False], np.int64)])


def released_frames() -> dict[bytes, tuple[int, ...]]:
    """Header and plan of every frame schema that was released, newest first."""
    return {version.header: plan_of(version.schema) for version in reversed(schemas.versions("frame"))}


@njit(**INLINE)
def load_tail(p: int, n: int, end: int) -> Any:
    """The n < 8 bytes at p as the low bytes of a word, the others 0. Reads nothing at or after `end`."""
    if end - p >= 8:
        return load_u64(p) & ((np.uint64(1) << np.uint64(8 * n)) - np.uint64(1))
    word = np.uint64(0)
    for i in range(n):
        word |= np.uint64(load_u8(p + i)) << np.uint64(8 * i)
    return word


@njit(**INLINE)
def _class_of(p: int, n: int, end: int, classes: NDArray[np.int64]) -> int:
    """Index of the catalogue entry whose name is the n <= CATALOG_MAX bytes at p, or -1."""
    full = n >> 3
    tail = load_tail(p + 8 * full, n & 7, end)
    for c in range(1, 1 + classes[0, 0]):
        if classes[c, 0] == n and np.uint64(classes[c, 2 + full]) == tail:
            w = 0
            while w < full and load_u64(p + 8 * w) == np.uint64(classes[c, 2 + w]):
                w += 1
            if w == full:
                return c - 1
    return -1


@njit(**INLINE)
def valid_id(p: int, n: int) -> bool:
    """Whether the n bytes at address p are all allowed in a device id."""
    for i in range(n):  # noqa: SIM110 - compiled
        if not ID_BYTES[load_u8(p + i)]:
            return False
    return True


@njit(**INLINE)
def _why(code: int) -> int:
    return _TRUNCATED if code == -1 else _VARINT


@njit(**INLINE)
def _values(p: int, end: int) -> tuple[int, int, int]:
    """Walk the array's blocks. Returns (reason, number of values, next address)."""
    total = 0
    while True:
        count, p = read_zigzag(p, end)
        if p < 0:
            return _why(p), 0, p
        if count == 0:
            return 0, total, p
        if count < 0:  # a block with its size in bytes, which Avro allows
            size, p = read_zigzag(p, end)
            if p < 0:
                return _why(p), 0, p
            count = -count
            if count < 0 or count > FRAME_BYTES_MAX or size != 4 * count:
                return _LENGTH, 0, p
        if count > (end - p) >> 2:
            return _LENGTH, 0, p
        total += count
        p += 4 * count


@njit(**INLINE)
def _writer_of(p: int, length: int, classes: NDArray[np.int64]) -> tuple[int, int]:
    """The table's row of the schema that the header at p names, and the header's length; or minus a reason, 0."""
    first = 1 + classes[0, N_CLASSES]
    singles = classes[0, N_SINGLE]
    if length >= 10 and load_u8(p) == 0xC3 and load_u8(p + 1) == 0x01:
        word = np.int64(load_u64(p + 2))
        for w in range(first, first + singles):
            if classes[w, W_WORD] == word:
                return w, 10
        return -_UNKNOWN_FINGERPRINT, 0
    framed = classes[0, N_FRAMED]
    if classes[0, FRAMED] and length >= 5 and load_u8(p) == 0x00:
        word = np.int64(load_u32(p + 1))
        for w in range(first + singles, first + singles + framed):
            if classes[w, W_WORD] == word:
                return w, 5
        return -_UNKNOWN_FINGERPRINT, 0
    return -_BAD_HEADER, 0


@njit(**INLINE)
def _skip(step: int, p: int, end: int) -> int:
    """Pass over one value of a plain type at p. Returns the next address, or minus a reason."""
    kind = step & _KIND_MASK
    if kind == SKIP_FIXED:
        n = step >> ARGUMENT
        return p + n if n <= end - p else -_TRUNCATED
    n, p = read_zigzag(p, end)
    if p < 0:
        return -_why(p)
    if kind == SKIP_BYTES:
        return p + n if 0 <= n <= end - p else -_LENGTH
    if kind == SKIP_INT and (n < -(1 << 31) or n >= 1 << 31):
        return -_VARINT
    return p


@njit(**INLINE)
def scan_frame(
    p: int,
    length: int,
    classes: NDArray[np.int64],
    ts_min_us: int,
    ts_max_us: int,
    row: int,
    table: NDArray[np.int64],
) -> int:
    """Check the `length` bytes at address p as one frame and fill table[row] from F_CLASS to F_STEPS.

    Returns a `Reason`. length < 0 means a null value. Event time must lie in [ts_min_us, ts_max_us].
    The id's bytes are not looked at: `valid_id` does that once a device, not once a frame.
    """
    if length < 0:
        return _NULL
    if length > FRAME_BYTES_MAX:
        return _LARGE
    end = p + length
    writer, n = _writer_of(p, length, classes)
    if writer < 0:
        return -writer
    p += n
    entry = -1
    id_at = id_len = seq = ts = period = values_at = count = 0
    i = W_PLAN
    last = W_PLAN + classes[writer, W_STEPS]
    while i < last:
        step = classes[writer, i]
        i += 1
        kind = step & _KIND_MASK
        if kind <= FETCH_CATALOG:
            n, p = read_zigzag(p, end)
            if p < 0:
                return _why(p)
            if n < 0 or n > end - p:
                return _LENGTH
            if kind == FETCH_ID:
                if n == 0 or n > ID_MAX:
                    return _BAD_ID
                id_at = p
                id_len = n
            else:
                entry = _class_of(p, n, end, classes) if n < CATALOG_MAX else -1
            p += n
        elif kind <= FETCH_PERIOD:
            n, p = read_zigzag(p, end)
            if p < 0:
                return _why(p)
            if kind == FETCH_SEQ:
                seq = n
            elif kind == FETCH_TS:
                ts = n
            else:
                if n < -PERIOD_US_MAX or n >= PERIOD_US_MAX:
                    return _VARINT  # not an Avro int
                period = n
        elif kind == FETCH_VALUES:
            values_at = p
            reason, count, p = _values(p, end)
            if reason:
                return reason
        else:
            if kind == SKIP_UNION:
                n, p = read_zigzag(p, end)
                if p < 0:
                    return _why(p)
                branches = step >> ARGUMENT
                if n < 0 or n >= branches:
                    return _LENGTH
                step = classes[writer, i + n]
                i += branches
            p = _skip(step, p, end)
            if p < 0:
                return -p
    if p != end:
        return _TRAILING
    if entry < 0:
        return _CATALOG
    if seq < 0:
        return _SEQ
    signals = classes[1 + entry, 1]
    steps = count // signals
    if count == 0 or steps * signals != count:
        return _COLUMNS
    if period < 0 or (period == 0 and steps > 1):
        return _PERIOD
    if ts < ts_min_us or ts > ts_max_us or period * (steps - 1) > ts_max_us - ts:
        return _TIME
    table[row, F_CLASS] = entry
    table[row, F_ID_AT] = id_at
    table[row, F_ID_LEN] = id_len
    table[row, F_SEQ] = seq
    table[row, F_TS] = ts
    table[row, F_PERIOD] = period
    table[row, F_VALUES_AT] = values_at
    table[row, F_STEPS] = steps
    return 0


@njit(**INLINE)
def copy_values(p: int, total: int, out: NDArray[np.uint32], first: int) -> Any:
    """Copy the `total` values of a scanned array at address p to out[first:], the bits of flat float32 values.

    Infinite values become NaN. Returns how many did. Whole words are copied and tested: that vectorises, which a
    test of floats that counts does not.
    """
    done = 0
    odd = np.uint32(0)
    limit = np.int64(1) << 62
    while done < total:
        count, p = read_zigzag(p, limit)
        if count < 0:
            _, p = read_zigzag(p, limit)
            count = -count
        for i in range(count):
            bits = load_u32(p + 4 * i)
            odd |= np.uint32((bits & _EXPONENT) == _EXPONENT)
            out[first + done + i] = bits
        done += count
        p += 4 * count
    bad = np.int64(0)
    if odd:
        for i in range(first, first + total):
            if out[i] & _MAGNITUDE == _EXPONENT:
                out[i] = _NAN
                bad += 1
    return bad


@njit(cache=True, error_model="numpy", nogil=True)
def scan_values(
    base: int,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    classes: NDArray[np.int64],
    ts_min_us: int,
    ts_max_us: int,
    table: NDArray[np.int64],
    reasons: NDArray[np.uint8],
) -> None:
    """Scan n values in one buffer at address `base`; length -1 = null. One row and one reason each."""
    for i in range(len(starts)):
        reason = scan_frame(base + starts[i], lengths[i], classes, ts_min_us, ts_max_us, i, table)
        if reason == 0 and not valid_id(table[i, F_ID_AT], table[i, F_ID_LEN]):
            reason = _BAD_ID
        reasons[i] = reason


@njit(cache=True, error_model="numpy", nogil=True)
def gather_values(at: int, total: int, out: NDArray[np.uint32]) -> int:
    """`copy_values` for callers outside compiled code."""
    return copy_values(at, total, out, 0)
