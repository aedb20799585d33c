"""The workload that is scaled, by its `scale` subresource. The rule: only the count that was seen is replaced."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from autoscaler.kube import CALL_S, ConflictError, DeniedError, Kube, MissingError, Right, call
from autoscaler.limits import FIELD_MANAGER
from autoscaler.workload import Scale

log = logging.getLogger("fleetwatch.autoscaler")

#: A workload's status changes often while pods start: so many tries against a version that is outdated again.
TRIES = 3
PODS_MAX = 4096
_KINDS = {"deployment": "Deployment", "statefulset": "StatefulSet"}


def _count(part: Any) -> int:
    """`replicas` of a spec or status; the API leaves out 0."""
    return int(getattr(part, "replicas", None) or 0)


def owner_of_replicas(managed_fields: Any) -> str:
    """The manager that last set spec.replicas, from metadata.managedFields; "" = not known."""
    entries = [e for e in managed_fields or () if "f:replicas" in ((e.fields_v1 or {}).get("f:spec") or {})]
    dated = [e for e in entries if e.time is not None]
    newest = max(dated, key=lambda e: e.time) if dated else (entries[-1] if entries else None)
    return str(newest.manager or "") if newest else ""


class ScaleTarget:
    """A Deployment or StatefulSet. kind : as in the settings."""

    def __init__(self, kube: Kube, kind: str, name: str) -> None:
        self.kind, self.name = _KINDS[kind], name
        self._kube = kube
        self._plural = kind + "s"
        self._get_scale = getattr(kube.apps, f"read_namespaced_{_snake(kind)}_scale")
        self._patch_scale = getattr(kube.apps, f"patch_namespaced_{_snake(kind)}_scale")
        self._get = getattr(kube.apps, f"read_namespaced_{_snake(kind)}")
        self._scale: Any = None
        self._readable = True

    def __str__(self) -> str:
        return f"{self.kind} {self._kube.namespace}/{self.name}"

    def rights(self, *, scales: bool, pods: bool) -> tuple[list[Right], list[Right]]:
        """Those that it cannot do without, and those that it can."""
        needed = [Right(verb, "apps", f"{self._plural}/scale", self.name) for verb in ("get", "patch")]
        useful = [Right("get", "apps", self._plural, self.name, "who set the replicas, and how many are ready")]
        if pods:
            useful.append(Right("list", "", "pods", loss="the workers' own figures (autoscaler.metrics pods)"))
        return needed if scales else needed[:1], useful

    def reference(self) -> dict[str, str]:
        """As an Event names it; with its uid once it was read, by which `kubectl describe` finds Events."""
        found = {
            "apiVersion": "apps/v1",
            "kind": self.kind,
            "name": self.name,
            "namespace": self._kube.namespace,
        }
        uid = getattr(getattr(self._scale, "metadata", None), "uid", None)
        return found | ({"uid": str(uid)} if uid else {})

    def read(self) -> Scale:
        """As `Workload.read`. Without the right to read the workload itself, ready = pods that there are."""
        self._scale = self._read_scale()
        replicas, ready, scaled_by = _count(self._scale.spec), _count(self._scale.status), ""
        if self._readable and (workload := self._read_workload()) is not None:
            ready = int(getattr(workload.status, "ready_replicas", None) or 0)
            scaled_by = owner_of_replicas(workload.metadata.managed_fields)
        return Scale(replicas, ready, scaled_by)

    def _read_scale(self) -> Any:
        try:
            return call(self._get_scale, self.name, self._kube.namespace, what=f"reading the scale of {self}")
        except MissingError as exc:
            raise MissingError(
                f"there is no {self}: name the workload to scale with autoscaler.target, autoscaler.name and "
                "autoscaler.namespace (--target, --name, --namespace)"
            ) from exc

    def _read_workload(self) -> Any:
        try:
            return call(self._get, self.name, self._kube.namespace, what=f"reading {self}")
        except DeniedError as exc:
            self._readable = False
            log.info("who set the replicas, and how many are ready, stays unknown: %s", exc)
            return None

    def scale_to(self, replicas: int, seen: int, allowed: Callable[[], bool], timeout_s: float = CALL_S) -> None:
        """Set `replicas` where `seen` still are; `allowed` is asked before each try.

        Raises
        ------
        ConflictError : the count was changed meanwhile, or we are no longer allowed.
        KubeError : it was not set, or nobody knows.
        """
        what = f"scaling {self} from {seen} to {replicas}"
        for _ in range(TRIES):
            if self._scale is None or _count(self._scale.spec) != seen:
                raise ConflictError(f"{what}: the count was changed meanwhile; it is looked at again")
            if not allowed():
                raise ConflictError(f"{what}: the lease ran out before")
            body = {
                "metadata": {"resourceVersion": self._scale.metadata.resource_version},
                "spec": {"replicas": int(replicas)},
            }
            try:
                self._scale = call(
                    self._patch_scale,
                    self.name,
                    self._kube.namespace,
                    body,
                    field_manager=FIELD_MANAGER,
                    _content_type="application/merge-patch+json",
                    what=what,
                    timeout_s=timeout_s,
                )
                return
            except ConflictError:
                self._scale = self._read_scale()
        raise ConflictError(f"{what}: it changed {TRIES} times meanwhile; it is looked at again")

    def pods(self, port: int) -> dict[str, str]:
        """name -> address of the metrics page, of pods that run and are not being ended.

        Raises
        ------
        KubeError : they cannot be listed.
        """
        if self._scale is None:
            self._scale = self._read_scale()
        selector = getattr(self._scale.status, "selector", None)
        if not selector:  # an empty one would be every pod of the namespace
            return {}
        answer = call(
            self._kube.core.list_namespaced_pod,
            self._kube.namespace,
            label_selector=selector,
            resource_version="0",
            what=f"listing the pods of {self}",
        )
        found = {}
        for pod in answer.items[:PODS_MAX]:
            address = pod.status.pod_ip
            if pod.status.phase == "Running" and address and pod.metadata.deletion_timestamp is None:
                host = f"[{address}]" if ":" in address else address
                found[str(pod.metadata.name)] = f"http://{host}:{port}/metrics"
        return found


def _snake(kind: str) -> str:
    return "stateful_set" if kind == "statefulset" else kind
