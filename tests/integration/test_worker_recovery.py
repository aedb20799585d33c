"""The worker itself, with a real broker and without Faust: what a loss in the middle of its work leads to."""

import asyncio
import struct
import threading
from pathlib import Path

import pytest
from behaviour import Job
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import OffsetSpec
from real_worker import read_all

from streams import worker as worker_module
from streams.checkpoint import CheckpointError, Loss, loss_of
from streams.outlet import Outlet, Patience, UndeliveredError
from streams.ownership import NotMemberError, group_metadata
from streams.transport.rawfetch import RawBatches
from streams.worker import Worker
from telemetry import clients
from telemetry.offsets import offsets_of

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]


class Rebalances:
    rebalancing_count = 1


class Assigned:
    """What the worker asks of its consumer: four partitions, nothing committed yet."""

    app = Rebalances()

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.sought: list[dict] = []
        self.offsets: dict[tuple[str, int], int | None] = {(topic, p): None for p in range(4)}

    def holding(self) -> tuple:
        return (1, "member"), set(self.offsets)

    async def committed(self, wanted: list, known: dict) -> dict:
        assert all((self.offsets[at] or 0) >= offset for at, offset in known.items()), (known, self.offsets)
        return {at: self.offsets[at] for at in wanted}

    async def seek_raw(self, offsets: dict) -> None:
        self.sought.append(dict(offsets))


def event(topic: str, partition: int, start: int, end: int) -> RawBatches:
    return RawBatches(topic, partition, start, start, end - 1, end, end - start, 0, 0)


@pytest.fixture
def scene(kafka_bootstrap, topic_prefix, tmp_path, monkeypatch):
    """(worker, consumer, failures): a worker whose `fail` is noted and does not end the test."""
    job = Job.make(tmp_path, kafka_bootstrap, topic_prefix)
    failures: list[BaseException] = []
    monkeypatch.setattr(Worker, "fail", lambda self, cause: failures.append(cause))
    return Worker(job.settings, "w", lambda: False), Assigned(job.names.vehicle.name), failures


def dead(effects: object) -> None:
    raise KafkaException(KafkaError(KafkaError._STATE, "the transaction is dead"))


def test_one_loss_is_one_recovery_however_many_agents_meet_it(scene):
    worker, consumer, failures = scene

    async def story() -> None:
        await worker.own(consumer)
        worker.publisher.publish, publish = dead, worker.publisher.publish
        agents = [asyncio.ensure_future(worker.process(event(consumer.topic, p, 0, 10))) for p in range(4)]
        await asyncio.sleep(0.01)
        await worker.process(event(consumer.topic, 0, 10, 20))  # while the new outlet registers
        worker.publisher.publish = publish
        await asyncio.gather(*agents)
        await worker.process(event(consumer.topic, 0, 0, 10))  # read again from what is committed

    asyncio.run(story())
    assert failures == [] and worker.recoveries == 1
    assert consumer.sought == [dict.fromkeys(consumer.offsets, 0)]
    assert worker.applied[consumer.topic, 0] == 10 and worker.applied[consumer.topic, 1] == 0


def test_an_agent_that_is_cancelled_does_not_stop_the_recovery(scene):
    worker, consumer, failures = scene

    async def story() -> None:
        await worker.own(consumer)
        worker.publisher.publish, publish = dead, worker.publisher.publish
        agent = asyncio.ensure_future(worker.process(event(consumer.topic, 0, 0, 10)))
        await asyncio.sleep(0.005)
        agent.cancel()
        worker.publisher.publish = publish
        while not consumer.sought:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)

    asyncio.run(story())
    assert failures == [] and worker.recoveries == 1 and worker.holding is not None


def test_a_gap_is_read_again_and_an_old_event_is_left(scene):
    worker, consumer, failures = scene

    async def story() -> None:
        await worker.own(consumer)
        await worker.process(event(consumer.topic, 0, 0, 10))
        await worker.process(event(consumer.topic, 0, 0, 10))
        assert consumer.sought == []
        await worker.process(event(consumer.topic, 0, 20, 30))
        await worker.process(event(consumer.topic, 0, 30, 40))
        assert consumer.sought == [{(consumer.topic, 0): 10}]
        await worker.process(event(consumer.topic, 0, 10, 20))

    asyncio.run(story())
    assert failures == [] and worker.applied[consumer.topic, 0] == 20


def test_reading_that_is_stuck_begins_anew_though_other_partitions_go_on(scene):
    worker, consumer, failures = scene

    async def story() -> None:
        await worker.own(consumer)
        for i in range(worker_module.MISPLACED_MAX):
            await worker.process(event(consumer.topic, 1, i, i + 1))
            await worker.process(event(consumer.topic, 0, 500 + i, 501 + i))

    asyncio.run(story())
    assert failures == [] and worker.recoveries == 1


def test_the_same_loss_again_and_again_ends_the_worker(scene, monkeypatch):
    worker, consumer, failures = scene
    real_sleep = asyncio.sleep

    async def story() -> None:
        await worker.own(consumer)
        monkeypatch.setattr(worker_module.asyncio, "sleep", lambda s: real_sleep(0))
        worker.publisher.publish = dead
        for _ in range(worker_module.LOST_MAX):
            await worker.process(event(consumer.topic, 0, 0, 10))
        assert failures == []
        with pytest.raises(CheckpointError):
            await worker.process(event(consumer.topic, 0, 0, 10))

    asyncio.run(story())
    assert worker.recoveries == worker_module.LOST_MAX + 1 and len(failures) == 1


def test_a_rebalance_that_begins_meanwhile_leaves_the_worker_waiting(scene):
    worker, consumer, failures = scene

    async def story() -> None:
        consumer.app = Rebalances()
        owning = asyncio.ensure_future(worker.own(consumer))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        consumer.app.rebalancing_count = 2
        await owning
        assert worker.holding is None
        await worker.own(consumer)
        assert worker.holding == dict.fromkeys(consumer.offsets, 0)

    asyncio.run(story())
    assert failures == []


def test_a_committed_offset_beyond_the_end_goes_on_at_the_end(scene, caplog):
    worker, consumer, failures = scene
    consumer.offsets = dict.fromkeys(consumer.offsets, 7)
    asyncio.run(worker.own(consumer))
    assert worker.applied == dict.fromkeys(consumer.offsets, 0)
    assert "the log ends at offset 0, before the committed offset 7" in caplog.text
    assert failures == []


def test_discarded_outlets_leave_no_threads(kafka_bootstrap, topic_prefix, tmp_path):
    job = Job.make(tmp_path, kafka_bootstrap, topic_prefix)

    def threads() -> int:
        tasks = Path("/proc/self/task")
        if not tasks.is_dir():
            pytest.skip("threads cannot be counted here")
        return sum("rdk" in (task / "comm").read_text() for task in tasks.iterdir())

    before = threads()
    for _ in range(5):
        outlet = Outlet(job.settings, f"{topic_prefix}-outlet")
        outlet.register(Patience())
        outlet.begin()
        outlet.hand_over(job.names.features.name, [{"key": b"k", "value": b"v", "partition": 0}])
        outlet.discard()
    for thread in threading.enumerate():
        if thread.name == "outlet-discard":
            thread.join(20)
    assert threads() <= before + 1
    ends = offsets_of(clients.admin(job.settings), [(job.names.features.name, 0)], OffsetSpec.earliest(), 5)
    assert ends == {(job.names.features.name, 0): 0}


def test_a_record_that_is_too_large_is_said_and_sends_no_other_twice(kafka_bootstrap, topic_prefix, tmp_path):
    job = Job.make(tmp_path, kafka_bootstrap, topic_prefix)
    topic, outlet = job.names.features.name, Outlet(job.settings, None)
    small = [{"key": b"k", "value": b"%d" % i, "partition": 0} for i in range(10)]
    large = {"key": b"k", "value": bytes(5_000_000), "partition": 0}
    with pytest.raises(UndeliveredError, match="a record of 5000000 bytes"):
        outlet.hand_over(topic, [*small[:5], large, *small[5:]])
    outlet.flush(Patience())
    assert [m.value() for m in read_all(job.settings, topic)] == [m["value"] for m in small]


def test_without_transactions_reading_that_is_stuck_begins_anew_too(
    kafka_bootstrap, topic_prefix, tmp_path, monkeypatch
):
    job = Job.make(tmp_path, kafka_bootstrap, topic_prefix, processing={"guarantee": "at_least_once"})
    failures: list[BaseException] = []
    monkeypatch.setattr(Worker, "fail", lambda self, cause: failures.append(cause))
    worker, consumer = Worker(job.settings, "w", lambda: False), Assigned(job.names.vehicle.name)

    async def story() -> None:
        await worker.own(consumer)
        before = worker.publisher.results, worker.publisher.rows
        for i in range(worker_module.MISPLACED_MAX):
            await worker.process(event(consumer.topic, 0, 500 + i, 501 + i))
        after = worker.publisher.results, worker.publisher.rows
        assert len({*before, *after}) == 4

    asyncio.run(story())
    assert failures == [] and worker.recoveries == 1


@pytest.mark.parametrize(
    ("code", "age_s", "loss"),
    [
        (KafkaError.UNKNOWN_MEMBER_ID, 1, Loss.MEMBERSHIP),
        (KafkaError.ILLEGAL_GENERATION, 1, Loss.MEMBERSHIP),
        (KafkaError.REBALANCE_IN_PROGRESS, 1, Loss.MEMBERSHIP),
        (KafkaError._FENCED, 1, Loss.FENCED),
        (KafkaError.INVALID_PRODUCER_EPOCH, 1, Loss.FENCED),
        (KafkaError._FENCED, 11, Loss.TRANSACTION),
        (KafkaError._TIMED_OUT, 1, Loss.TRANSACTION),
        (KafkaError.MSG_SIZE_TOO_LARGE, 1, Loss.TRANSACTION),
    ],
)
def test_what_an_error_means(code, age_s, loss):
    assert loss_of(KafkaError(code), age_s, 10) is loss


def test_group_metadata_is_what_librdkafka_reads():
    data = group_metadata("group", 7, "member-1")
    assert data == b"CGMDv2:" + struct.pack("=i", 7) + b"group\0member-1\0\x01"
    for generation, member in ((-1, "m"), (3, "")):
        with pytest.raises(NotMemberError):
            group_metadata("group", generation, member)


def test_ready_means_restored_and_does_not_flap(scene, monkeypatch):
    worker, consumer, failures = scene
    assert not worker.ready

    async def story() -> None:
        await worker.own(consumer)
        assert worker.ready
        worker._pause()  # a rebalance begins
        assert worker.ready
        monkeypatch.setattr(worker_module, "READY_GRACE_S", 0.0)
        assert not worker.ready
        await worker.own(consumer)
        assert worker.ready

    asyncio.run(story())
    assert failures == []
