"""The demo's ground: a folder, a broker, settings, processes. The rule: what it made is gone when it ends.

Where FLEETWATCH_KAFKA__BOOTSTRAP or the settings file names a cluster, that one is used, under a topic prefix of
its own, and its topics are deleted at the end.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from fleetwatch import demo_plan
from fleetwatch.demo_children import Child, Children, sweep
from fleetwatch.demo_page import Page
from fleetwatch.demo_watch import Cluster, WorkerWatch
from fleetwatch.kafka.cluster import EmbeddedKafka
from fleetwatch.kafka.progress import shown
from telemetry import settings as settings_of
from telemetry.clients import require_broker
from telemetry.kafka_settings import KafkaSettings
from telemetry.settings import ENV_PREFIX, Settings
from telemetry.topics import ensure

READY_TIMEOUT_S = 120.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_KEPT_VARIABLES = ("FLEETWATCH_CACHE_DIR", "FLEETWATCH_STATE_DIR")
#: Settings of `kafka` that travel in variables, never in the demo's settings file.
_SECRETS = ("sasl_password", "ssl_key_password")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt, until what is yielded is called; then they wait."""
    before = {number: signal.signal(number, _interrupt) for number in _SIGNALS}

    def ignore() -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    try:
        yield ignore
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Session:
    """Use it as a context: it ends everything, whatever happens.

    Attributes
    ----------
    settings : of every process here. folder : holds all that the demo writes; logs : what its processes say.
    """

    def __init__(self, page: Page, given: Settings, changed: Mapping[str, Any]) -> None:
        self.page = page
        self._own_cluster = "bootstrap" in given.kafka.model_fields_set
        self._given = given
        self._changed = changed
        self._kafka: EmbeddedKafka | None = None
        self._made_topics = False
        self.folder = Path(tempfile.mkdtemp(prefix="fleetwatch-demo-"))
        self.logs = self.folder / "logs"
        self.logs.mkdir()
        self.children = Children(self.folder / "settings.yaml", self.logs, {})
        self.workers: list[WorkerWatch] = []
        self.settings: Settings
        self.cluster: Cluster

    def open(self) -> None:
        """Bring up the cluster and the topics.

        Raises
        ------
        BrokerUnavailableError : the named cluster does not answer; KafkaStartError : the embedded one.
        """
        given = self._given.kafka if self._own_cluster else KafkaSettings()  # the embedded one asks for no login
        kafka = given.model_dump(mode="json", exclude=set(_SECRETS), exclude_defaults=True)
        prefix = f"demo{secrets.token_hex(4)}"
        environ = self._environment(given)
        self._write("settings.yaml", kafka, prefix)
        self.children = Children(self.folder / "settings.yaml", self.logs, environ)
        kernels = self.children.start("kernels", ["worker", "--compile-only"])
        if not self._own_cluster:
            self._kafka = EmbeddedKafka(self.folder / "kafka", brokers=1, port=0)
            began_s = time.monotonic()
            with shown() as progress:
                kafka = {"bootstrap": self._kafka.start(progress)}
            self.page.say(f"Kafka: one broker at {kafka['bootstrap']}, ready in {time.monotonic() - began_s:.1f} s")
        else:
            kafka["bootstrap"] = self._given.kafka.bootstrap
        config = self._write("settings.yaml", kafka, prefix)
        self.settings = settings_of.load(config, environ=environ)
        require_broker(self.settings)
        if self._own_cluster:
            self.page.say(f"Kafka: the cluster at {kafka['bootstrap']}")
        self._made_topics = True
        ensure(self.settings)
        self.cluster = Cluster(self.settings)
        self.page.say(f"topics {prefix}.*, {self.settings.topics.partitions} partitions each; folder {self.folder}")
        self._await_kernels(kernels)

    def _write(self, name: str, kafka: dict[str, Any], prefix: str) -> Path:
        sections = demo_plan.sections(kafka, prefix, self._given.catalog.paths, self._changed)
        path = self.folder / name
        path.write_text(json.dumps(sections, indent=1), encoding="utf-8")
        return path

    def _await_kernels(self, child: Child) -> None:
        """Compiled once, before the workers start: else each would compile the same beside the other."""
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while child.running:
            self.page.progress("compiling the kernels (once)")
            if time.monotonic() > deadline_s:
                raise child.failure(f"is not ready after {READY_TIMEOUT_S:.0f} s")
            time.sleep(0.1)
        if child.process.returncode:
            raise child.failure(f"ended with exit code {child.process.returncode}")
        self.page.still()

    def _environment(self, kafka: KafkaSettings) -> dict[str, str]:
        """Ours without settings: every process of the demo reads the demo's file and nothing else."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(ENV_PREFIX) or k in _KEPT_VARIABLES}
        for name in _SECRETS:
            if (secret := getattr(kafka, name)) is not None:
                kept[f"{ENV_PREFIX}KAFKA__{name.upper()}"] = secret.get_secret_value()
        return kept

    def start_worker(self, name: str) -> WorkerWatch:
        """Start one; it is not ready yet."""
        watch = WorkerWatch(self.children.start(name, ["worker", "--port", "0", "--name", name]))
        self.workers.append(watch)
        return watch

    def await_ready(self, watches: list[WorkerWatch]) -> None:
        """Return when all of them hold partitions with their state.

        Raises
        ------
        DemoError : one ended, or is not ready in time.
        """
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        waiting = list(watches)
        while waiting:
            self.page.progress("the workers start: compiling, joining the group")
            for watch in tuple(waiting):
                self.check(watch.child)
                if watch.ready() and watch.scrape() and watch.partitions:
                    waiting.remove(watch)
            if waiting and time.monotonic() > deadline_s:
                raise waiting[0].child.failure(f"is not ready after {READY_TIMEOUT_S:.0f} s")
            time.sleep(0.1)
        self.page.still()
        for watch in watches:
            self.page.say(
                f"{watch.child.name}: pid {watch.child.pid}, {watch.partitions} partitions, "
                f"{watch.child.metrics_base()}/metrics"
            )

    def check(self, child: Child) -> None:
        """Raise if a process that ought to run has ended."""
        if not child.running:
            raise child.failure(f"ended with exit code {child.process.returncode}")

    # -- the end

    def close(self, *, failed: bool) -> None:
        """End all processes, remove what was made; after a failure the logs stay, and the page says where.

        Raises
        ------
        DemoError : topics could not be removed from a cluster that stays.
        """
        self.page.still()
        try:
            self.children.end()
        finally:
            try:
                if self._kafka is not None:
                    self._kafka.stop()
                    if failed and (log := self._kafka.log_path(0)).exists():
                        shutil.copy(log, self.logs / "kafka.log")
                elif self._made_topics:
                    Cluster(self.settings).remove()
            finally:
                properties = self.folder / "kafka" / "broker-0" / "server.properties"
                config = self.folder / "settings.yaml"
                sweep(("--config", str(config)), ("kafka.Kafka", str(properties)))
                if failed:
                    shutil.rmtree(self.folder / "kafka", ignore_errors=True)
                    self.page.plain(f"the logs are in {self.logs}")
                else:
                    shutil.rmtree(self.folder)


@contextmanager
def session(page: Page, given: Settings, changed: Mapping[str, Any]) -> Iterator[Session]:
    """A session that is closed for certain; Ctrl-C is heard until the closing begins."""
    with interruptible() as ignore:
        ground = Session(page, given, changed)
        failed = True
        try:
            ground.open()
            yield ground
            failed = False
        except KeyboardInterrupt:
            failed = False
            page.still()
            page.say("interrupted: stopping everything")
            raise
        finally:
            ignore()
            ground.close(failed=failed)
