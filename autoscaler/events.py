"""Kubernetes Events about the workload. The rule: one that cannot be written is logged, and stops nothing."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, Protocol

from autoscaler.kube import Kube, KubeError, Right, call
from autoscaler.lease_store import micro_time
from autoscaler.limits import FIELD_MANAGER
from telemetry.log import printable

log = logging.getLogger("fleetwatch.autoscaler")

Kind = Literal["Normal", "Warning"]
#: The API takes no longer note.
NOTE_MAX = 1024
#: Of one kind within WINDOW_S; the log and the metrics tell of the others.
KIND_MAX = 30
WINDOW_S = 600.0
#: After one that was not written, none is tried for so long: each costs a time-out.
REST_S = 10.0


class Post(Protocol):
    """Tells the cluster something about the workload; never raises for the world's sake."""

    def __call__(self, kind: Kind, reason: str, note: str) -> None: ...


def nowhere(kind: Kind, reason: str, note: str) -> None:
    """A `Post` without Kubernetes."""
    del kind, reason, note


class Events:
    """A `Post` of events.k8s.io/v1. about : the object, as its reference. who : of this process."""

    def __init__(
        self,
        kube: Kube,
        about: Callable[[], dict[str, str]],
        who: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube, self._about, self._who, self._clock = kube, about, who[:128], clock
        self._written: dict[Kind, deque[float]] = {
            "Normal": deque(maxlen=KIND_MAX),
            "Warning": deque(maxlen=KIND_MAX),
        }
        self._failed_s: float | None = None
        self.lost = 0

    @staticmethod
    def rights() -> list[Right]:
        """What is needed to write them."""
        return [Right("create", "events.k8s.io", "events", loss="Events about the workload")]

    def __call__(self, kind: Kind, reason: str, note: str) -> None:
        now_s = self._clock()
        if self._failed_s is not None and now_s - self._failed_s < REST_S:
            self.lost += 1
            return
        written = self._written[kind]
        if len(written) == KIND_MAX and now_s - written[0] < WINDOW_S:
            self.lost += 1
            return
        written.append(now_s)
        try:
            call(
                self._kube.events.create_namespaced_event,
                self._kube.namespace,
                self._body(kind, reason, note),
                what="writing an Event",
            )
        except KubeError as exc:
            self.lost += 1
            if self._failed_s is None:
                log.warning("Events are not written until this is mended; the log has what they would say: %s", exc)
            self._failed_s = self._clock()
            return
        if self._failed_s is not None:
            log.info("Events are written again; %d were not", self.lost)
        self._failed_s = None

    def _body(self, kind: Kind, reason: str, note: str) -> Any:
        from kubernetes import client

        about = self._about()
        return client.EventsV1Event(
            metadata=client.V1ObjectMeta(
                generate_name=f"{about['name'][:200]}-autoscaler-", namespace=self._kube.namespace
            ),
            event_time=micro_time(),
            regarding=client.V1ObjectReference(
                api_version=about["apiVersion"],
                kind=about["kind"],
                name=about["name"],
                namespace=about["namespace"],
                uid=about.get("uid"),
            ),
            type=kind,
            reason=reason[:128],
            action="Scaling",
            note=_cut(note),
            reporting_controller=FIELD_MANAGER,
            reporting_instance=self._who,
        )


def _cut(note: str) -> str:
    """To NOTE_MAX bytes."""
    text = printable(note, NOTE_MAX)
    if len(text.encode()) <= NOTE_MAX:
        return text
    return text.encode()[: NOTE_MAX - 3].decode(errors="ignore") + "..."
