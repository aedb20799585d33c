"""Two workers become three, three become two: how long each partition stands still. The rule: seen from outside.

`python -m benchmarks.rebalance`: 100,000 devices of 10 signals on 12 partitions, under steady traffic. A partition
stands still from one committed offset to the next, which is when a reader of committed records sees its results;
what exceeds the longest such gap between commits before the change is the pause.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

from benchmarks import cluster, process, workerlog
from benchmarks.job import FRAMES, Writer
from fleetwatch.kafka.cluster import EmbeddedKafka
from telemetry import clients
from telemetry.settings import Settings
from telemetry.topics import topics

DEVICES = 100_000
PARTITIONS = 12
#: Frames a second, while it is measured.
RATE = 20_000.0
#: Rounds of all devices before it, each committed, so that the changelog is longer than the state.
ROUNDS = 3
#: Traffic before the first change, and after a change once every partition has moved on.
STEADY_S = 8.0
AFTER_S = 5.0
#: The writer is told to write so many rounds, and stops at the end of the runs.
LOAD_ROUNDS = 500
POLL_S = 0.05
CHANGE_S = 180.0
CHANGES: process.Changes = {
    "topics": {"partitions": PARTITIONS},
    "service": {"log_level": "INFO"},
}


class EnoughError(Exception):
    """The load has lasted long enough."""


@dataclass(slots=True)
class Progress:
    """Committed offset of each partition over time, asked for by a thread while the `with` lasts.

    moves : by partition, epoch seconds at which its committed offset was seen to have changed.
    """

    settings: Settings
    moves: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    failure: BaseException | None = None
    _done: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def _look(self) -> None:
        admin, group = clients.admin(self.settings), self.settings.processing.group
        wanted = [TopicPartition(topics(self.settings).vehicle.name, p) for p in range(PARTITIONS)]
        seen: dict[int, int] = {}
        while not self._done.wait(POLL_S):
            question = ConsumerGroupTopicPartitions(group, wanted)
            answer = admin.list_consumer_group_offsets([question])[group].result(10)
            now = time.time()
            for entry in answer.topic_partitions:
                if entry.offset != seen.get(entry.partition, entry.offset):
                    self.moves[entry.partition].append(now)
                seen[entry.partition] = entry.offset

    def _run(self) -> None:
        try:
            self._look()
        except BaseException as exc:  # told by `check`
            self.failure = exc

    def check(self) -> None:
        """Raises what ended the thread."""
        if self.failure is not None:
            raise self.failure

    def __enter__(self) -> Progress:
        self._thread = threading.Thread(target=self._run, name="progress")
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        assert self._thread is not None
        self._done.set()
        self._thread.join()

    def gaps(self, begin_s: float, end_s: float) -> dict[int, float]:
        """The longest time of each partition without a move, of those that reach into this stretch."""
        found = {}
        for p in range(PARTITIONS):
            times = [t for t in list(self.moves[p]) if t <= end_s]
            inside = [b - a for a, b in pairwise(times) if b > begin_s]
            found[p] = max(inside, default=end_s - begin_s)
        return found

    def moved_since(self, at_s: float) -> bool:
        """Whether every partition has."""
        return all(self.moves[p] and self.moves[p][-1] > at_s for p in range(PARTITIONS))


@dataclass(slots=True)
class Scene:
    """A group of workers on one set of topics, and the load."""

    config: Path
    settings: Settings
    folder: Path
    progress: Progress
    started: int = 0

    def worker(self) -> process.WorkerProcess:
        self.started += 1
        return process.WorkerProcess(self.config, self.folder / f"worker-{self.started}.log")


def _owners(workers: Mapping[int, process.WorkerProcess]) -> dict[int, int]:
    """The worker of each partition."""
    topic = "vehicle"
    return {p: name for name, worker in workers.items() for t, p in worker.owned() if t.rpartition(".")[2] == topic}


def _wait_shared(scene: Scene, workers: Mapping[int, process.WorkerProcess]) -> dict[int, int]:
    """Return the owners once every partition has one, and each worker an equal share of them.

    Raises
    ------
    TimeoutError : that did not come about.
    """
    end = time.monotonic() + CHANGE_S
    while True:
        scene.progress.check()
        for worker in workers.values():
            worker.check()
        owners = _owners(workers)
        shares = [list(owners.values()).count(name) for name in workers]
        if len(owners) == PARTITIONS and max(shares) - min(shares) <= 1:
            return owners
        if time.monotonic() > end:
            raise TimeoutError(f"the workers have {shares} partitions after {CHANGE_S:.0f} s")
        time.sleep(0.1)


def _settled(scene: Scene, since_s: float) -> float:
    """Wait until every partition has moved on, and AFTER_S more; returns when that was."""
    end = time.monotonic() + CHANGE_S
    while not scene.progress.moved_since(since_s):
        scene.progress.check()
        if time.monotonic() > end:
            raise TimeoutError(f"some partition stood still for {CHANGE_S:.0f} s")
        time.sleep(0.1)
    time.sleep(AFTER_S)
    return time.time()


def _figures(
    scene: Scene,
    kind: str,
    since_s: float,
    began_s: float,
    ended_s: float,
    before: dict[int, int],
    after: dict[int, int],
) -> dict[str, Any]:
    """since_s : when the change was asked for. began_s, ended_s : between these it is measured."""
    usual = max(scene.progress.gaps(since_s - STEADY_S, since_s).values())
    gaps = scene.progress.gaps(began_s, ended_s)
    moved = {p for p in before if before[p] != after[p]}
    stayed = gaps.keys() - moved
    figures = {
        "usual_gap_s": usual,
        "worst_gap_s": max(gaps.values()),
        "pause_s": max(0.0, max(gaps.values()) - usual),
        "pause_moved_s": max(0.0, max((gaps[p] for p in moved), default=usual) - usual),
        "pause_stayed_s": max(0.0, max((gaps[p] for p in stayed), default=usual) - usual),
        "moved": len(moved),
        "load_average": os.getloadavg()[0],
    }
    print(f"{kind}: " + ", ".join(f"{key} {value:.2f}" for key, value in figures.items()), flush=True)
    return figures


def join(scene: Scene, workers: dict[int, process.WorkerProcess]) -> dict[str, Any]:
    """A third worker comes."""
    before, began = _owners(workers), time.time()
    joiner = scene.worker()
    workers[scene.started] = joiner
    after = _wait_shared(scene, workers)
    ended = _settled(scene, time.time())
    text = joiner.log.read_text(encoding="utf-8")
    asked = min(at for at, message in workerlog.lines(text) if message.startswith("Discovered coordinator"))
    figures = _figures(scene, "join", began, asked - 1.0, ended, before, after)
    starting = max(scene.progress.gaps(began, asked - 1.0).values())
    return figures | {"start_s": asked - began, "while_starting_s": max(0.0, starting - figures["usual_gap_s"])}


def leave(scene: Scene, workers: dict[int, process.WorkerProcess]) -> dict[str, Any]:
    """The youngest worker is told to end."""
    before, began = _owners(workers), time.time()
    leaver = workers.pop(max(workers))
    leaver.stop()
    leaver.wait(1.0)  # raises unless it ended well
    exit_s = time.time() - began
    after = _wait_shared(scene, workers)
    ended = _settled(scene, time.time())
    return _figures(scene, "leave", began, began, ended, before, after) | {"exit_s": exit_s}


def _load(settings: Settings, rate: float, enough: threading.Event) -> None:
    def each(sent: int) -> None:
        del sent
        if enough.is_set():
            raise EnoughError

    writer = Writer(FRAMES, DEVICES, PARTITIONS)
    try:
        writer.run(settings, topics(settings).vehicle.name, LOAD_ROUNDS * DEVICES, rate, each, ROUNDS)
    except EnoughError:
        return


def measure(bootstrap: str, folder: Path, runs: int, rate: float = RATE) -> dict[str, Any]:
    """Medians over so many scale-ups and scale-downs, and the runs."""
    config = folder / "rebalance.yaml"
    wanted = process.sections(bootstrap, FRAMES, "bench.rebalance", "rebalance", CHANGES)
    settings = process.write_settings(config, wanted)
    cluster.fresh_topics(settings, keep_input=False)
    done: dict[str, list[dict[str, Any]]] = {"join": [], "leave": []}
    workers: dict[int, process.WorkerProcess] = {}
    enough = threading.Event()
    with Progress(settings) as progress:
        scene = Scene(config, settings, folder, progress)
        load = threading.Thread(target=_load, args=(settings, rate, enough), name="load")
        try:
            for _ in range(2):
                worker = scene.worker()
                workers[scene.started] = worker
            _wait_shared(scene, workers)
            Writer(FRAMES, DEVICES, PARTITIONS).run(settings, topics(settings).vehicle.name, ROUNDS * DEVICES)
            load.start()
            _settled(scene, time.time())
            time.sleep(STEADY_S)
            for _ in range(runs):
                done["join"].append(join(scene, workers))
                time.sleep(STEADY_S)
                done["leave"].append(leave(scene, workers))
                time.sleep(STEADY_S)
        finally:
            enough.set()
            for worker in workers.values():
                worker.stop()
            if load.is_alive():
                load.join()
    medians = {
        kind: {key: statistics.median(run[key] for run in some) for key in some[0]} | {"runs": some}
        for kind, some in done.items()
    }
    return medians | {"devices": DEVICES, "partitions": PARTITIONS, "frames_per_s": rate}


def table(results: Mapping[str, Any]) -> str:
    """Markdown, a line a change."""
    head = ("change", "worst pause, s", "of moved", "of kept", "partitions moved", "usual gap, s")
    keys = ("pause_s", "pause_moved_s", "pause_stayed_s", "moved", "usual_gap_s")
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * len(keys)]
    for kind, what in (("join", "2 to 3 workers"), ("leave", "3 to 2 workers")):
        lines.append(f"| {what} | " + " | ".join(f"{results[kind][key]:.1f}" for key in keys) + " |")
    return "\n".join(lines)


@click.command()
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True, help="The median counts.")
@click.option("--rate", type=click.FloatRange(1000), default=RATE, show_default=True, help="Frames a second.")
@click.option("--bootstrap", help="A Kafka of yours; without it one is started.")
@click.option("--logs", type=click.Path(file_okay=False, path_type=Path), help="Keep the workers' logs here.")
def main(runs: int, rate: float, bootstrap: str | None, logs: Path | None) -> None:
    """Measure the pause of scaling up from 2 to 3 workers, and down again."""
    with tempfile.TemporaryDirectory(prefix="fleetwatch-bench-") as name:
        folder = logs or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        kafka = None if bootstrap else EmbeddedKafka(Path(name) / "kafka", brokers=1, port=0)
        try:
            results = measure(bootstrap or (kafka.start() if kafka else ""), folder, runs, rate)
        finally:
            if kafka:
                kafka.stop()
    print("\n" + json.dumps(results, indent=1) + "\n\n" + table(results))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
