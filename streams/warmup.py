"""Compiles the kernels before the worker is ready. The rule: by running the real core on a few real frames.

numba compiles at a function's first call, which takes seconds, or loads the machine code from its cache.
"""

from __future__ import annotations

import numpy as np

from streams.core.core import Core
from streams.core.effects import Effects
from streams.core.records import Part
from streams.core.state import Restored, dirty_rows, load
from streams.wiring import make_core
from telemetry.codec import FrameEncoder, zigzag
from telemetry.settings import Settings

_TS_US = 1_700_000_000_000_000
_FRAMES = 4


def _record(key: bytes, value: bytes, offset: int) -> bytes:
    """One record of a Kafka v2 batch's records section."""
    body = b"".join((b"\0", zigzag(0), zigzag(offset), zigzag(len(key)), key, zigzag(len(value)), value, b"\0"))
    return zigzag(len(body)) + body


def _exercise(core: Core, catalog_key: str, topic: str) -> None:
    entry = core.catalogs[catalog_key]
    period_us = round(entry.period_ms * 1000)
    window_us = core.spec.windows.size_us + core.spec.windows.grace_us
    encoder = FrameEncoder("warm-up", catalog_key, period_us)
    records = []
    for i in range(_FRAMES):
        values = np.full((entry.steps_per_frame, len(entry.signals)), float(i), np.float32)
        records.append(_record(b"warm-up", encoder.encode(i, _TS_US + i * window_us, values), i))
    section = b"".join(records)
    part = Part(section, 0, len(section), _FRAMES, 0, _TS_US // 1000)
    core.process(topic, 0, [part], 0, _TS_US, Effects())


def warm_up(settings: Settings) -> None:
    """Run frames of one class of each kind through a core that is thrown away, there and back through its state."""
    core, again = make_core(settings), make_core(settings)
    for topic, kind in zip(core.topics, ("vehicle", "device"), strict=True):
        keys = [k for k in core.catalogs if core.catalogs[k].kind == kind and not k.startswith("bench.")]
        for key in keys[:1]:
            _exercise(core, key, topic)
    rows = [row["value"] for row in dirty_rows(core)]
    load(again, rows, {core.owner(topic, 0) for topic in core.topics}, Restored())
