"""Faults of the network. The rule: made from outside the process, in the namespaces of `tests.chaos.net`."""

from __future__ import annotations

import time

from tests.chaos.fault import Fault, NotFiredError
from tests.chaos.workers import WEB_PORT


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
