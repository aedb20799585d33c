"""The partitioner: Kafka's own test vectors, the load generator's, and a record that is on the wrong partition."""

import numpy as np
import pytest
from batches import part
from fleet_job import T0, job

from producers.loadgen import partitions_of
from streams.core.effects import Effects
from streams.wiring import make_core
from telemetry import settings as settings_module
from telemetry.partitioner import partition_of
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


@pytest.mark.parametrize("key", VECTORS)
def test_kafkas_vectors(key):
    assert partition_of(key, 1 << 31) == VECTORS[key] & 0x7FFFFFFF


def test_as_the_load_generator_and_any_length():
    rng = np.random.default_rng(5)
    for length in range(1, 65):
        keys = rng.integers(33, 127, (20, length)).astype(np.uint8)
        ours = [partition_of(key.tobytes(), 12) for key in keys]
        assert ours == partitions_of(keys, 12).tolist()


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
