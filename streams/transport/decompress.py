"""Kafka's four codecs, into one buffer of bounded size. The rule: no batch has more memory than the cap.

A few kilobytes of zstd or gzip may stand for gigabytes. Output goes into a buffer that is kept and used again, and
a batch that does not fit is refused. The buffer's pages are the system's until something is written to them.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from typing import Any

import cramjam
import numpy as np

from telemetry.reasons import Reason

#: A batch may be so large when it is decompressed: producers cap theirs at about 1 MB.
BATCH_BYTES_MAX = 1 << 24

_XERIAL = struct.pack(">bccccccBii", -126, b"S", b"N", b"A", b"P", b"P", b"Y", 0, 1, 1)
_NO_ROOM = "failed to write whole buffer"  # what cramjam says; held by a test


class UnreadableBatchError(ValueError):
    """A batch that becomes a dead letter. `reason` says which kind."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class _Scratch(threading.local):
    """Each thread's own."""

    def __init__(self) -> None:
        self.buffer: Any = np.empty(BATCH_BYTES_MAX, np.uint8)


_scratch = _Scratch()


def _into(decompress_into: Callable[[Any, Any], int], data: memoryview, cap: int) -> bytes:
    out = _scratch.buffer[:cap]
    try:
        return out[: decompress_into(data, out)].tobytes()
    except cramjam.DecompressionError as exc:
        if str(exc) == _NO_ROOM:
            raise UnreadableBatchError(Reason.BATCH_TOO_LARGE, f"more than {cap} bytes") from exc
        raise UnreadableBatchError(Reason.BATCH_CORRUPT, str(exc)) from exc


def _gzip(data: memoryview, cap: int) -> bytes:
    return _into(cramjam.gzip.decompress_into, data, cap)


def _lz4(data: memoryview, cap: int) -> bytes:
    return _into(cramjam.lz4.decompress_into, data, cap)


def _zstd(data: memoryview, cap: int) -> bytes:
    return _into(cramjam.zstd.decompress_into, data, cap)


def _xerial_blocks(data: memoryview) -> list[memoryview]:
    """The blocks of snappy's Java framing.

    Raises
    ------
    UnreadableBatchError : a block's length is not positive or longer than what is left.
    """
    blocks, at = [], len(_XERIAL)
    while at < len(data):
        size = struct.unpack_from(">i", data, at)[0] if at + 4 <= len(data) else -1
        at += 4
        if not 0 < size <= len(data) - at:
            raise UnreadableBatchError(Reason.BATCH_CORRUPT, "snappy: a block's length is wrong")
        blocks.append(data[at : at + size])
        at += size
    return blocks


def _snappy(data: memoryview, cap: int) -> bytes:
    blocks = _xerial_blocks(data) if data[: len(_XERIAL)] == _XERIAL else [data]
    out, at = _scratch.buffer[:cap], 0
    try:
        for block in blocks:
            size = int(cramjam.snappy.decompress_raw_len(block))
            if size > cap - at:
                raise UnreadableBatchError(Reason.BATCH_TOO_LARGE, f"more than {cap} bytes")
            at += cramjam.snappy.decompress_raw_into(block, out[at : at + size])
    except cramjam.DecompressionError as exc:
        raise UnreadableBatchError(Reason.BATCH_CORRUPT, str(exc)) from exc
    return out[:at].tobytes()


_CODECS: dict[int, Callable[[memoryview, int], bytes]] = {1: _gzip, 2: _snappy, 3: _lz4, 4: _zstd}


def decompress(kind: int, data: memoryview, cap: int = BATCH_BYTES_MAX) -> bytes:
    """A batch's records section, of `cap` <= BATCH_BYTES_MAX bytes at most.

    Raises
    ------
    UnreadableBatchError : a codec that Kafka does not have, damaged data, or more than `cap` bytes.
    """
    if kind not in _CODECS:
        raise UnreadableBatchError(Reason.BATCH_CODEC, f"compression codec {kind}")
    return _CODECS[kind](data, cap)
