"""Closed windows to Avro WindowFeatures and Score messages. The rule: standard bytes, equal to fastavro's.

A window costs no Python object but its message: a kernel writes all messages of a portion into one buffer
and says where each begins.
"""

from __future__ import annotations

import itertools

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streams.core.window_stage import Closed
from streams.core.windows import FEATURES, O_PANE, O_ROWS, O_SLOT, WindowSpec
from telemetry import schemas
from telemetry.catalog import Catalog
from telemetry.codec import encode, zigzag
from telemetry.rawmem import INLINE, address, store_f32, store_u8, write_zigzag


@njit(**INLINE)
def write_bytes(p: int, data: NDArray[np.uint8], first: int, count: int) -> int:
    """Copy data[first:first + count] to address p; returns the next address."""
    for i in range(count):
        store_u8(p + i, data[first + i])
    return p + count


@njit(cache=True, error_model="numpy", nogil=True)
def write_features(
    base: int,
    head: NDArray[np.int64],
    values: NDArray[np.float32],
    hist: NDArray[np.float32],
    wanted: NDArray[np.bool_],
    ids: NDArray[np.uint8],
    id_lens: NDArray[np.int64],
    prefix: NDArray[np.uint8],
    entry: NDArray[np.uint8],
    window_us: int,
    hop_us: int,
    starts: NDArray[np.int64],
) -> None:
    """One WindowFeatures message a window, from address `base`; message i is starts[i]:starts[i + 1]."""
    p = base
    d = values.shape[2]
    for i in range(len(head)):
        starts[i] = p - base
        p = write_bytes(p, prefix, 0, len(prefix))
        p = write_zigzag(p, id_lens[i])
        p = write_bytes(p, ids[i], 0, id_lens[i])
        p = write_bytes(p, entry, 0, len(entry))
        p = write_zigzag(p, (head[i, O_PANE] + 1) * hop_us - window_us)
        p = write_zigzag(p, window_us)
        p = write_zigzag(p, hop_us)
        p = write_zigzag(p, head[i, O_ROWS])
        for f in range(values.shape[1]):
            if wanted[f]:
                p = write_zigzag(p, d)
                for s in range(d):
                    store_f32(p + 4 * s, values[i, f, s])
                p += 4 * d
            store_u8(p, np.uint8(0))
            p += 1
        bins = hist.shape[2]
        if bins > 0:
            p = write_zigzag(p, d * bins)
            for s in range(d):
                for b in range(bins):
                    store_f32(p, hist[i, s, b])
                    p += 4
        store_u8(p, np.uint8(0))
        p += 1
    starts[len(head)] = p - base


class FeatureEncoder:
    """Encodes the closed windows of one class."""

    def __init__(self, spec: WindowSpec, catalog: Catalog, closed_max: int) -> None:
        self._spec = spec
        self._d = len(catalog.signals)
        key = catalog.key.encode()
        self._prefix = np.frombuffer(schemas.header("window_features"), np.uint8)
        self._entry = np.frombuffer(zigzag(len(key)) + key, np.uint8)
        self._wanted = np.array([f in spec.features for f in FEATURES[:-1]], np.bool_)
        floats = self._d * (int(self._wanted.sum()) + spec.bins)
        self._message_max = len(self._prefix) + len(self._entry) + 70 + 40 + 5 * len(FEATURES) + 10 + 4 * floats
        self._buffer = np.zeros(closed_max * self._message_max, np.uint8)
        self._starts = np.zeros(closed_max + 1, np.int64)

    def encode(self, closed: Closed, keys: list[bytes]) -> list[bytes]:
        """One message a window; keys are the device ids of closed.head's slots."""
        n = len(closed)
        ids = np.array(keys, "S64").view(np.uint8).reshape(n, 64)
        lens = np.fromiter(map(len, keys), np.int64, n)
        write_features(
            address(self._buffer),
            closed.head,
            closed.values,
            closed.hist,
            self._wanted,
            ids,
            lens,
            self._prefix,
            self._entry,
            self._spec.size_us,
            self._spec.hop_us,
            self._starts,
        )
        starts = self._starts[: n + 1].tolist()
        data = self._buffer[: starts[-1]].tobytes()
        return [data[a:b] for a, b in itertools.pairwise(starts)]


def encode_scores(
    closed: Closed,
    keys: list[bytes],
    catalog: Catalog,
    detectors: tuple[tuple[str, int], ...],
    spec: WindowSpec,
    min_surprise: float,
) -> list[tuple[int, bytes]]:
    """(row, Score message) of every opinion of at least min_surprise; no opinion, no message."""
    messages = []
    for i, q in zip(*np.nonzero(closed.peak >= min_surprise), strict=True):
        column = int(closed.peak_col[i, q])
        record = {
            "device_id": keys[i].decode(),
            "catalog": catalog.key,
            "detector": detectors[q][0],
            "detector_version": detectors[q][1],
            "window_start": (int(closed.head[i, O_PANE]) + 1) * spec.hop_us - spec.size_us,
            "window_us": spec.size_us,
            "surprise": float(closed.peak[i, q]),
            "ts": int(closed.peak_ts[i, q]),
            "signal": catalog.columns[column] if column >= 0 else None,
        }
        messages.append((int(i), encode("score", record)))
    return messages


def window_slots(closed: Closed) -> NDArray[np.int32]:
    """Slots of the closed windows."""
    return closed.head[:, O_SLOT].astype(np.int32)
