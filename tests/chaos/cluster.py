"""Three real brokers that may be killed, stopped and started one by one. The rule: data outlive their process."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fleetwatch.kafka import config, jvm, process
from fleetwatch.kafka.cluster import new_cluster_id
from fleetwatch.kafka.config import Ports

HEAP_MB = 192
START_TIMEOUT_S = 90.0
#: A broker that is told to stop and has no quorum waits some seconds; then it is killed.
STOP_PATIENCE_S = 20.0
#: Small segments, so that compaction and many segments are part of the test.
SEGMENT_BYTES = 16 << 20


@dataclass(frozen=True)
class Host:
    """Where a broker runs. prefix : what its command line begins with (`ip netns exec ...`)."""

    address: str
    ports: Ports
    prefix: tuple[str, ...] = ()

    @property
    def client(self) -> str:
        return f"{self.address}:{self.ports.client}"


class BrokerError(RuntimeError):
    """A broker did not start or stop as it should."""


def properties(index: int, hosts: Sequence[Host], data: Path) -> dict[str, str]:
    """As the embedded Kafka's, but for the addresses and what a test of transactions needs."""
    settings = config.properties(index, tuple(host.ports for host in hosts), data)
    own = hosts[index]
    return settings | {
        "controller.quorum.voters": ",".join(
            f"{i + 1}@{host.address}:{host.ports.controller}" for i, host in enumerate(hosts)
        ),
        "listeners": f"PLAINTEXT://{own.client},CONTROLLER://{own.address}:{own.ports.controller}",
        "advertised.listeners": f"PLAINTEXT://{own.client}",
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
        "auto.leader.rebalance.enable": "false",  # elections are ours to order
        "log.segment.bytes": str(SEGMENT_BYTES),
        "log.retention.bytes": "-1",
    }


class Cluster:
    """The brokers, by index from 0; broker i has Kafka's node id i + 1."""

    def __init__(self, directory: Path, hosts: Sequence[Host], runtime: jvm.Runtime) -> None:
        self.directory, self.hosts, self._runtime = directory, tuple(hosts), runtime
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self.indices = range(len(hosts))

    @property
    def bootstrap(self) -> str:
        return ",".join(host.client for host in self.hosts)

    def folder(self, index: int) -> Path:
        return self.directory / f"broker-{index + 1}"

    def log(self, index: int) -> Path:
        return self.folder(index) / "broker.log"

    def _properties(self, index: int) -> Path:
        return self.folder(index) / "server.properties"

    def format(self) -> None:
        """Write each broker's properties and prepare its data folder."""
        cluster_id = new_cluster_id()

        def one(index: int) -> None:
            self.folder(index).mkdir(parents=True)
            text = config.render(properties(index, self.hosts, self.folder(index) / "data"))
            self._properties(index).write_text(text, encoding="utf-8")
            self._runtime.format_storage(self._properties(index), cluster_id)

        with ThreadPoolExecutor(len(self.hosts)) as pool:
            list(pool.map(one, self.indices))

    def start(self, index: int) -> None:
        """Start a broker's process; see `await_port`."""
        command = [*self.hosts[index].prefix, *self._runtime.broker_command(self._properties(index), HEAP_MB)]
        pid_file = self.folder(index) / "pid.json"
        self._processes[index] = process.spawn(command, self.log(index), pid_file)

    def await_port(self, index: int) -> None:
        """Return when the broker takes connections.

        Raises
        ------
        BrokerError : it ended, or took too long; with the end of its log.
        """
        end = time.monotonic() + START_TIMEOUT_S
        while not self.answers(index):
            if not self.alive(index) or time.monotonic() > end:
                lines = self.log(index).read_text(errors="replace").splitlines()[-12:]
                raise BrokerError(f"broker {index + 1} does not start:\n" + "\n".join(lines))
            time.sleep(0.1)

    def start_all(self) -> None:
        for index in self.indices:
            if not self.alive(index):
                self.start(index)
        for index in self.indices:
            self.await_port(index)

    def answers(self, index: int) -> bool:
        host = self.hosts[index]
        try:
            with socket.create_connection((host.address, host.ports.client), timeout=1.0):
                return True
        except OSError:
            return False

    def alive(self, index: int) -> bool:
        found = self._processes.get(index)
        return found is not None and found.poll() is None

    def signal(self, index: int, number: signal.Signals) -> int:
        """Send a signal and wait for the end; returns the exit code.

        Raises
        ------
        BrokerError : it survived.
        """
        broker = self._processes[index]
        broker.send_signal(number)
        try:
            return broker.wait(STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            if number == signal.SIGKILL:
                raise BrokerError(f"broker {index + 1} survives SIGKILL") from None
            broker.kill()
            return broker.wait(10)

    def pid(self, index: int) -> int:
        return self._processes[index].pid

    def controller_leader(self) -> int:
        """The broker that leads the controllers' quorum, as the newest quorum state on disk says."""
        found = []
        for index in self.indices:
            path = self.folder(index) / "data" / "__cluster_metadata-0" / "quorum-state"
            state = json.loads(path.read_text(encoding="utf-8"))
            if state["leaderId"] > 0:
                found.append((int(state["leaderEpoch"]), int(state["leaderId"]) - 1))
        if not found:
            raise BrokerError("the controllers have no leader")
        return max(found)[1]

    def close(self) -> None:
        """End what still runs; the cluster is not needed any more, so not gently."""
        for broker in self._processes.values():
            if broker.poll() is None:
                broker.kill()
        for broker in self._processes.values():
            broker.wait(10)
