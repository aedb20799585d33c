"""One autoscaler, put together and run. The rule: whatever ends it, the lease is handed over first."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, disable_created_metrics

from autoscaler.collect import Collector
from autoscaler.events import Events, Post, nowhere
from autoscaler.kafka_source import KafkaSource
from autoscaler.kube import CALL_S, DeniedError, Kube, KubeError, connect, lacking
from autoscaler.lease import HOLD_SHARE, Keeper, Lease, running_clock
from autoscaler.lease_store import KubeLeases
from autoscaler.limits import Limits
from autoscaler.loop import Loop, Scaler
from autoscaler.metrics import AutoscalerMetrics
from autoscaler.observation import Decision, Observation
from autoscaler.pages import Answers, Page
from autoscaler.policy import Memory, decide
from autoscaler.target import ScaleTarget
from autoscaler.worker_pages import WorkerPages
from autoscaler.workload import GroupWorkload, Scale, Workload
from telemetry.errors import FleetwatchError, SettingsError
from telemetry.settings import Settings

log = logging.getLogger("fleetwatch.autoscaler")

#: Waited for a turn under way before the lease is handed over, and before the process ends all the same.
JOIN_S, END_S = 2.0, 10.0
#: Settings by which nobody scales otherwise.
_NOT_SCALING = {"host", "port", "lease", "lease_s", "dry_run", "namespace"}


class DefectError(FleetwatchError):
    """An exception that nobody expected ended the loop; its traceback was logged."""

    exit_code = 70


def settings_digest(settings: Settings) -> str:
    """Of everything that autoscalers of one target must have in common."""
    scaling = settings.autoscaler.model_dump(mode="json", exclude=_NOT_SCALING)
    scaling |= {"group": settings.processing.group, "topics": settings.topics.prefix}
    return hashlib.sha256(json.dumps(scaling, sort_keys=True).encode()).hexdigest()[:10]


def lease_name(settings: Settings) -> str:
    """As set, or by the target: two releases that scale the same one share it."""
    a = settings.autoscaler
    name = a.lease or f"{a.target}-{a.name}-autoscaler"
    if len(name) <= 253:
        return name
    return f"{name[:240]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class Cluster:
    """What is scaled. lease : None in a dry run, which changes nothing and so contends with nobody."""

    kube: Kube
    target: ScaleTarget
    store: KubeLeases | None


def cluster(settings: Settings) -> Cluster | None:
    """None = nothing is scaled.

    Raises
    ------
    SettingsError : no way to an API server, or a right is lacking without which nothing can be done.
    """
    a = settings.autoscaler
    if a.target == "none":
        return None
    kube = connect(a.namespace)
    target = ScaleTarget(kube, a.target, a.name)
    store = (
        None if a.dry_run else KubeLeases(kube, lease_name(settings), min(CALL_S, a.lease_s / 5), target.reference)
    )
    needed, useful = target.rights(scales=not a.dry_run, pods=a.metrics == "pods")
    if store is not None:
        needed += store.rights()
        useful += Events.rights()
    try:
        missing, lost = lacking(kube, needed), lacking(kube, useful)
    except DeniedError as exc:
        raise SettingsError(str(exc)) from exc
    except KubeError as exc:  # pods start in any order: it is tried until it is there
        log.warning("what this login may do is not known yet: %s", exc)
        return Cluster(kube, target, store)
    if missing:
        raise SettingsError(
            f"this login may not scale {target} at {kube.server}; its Role lacks:\n"
            + "".join(f"  - {right}\n" for right in missing)
            + "The Helm chart's Role has them (rbac.create); `fleetwatch autoscaler --help` shows them all.\n"
            "To watch and decide without them: --dry-run, or --target none."
        )
    for right in lost:
        log.warning("%s: not without the right to %s", right.loss, right)
    return Cluster(kube, target, store)


class OthersWorkload:
    """A target that another scales, as in a dry run: its owner is no second one."""

    def __init__(self, target: Workload) -> None:
        self._target = target

    def read(self) -> Scale:
        """As the target, but for who scaled it."""
        return replace(self._target.read(), scaled_by="")


def collector(settings: Settings, at: Cluster | None) -> Collector:
    """Of the group, the target and the workers' pages, as the settings say."""
    a = settings.autoscaler
    kafka = KafkaSource(settings)
    workload: Workload = GroupWorkload(kafka.members)
    if at is not None:
        workload = OthersWorkload(at.target) if a.dry_run else at.target
    pages = None
    if a.metrics == "pods" and at is not None:
        pages = WorkerPages(lambda: at.target.pods(a.metrics_port))
    elif a.metrics == "urls":
        urls = {url: url for url in a.metrics_urls}
        pages = WorkerPages(lambda: urls)
    return Collector(kafka, pages, workload, settings.topics.partitions)


class Decider:
    """`decide`, with its memory."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._memory = limits, Memory()

    def __call__(self, seen: Observation) -> Decision:
        decision, self._memory = decide(self._memory, seen, self._limits)
        return decision


class Service:
    """Everything that runs. Raises SettingsError where `cluster` and `Page` do."""

    def __init__(self, settings: Settings) -> None:
        a = settings.autoscaler
        self.stop = threading.Event()
        self._failure: BaseException | None = None
        self._at = cluster(settings)
        self._collector = collector(settings, self._at)
        who = f"{settings.service.name or socket.gethostname()}_{secrets.token_hex(4)}"
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series of each counter, which nobody reads
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._lease: Lease | None = None
        self._keeper: Keeper | None = None
        scale: Scaler | None = None
        post: Post = nowhere
        if self._at is not None and self._at.store is not None:
            scale = self._scaler(a.lease_s)
            post = Events(self._at.kube, self._at.target.reference, who)
        self._loop = Loop(
            lambda: self._collector.look(running_clock()),
            Decider(Limits.of(settings)),
            metrics=AutoscalerMetrics(registry, self._leading, lambda: bool(self._differing())),
            interval_s=a.interval_s,
            stale_s=a.stale_s,
            scale=scale,
            leading=self._leading,
            post=post,
            differing=self._differing,
            clock=running_clock,
        )
        if self._at is not None and self._at.store is not None:
            self._lease = Lease(self._at.store, who, a.lease_s, settings_digest(settings), fit=self._loop.alive)
            self._keeper = Keeper(self._lease, self._failed, self._loop.wake)
        self._page = Page(
            a.host,
            a.port,
            Answers(registry, self._loop.alive, self._loop.ready, self._leading, lambda: self._loop.standing),
        )
        self._thread = threading.Thread(target=self._turns, name="loop", daemon=True)
        self.url = self._page.url

    def _scaler(self, lease_s: float) -> Scaler:
        """A call that began while we led has ended before another may lead."""
        assert self._at is not None
        target, call_s = self._at.target, min(CALL_S, lease_s * (1 - HOLD_SHARE))

        def scale(replicas: int, seen: int, allowed: Callable[[], bool]) -> None:
            target.scale_to(replicas, seen, allowed, call_s)

        return scale

    def _leading(self) -> bool:
        return self._lease is not None and self._lease.leading()

    def _differing(self) -> str:
        return self._lease.differing() if self._lease is not None else ""

    def _failed(self, exc: BaseException) -> None:
        log.critical("a defect ends this autoscaler; its pod starts anew", exc_info=exc)
        self._failure = exc
        self.stop.set()
        self._loop.wake()

    def _turns(self) -> None:
        try:
            self._loop.run(self.stop)
        except Exception as exc:
            self._failed(exc)

    def start(self) -> None:
        """Returns at once; `stop` is set by the caller, or by a defect."""
        self._page.start()
        log.info("page: %s/metrics", self.url)
        if self._keeper is not None:
            self._keeper.start()
        self._thread.start()

    def end(self) -> None:
        """Hands over and ends.

        Raises
        ------
        DefectError : that is why it ended.
        """
        self.stop.set()
        self._loop.wake()
        self._thread.join(JOIN_S)
        self._hand_over()
        self._thread.join(END_S)
        self._page.stop()
        if self._thread.is_alive():
            log.warning("a look is still under way after %g s: ending without it", JOIN_S + END_S)
            logging.shutdown()
            os._exit(DefectError.exit_code if self._failure else 0)
        self._collector.close()
        if self._failure is not None:
            raise DefectError(f"ended by a defect: {self._failure!r}") from self._failure

    def _hand_over(self) -> None:
        if self._lease is None or self._keeper is None:
            return
        self._keeper.stop(JOIN_S)
        led = self._lease.leading()
        try:
            self._lease.release()
        except KubeError as exc:
            log.warning("the lease is not handed over, another leads once its time is over: %s", exc)
            return
        if led:
            log.info("the lease is handed over")
