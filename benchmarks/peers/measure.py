"""One run of a peer. The rule: CPU time is user + system of its process and its children, from a fifth to the end.

The end is when the group's committed offsets are the input's, or, of a peer that commits none, when its outputs are
complete. The program tells its CPU time at the fifth by itself: at that moment nobody else knows how far it is.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from confluent_kafka import Message, TopicPartition
from confluent_kafka.admin import NewTopic

from benchmarks import cluster, process
from benchmarks.job import PARTITIONS, Variant, Writer
from benchmarks.peers import install, verify
from benchmarks.peers.programs import Peer
from benchmarks.reference import Expected, expected
from telemetry import clients
from telemetry.settings import Settings

#: Frames of a device, whatever the number of messages: so many windows close.
ROUNDS = 200
DEVICES_MIN = 20
START_S = 120.0
RUN_S = 420.0
OUTPUTS_S = 20.0
POLL_S = 0.05
#: Between two questions to the broker.
ASK_S = 0.25
THREADS = 2
MARK = '{"done"'


@dataclass(frozen=True, slots=True)
class Run:
    """ns and rate from 20 % of the input to its end."""

    ns_per_message: float
    messages_per_s: float
    rss_mb: float


@dataclass(frozen=True)
class Input:
    """The job for so many devices, in a topic."""

    topic: str
    devices: int
    want: Expected

    @property
    def messages(self) -> int:
        return self.devices * ROUNDS


def devices_of(messages: int, share: float) -> int:
    """How many devices send their 200 frames each."""
    return max(DEVICES_MIN, round(messages * share / ROUNDS))


def create(settings: Settings, names: list[str]) -> None:
    """Topics of the job's partitions, which keep everything: its event time is long ago."""
    wanted = [NewTopic(name, PARTITIONS, 1, config={"retention.ms": "-1"}) for name in names]
    admin = clients.admin(settings)
    for future in admin.create_topics(wanted).values():
        future.result(30)


def delete(settings: Settings, part: str) -> None:
    """All topics with this in their name, those that a framework made for itself too."""
    admin = clients.admin(settings)
    names = [name for name in clients.cluster_metadata(admin, settings).topics if part in name]
    if names:
        for future in admin.delete_topics(names, operation_timeout=30).values():
            future.result(40)


def write_input(settings: Settings, variant: Variant, topic: str, devices: int) -> Input:
    Writer(variant, devices).run(settings, topic, devices * ROUNDS)
    return Input(topic, devices, expected(variant, devices, devices * ROUNDS))


class Program(process.Process):
    """A peer's program, ended on leaving. cwd and all that it writes: `folder`."""

    def __init__(self, command: list[str], folder: Path) -> None:
        folder.mkdir(parents=True)
        self.log = folder / "log"
        env = process.environment() | {"PYTHONUNBUFFERED": "1", "NUMBA_CACHE_DIR": str(install.root() / "numba")}
        with self.log.open("w", encoding="utf-8") as out:
            self._popen = subprocess.Popen(command, stdout=out, stderr=out, cwd=folder, env=env)
        self._process = psutil.Process(self._popen.pid)

    def marks(self) -> list[dict[str, int]]:
        """What it has told: messages done, its CPU time then, the time of day."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        return [json.loads(line[line.index(MARK) :]) for line in lines if MARK in line and line.endswith("\n")]

    def all_cpu_s(self) -> float:
        """Its own and its children's."""
        total = self.cpu_s()
        for child in self._process.children(recursive=True):
            times = child.cpu_times()
            total += times.user + times.system
        return total

    def wait_until(self, done: Callable[[], bool], timeout_s: float, what: str, pause_s: float = POLL_S) -> None:
        """Raises RuntimeError : it ended. TimeoutError : it took longer."""
        end = time.monotonic() + timeout_s
        while not done():
            self.check()
            if time.monotonic() > end:
                raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
            time.sleep(pause_s)


def _sizes(settings: Settings, topics: dict[str, str]) -> dict[str, int]:
    """Records in each output; transaction markers count too."""
    consumer = clients.consumer(settings, "benchmark-sizes")
    try:
        return {
            name: sum(consumer.get_watermark_offsets(TopicPartition(topic, p), 10)[1] for p in range(PARTITIONS))
            for name, topic in topics.items()
        }
    finally:
        consumer.close()


@contextmanager
def _outputs(settings: Settings, name: str) -> Iterator[dict[str, str]]:
    topics = {kind: f"{name}.{kind}" for kind in ("features", "alerts")}
    create(settings, list(topics.values()))
    try:
        yield topics
    finally:
        delete(settings, name)


def run(
    settings: Settings, peer: Peer, command: list[str], given: Input, signals: int, name: str, folder: Path
) -> tuple[Run, list[str]]:
    """Run it on an input; its figures, and what was wrong with its outputs.

    name : of the consumer group, and in those of all its topics. folder : of this run, not yet there.

    Raises
    ------
    RuntimeError : it ended. TimeoutError : it did not come to the end.
    """
    wanted = verify.counts(given.want)
    with _outputs(settings, name) as topics:
        arguments = {
            "bootstrap": settings.kafka.bootstrap, "input": given.topic, **topics, "group": name,
            "folder": folder / "state", "total": given.messages, "signals": signals,
            "guarantee": peer.guarantee, "threads": THREADS,
        }  # fmt: skip
        command = [*command, *(f"{key}={value}" for key, value in arguments.items()), *peer.extra]
        with Program(command, folder) as program:
            program.wait_until(lambda: len(program.marks()) > 0, START_S + RUN_S, "a fifth of the input")
            program.wait_until(lambda: len(program.marks()) > 1, RUN_S, "the whole input")
            if peer.commits:
                places = [(given.topic, p) for p in range(PARTITIONS)]
                program.wait_until(
                    lambda: (
                        sum(v or 0 for v in clients.committed_offsets(settings, name, places).values())
                        >= given.messages
                    ),
                    START_S,
                    "the last offsets committed",
                    ASK_S,
                )
            else:
                program.wait_until(
                    lambda: all(n >= wanted[kind] for kind, n in _sizes(settings, topics).items()),
                    OUTPUTS_S,
                    "its outputs complete",
                    ASK_S,
                )
            used_s = program.all_cpu_s()
            first, last = program.marks()[:2]
            rss_mb = program.rss_bytes() / 1e6
            found = _read(settings, topics, wanted)
    counted = given.messages - first["done"]
    figures = Run(
        (used_s * 1e9 - first["cpu_ns"]) / counted,
        counted / max(1e-3, (last["time_ms"] - first["time_ms"]) / 1000),
        rss_mb,
    )
    return figures, verify.differences(given.want, given.devices, found["features"], found["alerts"])


def _read(settings: Settings, topics: dict[str, str], wanted: dict[str, int]) -> dict[str, list[Message]]:
    """The outputs' committed records, once there are as many as wanted or after 20 s."""
    end = time.monotonic() + OUTPUTS_S
    while True:
        found = {kind: cluster.read_all(settings, topic) for kind, topic in topics.items()}
        if all(len(found[kind]) >= n for kind, n in wanted.items()) or time.monotonic() > end:
            return found
        time.sleep(0.5)
