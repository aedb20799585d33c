"""What can go wrong, each with its cure. The rule: a fault that cannot show that it fired is an error, not a pass.

`inject` begins a fault and says what it did; `fired` says by what it is seen to be there, or raises; `heal` ends
it. Which worker, broker and moment are drawn from the fault's own random numbers.
"""

from __future__ import annotations

import random
import signal
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from confluent_kafka import ElectionType, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.chaos.cluster import Cluster
from tests.chaos.net import Network
from tests.chaos.workers import WEB_PORT, Slot, Workers

CATCH_UP_TIMEOUT_S = 90.0


class NotFiredError(RuntimeError):
    """The fault had no effect; the run would prove nothing about it."""


@dataclass
class World:
    """What faults act on. network : none in loopback mode."""

    cluster: Cluster
    workers: Workers
    admin: AdminClient
    session_timeout_s: float
    network: Network | None = None

    @property
    def net(self) -> Network:
        assert self.network is not None, "a network fault in loopback mode"
        return self.network

    def leaders(self) -> dict[tuple[str, int], int]:
        """Broker index by partition, -1 = none."""
        metadata = self.admin.list_topics(timeout=20)
        return {(t.topic, p.id): p.leader - 1 for t in metadata.topics.values() for p in t.partitions.values()}

    def await_in_sync(self) -> None:
        """Wait until every replica is in sync again; a fault upon a fault would be another test."""
        end, behind = time.monotonic() + CATCH_UP_TIMEOUT_S, -1
        while time.monotonic() < end:
            try:
                topics = self.admin.list_topics(timeout=5).topics.values()
            except KafkaException:
                continue
            behind = sum(len(p.isrs) < len(p.replicas) for t in topics for p in t.partitions.values())
            if behind == 0:
                return
            time.sleep(0.3)
        raise NotFiredError(
            f"{behind} partitions are not in sync {CATCH_UP_TIMEOUT_S:.0f} s after a broker's return"
        )


class Fault(ABC):
    """One fault, once. hold_s : how long it lasts."""

    name: ClassVar[str]
    doc: ClassVar[str]
    needs_network: ClassVar[bool] = False
    #: How often a long run has it, by 100 worker kills and 20 broker kills; and how long it holds, seconds.
    share: ClassVar[int]
    hold: ClassVar[tuple[float, float]] = (0.0, 0.0)
    worker_kills: ClassVar[int] = 0
    broker_kills: ClassVar[int] = 0

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world, self.rng = world, rng
        self.hold_s = rng.uniform(*self.hold)
        self.spared: Slot | None = None

    def worker(self) -> Slot:
        """One of the workers, which must live; not the one that another fault holds already."""
        slot = self.rng.choice([slot for slot in self.world.workers.slots if slot is not self.spared])
        if not self.world.workers.await_living(slot):
            raise NotFiredError(f"{slot.name} does not run")
        return slot

    def broker(self) -> int:
        return self.rng.choice(list(self.world.cluster.indices))

    @abstractmethod
    def inject(self) -> str: ...

    @abstractmethod
    def fired(self) -> str: ...

    def heal(self) -> str:
        return ""


class WorkerKill(Fault):
    name, doc, share, worker_kills = "worker-kill", "SIGKILL to a worker, at any moment of its work.", 90, 1

    def inject(self) -> str:
        self.slot = self.worker()
        assert self.slot.process is not None
        self.process = self.slot.process
        if not self.world.workers.send(self.slot, signal.SIGKILL):
            raise NotFiredError(f"{self.slot.name} had ended")
        return self.slot.name

    def fired(self) -> str:
        code = self.process.wait(10)
        if code != -signal.SIGKILL:
            raise NotFiredError(f"{self.slot.name} ended with {code}, not by the signal")
        return "exit -9"


class WorkersKill(Fault):
    name, doc, share, worker_kills = "all-workers-kill", "SIGKILL to all workers at once.", 8, 3

    def inject(self) -> str:
        self.processes = [slot.process for slot in self.world.workers.slots if slot.alive]
        sent = [slot.name for slot in self.world.workers.slots if self.world.workers.send(slot, signal.SIGKILL)]
        if len(sent) < self.worker_kills:
            raise NotFiredError(f"only {sent} ran")
        return ", ".join(sent)

    def fired(self) -> str:
        codes = [process.wait(10) for process in self.processes if process is not None]
        if any(code != -signal.SIGKILL for code in codes):
            raise NotFiredError(f"exit codes {codes}")
        return f"exit codes {codes}"


class Zombie(Fault):
    name, doc, share = "zombie", "SIGSTOP to a worker for longer than its session, then SIGCONT.", 12
    hold = (3.0, 9.0)  # beyond the session timeout

    def inject(self) -> str:
        self.hold_s += self.world.session_timeout_s
        self.slot = self.worker()
        self.world.workers.send(self.slot, signal.SIGSTOP)
        return f"{self.slot.name} for {self.hold_s:.1f} s"

    def fired(self) -> str:
        end = time.monotonic() + 2
        while self.slot.state() != "T":
            if time.monotonic() > end:
                raise NotFiredError(f"{self.slot.name} is in state {self.slot.state()!r}, not stopped")
            time.sleep(0.02)
        return "state T"

    def heal(self) -> str:
        before = self.slot.state()
        if before != "T" or not self.world.workers.send(self.slot, signal.SIGCONT):
            raise NotFiredError(f"{self.slot.name} was in state {before!r} before SIGCONT")
        return "SIGCONT"


class WorkerTerm(Fault):
    name, doc, share = "worker-term", "SIGTERM to a worker, as a rolling update does; it must end with 0.", 10

    def inject(self) -> str:
        self.slot, began = self.worker(), time.monotonic()
        self.code = self.world.workers.terminate(self.slot)
        return f"{self.slot.name}, {time.monotonic() - began:.1f} s"

    def fired(self) -> str:
        return f"exit {self.code}"


class BrokerKill(Fault):
    name, doc, share, broker_kills = "broker-kill", "SIGKILL to a broker.", 9, 1
    hold = (1.0, 8.0)

    def choose(self) -> int:
        return self.broker()

    def inject(self) -> str:
        self.index = self.choose()
        code = self.world.cluster.signal(self.index, signal.SIGKILL)
        if code != -signal.SIGKILL:
            raise NotFiredError(f"broker {self.index + 1} ended with {code}")
        return f"broker {self.index + 1}"

    def fired(self) -> str:
        if self.world.cluster.answers(self.index):
            raise NotFiredError(f"broker {self.index + 1} still answers")
        return "its port is closed"

    def heal(self) -> str:
        self.world.cluster.start(self.index)
        self.world.cluster.await_port(self.index)
        self.world.await_in_sync()
        return "started, in sync"


class ControllerKill(BrokerKill):
    name, doc, share = "controller-kill", "SIGKILL to the broker that leads the controllers.", 6

    def choose(self) -> int:
        return self.world.cluster.controller_leader()

    def fired(self) -> str:
        super().fired()
        end = time.monotonic() + 20
        while (leader := self.world.cluster.controller_leader()) == self.index:
            if time.monotonic() > end:
                raise NotFiredError("the controllers elected no other leader within 20 s")
            time.sleep(0.1)
        return f"broker {leader + 1} leads the controllers now"


class BrokersKill(Fault):
    name, doc, share, broker_kills = "all-brokers-kill", "SIGKILL to all brokers at once.", 2, 3
    hold = (1.0, 5.0)

    def inject(self) -> str:
        codes = [self.world.cluster.signal(index, signal.SIGKILL) for index in self.world.cluster.indices]
        return f"exit codes {codes}"

    def fired(self) -> str:
        if any(self.world.cluster.answers(index) for index in self.world.cluster.indices):
            raise NotFiredError("a broker still answers")
        return "no port answers"

    def heal(self) -> str:
        self.world.cluster.start_all()
        self.world.await_in_sync()
        return "started, in sync"


class RollingRestart(Fault):
    name, doc, share = "rolling-restart", "SIGTERM and start of each broker, then of each worker, in turn.", 2

    def inject(self) -> str:
        codes = []
        for index in self.world.cluster.indices:
            codes.append(self.world.cluster.signal(index, signal.SIGTERM))
            self.world.cluster.start(index)
            self.world.cluster.await_port(index)
            self.world.await_in_sync()
        for slot in self.world.workers.slots:
            if self.world.workers.await_living(slot):
                codes.append(self.world.workers.terminate(slot))
                self.world.workers.await_living(slot)
                time.sleep(self.rng.uniform(0, 8))
        self.codes = codes
        return f"exit codes {codes}"

    def fired(self) -> str:
        if len(self.codes) < len(self.world.cluster.hosts) + 1:
            raise NotFiredError(f"only {len(self.codes)} processes were restarted")
        return f"{len(self.codes)} processes restarted"


class BrokerUnplugged(Fault):
    name, doc, share, needs_network = "broker-unplugged", "A broker's link goes down: cut off from all.", 5, True
    hold = (8.0, 18.0)

    def inject(self) -> str:
        self.index = self.broker()
        self.world.net.unplug(f"b{self.index + 1}")
        return f"broker {self.index + 1} for {self.hold_s:.1f} s"

    def fired(self) -> str:
        if self.world.cluster.answers(self.index):
            raise NotFiredError(f"broker {self.index + 1} still answers")
        return "its port cannot be reached"

    def heal(self) -> str:
        self.world.net.plug(f"b{self.index + 1}")
        self.world.await_in_sync()
        return "link up, in sync"


class BrokerCut(Fault):
    name, doc, share, needs_network = (
        "broker-cut",
        "A broker loses its peers but not its clients, silently.",
        5,
        True,
    )
    hold = (8.0, 18.0)

    def inject(self) -> str:
        self.index = self.broker()
        self.peers = [i for i in self.world.cluster.indices if i != self.index]
        for peer in self.peers:
            self.world.net.part(f"b{self.index + 1}", f"b{peer + 1}")
        return f"broker {self.index + 1} for {self.hold_s:.1f} s"

    def fired(self) -> str:
        net, host = self.world.net, self.world.cluster.hosts
        for peer in self.peers:
            one, other = f"b{self.index + 1}", f"b{peer + 1}"
            if net.reaches(one, other, host[peer].ports.client) or net.reaches(other, one, host[0].ports.client):
                raise NotFiredError(f"{one} still reaches {other}")
        if not self.world.cluster.answers(self.index):
            raise NotFiredError("its clients cannot reach it either")
        return "its peers are gone, its clients are not"

    def heal(self) -> str:
        for peer in self.peers:
            self.world.net.join(f"b{self.index + 1}", f"b{peer + 1}")
        self.world.await_in_sync()
        return "joined, in sync"


class WorkerUnplugged(Fault):
    name, doc, share, needs_network = (
        "worker-unplugged",
        "A worker's link is down for longer than its session.",
        6,
        True,
    )
    hold = (2.0, 8.0)  # beyond the session timeout

    def inject(self) -> str:
        self.hold_s += self.world.session_timeout_s
        self.slot = self.worker()
        self.host = f"w{self.world.workers.slots.index(self.slot) + 1}"
        self.world.net.unplug(self.host)
        return f"{self.slot.name} for {self.hold_s:.1f} s"

    def fired(self) -> str:
        if self.world.net.reaches("client", self.host, WEB_PORT):
            raise NotFiredError(f"{self.slot.name} can still be reached")
        return "cannot be reached"

    def heal(self) -> str:
        self.world.net.plug(self.host)
        return "link up"


class SlowLink(Fault):
    name, doc, share, needs_network = "slow-link", "A broker sends no more than 300 kbit/s.", 4, True
    hold = (10.0, 20.0)
    kbit_s = 300

    def inject(self) -> str:
        self.index = self.broker()
        self.world.net.slow(f"b{self.index + 1}", self.kbit_s)
        return f"broker {self.index + 1} for {self.hold_s:.1f} s"

    def fired(self) -> str:
        return "seen when it ends"

    def heal(self) -> str:
        held_up = self.world.net.fast(f"b{self.index + 1}")
        if held_up == 0:
            raise NotFiredError("no packet was held up")
        return f"{held_up} packets were held up"


class Resets(Fault):
    name, doc, share, needs_network = "resets", "All connections of a broker are reset, again and again.", 6, True
    hold = (4.0, 8.0)

    def inject(self) -> str:
        self.index = self.broker()
        self.count, end = 0, time.monotonic() + self.hold_s
        while time.monotonic() < end:
            self.count += self.world.net.reset(f"b{self.index + 1}")
            time.sleep(self.rng.uniform(0.3, 1.5))
        self.hold_s = 0.0
        return f"broker {self.index + 1}"

    def fired(self) -> str:
        if self.count == 0:
            raise NotFiredError("there was no connection to reset")
        return f"{self.count} connections reset"


class Election(Fault):
    name, doc, share = "election", "Other replicas are elected leaders while all runs.", 6

    def inject(self) -> str:
        if self._elect() == 0:  # all are where they would be: a broker's clean stop moves its leaders away
            index = self.broker()
            self.world.cluster.signal(index, signal.SIGTERM)
            self.world.cluster.start(index)
            self.world.cluster.await_port(index)
            self.world.await_in_sync()
            self._elect()
        return f"{self.moved} partitions"

    def _elect(self) -> int:
        before = self.world.leaders()
        wanted = [TopicPartition(topic, partition) for topic, partition in before]
        answers = self.world.admin.elect_leaders(ElectionType.PREFERRED, wanted).result(60)
        for where, error in answers.items():
            if error is not None and error.code() != KafkaError.ELECTION_NOT_NEEDED:
                raise NotFiredError(f"no election for {where}: {error.str()}")
        end, self.moved = time.monotonic() + 3, 0
        while self.moved == 0 and time.monotonic() < end:
            after = self.world.leaders()
            self.moved = sum(after[at] != leader for at, leader in before.items())
            time.sleep(0.2)
        return self.moved

    def fired(self) -> str:
        if self.moved == 0:
            raise NotFiredError("no leader changed")
        return f"{self.moved} leaders changed"


FAULTS: dict[str, type[Fault]] = {
    fault.name: fault
    for fault in (
        WorkerKill, WorkersKill, Zombie, WorkerTerm, BrokerKill, ControllerKill, BrokersKill, RollingRestart,
        Election, BrokerUnplugged, BrokerCut, WorkerUnplugged, SlowLink, Resets,
    )
}  # fmt: skip
