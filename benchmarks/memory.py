"""Record batches made in memory, for the core alone. The rule: the bytes are those of Kafka's message format v2."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.job import Variant, device_ids
from producers.loadgen import RoundEncoder
from streams.core.records import Part
from telemetry.codec import zigzag

#: Records in a batch: about as many as the load generator's producer puts into one.
BATCH_RECORDS = 4096
#: Up to here a record's number takes one byte in zigzag, then two.
_ONE_BYTE = 64


def _records(keys: NDArray[np.uint8], values: NDArray[np.uint8], first: int) -> bytes:
    """Records first..first+n-1 of a batch; all their numbers take the same number of bytes."""
    n = len(keys)
    delta = np.arange(first, first + n, dtype=np.int64) << 1
    if first < _ONE_BYTE:
        number = delta.astype(np.uint8)[:, None]
    else:
        number = np.stack([(delta & 0x7F) | 0x80, delta >> 7], axis=1).astype(np.uint8)

    def column(data: bytes) -> NDArray[np.uint8]:
        return np.broadcast_to(np.frombuffer(data, np.uint8), (n, len(data)))

    body = [column(b"\x00\x00"), number, column(zigzag(keys.shape[1])), keys]
    body += [column(zigzag(values.shape[1])), values, column(b"\x00")]
    length = column(zigzag(sum(part.shape[1] for part in body)))
    return np.hstack([length, *body]).tobytes()


def parts(keys: NDArray[np.uint8], values: NDArray[np.uint8], base_offset: int) -> list[Part]:
    """Batches of these records, uint8 (n, key bytes) and (n, value bytes)."""
    found = []
    for at in range(0, len(keys), BATCH_RECORDS):
        k, v = keys[at : at + BATCH_RECORDS], values[at : at + BATCH_RECORDS]
        data = _records(k[:_ONE_BYTE], v[:_ONE_BYTE], 0)
        if len(k) > _ONE_BYTE:
            data += _records(k[_ONE_BYTE:], v[_ONE_BYTE:], _ONE_BYTE)
        found.append(Part(data, 0, len(data), len(k), base_offset + at, 0))
    return found


class Frames:
    """Encodes rounds of a variant into keys and values."""

    def __init__(self, variant: Variant, devices: int) -> None:
        self._encoder = RoundEncoder(device_ids(devices), variant.catalog, variant.steps, variant.period_us)
        self.keys = self._encoder.keys

    def encode(self, number: int, ts_us: int, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """uint8 (devices, bytes); valid until the next call. values : (devices, steps, signals)."""
        return self._encoder.encode(number, ts_us, values.reshape(len(values), -1))
