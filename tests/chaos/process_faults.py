"""Faults of processes: killed, stopped, told to end, restarted in turn; leaders elected anew. They need no root."""

from __future__ import annotations

import signal
import time

from confluent_kafka import ElectionType, KafkaError, TopicPartition

from tests.chaos.fault import Fault, NotFiredError


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
