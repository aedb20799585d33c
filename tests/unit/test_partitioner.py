"""The partitioner: Kafka's own test vectors, a naive twin, and a record that is on the wrong partition."""

import numpy as np
import pytest
from batches import part
from fleet_job import T0, job

from producers.loadgen import device_ids
from streams.core.effects import Effects
from streams.wiring import make_core
from telemetry import settings as settings_module
from telemetry.partitioner import partitions_of
from telemetry.reasons import Reason

#: org.apache.kafka.common.utils.UtilsTest.testMurmur2
VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


def partition_of(key: bytes, partitions: int) -> int:
    return int(partitions_of(np.frombuffer(key, np.uint8)[None, :], partitions)[0])


def naive(key: bytes) -> int:
    """Utils.murmur2 of Kafka's clients, a step at a time."""
    h = 0x9747B28C ^ len(key)
    for at in range(0, len(key) - len(key) % 4, 4):
        k = int.from_bytes(key[at : at + 4], "little") * 0x5BD1E995 & 0xFFFFFFFF
        k = (k ^ k >> 24) * 0x5BD1E995 & 0xFFFFFFFF
        h = (h * 0x5BD1E995 & 0xFFFFFFFF) ^ k
    if tail := key[len(key) - len(key) % 4 :]:
        h = (h ^ int.from_bytes(tail, "little")) * 0x5BD1E995 & 0xFFFFFFFF
    h = (h ^ h >> 13) * 0x5BD1E995 & 0xFFFFFFFF
    return h ^ h >> 15


@pytest.mark.parametrize("key", VECTORS)
def test_kafkas_vectors(key):
    assert naive(key) == VECTORS[key] & 0xFFFFFFFF
    assert partition_of(key, 1 << 31) == VECTORS[key] & 0x7FFFFFFF


def test_keys_of_any_length():
    rng = np.random.default_rng(5)
    for length in range(1, 65):
        keys = rng.integers(0, 256, (20, length)).astype(np.uint8)
        assert partitions_of(keys, 12).tolist() == [(naive(k.tobytes()) & 0x7FFFFFFF) % 12 for k in keys]


def test_devices_spread_over_the_partitions():
    keys = np.frombuffer("".join(device_ids(8000)).encode(), np.uint8).reshape(8000, -1)
    assert np.bincount(partitions_of(keys, 8), minlength=8).min() > 800


def test_a_record_on_another_partition_than_its_keys_is_refused():
    core = make_core(settings_module.load(environ={}), partitions=4)
    topic, records, effects = core.topics[0], job(40, 2), Effects()
    core.process(topic, 1, [part(records)], 0, T0, effects)
    right = [key for key, _ in records if partition_of(key, 4) == 1]
    assert 0 < len(right) < len(records)
    assert core.counters()["frames"] == len(right)
    assert {letter.reason for letter in effects.dead} == {Reason.WRONG_PARTITION}
    assert sorted(letter.key for letter in effects.dead) == sorted(k for k, _ in records if k not in right)
    assert core.refused[Reason.WRONG_PARTITION] == len(records) - len(right)
