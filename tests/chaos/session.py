"""One chaos run from an empty directory to its verdict. The rule: whatever happens, nothing of it stays running."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import KafkaException

from fleetwatch.kafka import jvm
from fleetwatch.kafka.config import Ports
from fleetwatch.kafka.network import free_ports
from fleetwatch.kafka.progress import Step as ProgressStep
from telemetry import clients
from telemetry import settings as settings_module
from telemetry.settings import Settings
from telemetry.topics import Topics, ensure, topics
from tests.chaos.cluster import BrokerError, Cluster, Host
from tests.chaos.fault import Fault, NotFiredError, World
from tests.chaos.faults import FAULTS
from tests.chaos.net import Network
from tests.chaos.plan import Step
from tests.chaos.process_faults import WorkerKill
from tests.chaos.reading import TopicPart, await_leaders
from tests.chaos.sending import Sender
from tests.chaos.verdict import Verdict, check
from tests.chaos.watch import Recovery, Watch, wait_over
from tests.chaos.workers import WorkerEnd, Workers
from tests.chaos.workload import records

BROKERS = WORKERS = 3
PARTITIONS = 6  # Faust shares them out evenly: two of each input to a worker
SESSION_TIMEOUT_S = 6.0
COMMIT_INTERVAL_MS = 500
RECOVERY_TIMEOUT_S = 120.0
DRAIN_TIMEOUT_S = 240.0
STATUS_EVERY_S = 10.0


@dataclass(frozen=True)
class Options:
    """What a run is asked to do. minutes : no new fault after so long; 0 = no bound."""

    seed: int
    rate: float
    guarantee: str
    minutes: float = 0.0
    loopback: bool = False
    keep: bool = False


@dataclass
class Fired:
    """One fault that was tried. alone : nothing else was broken from its beginning to the recovery."""

    fault: str
    at_s: float
    what: str
    evidence: str
    recovery: Recovery | None = None
    alone: bool = False
    error: str = ""


@dataclass
class Outcome:
    """All that is known after a run."""

    options: Options
    faults: list[Fired] = field(default_factory=list)
    ends: list[WorkerEnd] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    verdict: Verdict | None = None
    sent: int = 0
    seconds: float = 0.0
    skipped: int = 0

    def fired(self, name: str) -> list[Fired]:
        return [f for f in self.faults if f.fault == name and not f.error]

    @property
    def worker_kills(self) -> int:
        return sum(end.cause == "killed" for end in self.ends)

    @property
    def broker_kills(self) -> int:
        return sum(FAULTS[f.fault].broker_kills for f in self.faults if not f.error)


def sections(bootstrap: str, guarantee: str) -> dict[str, object]:
    """The workers' settings: the defaults but for what makes failures short and many."""
    return {
        "kafka": {"bootstrap": bootstrap},
        "topics": {"prefix": "chaos", "partitions": PARTITIONS, "replication": BROKERS},
        "processing": {
            "group": "chaos",
            "guarantee": guarantee,
            "session_timeout_s": SESSION_TIMEOUT_S,
            "heartbeat_s": 1.5,
            "commit_interval_ms": COMMIT_INTERVAL_MS,
        },
        "alerts": {"warmup_s": 20, "open_rows": 3, "resolve_s": 20, "update_s": 10, "cooldown_s": 10},
        "service": {"log_format": "json"},
    }


class Session:
    """Cluster, workers, sender and watch of one run; `opened` makes and ends it."""

    def __init__(self, options: Options, say: Callable[[str], None]) -> None:
        self.options, self._say = options, say
        self.outcome = Outcome(options)
        self._began_s = time.monotonic()
        self.folder = Path()
        self.settings: Settings
        self.names: Topics
        self.world: World
        self.sender: Sender
        self.watch: Watch

    def say(self, text: str) -> None:
        self._say(f"{time.monotonic() - self._began_s:7.1f} s  {text}")

    def open(self, stack: ExitStack) -> None:
        """Start everything; what was started is ended by the stack, in the opposite order."""
        runtime = jvm.prepare(lambda event: self.say(event.text) if isinstance(event, ProgressStep) else None)
        self.folder = Path(tempfile.mkdtemp(prefix="fleetwatch-chaos-"))
        stack.callback(self._tidy)
        network = None if self.options.loopback else self._network(stack)
        hosts = self._hosts(network)
        cluster = Cluster(self.folder, hosts, runtime)
        stack.callback(cluster.close)
        self.say(f"starting {BROKERS} brokers; logs in {self.folder}")
        cluster.format()
        cluster.start_all()
        config = self.folder / "settings.json"
        config.write_text(json.dumps(sections(cluster.bootstrap, self.options.guarantee)))
        self.settings = settings_module.load(config, environ={})
        ensure(self.settings)
        self.names = topics(self.settings)
        places = [
            (f"worker-{i + 1}", network.prefix(f"w{i + 1}"), network.address(f"w{i + 1}")) if network
            else (f"worker-{i + 1}", (), "")
            for i in range(WORKERS)
        ]  # fmt: skip
        workers = Workers(self.folder, config, places)
        stack.callback(workers.close)
        self.world = World(cluster, workers, clients.admin(self.settings), SESSION_TIMEOUT_S, network)
        self.world.await_in_sync()
        made = [spec for spec in self.names.all() if spec.co_partitioned]
        await_leaders(self.world.admin, [(spec.name, p) for spec in made for p in range(PARTITIONS)], 30.0)
        inputs = tuple(spec.name for spec in self.names.inputs)
        source = records(self.options.seed, PARTITIONS)
        self.sender = Sender(self.settings, (inputs[0], inputs[1]), source, self.options.rate)
        stack.callback(self.sender.close)
        self.watch = Watch(self.settings, [(name, p) for name in inputs for p in range(PARTITIONS)])
        stack.callback(self.watch.close)
        workers.start()
        self.sender.start()
        self.watch.start()

    def _tidy(self) -> None:
        if self.options.keep or self.outcome.problems or self.outcome.verdict is None:
            self.say(f"kept for a look: {self.folder}")
        else:
            shutil.rmtree(self.folder)

    def _network(self, stack: ExitStack) -> Network:
        names = [*(f"b{i + 1}" for i in range(BROKERS)), *(f"w{i + 1}" for i in range(WORKERS)), "client"]
        network = Network(names)
        stack.callback(network.close)
        network.build()
        network.enter("client")
        return network

    def _hosts(self, network: Network | None) -> list[Host]:
        if network is None:
            return [Host("127.0.0.1", ports) for ports in free_ports(BROKERS)]
        names = [f"b{i + 1}" for i in range(BROKERS)]
        return [Host(network.address(name), Ports(9092, 9093), network.prefix(name)) for name in names]

    # -- the run

    def settle(self) -> None:
        """Wait until the workers have begun to commit.

        Raises
        ------
        RuntimeError : they do not.
        """
        inputs = len(self.names.inputs) * PARTITIONS
        while len(self.sender.acked()) < inputs and not self.sender.problems:
            time.sleep(0.1)
        recovery = self.watch.expect(self.sender.acked())
        if not self._wait(recovery, RECOVERY_TIMEOUT_S):
            raise RuntimeError(f"the workers do not commit anything; see their logs in {self.folder}")
        self.say(f"the group works ({self.watch.total} records committed)")

    def _wait(self, recovery: Recovery, timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if wait_over(recovery, min(STATUS_EVERY_S, max(0.1, end - time.monotonic()))):
                return True
            self.status()
        return False

    def status(self) -> None:
        """One line on how things are, and what the watch has noticed since the last."""
        while self.watch.notes:
            self.say(f"note: {self.watch.notes.pop(0)}")
        committed, acked = self.watch.total, self.sender.total
        alive = "".join("+" if slot.alive else "-" for slot in self.world.workers.slots)
        brokers = "".join("+" if self.world.cluster.alive(i) else "-" for i in self.world.cluster.indices)
        self.say(
            f"status: {acked} sent, {committed} committed, lag {acked - committed}, unsent {self.sender.waiting}, "
            f"brokers {brokers}, workers {alive}, kills {self.outcome_kills()}"
        )

    def outcome_kills(self) -> int:
        return sum(end.cause == "killed" for end in self.world.workers.ends)

    def run(self, steps: list[Step]) -> None:
        """All steps, one after the other."""
        alone, last_status = True, time.monotonic()
        for number, step in enumerate(steps, 1):
            if self.options.minutes and time.monotonic() - self._began_s > 60 * self.options.minutes:
                self.outcome.skipped = len(steps) - number + 1
                self.say(f"time is up: {self.outcome.skipped} of {len(steps)} faults are left out")
                break
            fired = self._step(step, f"{number}/{len(steps)}")
            fired.alone = alone and step.wait and not step.also_kill and not fired.error
            if step.wait and fired.recovery and not self._wait(fired.recovery, RECOVERY_TIMEOUT_S):
                self.outcome.problems.append(
                    f"{step.fault} ({fired.what}): not recovered after {RECOVERY_TIMEOUT_S:.0f} s"
                )
                self.say(self.outcome.problems[-1])
            if fired.recovery and self.watch.stalled_within(fired.recovery.began_s, time.monotonic()):
                fired.alone = False
            if step.wait and fired.recovery and (took := fired.recovery.seconds) is not None:
                self.say(f"        newer records of all partitions are committed {took:.1f} s after it began")
            alone = step.wait
            time.sleep(step.pause_s)
            if time.monotonic() - last_status >= STATUS_EVERY_S:
                self.status()
                last_status = time.monotonic()

    def _step(self, step: Step, label: str) -> Fired:
        fault = FAULTS[step.fault](self.world, random.Random(step.seed))
        result = Fired(step.fault, time.monotonic() - self._began_s, "", "")
        self.outcome.faults.append(result)
        began_s = time.monotonic()
        try:
            result.what = fault.inject()
            result.recovery = self.watch.expect({at: n + 1 for at, n in self.sender.acked().items()}, began_s)
            try:
                result.evidence = fault.fired()
                self.say(f"{label} {step.fault}: {result.what}; {result.evidence}")
                self._hold(fault, step)
            finally:
                healed = fault.heal()
            if healed:
                self.say(f"        healed: {healed}")
                result.evidence += f"; {healed}"
        except (NotFiredError, BrokerError, KafkaException) as exc:
            result.error = str(exc)
            self.outcome.problems.append(f"{step.fault} did not fire or heal: {exc}")
            self.say(f"{label} {self.outcome.problems[-1]}")
        return result

    def _hold(self, fault: Fault, step: Step) -> None:
        hold_s = fault.hold_s
        if step.also_kill:
            rng = random.Random(step.seed + 1)
            time.sleep(hold_s * rng.uniform(0.2, 0.8))
            kill = WorkerKill(self.world, rng)
            kill.spared = getattr(fault, "slot", None)
            self.say(f"        and a worker is killed: {kill.inject()}; {kill.fired()}")
            hold_s *= 0.2
        time.sleep(hold_s)

    # -- the end

    def finish(self) -> None:
        """No more input; all of it must be committed; the workers must end well; then the check."""
        self.sender.finish(DRAIN_TIMEOUT_S)
        self.outcome.sent = self.sender.total
        recovery = self.watch.expect(self.sender.acked())
        if not self._wait(recovery, DRAIN_TIMEOUT_S):
            behind = self.outcome.sent - self.watch.total
            self.outcome.problems.append(
                f"{behind} records were not committed {DRAIN_TIMEOUT_S:.0f} s after the end"
            )
        self.world.workers.stop()
        self.outcome.problems += self.world.workers.problems
        self.outcome.ends = self.world.workers.ends
        self.outcome.problems += self.sender.problems
        self.outcome.seconds = time.monotonic() - self._began_s
        self.say(f"all committed: {self.outcome.sent} records; checking")
        self.judge()

    def judge(self, upto: Mapping[TopicPart, int] | None = None) -> None:
        """Compare and add what is wrong to the problems; see `check`."""
        verdict = self.outcome.verdict = check(
            self.settings, self.names, self.world.admin, self.sender.digests, self.say,
            exactly_once=self.options.guarantee == "exactly_once", upto=upto,
        )  # fmt: skip
        problems = self.outcome.problems
        problems += verdict.problems
        for kind, found in verdict.topics.items():
            if found.wrong(exactly_once=verdict.exactly_once):
                problems.append(
                    f"{kind}: {found.missing} missing, {found.duplicate} duplicate, {found.different} different, "
                    f"{found.unexpected} unexpected, {found.misordered} lanes in another order\n{found.first}"
                )
            if not found.expected:
                problems.append(f"{kind}: the uninterrupted run has no record; the comparison proves nothing")
        if verdict.exactly_once and self.outcome.worker_kills and not verdict.aborted:
            problems.append("no record of an aborted transaction is in the log: the kills proved nothing")
        if not verdict.exactly_once and self.outcome.worker_kills and not verdict.duplicates:
            problems.append("at least once, and no duplicate was found: the checker proves nothing")


@contextmanager
def opened(options: Options, say: Callable[[str], None]) -> Iterator[Session]:
    """A running session; everything of it is ended at the end, also on Ctrl-C."""
    os.environ.setdefault("NUMBA_SLP_VECTORIZE", "1")  # as the worker: the kernels must be the same
    with ExitStack() as stack:
        session = Session(options, say)
        session.open(stack)
        yield session
