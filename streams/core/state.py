"""Device state to changelog records and back. The rule: a row written under another state id is never read as ours.

The changelog's key is the device id, its partition the input's, its value an Avro StateRow: as of one input
offset, all that is known of the device.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

import fastavro
import numpy as np
from numpy.typing import NDArray

from streams.core.core import OWNER_SHIFT, Core
from streams.core.devices import D_OFFSET, D_OWNER, DEVICE_WORDS
from streams.core.effects import Message
from streams.core.engine import Engine
from telemetry import schemas
from telemetry.codec import zigzag

log = logging.getLogger("fleetwatch.state")

_PARTITION_MASK = (1 << OWNER_SHIFT) - 1


def _text(value: str) -> bytes:
    data = value.encode()
    return zigzag(len(data)) + data


def pack(engine: Engine, slots: NDArray[np.int32]) -> list[Message]:
    """One changelog record for each of these slots."""
    if len(slots) == 0:
        return []
    rows, bank = engine.snapshot(slots), engine.snapshot_bank(slots)
    has_bank = np.any(bank, axis=1) if bank.shape[1] else np.zeros(len(slots), np.bool_)
    width, bank_width = rows.shape[1], bank.shape[1]
    data, bank_data = rows.tobytes(), bank.tobytes()
    head = schemas.header("state_row")
    middle = _text(engine.catalog.key) + _text(engine.state_id)
    row_len, bank_len = zigzag(width), zigzag(bank_width)
    device = engine.devices.rows[slots]
    offsets = device[:, D_OFFSET].tolist()
    partitions = (device[:, D_OWNER] & _PARTITION_MASK).tolist()
    messages: list[Message] = []
    for i, key in enumerate(engine.devices.keys(slots)):
        tail = bank_len + bank_data[i * bank_width : (i + 1) * bank_width] if has_bank[i] else b"\x00"
        value = b"".join(
            (head, zigzag(len(key)), key, middle, zigzag(offsets[i]), row_len,
             data[i * width : (i + 1) * width], tail)
        )  # fmt: skip
        messages.append({"key": key, "value": value, "partition": partitions[i]})
    return messages


def dirty_rows(core: Core) -> list[Message]:
    """Changelog records of every device that changed since the last call, which marks them clean."""
    messages: list[Message] = []
    for engine in core.engines.values():
        slots = engine.devices.dirty()
        messages += pack(engine, slots)
        engine.devices.mark_clean(slots)
    return messages


@dataclass(slots=True)
class Restored:
    """What a restore found. set_aside : rows of another state id or an unknown catalogue entry, by that name."""

    devices: int = 0
    records: int = 0
    set_aside: dict[str, int] = field(default_factory=dict)


def load(core: Core, values: Iterable[bytes], wanted_owners: set[int]) -> Restored:
    """Adopt the newest row of each device of the wanted input partitions.

    Parameters
    ----------
    values : StateRow messages, one a device, newest only.
    wanted_owners : rows of other owners are passed over: one changelog partition serves two input topics.
    """
    found = Restored()
    schema, header = schemas.parsed("state_row"), schemas.header("state_row")
    by_class: dict[str, list[tuple[bytes, bytes]]] = {}
    for value in values:
        found.records += 1
        if value[:10] != header:
            found.set_aside["schema"] = found.set_aside.get("schema", 0) + 1
            continue
        stream = io.BytesIO(value)
        stream.seek(10)
        record = fastavro.schemaless_reader(stream, schema, None)
        assert isinstance(record, dict)
        catalog_key = record["catalog"]
        if catalog_key not in core.catalogs:
            found.set_aside[catalog_key] = found.set_aside.get(catalog_key, 0) + 1
            continue
        engine = core.engine(catalog_key)
        row = record["row"]
        if record["state_id"] != engine.state_id or len(row) != engine.row_nbytes:
            name = f"{catalog_key} state {record['state_id']}"
            found.set_aside[name] = found.set_aside.get(name, 0) + 1
            continue
        owner = int.from_bytes(row[8 * D_OWNER : 8 * D_OWNER + 8], "little", signed=True)
        if owner in wanted_owners:
            by_class.setdefault(catalog_key, []).append((row, record["bank"]))
    for catalog_key, pairs in by_class.items():
        _adopt(core.engine(catalog_key), pairs)
        found.devices += len(pairs)
    if found.set_aside:
        log.warning("state rows set aside, their devices start anew: %s", found.set_aside)
    return found


def _adopt(engine: Engine, pairs: list[tuple[bytes, bytes]]) -> None:
    n, width = len(pairs), engine.row_nbytes
    rows = np.frombuffer(b"".join(row for row, _ in pairs), np.uint8).reshape(n, width)
    bank_width = sum(detector.state_nbytes for detector in engine.bank)
    has_bank = np.array([len(bank) == bank_width > 0 for _, bank in pairs], np.bool_)
    bank = np.zeros((n, bank_width), np.uint8)
    if has_bank.any():
        joined = b"".join(bank_row for (_, bank_row), has in zip(pairs, has_bank, strict=True) if has)
        bank[has_bank] = np.frombuffer(joined, np.uint8).reshape(-1, bank_width)
    assert engine.row_nbytes >= 8 * DEVICE_WORDS
    engine.restore(rows, bank, has_bank)
