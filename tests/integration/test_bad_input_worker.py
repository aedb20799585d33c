"""The whole catalogue of bad input in one topic, between good frames, read by a real worker from a real broker.

What a broker would refuse to take is written into its log: it reads without looking.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from bad_input import ACCEPTED, BATCH_CASES, CASES, DUPLICATE, LATE, BatchCase
from batches import batch
from fleet_job import job
from real_worker import committed, environment, read_all, wait_for

from fleetwatch.kafka.cluster import EmbeddedKafka
from streams.core.effects import LETTER_BYTES_MAX, Effects
from streams.transport.rawfetch import RawPartitionRecords
from streams.wiring import make_core
from telemetry import clients
from telemetry import settings as settings_module
from telemetry.settings import Settings
from telemetry.topics import ensure, topics

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

ENDS_WELL = {ACCEPTED, DUPLICATE, LATE}
GOOD = list(job(4, 60))
PATCHED = [case for case in BATCH_CASES if case.patchable and case.name != "records section empty"]


def placeholder(nbytes: int, count: int) -> list[tuple[bytes | None, bytes]]:
    """`count` records that make a batch of `nbytes`."""
    empty: list[tuple[bytes | None, bytes]] = [(None, b"")] * (count - 1)
    room = nbytes - len(batch([*empty, (b"", b"")]))
    for key in range(min(3, room + 1)):  # where a length's varint grows, one size more than fits is skipped
        for value in range(max(0, room - key - 8), room - key + 1):
            found = [*empty, (bytes(key), bytes(value))]
            if len(batch(found)) == nbytes:
                return found
    raise AssertionError(f"no {count} records make a batch of {nbytes} bytes")


class Writer:
    """Writes records and batches to the one partition of a topic, and keeps the books."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings, self._topic = settings, topic
        self._producer = clients.producer(settings, linger_ms=50)
        self.end = 0
        self.patches: list[tuple[int, BatchCase]] = []

    def flush(self) -> None:
        assert self._producer.flush(30) == 0

    def records(self, records: Any, headers: int = 0) -> int:
        """Returns the first one's offset."""
        first, now_ms = self.end, int(time.time() * 1000)
        for key, value in records:
            self._producer.produce(self._topic, value, key, 0, headers=[("h", b"x")] * headers, timestamp=now_ms)
            self.end += 1
        return first

    def batch(self, case: BatchCase) -> None:
        self.flush()
        self.patches.append((self.records(placeholder(len(case.make()), case.read + case.spans)), case))
        self.flush()

    def zeros(self, nbytes: int, compression: str) -> int:
        """More than our producers send at once; the broker counts what it is compressed. Returns its offset."""
        self.flush()
        big = clients.producer(self._settings, compression_type=compression, message_max_bytes=nbytes + 10_000)
        big.produce(self._topic, bytes(nbytes), b"bad-1", 0)
        assert big.flush(30) == 0
        self.end += 1
        return self.end - 1


def batches_of(log: bytes) -> Iterator[tuple[int, int, int]]:
    """(base offset, start, end) of each batch in a segment."""
    at = 0
    while at < len(log):
        base, length = struct.unpack_from(">qi", log, at)
        yield base, at, at + 12 + length
        at += 12 + length


def patch(segment: Path, patches: list[tuple[int, BatchCase]]) -> dict[int, bytes]:
    """Write the cases over their placeholders; returns each batch as it now stands, by its first offset."""
    wanted, written = dict(patches), {}
    with segment.open("r+b") as file:
        log = file.read()
        for base, start, end in batches_of(log):
            if base not in wanted:
                continue
            data = bytearray(wanted.pop(base).make())
            assert len(data) == end - start
            struct.pack_into(">q", data, 0, base)
            file.seek(start)
            file.write(data)
            written[base] = bytes(data)
    assert not wanted
    return written


def metrics(port: int) -> dict[str, int]:
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    found = re.findall(r'^fleetwatch_dead_letters_total\{reason="([a-z_0-9]+)"\} ([0-9.]+)$', text, re.MULTILINE)
    return {reason: int(float(value)) for reason, value in found}


def good_alone(settings: Settings, topic: str) -> list[tuple[bytes, bytes]]:
    """The features of the good frames, by the core itself."""
    core, effects = make_core(settings), Effects()
    (raw,) = RawPartitionRecords(
        TopicPartition(topic, 0), batch(GOOD), None, 0, check_crcs=True, committed_only=True
    )
    core.process(topic, 0, raw.parts, 0, time.time_ns() // 1000, effects)
    return [(m["key"], m["value"]) for m in effects.features]


def test_everything_bad_at_once(tmp_path):
    kafka = EmbeddedKafka(tmp_path / "kafka", brokers=1, port=0)
    try:
        the_worker_lives(kafka, kafka.start(), tmp_path)
    finally:
        kafka.stop()


def the_worker_lives(kafka: EmbeddedKafka, bootstrap: str, folder: Path) -> None:
    config = folder / "settings.yaml"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config.write_text(
        json.dumps(
            {
                "kafka": {"bootstrap": bootstrap},
                "topics": {"prefix": "bad", "partitions": 1},
                "processing": {"group": "bad", "session_timeout_s": 6, "commit_interval_ms": 200},
                "detectors": [{"name": "ewma", "params": {"warm_rows": 20}}],
                "service": {"log_level": "WARNING", "name": "w-1", "port": port},
            }
        )
    )
    settings = settings_module.load(config, environ={})
    ensure(settings)
    names = topics(settings)
    topic = names.vehicle.name
    writer, wanted = Writer(settings, topic), {}
    rest = iter(GOOD)
    for case in CASES:
        if case.by_clock:
            continue
        writer.records(islice(rest, 2))
        first = writer.records(case.records, case.headers)
        wanted |= {
            first + i: (end, record, -1)
            for i, (record, end) in enumerate(zip(case.records, case.ends, strict=True))
            if end not in ENDS_WELL
        }
    for case in PATCHED:
        writer.batch(case)
        writer.records(islice(rest, 1))
    bomb_at = writer.zeros(95 << 20, "zstd")
    long_at = writer.zeros(1_040_000, "none")
    writer.records(rest)
    writer.flush()
    segment = kafka.broker_dir(0) / "data" / f"{topic}-0" / f"{0:020d}.log"
    for base, data in patch(segment, writer.patches).items():
        case = dict(writer.patches)[base]
        wanted[base + case.read] = (case.reason, (None, data), base + case.read + case.spans - 1)
    bomb = next(segment.read_bytes()[a:b] for base, a, b in batches_of(segment.read_bytes()) if base == bomb_at)
    wanted[bomb_at] = ("batch_too_large", (None, bomb), bomb_at)
    assert len(bomb) < 5000
    wanted[long_at] = ("too_large", (b"bad-1", bytes(LETTER_BYTES_MAX - 5)), -1)

    command = [sys.executable, "-m", "fleetwatch", "--config", str(config), "worker"]
    with (folder / "worker.log").open("w") as log:
        worker = subprocess.Popen(command, stdout=log, stderr=log, env=environment(), cwd=folder)
    try:
        wait_for(lambda: worker.poll() is not None or committed(settings, topic) == writer.end, 120, "all of it")
        assert worker.poll() is None, (folder / "worker.log").read_text()[-3000:]
        counted = metrics(port)
        peak_kib = int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{worker.pid}/status").read_text())[1])
    finally:
        worker.terminate()
        assert worker.wait(30) == 0
    assert counted == Counter(end for end, _, _ in wanted.values())
    print(f"{writer.end} records, {len(wanted)} letters, peak {peak_kib >> 10} MiB")
    assert peak_kib < 600 << 10

    letters = {int(dict(m.headers())["__connect.errors.offset"]): m for m in read_all(settings, names.dlq.name)}
    assert letters.keys() == wanted.keys()
    for offset, (reason, record, last) in wanted.items():
        message, headers = letters[offset], dict(letters[offset].headers())
        assert (message.key(), message.value()) == record
        assert headers["__connect.errors.topic"] == topic.encode()
        assert headers["__connect.errors.partition"] == b"0"
        assert headers["__connect.errors.stage"] in (b"transport", b"schema", b"decode", b"contract")
        assert headers["__connect.errors.exception.class.name"] == headers["x-reason"] == reason.encode()
        assert 0 < len(headers["__connect.errors.exception.message"]) <= 1024
        assert headers["x-worker"] == b"w-1"
        assert re.fullmatch(rb"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", headers["x-time"])
        assert headers.get("x-last-offset") == (str(last).encode() if last >= 0 else None)
        assert headers.get("x-truncated") == (b"1040000" if offset == long_at else None)
    good = {key for key, _ in GOOD}
    features = [(m.key(), m.value()) for m in read_all(settings, names.features.name) if m.key() in good]
    assert sorted(features) == sorted(good_alone(settings, topic))
    assert len(features) == 8
