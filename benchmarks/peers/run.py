"""`make bench-peers`: the common job in our worker and its peers, in turn. The rule: what fails is shown as failed.

Repetitions go round: each runs everything once, every other one backwards, so that what disturbs the machine
disturbs all alike. A full run writes results.json here and its section and picture of docs/performance.md.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import click
from confluent_kafka import KafkaException

from benchmarks import cluster, process, reference, throughput
from benchmarks.job import FRAMES, SINGLE, Variant
from benchmarks.peers import install, measure, programs, report
from benchmarks.peers.install import CannotInstallError
from benchmarks.peers.measure import ROUNDS, Input
from benchmarks.peers.programs import PEERS, Peer
from benchmarks.report import conditions
from fleetwatch.kafka.cluster import EmbeddedKafka
from telemetry.alerts import Alert
from telemetry.settings import Settings
from telemetry.topics import topics

VARIANTS = {variant.name: variant for variant in (FRAMES, SINGLE)}
OURS = {guarantee: f"fleetwatch-{guarantee}" for guarantee in throughput.GUARANTEES}
MESSAGES = 2_000_000
#: A run of ours ends before the first look at it with fewer.
MESSAGES_MIN = 20_000
PROBLEMS_SHOWN = 5
_STARTED_S = time.monotonic()


def say(text: str) -> None:
    """A line of progress, with the seconds since the start."""
    click.echo(f"[{time.monotonic() - _STARTED_S:5.0f} s] {text}")


@dataclass
class Row:
    """What is known of one row of the table. problems : why there are no figures, or why they do not count."""

    messages: int = 0
    devices: int = 0
    runs: list[dict[str, float]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass
class Bench:
    """The broker's address, the job's inputs and the rows so far."""

    bootstrap: str
    folder: Path
    variant: Variant
    inputs: dict[int, Input] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        return f"bench.peers{self.folder.name[-8:].replace('_', 'x')}.{self.variant.name}"

    def settings(self, group: str, guarantee: str = throughput.GUARANTEES[0]) -> tuple[Path, Settings]:
        """The worker's, and where they are written."""
        path = self.folder / f"{group}.yaml"
        changes = {"processing": {"guarantee": guarantee}}
        wanted = process.sections(self.bootstrap, self.variant, self.prefix, f"{self.prefix}.{group}", changes)
        return path, process.write_settings(path, wanted)

    def write_inputs(self, wanted: set[int], ours: int | None) -> None:
        """The topics of the inputs, one a number of devices; that of `ours` is the worker's own input."""
        _, settings = self.settings("writer")
        cluster.fresh_topics(settings, keep_input=False)
        for devices in sorted(wanted | ({ours} if ours else set()), reverse=True):
            topic = topics(settings).vehicle.name if devices == ours else f"{self.prefix}.input.{devices}"
            if devices != ours:
                measure.create(settings, [topic])
            self.inputs[devices] = measure.write_input(settings, self.variant, topic, devices)
            say(f"input: {devices * ROUNDS:,} messages of {devices:,} devices are written")

    def add(self, name: str, given: Input, run: Any, problems: list[str]) -> None:
        row = self.rows.setdefault(name, Row())
        row.messages, row.devices = given.messages, given.devices
        row.runs.append({field: asdict(run)[field] for field in ("ns_per_message", "messages_per_s", "rss_mb")})
        row.problems += problems
        say(f"{name}: {run.ns_per_message / 1000:.2f} us of CPU a message, {run.messages_per_s:,.0f} messages/s, "
            f"{run.rss_mb:.0f} MB, {'NOT VERIFIED' if problems else 'verified'}")  # fmt: skip
        for problem in problems[:PROBLEMS_SHOWN]:
            say(f"{name}: {problem}")

    def fail(self, name: str, why: str) -> None:
        self.rows.setdefault(name, Row()).problems.append(why)
        say(f"{name}: FAILED: {why}")

    def run_ours(self, guarantee: str, given: Input, repetition: int) -> None:
        """The worker by the harness of `make bench`."""
        name = OURS[guarantee]
        path, settings = self.settings(f"{name}-{repetition}", guarantee)
        cluster.fresh_topics(settings, keep_input=True)
        run = throughput.drain(path, settings, given.messages, self.folder / f"{name}-{repetition}.log")
        names = topics(settings)
        features = [m.value() for m in cluster.read_all(settings, names.features.name)]
        alerts = [Alert.from_message(m.value(), m.headers()) for m in cluster.read_all(settings, names.alerts.name)]
        self.add(name, given, run, reference.differences(given.want, given.devices, features, alerts))

    def run_peer(self, peer: Peer, command: list[str], given: Input, repetition: int) -> None:
        name = f"{self.prefix}.{peer.name}.{repetition}x"
        folder = self.folder / f"{peer.name}-{repetition}"
        _, settings = self.settings("reader")
        run, problems = measure.run(settings, peer, command, given, self.variant.signals, name, folder)
        self.add(peer.name, given, run, problems)


def _install(bench: Bench, peers: tuple[Peer, ...]) -> dict[str, list[str]]:
    """How to start each peer that could be installed; the others are rows without figures."""
    found: dict[str, list[str]] = {}
    failed: dict[tuple[bool, str], str] = {}  # what failed is not tried again for the next row
    for peer in peers:
        kind = peer.java, "" if peer.java else peer.environment
        try:
            if kind not in failed:
                found[peer.name] = install.command(peer, say)
                continue
        except (CannotInstallError, OSError) as exc:
            failed[kind] = str(exc)
        bench.fail(peer.name, f"not installed: {failed[kind]}")
    return found


def _round(bench: Bench, commands: dict[str, list[str]], ours: int | None, devices: dict[str, int], n: int) -> None:
    """One repetition of everything."""
    chosen = [peer for peer in PEERS if peer.name in commands]
    for peer in chosen if n % 2 == 0 else chosen[::-1]:
        try:
            bench.run_peer(peer, commands[peer.name], bench.inputs[devices[peer.name]], n)
        except (RuntimeError, TimeoutError, OSError, KafkaException) as exc:
            bench.fail(peer.name, f"run {n + 1}: {exc}")
    if ours:
        for guarantee in throughput.GUARANTEES if n % 2 == 0 else throughput.GUARANTEES[::-1]:
            try:
                bench.run_ours(guarantee, bench.inputs[ours], n)
            except (RuntimeError, TimeoutError, OSError, KafkaException) as exc:
                bench.fail(OURS[guarantee], f"run {n + 1}: {exc}")


def _bench(bench: Bench, peers: tuple[Peer, ...], with_ours: bool, messages: int, repetitions: int) -> None:
    """Everything once the broker is there. A row that was not verified once is not run again."""
    commands = _install(bench, peers)
    devices = {peer.name: measure.devices_of(messages, peer.share) for peer in peers if peer.name in commands}
    ours = measure.devices_of(messages, 1.0) if with_ours else None
    bench.write_inputs(set(devices.values()), ours)
    for n in range(repetitions):
        say(f"repetition {n + 1} of {repetitions}")
        _round(bench, commands, ours, devices, n)
        for name in [name for name in commands if bench.rows[name].problems]:
            del commands[name]


def _names(ctx: click.Context, param: click.Parameter, value: str) -> tuple[bool, tuple[Peer, ...]]:
    del ctx, param
    try:
        return programs.choose(name.strip() for name in value.split(","))
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


def _terminated(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt


@click.command()
@click.option(
    "--only",
    "chosen",
    callback=_names,
    default=",".join(programs.FAMILIES),
    show_default=True,
    help="Comma-separated; also single rows, such as streams-eos.",
)
@click.option(
    "--messages",
    type=click.IntRange(MESSAGES_MIN),
    default=MESSAGES,
    show_default=True,
    help="Of the fast ones; 200 a device. Slow ones get their share of the devices.",
)
@click.option("--repetitions", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--variant",
    type=click.Choice(list(VARIANTS)),
    default=FRAMES.name,
    show_default=True,
    help="frames: 50 samples a message; single: one.",
)
@click.option("--bootstrap", default="", help="A Kafka that runs already; by default one is started for the run.")
@click.option("--write/--no-write", default=None,
              help="results.json, docs/performance.md and its picture; by default of a full run only.")  # fmt: skip
def main(
    chosen: tuple[bool, tuple[Peer, ...]], messages: int, repetitions: int, variant: str, bootstrap: str,
    write: bool | None,
) -> None:  # fmt: skip
    """Run the common job in Fleetwatch and its peers, side by side."""
    os.environ.setdefault("NUMBA_SLP_VECTORIZE", "1")
    signal.signal(signal.SIGTERM, _terminated)
    with_ours, peers = chosen
    full = with_ours and peers == PEERS and (messages, variant) == (MESSAGES, FRAMES.name)
    found = conditions() | {"repetitions": repetitions, "variant": variant}
    with tempfile.TemporaryDirectory(prefix="fleetwatch-peers-", ignore_cleanup_errors=True) as name:
        kafka = None if bootstrap else EmbeddedKafka(Path(name) / "kafka", brokers=1, port=0)
        bench = Bench("", Path(name), VARIANTS[variant])
        try:
            bench.bootstrap = bootstrap or (kafka.start() if kafka else "")
            _bench(bench, peers, with_ours, messages, repetitions)
        finally:
            if kafka:
                kafka.stop()
            else:
                measure.delete(bench.settings("cleaner")[1], bench.prefix)
    found["rows"] = {name: asdict(row) for name, row in bench.rows.items()}
    if any(peer.java and bench.rows[peer.name].runs for peer in peers):
        found["versions"]["java"] = install.jvm_version()
    found["samples_per_message"] = bench.variant.samples
    found["minutes"] = round((time.monotonic() - _STARTED_S) / 60, 1)
    click.echo("\n" + report.table(found))
    if full if write is None else write:
        for path in report.write(found):
            say(f"written: {path}")
    bad = [name for name, row in bench.rows.items() if row.problems]
    sys.exit(f"not verified or not run: {', '.join(bad)}" if bad else 0)


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except (KeyboardInterrupt, click.Abort):
        sys.exit("interrupted: what was started is stopped, nothing is written")
