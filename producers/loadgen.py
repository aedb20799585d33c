"""Frames at full speed: a round of them is one byte matrix. The rule: byte for byte what `FrameEncoder` writes.

Avro's varints of a round's sequence number and time are equally long for every device and every device's id has the
same length, so all frames of a round have the same layout: a template is filled by columns and cut into rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from producers.pacing import Pacer
from producers.sink import KafkaSink
from telemetry import schemas
from telemetry.catalog import Catalog
from telemetry.codec import FRAME_BYTES_MAX, zigzag
from telemetry.partitioner import partitions_of

#: Added to one value of a frame with a spike: twelve times the noise.
SPIKE = 12.0
#: Frames handed over at a time: bounds the delay of a paced run and the memory of a round's records.
CHUNK_FRAMES = 4096
FLUSH_S = 60.0
#: Rounds of values that are drawn ahead; later rounds use them again.
POOL_VALUES_MAX = 8_000_000
POOL_ROUNDS_MAX = 64


class RoundEncoder:
    """All devices' frames of one round.

    Parameters
    ----------
    ids : device ids of equal length.
    steps : steps a frame. period_us : 0 with one step. header : see `FrameEncoder`.

    Raises
    ------
    ValueError : ids of different lengths, or frames larger than the decoder's cap.
    """

    def __init__(
        self, ids: list[str], catalog: Catalog, steps: int, period_us: int, header: bytes | None = None
    ) -> None:
        if len({len(name) for name in ids}) != 1:
            raise ValueError("all device ids must have the same length")
        n, values = len(ids), steps * len(catalog.signals)
        key_length = len(ids[0])
        self.keys = np.frombuffer("".join(ids).encode(), np.uint8).reshape(n, key_length)
        entry = catalog.key.encode()
        head = (schemas.header("frame") if header is None else header) + zigzag(key_length)
        middle = zigzag(len(entry)) + entry
        self._id_at = len(head)
        self._head = head + bytes(key_length) + middle
        self._tail = zigzag(period_us) + zigzag(values)
        self._value_bytes = 4 * values
        self._n = n
        self._matrix: NDArray[np.uint8] = np.empty((n, 0), np.uint8)
        self._lengths = (0, 0)
        if len(self._head) + 20 + len(self._tail) + self._value_bytes + 1 > FRAME_BYTES_MAX:
            raise ValueError(f"{values} values do not fit in a frame of {FRAME_BYTES_MAX} bytes")

    def encode(self, seq: int, ts_us: int, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """uint8 (devices, bytes), one frame a row; valid until the next call.

        values : float32 (devices, steps * signals), step-major.
        """
        seq_bytes, ts_bytes = zigzag(seq), zigzag(ts_us)
        at = len(self._head)
        if (len(seq_bytes), len(ts_bytes)) != self._lengths:
            self._lengths = (len(seq_bytes), len(ts_bytes))
            variable = bytes(len(seq_bytes) + len(ts_bytes))
            row = self._head + variable + self._tail + bytes(self._value_bytes) + b"\x00"
            self._matrix = np.tile(np.frombuffer(row, np.uint8), (self._n, 1))
            self._matrix[:, self._id_at : self._id_at + self.keys.shape[1]] = self.keys
        variable = seq_bytes + ts_bytes
        self._matrix[:, at : at + len(variable)] = np.frombuffer(variable, np.uint8)
        start = at + len(variable) + len(self._tail)
        raw = np.ascontiguousarray(values, "<f4").view(np.uint8).reshape(self._n, self._value_bytes)
        self._matrix[:, start : start + self._value_bytes] = raw
        return self._matrix


class ValuePool:
    """Waves with noise for every device and signal, and now and then a spike; seeded.

    Each signal is base + 3 sin(phase + 0.3 t) + noise of deviation 1. So many rounds are drawn ahead that they
    fit in `POOL_VALUES_MAX` values; round r uses drawn round r modulo their number.
    """

    def __init__(
        self, devices: int, steps: int, catalog: Catalog, step_s: float, seed: int, spike_rate: float
    ) -> None:
        signals = len(catalog.signals)
        rng = np.random.default_rng(seed)
        base = rng.normal(50, 20, (devices, signals))
        phase = rng.uniform(0, 2 * np.pi, (devices, signals))
        rounds = int(np.clip(POOL_VALUES_MAX // (devices * steps * signals), 1, POOL_ROUNDS_MAX))
        self._rounds: list[NDArray[np.float32]] = []
        for r in range(rounds):
            t_s = (np.arange(steps) + r * steps)[None, :, None] * step_s
            x = base[:, None, :] + 3 * np.sin(0.3 * t_s + phase[:, None, :])
            x += rng.standard_normal((devices, steps, signals), np.float32)
            hit = np.flatnonzero(rng.random(devices) < spike_rate)
            x[hit, rng.integers(0, steps, len(hit)), rng.integers(0, signals, len(hit))] += SPIKE
            self._rounds.append(x.astype(np.float32).reshape(devices, -1))

    def __getitem__(self, r: int) -> NDArray[np.float32]:
        """float32 (devices, steps * signals)."""
        return self._rounds[r % len(self._rounds)]


def device_ids(count: int) -> list[str]:
    """``load-0000000`` and on: all of one length."""
    return [f"load-{i:07d}" for i in range(count)]


class LoadGenerator:
    """Rounds of frames of many devices, produced by partition.

    Parameters
    ----------
    partitions : of the topic; frames go where the partitioner murmur2 would put them.
    start_us : event time of the first step. header : of the frames; see `FrameEncoder`.
    """

    def __init__(
        self,
        catalog: Catalog,
        devices: int,
        partitions: int,
        *,
        start_us: int,
        seed: int,
        spike_rate: float,
        header: bytes | None = None,
    ) -> None:
        self.steps = catalog.steps_per_frame
        self.samples_per_frame = self.steps * len(catalog.signals)
        step_us = round(catalog.period_ms * 1000)
        self.frame_us = step_us * self.steps
        ids = device_ids(devices)
        self._encoder = RoundEncoder(ids, catalog, self.steps, step_us if self.steps > 1 else 0, header)
        self._pool = ValuePool(devices, self.steps, catalog, step_us / 1e6, seed, spike_rate)
        self._start_us = start_us
        of_key = partitions_of(self._encoder.keys, partitions)
        keys = [name.encode() for name in ids]
        self._records: list[dict[str, Any]] = [{"key": key, "value": b""} for key in keys]
        self._chunks: list[tuple[int, NDArray[np.int64], list[dict[str, Any]]]] = []
        for partition in range(partitions):
            members = np.flatnonzero(of_key == partition)
            for i in range(0, len(members), CHUNK_FRAMES):
                part = members[i : i + CHUNK_FRAMES]
                self._chunks.append((partition, part, [self._records[j] for j in part.tolist()]))
        if devices > CHUNK_FRAMES:  # so that a short run reaches all partitions
            self._chunks.sort(key=lambda chunk: int(chunk[1][0]))

    def frames(self, total: int) -> Iterator[tuple[int, int, list[dict[str, Any]]]]:
        """(event time, partition, records with key and value) until `total` frames; the records are used again."""
        sent, r = 0, 0
        while sent < total:
            ts_us = self._start_us + r * self.frame_us
            matrix = self._encoder.encode(r, ts_us, self._pool[r])
            width = matrix.shape[1]
            for partition, members, records in self._chunks:
                data = matrix[members].tobytes()
                for i, record in enumerate(records):
                    record["value"] = data[i * width : (i + 1) * width]
                part = records[: total - sent]
                yield ts_us, partition, part
                sent += len(part)
                if sent >= total:
                    return
            r += 1


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds by the clock, and of this process's CPU time, librdkafka's threads included."""

    wall_s: float
    cpu_s: float


def run(
    generator: LoadGenerator,
    sink: KafkaSink,
    topic: str,
    *,
    total: int,
    rate: float,
    pacer: Pacer,
    stopped: Callable[[], bool],
    each: Callable[[int, int], None],
) -> Took:
    """Produce `total` frames, or until stopped, and flush.

    rate : frames a second; 0 = full speed. each : called with (frames, event time) after each chunk.
    """
    cpu_s, wall_s, sent = time.process_time(), time.perf_counter(), 0
    for ts_us, partition, records in generator.frames(total):
        if rate and not pacer.wait(round(sent / rate * 1e6), sink.poll, stopped):
            break
        if stopped():
            break
        sink.send_batch(topic, partition, records)
        sent += len(records)
        each(len(records), ts_us)
    sink.flush(FLUSH_S)
    return Took(time.perf_counter() - wall_s, time.process_time() - cpu_s)
