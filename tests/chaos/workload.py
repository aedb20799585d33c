"""A seeded, endless input of several classes, faults and bad records. The rule: the same seed, the same records.

Besides what the simulated fleets do (stored frames after a gap, clocks that differ, faulty sensors), frames are
sent twice, held back within and beyond the windows' grace, spoilt with infinite values, and followed by records
that must become dead letters.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from aiokafka.partitioner import murmur2

from producers.faults import KINDS, FaultSpec
from producers.fleet import Fleet, make_fleet
from telemetry import catalog, codec

#: Event time of the first frame, microseconds.
START_US = 1_760_000_000_000_000
ABSURD_US = 4_200_000_000_000_000  # the year 2103
#: (class, devices, input topic); topic 0 carries vehicles, 1 devices.
FLEETS = (("vehicle.ev", 8, 0), ("vehicle.ice", 8, 0), ("gpu.node", 20, 1), ("sensor.pump", 20, 1))
FAULT_EVERY_S = 20.0
#: Shares of the frames that are sent again, held back, spoilt, or followed by a bad record.
AGAIN, HELD, SPOILT, BAD = 0.01, 0.015, 0.004, 0.006
HELD_ROUNDS_MAX = 12


@dataclass(frozen=True, slots=True)
class Record:
    """One input record. topic : 0 or 1, of `FLEETS`."""

    topic: int
    partition: int
    key: bytes | None
    value: bytes | None


def partition_of(key: bytes, partitions: int) -> int:
    """As murmur2_random has it."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


class Mess:
    """Turns good frames into the stream that really arrives."""

    def __init__(self, rng: random.Random, signals: dict[str, int]) -> None:
        self._rng, self._signals = rng, signals
        self._waiting: dict[int, list[tuple[bytes, bytes, str]]] = {}  # round -> frames that come then
        self._round = 0

    def next_round(self) -> list[tuple[bytes, bytes, str]]:
        self._round += 1
        return self._waiting.pop(self._round, [])

    def _later(self, frame: tuple[bytes, bytes, str]) -> None:
        at = self._round + self._rng.randint(1, HELD_ROUNDS_MAX)
        self._waiting.setdefault(at, []).append(frame)

    def pass_on(self, key: bytes, value: bytes, entry: str) -> Iterator[tuple[bytes | None, bytes | None]]:
        """What becomes of one frame now."""
        draw = self._rng.random()
        if draw < HELD:
            self._later((key, value, entry))
            return
        if draw < HELD + AGAIN:
            self._later((key, value, entry))
        elif draw < HELD + AGAIN + SPOILT:
            value = self._spoil(value, entry)
        yield key, value
        if self._rng.random() < BAD:
            yield self._bad(key, value, entry)

    def _spoil(self, value: bytes, entry: str) -> bytes:
        frame = codec.decode_frame(value, self._signals[entry])
        values = frame.values.copy()
        values.reshape(-1)[self._rng.randrange(values.size)] = self._rng.choice((np.inf, -np.inf, np.nan))
        return codec.encode_frame(
            codec.Frame(frame.device_id, frame.catalog, frame.seq, frame.ts_us, frame.period_us, values)
        )

    def _bad(self, key: bytes, value: bytes, entry: str) -> tuple[bytes | None, bytes | None]:
        frame = codec.decode_frame(value, self._signals[entry])
        other = codec.Frame(frame.device_id, "no.such/9", frame.seq, frame.ts_us, frame.period_us, frame.values)
        absurd = codec.Frame(frame.device_id, frame.catalog, frame.seq, ABSURD_US, frame.period_us, frame.values)
        kinds: list[tuple[bytes | None, bytes | None]] = [
            (key, value[: self._rng.randrange(10, len(value))]),
            (key, value + b"\x00"),
            (key, b""),
            (key, None),
            (None, value),
            (b"not-" + key, value),
            (key, self._rng.randbytes(40)),
            (key, b"\xc3\x01" + self._rng.randbytes(30)),
            (key, codec.encode_frame(other)),
            (key, codec.encode_frame(absurd)),
        ]
        return self._rng.choice(kinds)


def records(seed: int, partitions: int) -> Iterator[Record]:
    """The input, in the order in which it is sent, without end."""
    rng = random.Random(seed)
    catalogs = catalog.load()
    fleets: list[tuple[Fleet, int]] = [
        (make_fleet(name, count, catalogs, seed=seed + i, start_us=START_US, gap_rate_per_hour=20.0), topic)
        for i, (name, count, topic) in enumerate(FLEETS)
    ]
    mess = [Mess(rng, {key: len(entry.signals) for key, entry in catalogs.items()}) for _ in fleets]
    fault_at_us = START_US
    while True:
        which = min(range(len(fleets)), key=lambda i: fleets[i][0].now_us)
        fleet, topic = fleets[which]
        if fleet.now_us >= fault_at_us:
            fault_at_us += int(FAULT_EVERY_S * 1e6)
            _inject(rng, fleets)
        late = mess[which].next_round()
        fresh = ((frame.key, frame.value, fleet.catalog.key) for frame in fleet.step())
        sent = itertools.chain(
            ((key, value) for key, value, _ in late),
            (pair for key, value, entry in fresh for pair in mess[which].pass_on(key, value, entry)),
        )
        for key, value in sent:
            at = rng.randrange(partitions) if key is None else partition_of(key, partitions)
            yield Record(topic, at, key, value)


def _inject(rng: random.Random, fleets: list[tuple[Fleet, int]]) -> None:
    fleet, _ = rng.choice(fleets)
    kinds = [k for k, kind in KINDS.items() if kind.fits(fleet.catalog.name) and not kind.fleet_wide]
    device = rng.choice(fleet.ids)
    fleet.inject(FaultSpec(rng.choice(kinds), device=device, duration_s=rng.uniform(10, 40)))
