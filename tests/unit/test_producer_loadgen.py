"""The load generator's bytes are the encoder's, and its partitions are the partitioner's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.loadgen import SPIKE, LoadGenerator, RoundEncoder, ValuePool, device_ids
from telemetry import catalog
from telemetry.codec import FrameEncoder, decode_frame
from telemetry.partitioner import partitions_of

CATALOGS = catalog.load()
BENCH = CATALOGS.latest("bench.frames")


@settings(max_examples=60, deadline=None)
@given(
    seqs=st.lists(st.integers(0, 2**40), min_size=1, max_size=4),
    ts_us=st.integers(0, 2**60),
    count=st.integers(1, 20),
    steps=st.integers(1, 7),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_round_is_what_the_encoder_writes(seqs: list[int], ts_us: int, count: int, steps: int, seed: int) -> None:
    ids = device_ids(count)
    period_us = 100_000 if steps > 1 else 0
    rounds = RoundEncoder(ids, BENCH, steps, period_us)
    rng = np.random.default_rng(seed)
    for seq in seqs:
        values = rng.normal(size=(count, steps * 10)).astype(np.float32)
        values[rng.random(values.shape) < 0.1] = np.nan
        matrix = rounds.encode(seq, ts_us + seq, values)
        for i, name in enumerate(ids):
            expected = FrameEncoder(name, BENCH.key, period_us).encode(
                seq, ts_us + seq, values[i].reshape(steps, 10)
            )
            assert matrix[i].tobytes() == expected


def frames_of(generator: LoadGenerator, total: int) -> list[tuple[int, bytes, bytes]]:
    return [
        (partition, record["key"], record["value"])
        for _, partition, records in generator.frames(total)
        for record in records
    ]


@pytest.mark.parametrize("class_name", ["bench.frames", "bench.single", "vehicle.ev"])
def test_frames_are_valid_and_grow_in_number_and_time(class_name: str) -> None:
    entry = CATALOGS.latest(class_name)
    start_us = 1_800_000_000_000_000
    generator = LoadGenerator(entry, 7, 3, start_us=start_us, seed=1, spike_rate=0)
    out = frames_of(generator, 7 * 70)
    by_device: dict[str, list[tuple[int, int]]] = {}
    for partition, key, value in out:
        frame = decode_frame(value, len(entry.signals))
        assert frame.device_id.encode() == key
        assert frame.catalog == entry.key
        assert frame.values.shape == (entry.steps_per_frame, len(entry.signals))
        assert partition == partitions_of(np.frombuffer(key, np.uint8)[None, :], 3)[0]
        assert frame.period_us == (round(entry.period_ms * 1000) if entry.steps_per_frame > 1 else 0)
        by_device.setdefault(frame.device_id, []).append((frame.seq, frame.ts_us))
    frame_us = round(entry.period_ms * 1000) * entry.steps_per_frame
    assert len(by_device) == 7
    for series in by_device.values():
        assert series == [(r, start_us + r * frame_us) for r in range(70)]


def test_a_part_of_a_round_is_possible_and_exact() -> None:
    generator = LoadGenerator(BENCH, 100, 4, start_us=0, seed=1, spike_rate=0)
    out = frames_of(generator, 250)
    assert len(out) == 250
    assert len({(key, decode_frame(value, 10).seq) for _, key, value in out}) == 250


def test_same_seed_same_bytes_and_another_seed_others() -> None:
    def bytes_of(seed: int) -> list[tuple[int, bytes, bytes]]:
        return frames_of(LoadGenerator(BENCH, 5, 2, start_us=0, seed=seed, spike_rate=0.1), 20)

    assert bytes_of(1) == bytes_of(1)
    assert bytes_of(1) != bytes_of(2)


def test_spikes_hit_the_asked_share_of_frames() -> None:
    plain, spiky = (ValuePool(20_000, 5, BENCH, 0.1, 1, rate)[0] for rate in (0.0, 0.05))
    changed = spiky - plain
    hit = (np.abs(changed) > SPIKE / 2).sum(1)
    assert set(np.unique(hit)) == {0, 1}
    assert hit.mean() == pytest.approx(0.05, rel=0.2)


def test_ids_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="same length"):
        RoundEncoder(["a", "bb"], BENCH, 5, 100_000)
