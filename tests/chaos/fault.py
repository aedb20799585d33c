"""What a fault is, and what it acts on. The rule: one that cannot show that it fired is an error, not a pass.

`inject` begins a fault and says what it did; `fired` says by what it is seen to be there, or raises; `heal` ends
it. Which worker, broker and moment are drawn from the fault's own random numbers.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.chaos.cluster import Cluster
from tests.chaos.net import Network
from tests.chaos.workers import Slot, Workers

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
