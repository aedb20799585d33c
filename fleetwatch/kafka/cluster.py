"""A real Kafka on this machine, of one or three brokers. The rule: all that is known of it is in its directory.

Brokers are processes of their own that outlive the one that started them; any process may ask, stop or kill them
through the directory: `cluster.json` (brokers, ports, heap), and in `broker-<i>/` the properties, the data, the log
and the pid file.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import uuid4

import psutil

from fleetwatch.kafka import config, jvm, network, process
from fleetwatch.kafka.config import HOST, Ports
from fleetwatch.kafka.jvm import KafkaStartError
from fleetwatch.kafka.manifest import KAFKA_VERSION
from fleetwatch.kafka.paths import locked
from fleetwatch.kafka.progress import Progress, Step, silent
from fleetwatch.kafka.readiness import Probe
from telemetry.errors import SettingsError

DEFAULT_PORT = 9092
START_TIMEOUT_S = 120.0
#: The last of three brokers waits some 5 s for a quorum that is gone. Whoever takes longer than this is killed; it
#: loses nothing that was acknowledged (a killed process keeps its page cache).
STOP_PATIENCE_S = 15.0
LOG_TAIL_LINES = 15


@dataclass(frozen=True)
class Spec:
    """What a cluster is, kept in `cluster.json`."""

    cluster_id: str
    ports: tuple[Ports, ...]
    heap_mb: int
    kafka_version: str = KAFKA_VERSION

    @property
    def bootstrap(self) -> str:
        return ",".join(f"{HOST}:{each.client}" for each in self.ports)


@dataclass(frozen=True)
class BrokerStatus:
    """One broker now. `rss_bytes` and `cpu_s` are 0 where it does not run."""

    index: int
    port: int
    pid: int | None
    answers: bool
    rss_bytes: int
    cpu_s: float
    log: Path


@dataclass(frozen=True)
class Status:
    """A cluster now; `brokers` is empty where none was ever started in the directory."""

    directory: Path
    bootstrap: str | None
    kafka_version: str | None
    brokers: tuple[BrokerStatus, ...]

    @property
    def running(self) -> bool:
        """All brokers' processes live and accept connections."""
        return bool(self.brokers) and all(broker.pid and broker.answers for broker in self.brokers)

    @property
    def degraded(self) -> bool:
        """Some brokers run, others do not."""
        return not self.running and any(broker.pid for broker in self.brokers)


class EmbeddedKafka:
    """Apache Kafka in KRaft mode, in `directory`.

    Parameters
    ----------
    directory : holds everything of the cluster; data is kept between starts.
    brokers : 1 or 3; None is what the directory holds, else 1.
    port : of the first broker; broker i listens on port+2i and its controller on port+2i+1. 0 chooses free ports
        and keeps them while they stay free; None is what the directory holds, else 9092.
    heap_mb : of each JVM, MiB; None is 512 for one broker and 192 for each of three.
    """

    def __init__(
        self, directory: Path, brokers: int | None = None, port: int | None = None, heap_mb: int | None = None
    ) -> None:
        if brokers is not None and brokers not in config.BROKER_COUNTS:
            raise SettingsError(f"--brokers {brokers}: must be one of {', '.join(map(str, config.BROKER_COUNTS))}")
        self.directory = directory.absolute()
        self._brokers = brokers
        self._port = port
        self._heap_mb = heap_mb
        # our own children are kept, so that a dead one is reaped and not left a zombie
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    # -- where things are

    def broker_dir(self, index: int) -> Path:
        return self.directory / f"broker-{index}"

    def log_path(self, index: int) -> Path:
        """The broker's log since its last start; the one before is beside it as `broker.log.1`."""
        return self.broker_dir(index) / "broker.log"

    def _properties(self, index: int) -> Path:
        return self.broker_dir(index) / "server.properties"

    def _pid_file(self, index: int) -> Path:
        return self.broker_dir(index) / "pid.json"

    def _lock(self) -> Path:
        return self.directory / "lock"

    def spec(self) -> Spec | None:
        """What `cluster.json` says, or None where no cluster was made yet.

        Raises
        ------
        SettingsError : the file is damaged.
        """
        path = self.directory / "cluster.json"
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            ports = tuple(Ports(**each) for each in fields.pop("ports"))
            return Spec(ports=ports, **fields)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise SettingsError(f"{path} is damaged ({exc}); remove {self.directory} to begin anew") from exc

    def process(self, index: int) -> psutil.Process | None:
        """The broker's living process."""
        child = self._children.get(index)
        if child is not None:
            # no look at the command line: it is empty for an instant after the process began
            if child.poll() is None:
                return psutil.Process(child.pid)
            del self._children[index]
        return process.find(self._pid_file(index), str(self._properties(index)))

    # -- start

    def start(self, progress: Progress = silent) -> str:
        """Start what does not run yet and wait until every broker answers; returns the bootstrap address.

        Raises
        ------
        PortTakenError : another process listens on a port.
        ArtifactUnavailableError, ChecksumError : Kafka itself could not be fetched.
        KafkaStartError : a broker ended or did not answer; with its last log lines.
        SettingsError : the directory holds another number of brokers, or runs on other ports.
        """
        with locked(self._lock()):
            spec = self._wanted()
            missing = [i for i in range(len(spec.ports)) if self.process(i) is None]
            if missing:
                network.require_free(tuple(spec.ports[i] for i in missing))
                runtime = jvm.prepare(progress)
                process.write_atomically(self.directory / "cluster.json", json.dumps(asdict(spec), indent=1))
                self._format(spec, missing, runtime)
                progress(Step(f"starting Kafka {KAFKA_VERSION}: {len(missing)} broker(s) on {spec.bootstrap}"))
                self._bring_up(spec, missing, runtime)
            else:
                self._await_ready(spec)
            return spec.bootstrap

    def _wanted(self) -> Spec:
        """The spec to run: what the directory holds, changed as far as it may be."""
        held = self.spec()
        running = held is not None and any(self.process(i) for i in range(len(held.ports)))
        brokers = self._brokers or (len(held.ports) if held else 1)
        if held and brokers != len(held.ports):
            raise SettingsError(
                f"{self.directory} holds a cluster of {len(held.ports)} broker(s), not {brokers}: use another "
                "directory (--dir), or remove this one's data (`fleetwatch kafka stop --purge`)"
            )
        if held and running:
            if self._port and self._port != held.ports[0].client:
                raise SettingsError(
                    f"the cluster in {self.directory} runs on {held.bootstrap}, not on port {self._port}: "
                    "stop it first, or use another directory (--dir)"
                )
            return held
        if self._port == 0:
            kept = held and all(network.is_free(p) for each in held.ports for p in (each.client, each.controller))
            ports = held.ports if held and kept else network.free_ports(brokers)
        elif self._port is None and held:
            ports = held.ports
        else:
            ports = config.consecutive_ports(self._port or DEFAULT_PORT, brokers)
        heap_mb = self._heap_mb or config.default_heap_mb(brokers)
        if held:
            return replace(held, ports=ports, heap_mb=heap_mb, kafka_version=KAFKA_VERSION)
        return Spec(new_cluster_id(), ports, heap_mb)

    def _format(self, spec: Spec, indices: Sequence[int], runtime: jvm.Runtime) -> None:
        def one(index: int) -> None:
            data = self.broker_dir(index) / "data"
            self.broker_dir(index).mkdir(exist_ok=True)
            text = config.render(config.properties(index, spec.ports, data))
            process.write_atomically(self._properties(index), text)
            if not (data / "meta.properties").exists():
                runtime.format_storage(self._properties(index), spec.cluster_id)

        with ThreadPoolExecutor(len(indices)) as pool:
            list(pool.map(one, indices))

    def _bring_up(self, spec: Spec, indices: Sequence[int], runtime: jvm.Runtime) -> None:
        """Start brokers and wait for the cluster; a failed or interrupted start leaves none of them."""
        try:
            for index in indices:
                command = runtime.broker_command(self._properties(index), spec.heap_mb)
                self._children[index] = process.spawn(command, self.log_path(index), self._pid_file(index))
            self._await_ready(spec)
        except BaseException:
            process.kill([found for i in indices if (found := self.process(i))])
            raise

    def _await_ready(self, spec: Spec) -> None:
        """Return when the cluster's metadata, asked through Kafka's protocol, names every broker."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        indices = range(len(spec.ports))
        while not all(network.answers(each.client) for each in spec.ports):
            self._check_alive(indices, deadline_s, "its port does not answer")
            time.sleep(0.05)
        probe = Probe(spec.bootstrap)
        while True:
            registered, reason = probe.registered()
            if registered == len(spec.ports):
                break
            self._check_alive(indices, deadline_s, reason)
            time.sleep(0.05)
        probe.create_internal_topics(len(spec.ports))

    def _check_alive(self, indices: Sequence[int], deadline_s: float, reason: str) -> None:
        for index in indices:
            if self.process(index) is None:
                raise KafkaStartError(self._with_log(f"broker {index} ended while it started", index))
        if time.monotonic() > deadline_s:
            text = f"Kafka is not ready after {START_TIMEOUT_S:.0f} s: {reason}"
            raise KafkaStartError(self._with_log(text, indices[0]))

    def _with_log(self, text: str, index: int) -> str:
        path = self.log_path(index)
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
        tail = "\n".join(f"  {line[:300]}" for line in lines) or "  (empty)"
        return f"{text}. The end of its log, {path}:\n{tail}"

    # -- stop, status, faults

    def stop(self, *, purge: bool = False, patience_s: float = STOP_PATIENCE_S) -> bool:
        """End all brokers (SIGTERM, after `patience_s` SIGKILL); returns whether any ran.

        Parameters
        ----------
        purge : also remove the directory's data, logs and settings.
        """
        if not self.directory.is_dir():
            return False
        with locked(self._lock()):
            spec = self.spec()
            indices = range(len(spec.ports)) if spec else range(0)
            alive = [found for i in indices if (found := self.process(i))]
            process.end(alive, patience_s)
            for index in indices:
                self.process(index)  # reaps
                self._pid_file(index).unlink(missing_ok=True)
            if purge:
                for index in indices:
                    shutil.rmtree(self.broker_dir(index), ignore_errors=False)
                (self.directory / "cluster.json").unlink(missing_ok=True)
        return bool(alive)

    def status(self) -> Status:
        spec = self.spec()
        if spec is None:
            return Status(self.directory, None, None, ())
        brokers = tuple(self._broker_status(i, each) for i, each in enumerate(spec.ports))
        return Status(self.directory, spec.bootstrap, spec.kafka_version, brokers)

    def _broker_status(self, index: int, ports: Ports) -> BrokerStatus:
        log = self.log_path(index)
        found = self.process(index)
        try:
            if found is not None:
                cpu, rss = found.cpu_times(), found.memory_info().rss
                up = network.answers(ports.client)
                return BrokerStatus(index, ports.client, found.pid, up, rss, cpu.user + cpu.system, log)
        except psutil.NoSuchProcess:
            pass  # it ended between the two questions: told as not running
        return BrokerStatus(index, ports.client, None, False, 0, 0.0, log)

    def kill_broker(self, index: int) -> None:
        """SIGKILL a broker, as a fault for tests.

        Raises
        ------
        ValueError : it does not run.
        """
        found = self.process(index)
        if found is None:
            raise ValueError(f"broker {index} does not run")
        process.kill([found])
        self.process(index)

    def restart_broker(self, index: int, progress: Progress = silent) -> None:
        """Start a broker that was killed or has died, and wait until the whole cluster is ready."""
        with locked(self._lock()):
            spec = self.spec()
            if spec is None or index >= len(spec.ports):
                raise ValueError(f"there is no broker {index} in {self.directory}")
            if self.process(index) is None:
                network.require_free((spec.ports[index],))
                self._bring_up(spec, [index], jvm.prepare(progress))


def new_cluster_id() -> str:
    """A random id in Kafka's form: 16 bytes in URL-safe base 64; no leading '-', which would read as an option."""
    while (text := urlsafe_b64encode(uuid4().bytes)[:22].decode()).startswith("-"):
        pass
    return text
