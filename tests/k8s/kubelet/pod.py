"""The life of one Pod, in a thread of its own. The rule: the API server hears what is, again and again if it must.

A Pod that cannot be started stays Pending with a reason and is tried again; Failed is only one whose containers
ran and ended.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from tests.k8s.api import Api, ApiError, Object, Unreachable
from tests.k8s.kubelet import names, network
from tests.k8s.kubelet.cgroups import CpuLimits
from tests.k8s.kubelet.config import NodeConfig, PodError
from tests.k8s.kubelet.container import Container, stamp
from tests.k8s.kubelet.inputs import Inputs, Place
from tests.k8s.kubelet.sandbox import Sandbox

log = logging.getLogger("kubelet")

TICK_S = 0.1
HOST_IP = "127.0.0.1"
RETRY_MAX_S = 10.0


class PodRunner:
    """Runs one Pod until it is deleted."""

    def __init__(self, pod: Object, config: NodeConfig, api: Api, limits: CpuLimits, executor: Executor) -> None:
        self.pod, self._config, self._api, self._limits, self._executor = pod, config, api, limits, executor
        meta = pod["metadata"]
        self.uid, self.name, self.namespace = str(meta["uid"]), str(meta["name"]), str(meta["namespace"])
        self.folder = config.folder / f"{self.namespace}_{self.name}_{self.uid[:8]}"
        self._path = f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"
        self._wake = threading.Event()
        self._grace_s: float | None = None  # set: it is to go
        self._gone = False  # from the API server
        self._abandoned = False
        self._told: Object = {}
        self._since: dict[str, tuple[str, str]] = {}
        self._began = (pod.get("status") or {}).get("startTime") or stamp()
        self._problem: Object | None = None
        self._init: list[Container] = []
        self._containers: list[Container] = []
        self._network: network.Network | None = None
        self._services: names.Services = {}
        self._names_lock = threading.Lock()
        self.thread = threading.Thread(target=self._run, name=f"pod {self.name}", daemon=True)

    # -- from other threads

    def delete(self, grace_s: float, *, gone: bool = False) -> None:
        """It is to go. gone : the API server has already forgotten it."""
        self._grace_s = grace_s if self._grace_s is None else min(self._grace_s, grace_s)
        self._gone = self._gone or gone
        self._wake.set()

    def abandon(self) -> None:
        """The node ends: kill, and tell nobody."""
        self._abandoned = True
        self.delete(0)

    def know(self, services: names.Services) -> None:
        """Tell it where Services are."""
        with self._names_lock:
            self._services = services
            if self._ip and self.folder.exists():
                text = names.page(self._ip, self.name, self.namespace, services)
                names.write(self.folder / "hosts", text)

    @property
    def over(self) -> bool:
        """Its thread has come to its end."""
        return self.thread.ident is not None and not self.thread.is_alive()

    def pids(self) -> dict[str, int]:
        """Container -> process id, of those that run."""
        return {c.spec["name"]: pid for c in self._containers if (pid := c.pid)}

    # -- the thread

    @property
    def _leaving(self) -> bool:
        return self._grace_s is not None

    def _run(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._prepare() and self._initialise():
                self._serve()
            self._report()
            while not self._leaving:
                self._wake.wait(1)
            self._stop()
            self._forget()
        except Exception:
            log.exception("pod %s/%s: our own fault", self.namespace, self.name)
            raise
        finally:
            for container in (*self._init, *self._containers):
                container.kill()
            if self._network is not None:
                self._network.close()
            if not self._config.keep:
                shutil.rmtree(self.folder, ignore_errors=True)

    def _prepare(self) -> bool:
        """Network, volumes, containers; tried until it works; False = the Pod is to go."""
        delay_s = 0.5
        while not self._leaving:
            try:
                self._set_up()
                self._problem = None
                return True
            except (PodError, ApiError, Unreachable, OSError) as error:
                reason = error.reason if isinstance(error, PodError) else "FailedMount"
                self._problem = {"waiting": {"reason": reason, "message": str(error)[:1000]}}
                self._report()
                self._wake.wait(delay_s)
                delay_s = min(2 * delay_s, RETRY_MAX_S)
        return False

    def _set_up(self) -> None:
        spec = self.pod["spec"]
        if spec.get("hostNetwork"):
            raise PodError("Unsupported", "hostNetwork: every Pod of this node has a network of its own")
        if any(container.get("restartPolicy") for container in spec.get("initContainers") or []):
            raise PodError("Unsupported", "sidecar containers (restartPolicy of an init container)")
        self._network = self._network or network.take()
        self.know(self._services)
        allocatable = {"cpu": self._config.cpu, "memory": self._config.memory}
        place = Place(self.pod, self._network.address, HOST_IP, allocatable)
        sandbox = Sandbox(place, self._network, self.folder, self._config.images, Inputs(self._api), self._limits)
        always = spec.get("restartPolicy", "Always")
        initial = "Never" if always == "Never" else "OnFailure"
        self._init = self._make(spec.get("initContainers") or [], "initContainerStatuses", sandbox, initial)
        self._containers = self._make(spec["containers"], "containerStatuses", sandbox, always)
        sandbox.mount()

    def _make(self, specs: Sequence[Object], told: str, sandbox: Sandbox, restart: str) -> list[Container]:
        before = {s["name"]: s["restartCount"] for s in (self.pod.get("status") or {}).get(told) or []}
        return [
            Container(
                spec, self._ip, sandbox, self._config, self._executor,
                restart=restart, restarts=before.get(spec["name"], 0), grace_s=self._default_grace_s,
            )
            for spec in specs
        ]  # fmt: skip

    @property
    def _default_grace_s(self) -> float:
        return float(self.pod["spec"].get("terminationGracePeriodSeconds", 30))

    def _initialise(self) -> bool:
        """One after the other; False = one failed for good, or the Pod is to go."""
        for container in self._init:
            while not container.finished:
                container.step()
                self._report()
                if self._leaving:
                    return False
                self._wake.wait(TICK_S)
            if container.code:
                return False
        return True

    def _serve(self) -> None:
        while not self._leaving and not all(container.finished for container in self._containers):
            for container in self._containers:
                container.step()
            self._report()
            self._wake.wait(TICK_S)

    def _stop(self) -> None:
        running = [c for c in (*self._init, *self._containers) if c.running]
        asked: float | None = None
        while any(container.running for container in running) and not self._abandoned:
            if self._grace_s != asked:  # also when it is shortened on the way
                asked = self._grace_s
                for container in running:
                    container.leave(asked or 0)
            for container in running:
                container.step()
            self._report()
            time.sleep(TICK_S)

    def _forget(self) -> None:
        """Tell the end, and let the API server remove the Pod."""
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
        while not self._gone and not self._abandoned:
            self._report()
            try:
                self._api.delete(self._path, {"kind": "DeleteOptions", "apiVersion": "v1", **options})
                return
            except ApiError as error:
                if error.status in (404, 409):  # gone, or another Pod of its name is there
                    return
                log.warning("pod %s: cannot be removed: %s", self.name, error)
            except Unreachable as error:
                log.warning("pod %s: cannot be removed yet: %s", self.name, error)
            time.sleep(1)

    # -- its status

    @property
    def _ip(self) -> str:
        """Its address; empty = it has none yet."""
        return self._network.address if self._network else ""

    def _phase(self) -> str:
        if any(c.finished and c.code for c in self._init):
            return "Failed"
        if all(c.finished for c in self._containers) and any(c.ever_started for c in self._containers):
            return "Failed" if any(c.code for c in self._containers) else "Succeeded"
        return "Running" if any(c.ever_started for c in self._containers) else "Pending"

    def _conditions(self, phase: str) -> list[Object]:
        ready = phase == "Running" and all(c.ready for c in self._containers)
        unready = [c.spec["name"] for c in self._containers if not c.ready]
        why = {"reason": "ContainersNotReady", "message": f"containers with unready status: {unready}"}
        initialised = all(c.finished and not c.code for c in self._init)
        found: list[Object] = []
        for kind, good in (
            ("PodScheduled", True),
            ("Initialized", initialised),
            ("ContainersReady", ready),
            ("Ready", ready),
        ):
            value = str(good)
            if self._since.get(kind, ("", ""))[0] != value:
                self._since[kind] = (value, stamp())
            condition: Object = {"type": kind, "status": value, "lastTransitionTime": self._since[kind][1]}
            if not good and kind in {"ContainersReady", "Ready"}:
                condition |= why if phase in ("Pending", "Running") else {"reason": "PodCompleted"}
            found.append(condition)
        return found

    def _status(self) -> Object:
        phase = self._phase()
        statuses = [container.status() for container in self._containers]
        if self._problem is not None:
            waiting: Object = {"ready": False, "restartCount": 0, "imageID": "", "state": self._problem}
            statuses = [{"name": c["name"], "image": c["image"]} | waiting for c in self.pod["spec"]["containers"]]
        return {
            "phase": phase,
            "hostIP": HOST_IP,
            "hostIPs": [{"ip": HOST_IP}],
            **({"podIP": self._ip, "podIPs": [{"ip": self._ip}]} if self._ip else {}),
            "startTime": self._began,
            "conditions": self._conditions(phase),
            "initContainerStatuses": [container.status() for container in self._init],
            "containerStatuses": statuses,
        }

    def _report(self) -> None:
        """Tell what changed; what was not heard is told at the next call."""
        status: dict[str, Any] = self._status()
        if status == self._told or self._abandoned or self._gone:
            return
        try:
            self._api.patch(f"{self._path}/status", {"metadata": {"uid": self.uid}, "status": status})
            self._told = status
        except ApiError as error:
            if error.status not in (404, 409):
                log.warning("pod %s: its status was refused: %s", self.name, error)
            self._told = status  # said again, it would be refused again
        except Unreachable as error:
            log.warning("pod %s: its status was not heard: %s", self.name, error)


def newest(folder: Path, namespace: str, name: str) -> Path | None:
    """The folder of the Pod of this name that was made last."""
    found = [p for p in folder.glob(f"{namespace}_*") if p.name.rpartition("_")[0] == f"{namespace}_{name}"]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)
