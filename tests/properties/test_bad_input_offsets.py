"""Offsets that a broker would never send: they stand outside of a batch's checksum."""

import pytest
from aiokafka import TopicPartition
from bad_input import T0, at_offset, frame, sealed
from batches import batch

from streams.transport import rawfetch
from streams.transport.rawfetch import RawPartitionRecords
from telemetry.reasons import Reason

THREE = batch([(b"veh-1", frame("veh-1", i, T0 + i)) for i in range(3)])


@pytest.mark.parametrize("base", [-1, -(2**63), 2**63 - 1, 2**62])
def test_a_base_offset_that_cannot_be_is_damage(base):
    for attempt in range(rawfetch.READS):
        (*found,) = RawPartitionRecords(
            TopicPartition("offsets", 0), at_offset(THREE, base), None, 10, check_crcs=True, committed_only=True
        )
        assert bool(found) == (attempt == rawfetch.READS - 1)
    assert [part.refused for part in found[0].parts] == [Reason.BATCH_CRC]
    assert (found[0].first_offset, found[0].next_offset) == (10, 11)  # the figures do not agree: one is given up


def test_a_batch_that_begins_before_the_last_one_ended_is_left_to_the_next_fetch():
    data = at_offset(THREE, 5) + at_offset(THREE, 7)
    (found,) = RawPartitionRecords(
        TopicPartition("offsets", 1), data, None, 5, check_crcs=True, committed_only=True
    )
    assert [part.refused for part in found.parts] == [Reason.OK]
    assert (found.last_offset, found.next_offset) == (7, 8)


@pytest.mark.parametrize("size", [0, 1, 3, 5, 9, 40])
def test_a_control_batch_that_cannot_be_read_is_no_abort_marker_and_does_not_raise(size):
    control = bytearray(batch([(b"\xff" * size, None)]))
    control[22] |= 0x30  # transactional, control
    control[43:51] = (7).to_bytes(8, "big")  # the producer's id
    data = sealed(control) + at_offset(THREE, 1)
    (found,) = RawPartitionRecords(TopicPartition("c", 0), data, [(7, 0)], 0, check_crcs=True, committed_only=True)
    assert [part.base_offset for part in found.parts] == [1]
    assert found.next_offset == 4
