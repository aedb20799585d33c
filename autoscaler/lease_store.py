"""The Lease object of coordination.k8s.io/v1. The rule: it is replaced only in the version that was read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from autoscaler.kube import Kube, MissingError, Right, call
from autoscaler.lease import Record

SETTINGS = "fleetwatch/settings"
OTHER = "fleetwatch/other-settings"


def micro_time() -> datetime:
    """Now. Never a whole second: the client would leave out the fraction, which the API insists upon."""
    now = datetime.now(UTC)
    return now if now.microsecond else now.replace(microsecond=1)


def _moment(text: str) -> datetime:
    if not text:
        return micro_time()
    then = datetime.fromisoformat(text)
    return then if then.microsecond else then.replace(microsecond=1)


def _text(moment: Any) -> str:
    return moment.isoformat(timespec="microseconds") if moment is not None else ""


class KubeLeases:
    """A `LeaseStore` on the API server.

    Parameters
    ----------
    call_s : of each call, well below the lease's time.
    owner : the workload as a reference, with its uid once that is known: the Lease goes when the workload goes.
    """

    def __init__(self, kube: Kube, name: str, call_s: float, owner: Callable[[], Mapping[str, str]] = dict) -> None:
        self._kube, self._name, self._call_s, self._owner = kube, name, call_s, owner
        self._api = kube.coordination
        self._metadata: Any = None  # of the object as it was read: what others put there stays

    def __str__(self) -> str:
        return f"Lease {self._kube.namespace}/{self._name}"

    def rights(self) -> list[Right]:
        """What a contender needs; `create` cannot be limited to a name."""
        group = "coordination.k8s.io"
        return [
            Right("get", group, "leases", self._name),
            Right("update", group, "leases", self._name),
            Right("create", group, "leases"),
        ]

    def read(self) -> Record | None:
        """As `LeaseStore.read`."""
        try:
            found = call(
                self._api.read_namespaced_lease,
                self._name,
                self._kube.namespace,
                what=f"reading {self}",
                timeout_s=self._call_s,
            )
        except MissingError:
            return None
        return self._record(found)

    def create(self, record: Record) -> Record:
        """As `LeaseStore.create`."""
        made = call(
            self._api.create_namespaced_lease,
            self._kube.namespace,
            self._body(record),
            what=f"creating {self}",
            timeout_s=self._call_s,
        )
        return self._record(made)

    def replace(self, record: Record) -> Record:
        """As `LeaseStore.replace`."""
        made = call(
            self._api.replace_namespaced_lease,
            self._name,
            self._kube.namespace,
            self._body(record),
            what=f"renewing {self}",
            timeout_s=self._call_s,
        )
        return self._record(made)

    def _record(self, found: Any) -> Record:
        self._metadata = found.metadata
        notes, spec = found.metadata.annotations or {}, found.spec
        return Record(
            holder=spec.holder_identity or "",
            duration_s=float(spec.lease_duration_seconds or 0),
            renewed=_text(spec.renew_time),
            acquired=_text(spec.acquire_time),
            transitions=int(spec.lease_transitions or 0),
            settings=notes.get(SETTINGS, ""),
            other=notes.get(OTHER, ""),
            version=found.metadata.resource_version,
        )

    def _owners(self) -> list[Any] | None:
        from kubernetes import client

        owner = self._owner()
        if "uid" not in owner:
            return None  # given with a later renewal
        named = {key: owner[key] for key in ("kind", "name", "uid")}
        return [client.V1OwnerReference(api_version=owner["apiVersion"], **named)]

    def _body(self, record: Record) -> Any:
        from kubernetes import client

        before = self._metadata if record.version else None
        notes = (before.annotations or {}) if before else {}
        notes = notes | {SETTINGS: record.settings, OTHER: record.other}
        return client.V1Lease(
            metadata=client.V1ObjectMeta(
                name=self._name,
                namespace=self._kube.namespace,
                annotations={name: text for name, text in notes.items() if text},
                labels=before.labels if before else None,
                owner_references=(before.owner_references if before else None) or self._owners(),
                finalizers=before.finalizers if before else None,
                resource_version=record.version or None,
            ),
            spec=client.V1LeaseSpec(
                holder_identity=record.holder,
                lease_duration_seconds=max(1, int(record.duration_s)),
                acquire_time=_moment(record.acquired),
                renew_time=_moment(record.renewed),
                lease_transitions=record.transitions,
            ),
        )
