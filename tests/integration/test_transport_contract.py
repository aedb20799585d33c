"""What streams/transport/ relies on in aiokafka and Faust, and what it delivers on every kind of batch.

If a new version moves one of these parts, this file says which.
"""

import asyncio
import inspect
import time

import aiokafka.client
import aiokafka.conn
import faust
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer import fetcher
from batches import batch
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from faust.transport.consumer import Consumer as FaustConsumer
from faust.transport.drivers import aiokafka as stock

from streams.core.records import RecordScanner
from streams.transport import connection, rawfetch
from streams.transport.rawfetch import RawBatches, RawPartitionRecords, raw_topics
from telemetry import catalog, codec
from telemetry.framescan import ClassTable
from telemetry.reasons import Reason

BIG = 1 << 61


def test_versions_are_the_ones_that_were_read():
    assert aiokafka.__version__ == "0.14.0"
    assert faust.__version__ == "0.15.3"


def test_the_parts_that_are_replaced_are_where_they_were():
    source = inspect.getsource(fetcher.Fetcher._proc_fetch_request)
    assert "MemoryRecords(part_data[-1])" in source
    assert "PartitionRecords(" in source
    assert (
        list(inspect.signature(rawfetch._records).parameters)
        == [
            p if p != "records" else "response"
            for p in list(inspect.signature(rawfetch._partition_records.__init__).parameters)[1:9]
        ]
        or len(inspect.signature(rawfetch._partition_records.__init__).parameters) == 9
    )
    assert "create_conn(" in inspect.getsource(aiokafka.client)
    for name in ("_do_version_lookup", "_create_reader_task", "_handle_frame", "_idle_check", "connect"):
        assert hasattr(aiokafka.conn.AIOKafkaConnection, name)
    for name in ("_new_offset", "_add_gap", "perform_seek", "_commit", "on_partitions_revoked"):
        assert hasattr(FaustConsumer, name)
    for name in ("_new_consumer_thread", "_to_message", "_commit"):
        assert hasattr(stock.Consumer, name)
    ack = inspect.getsource(FaustConsumer.ack)
    assert "_acked_index" in ack
    assert "_acked" in ack


def make_topic(bootstrap: str, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(20)


def produce(bootstrap: str, topic: str, records: list, *, kind: str) -> list:
    """Send in batches; with kind txn every third transaction is aborted. Returns what a reader should see."""
    config = {"bootstrap.servers": bootstrap, "linger.ms": 20, "batch.num.messages": 500}
    if kind == "txn":
        config["transactional.id"] = topic
    else:
        config["compression.type"] = kind
    producer = Producer(config)
    if kind == "txn":
        producer.init_transactions(20)
    kept = []
    for i in range(0, len(records), 500):
        some = records[i : i + 500]
        if kind == "txn":
            producer.begin_transaction()
        for key, value, headers in some:
            producer.produce(topic, value, key, headers=headers)
        if kind == "txn":
            assert producer.flush(20) == 0
            if i // 500 % 3 == 1:
                producer.abort_transaction(20)
                continue
            producer.commit_transaction(20)
        kept += some
    assert producer.flush(20) == 0
    return kept


async def read(bootstrap: str, topic: str, count: int, start: int = 0, fetch_bytes: int = 1 << 20) -> list:
    """(offset, device id, seq) of each frame, through the raw fetcher and the scanner."""
    rawfetch.install()
    connection.install()
    raw_topics.add(topic)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        isolation_level="read_committed",
        check_crcs=True,
        max_partition_fetch_bytes=fetch_bytes,
    )
    await consumer.start()
    scanner = RecordScanner(ClassTable(catalog.load()), frames_max=300)
    seen, refused, expected_next = [], 0, None
    try:
        tp = TopicPartition(topic, 0)
        consumer.assign([tp])
        consumer.seek(tp, start)
        end = time.monotonic() + 20
        while len(seen) + refused < count:
            assert time.monotonic() < end, f"{len(seen)} frames and {refused} refusals of {count}"
            for batches in (await consumer.getmany(timeout_ms=300)).values():
                for raw in batches:
                    assert isinstance(raw, RawBatches)
                    assert expected_next is None or raw.first_offset >= expected_next
                    expected_next = raw.next_offset
                    for frames, refusals in scanner.scan(raw.parts, raw.first_offset, 0, BIG):
                        seen += [(int(r[8]), int(r[3])) for r in scanner.table[:frames]]
                        refused += refusals
    finally:
        await consumer.stop()
        raw_topics.discard(topic)
    return seen


@pytest.mark.kafka
@pytest.mark.parametrize("kind", ["none", "gzip", "snappy", "lz4", "zstd", "txn"])
def test_every_codec_header_tombstone_and_transaction(kafka_bootstrap, topic_prefix, kind):
    topic = f"{topic_prefix}.{kind}"
    make_topic(kafka_bootstrap, topic)
    encoder = codec.FrameEncoder("veh-1", "bench.single/1", 0)
    records = []
    for i in range(4000):
        value = None if i % 997 == 5 else encoder.encode(i, 10**15 + i, [[1.0]])
        records.append((b"veh-1", value, [("h", b"1"), ("none", None)] if i % 5 == 0 else None))
    kept = produce(kafka_bootstrap, topic, records, kind=kind)
    numbers = [i for i, record in enumerate(records) if record in kept and record[1] is not None]
    for fetch_bytes in (1 << 20, 70_000):
        seen = asyncio.run(read(kafka_bootstrap, topic, len(kept), fetch_bytes=fetch_bytes))
        assert [seq for _, seq in seen] == numbers
    if kind != "txn":
        seen = asyncio.run(read(kafka_bootstrap, topic, len(kept) - 1234, start=1234))
        assert seen[0] == (1234, 1234)


def test_a_damaged_batch_is_refused_by_its_checksum():
    encoder = codec.FrameEncoder("veh-1", "bench.single/1", 0)
    data = bytearray(batch([(b"veh-1", encoder.encode(i, 10**15 + i, [[1.0]])) for i in range(10)]))
    tp = TopicPartition("t", 0)
    whole = next(RawPartitionRecords(tp, bytes(data), None, 0, check_crcs=True, committed_only=True))
    assert (whole.count, whole.first_offset, whole.last_offset, whole.next_offset) == (10, 0, 9, 10)
    elsewhere = TopicPartition("t", 1)
    cut = RawPartitionRecords(elsewhere, bytes(data[:-3]), None, 0, check_crcs=True, committed_only=True)
    assert list(cut) == []
    data[80] ^= 1
    for _ in range(rawfetch.READS - 1):  # left to the next fetch: the damage may have come about on the way
        again = RawPartitionRecords(tp, bytes(data), None, 0, check_crcs=True, committed_only=True)
        assert list(again) == []
        assert again.next_fetch_offset == 0
    refused = next(RawPartitionRecords(tp, bytes(data), None, 0, check_crcs=True, committed_only=True))
    assert [part.refused for part in refused.parts] == [Reason.BATCH_CRC]
    assert (refused.first_offset, refused.last_offset, refused.next_offset) == (0, 9, 10)
    assert bytes(refused.parts[0].raw) == bytes(data)
