"""Device state to changelog records and back. The rule: bytes are read by what wrote them, or set aside.

The changelog's key is the device id, its partition the input's, its value an Avro StateRow: as of one input
offset, all that is known of the device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streams.core.core import Core
from streams.core.device_index import D_KEY_LEN
from streams.core.devices import D_OFFSET, D_OWNER, PARTITION_MASK
from streams.core.effects import Message
from streams.core.engine import Engine
from streams.core.layout import Layout
from streams.core.staterow import Splitter, text
from telemetry import codec, schemas
from telemetry.codec import zigzag
from telemetry.framescan import ID_MAX


def pack(engine: Engine, slots: NDArray[np.int32]) -> list[Message]:
    """One changelog record for each of these slots."""
    if len(slots) == 0:
        return []
    rows, bank = engine.snapshot(slots), engine.snapshot_bank(slots)
    has_bank = np.any(bank, axis=1) if bank.shape[1] else np.zeros(len(slots), np.bool_)
    width, bank_width = rows.shape[1], bank.shape[1]
    data, bank_data = rows.tobytes(), bank.tobytes()
    head = schemas.header("state_row")
    middle = text(engine.catalog.key) + text(engine.state_id)
    row_len, bank_len = zigzag(width), zigzag(bank_width)
    device = engine.devices.rows[slots]
    offsets = device[:, D_OFFSET].tolist()
    partitions = (device[:, D_OWNER] & PARTITION_MASK).tolist()
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
    """What a restore found, by count.

    rows : that were taken, of a device perhaps several. set_aside : rows that were not ours to read, by why.
    migrated : rows of another layout whose common pieces were taken. ends : of the changelog partitions that were
        read, as of the restore's beginning.
    """

    rows: int = 0
    records: int = 0
    migrated: int = 0
    set_aside: Counter[str] = field(default_factory=Counter)
    ends: dict[int, int] = field(default_factory=dict)


#: (row, bank) of each device, by class and layout: (catalogue entry, state id).
Rows = dict[tuple[str, str], list[tuple[bytes, bytes]]]


def sort(
    catalogs: Container[str], values: Iterable[bytes], owners: Container[int], found: Restored, splitter: Splitter
) -> Rows:
    """Take StateRow messages apart; touches nothing of a core.

    Parameters
    ----------
    catalogs : entries that are known.
    owners : rows of others are passed over: one changelog partition serves two input topics.
    found : is added to: what is set aside.
    """
    groups: Rows = {}
    for value in values:
        try:
            catalog_key, state_id, row, bank = splitter.split(value)
        except codec.RefusedError as exc:
            found.set_aside[f"refused ({exc.reason.code})"] += 1
            continue
        if catalog_key not in catalogs:
            found.set_aside[f"no catalogue entry {catalog_key}"] += 1
            continue
        owner = int.from_bytes(row[8 * D_OWNER : 8 * D_OWNER + 8], "little", signed=True)
        if owner in owners:
            groups.setdefault((catalog_key, state_id), []).append((row, bank))
    return groups


def adopt(core: Core, rows: Rows, found: Restored) -> None:
    """Take these devices in, in place of what is held of them. found : is added to."""
    for (catalog_key, state_id), pairs in rows.items():
        _adopt(core.engine(catalog_key), state_id, pairs, found)


def load(core: Core, values: Iterable[bytes], wanted_owners: Container[int], found: Restored) -> None:
    """`sort` and `adopt`. values : each device's once."""
    adopt(core, sort(core.catalogs, values, wanted_owners, found, Splitter()), found)


def _adopt(engine: Engine, state_id: str, pairs: list[tuple[bytes, bytes]], found: Restored) -> None:
    theirs = engine.layout if state_id == engine.state_id else Layout.parse(state_id)
    if theirs is None or theirs.pieces[0] != engine.layout.pieces[0]:
        found.set_aside[f"{engine.catalog.key} in another form"] += len(pairs)
        return
    whole = [pair for pair in pairs if len(pair[0]) == theirs.nbytes and 0 < _key_length(pair[0]) <= ID_MAX]
    found.set_aside["damaged (length)"] += len(pairs) - len(whole)
    if not whole:
        return
    found.rows += len(whole)
    if theirs != engine.layout:
        found.migrated += len(whole)
    rows = np.frombuffer(b"".join(row for row, _ in whole), np.uint8).reshape(len(whole), theirs.nbytes)
    slots = engine.restore(rows, theirs)
    has_bank = np.array([len(bank) == theirs.bank_nbytes > 0 for _, bank in whole], np.bool_)
    if has_bank.any():
        joined = b"".join(bank for (_, bank), has in zip(whole, has_bank, strict=True) if has)
        engine.restore_bank(
            slots[has_bank], np.frombuffer(joined, np.uint8).reshape(-1, theirs.bank_nbytes), theirs
        )


def _key_length(row: bytes) -> int:
    return int.from_bytes(row[8 * D_KEY_LEN : 8 * D_KEY_LEN + 8], "little", signed=True)
