"""What librdkafka says of a leader that does not answer. The rule: never taken for an offset."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from telemetry.offsets import offsets_of


class Silent:
    """An admin client whose answers are given: a leader that hangs is not to be had at will in a unit test."""

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def list_offsets(self, wanted: dict[TopicPartition, OffsetSpec], **options: object) -> dict:
        del options
        answer: Future = Future()
        answer.set_result(SimpleNamespace(offset=self.offset))
        return dict.fromkeys(wanted, answer)


def test_no_answer_is_an_error_and_names_the_partition() -> None:
    with pytest.raises(KafkaException, match="t/3: its leader does not answer"):
        offsets_of(Silent(-1001), [("t", 3)], OffsetSpec.latest(), 0.2)


@pytest.mark.parametrize("offset", [-1, 0, 7])
def test_an_answer_is_one(offset: int) -> None:
    assert offsets_of(Silent(offset), [("t", 3)], OffsetSpec.latest(), 1) == {("t", 3): offset}
