"""A node: registered, alive, and running what is bound to it. The rule: the API server may be away at any time."""

from __future__ import annotations

import datetime as dt
import logging
import os
import platform
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from urllib.parse import quote

from tests.k8s.api import MERGE, Access, Api, ApiError, Object, Unreachable
from tests.k8s.kubelet import names, network
from tests.k8s.kubelet.cgroups import CpuLimits
from tests.k8s.kubelet.config import NodeConfig
from tests.k8s.kubelet.container import stamp
from tests.k8s.kubelet.pod import HOST_IP, PodRunner, newest

log = logging.getLogger("kubelet")

HEARTBEAT_S = 5.0
NAMES_S = 1.0
LEASE_S = 40
PROBERS = 16
STOP_PATIENCE_S = 20.0
TOOLS = ("unshare", "nsenter", "setpriv", "mount", "chroot", "ip", "hostname", "env")


def obstacle() -> str:
    """Why no Pod can run as a process on this machine; empty = it can."""
    if platform.system() != "Linux":
        return f"Linux is needed, this is {platform.system()}"
    if os.geteuid() != 0:
        return "root is needed, for mount namespaces and addresses: run it as root, or with sudo -E"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"not on PATH: {', '.join(missing)} (util-linux, iproute2, coreutils)" if missing else ""


class Kubelet:
    """One node in this process.

    Raises
    ------
    RuntimeError : this machine cannot run one; the text says why.
    """

    def __init__(self, access: Access, config: NodeConfig) -> None:
        if why := obstacle():
            raise RuntimeError(why)
        self._api, self.config = Api(access), config
        self._limits = CpuLimits()
        if self._limits.why:
            log.warning("%s", self._limits.why)
        self._executor = ThreadPoolExecutor(PROBERS, "probe")
        self._runners: dict[str, PodRunner] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._beat, name="heartbeat", daemon=True),
            threading.Thread(target=self._follow, name="pods", daemon=True),
            threading.Thread(target=self._tell_names, name="names", daemon=True),
        ]

    @property
    def limits_cpu(self) -> bool:
        """Whether `resources.limits.cpu` is kept."""
        return not self._limits.why

    def __enter__(self) -> Kubelet:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Register, and run what is bound here."""
        self.config.folder.mkdir(parents=True, exist_ok=True)
        self.config.folder.chmod(0o755)
        network.clean()
        self._register()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Kill all Pods' processes. The API server is told nothing: as when a machine is switched off."""
        self._stop.set()
        with self._lock:
            runners = list(self._runners.values())
        for runner in runners:
            runner.abandon()
        for runner in runners:
            runner.thread.join(STOP_PATIENCE_S)
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._limits.close()
        network.leave()

    def logs(self, namespace: str, pod: str, container: str = "") -> str:
        """What a Pod wrote, all its runs one after the other; of one container, or of all.

        Raises
        ------
        FileNotFoundError : there never was such a Pod here.
        """
        folder = newest(self.config.folder, namespace, pod)
        if folder is None:
            raise FileNotFoundError(f"no Pod {namespace}/{pod} has been on {self.config.name}")
        found = sorted(folder.glob(f"{container or '*'}.log"))
        return "".join(path.read_text(errors="replace") for path in found)

    def pids(self, namespace: str) -> dict[str, dict[str, int]]:
        """Pod -> container -> process id, of what runs now."""
        with self._lock:
            runners = [runner for runner in self._runners.values() if runner.namespace == namespace]
        return {runner.name: found for runner in runners if (found := runner.pids())}

    # -- the node

    def _register(self) -> None:
        labels = {
            "kubernetes.io/hostname": self.config.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64" if platform.machine() == "x86_64" else "arm64",
            "topology.kubernetes.io/zone": self.config.zone,
        }
        try:
            self._api.post("/api/v1/nodes", {"metadata": {"name": self.config.name, "labels": labels}})
        except ApiError as error:
            if error.status != 409:
                raise
        self._tell_status()
        self._renew()

    def _tell_status(self) -> None:
        capacity = {
            "cpu": self.config.cpu,
            "memory": self.config.memory,
            "pods": str(self.config.pods),
            "ephemeral-storage": "100Gi",
        }
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "message": "runs Pods as processes",
            "lastHeartbeatTime": stamp(),
        }
        status = {
            "capacity": capacity,
            "allocatable": capacity,
            "addresses": [{"type": "InternalIP", "address": HOST_IP}],
            "conditions": [ready],
        }
        self._api.patch(f"/api/v1/nodes/{self.config.name}/status", {"status": status})

    def _renew(self) -> None:
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": self.config.name, "leaseDurationSeconds": LEASE_S, "renewTime": now}
        leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        try:
            self._api.patch(f"{leases}/{self.config.name}", {"spec": spec}, MERGE)
        except ApiError as error:
            if error.status != 404:
                raise
            self._api.post(leases, {"metadata": {"name": self.config.name}, "spec": spec})

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                self._tell_status()
                self._renew()
            except (ApiError, Unreachable) as error:
                log.warning("heartbeat: %s", error)

    def _tell_names(self) -> None:
        while not self._stop.wait(NAMES_S):
            try:
                known = names.services(self._api)
            except (ApiError, Unreachable) as error:
                log.warning("services: %s", error)
                continue
            with self._lock:
                runners = list(self._runners.values())
            for runner in runners:
                if not runner.over:
                    runner.know(known)

    # -- its Pods

    def _follow(self) -> None:
        only = f"spec.nodeName={self.config.name}"
        while not self._stop.is_set():
            try:
                version = self._list(f"/api/v1/pods?fieldSelector={quote(only)}")
                while not self._stop.is_set():
                    for kind, pod in self._api.watch("/api/v1/pods", version, fieldSelector=only):
                        version = pod["metadata"]["resourceVersion"]
                        self._see(pod, gone=kind == "DELETED")
                        if self._stop.is_set():
                            return
            except (ApiError, Unreachable) as error:
                log.warning("pods: listed again: %s", error)
                self._stop.wait(0.5)

    def _list(self, path: str) -> str:
        found = self._api.get(path)
        present = {pod["metadata"]["uid"] for pod in found["items"]}
        with self._lock:
            lost = [runner for uid, runner in self._runners.items() if uid not in present]
        for runner in lost:
            runner.delete(0, gone=True)
        for pod in found["items"]:
            self._see(pod, gone=False)
        return str(found["metadata"]["resourceVersion"])

    def _see(self, pod: Object, *, gone: bool) -> None:
        meta = pod["metadata"]
        leaving = gone or bool(meta.get("deletionTimestamp"))
        with self._lock:
            self._runners = {uid: each for uid, each in self._runners.items() if not each.over}
            runner = self._runners.get(meta["uid"])
            ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
            if runner is None and not gone and (leaving or not ended):
                runner = PodRunner(pod, self.config, self._api, self._limits, self._executor)
                self._runners[meta["uid"]] = runner
                if leaving:
                    runner.delete(0)
                runner.thread.start()
        if runner is not None and leaving:
            runner.delete(0 if gone else float(meta.get("deletionGracePeriodSeconds") or 0), gone=gone)
