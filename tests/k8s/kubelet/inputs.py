"""What a container is given: environment, files, token. The rule: as kubelets do it, a missing key included."""

from __future__ import annotations

import base64
import re
import shutil
from dataclasses import dataclass
from decimal import ROUND_CEILING
from pathlib import Path
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from tests.k8s.api import Api, ApiError, Object
from tests.k8s.kubelet.config import Image, PodError

CONFIG_ERROR = "CreateContainerConfigError"
TOKEN_SECONDS = 3607
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Place:
    """A Pod and where it runs. ip, host_ip : addresses; allocatable : the node's."""

    pod: Object
    ip: str
    host_ip: str
    allocatable: dict[str, str]

    @property
    def namespace(self) -> str:
        return str(self.pod["metadata"]["namespace"])

    @property
    def name(self) -> str:
        return str(self.pod["metadata"]["name"])

    @property
    def uid(self) -> str:
        return str(self.pod["metadata"]["uid"])

    @property
    def account(self) -> str:
        return str(self.pod["spec"].get("serviceAccountName") or "default")

    def field(self, path: str) -> str:
        """The downward API's `fieldPath`."""
        meta, spec = self.pod["metadata"], self.pod["spec"]
        if found := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
            return str((meta.get(found[1]) or {}).get(found[2], ""))
        if path in {"metadata.labels", "metadata.annotations"}:
            return "\n".join(f'{k}="{v}"' for k, v in sorted((meta.get(path.split(".")[1]) or {}).items()))
        fields = {
            "metadata.name": self.name,
            "metadata.namespace": self.namespace,
            "metadata.uid": self.uid,
            "spec.nodeName": spec.get("nodeName", ""),
            "spec.serviceAccountName": self.account,
            "status.podIP": self.ip,
            "status.podIPs": self.ip,
            "status.hostIP": self.host_ip,
            "status.hostIPs": self.host_ip,
        }
        if path not in fields:
            raise PodError(CONFIG_ERROR, f"field {path!r} is not known to this node")
        return str(fields[path])

    def resource(self, container: Object, reference: Object) -> str:
        """The downward API's `resourceFieldRef`; a limit that is not set is the node's capacity."""
        kind, _, name = str(reference["resource"]).partition(".")
        if other := reference.get("containerName"):
            container = next(c for c in self.pod["spec"]["containers"] if c["name"] == other)
        found = (container.get("resources") or {}).get(kind, {}).get(name)
        if found is None:
            found = self.allocatable.get(name, "0") if kind == "limits" else "0"
        divisor = reference.get("divisor") or "1"
        amount = parse_quantity(found) / parse_quantity("1" if divisor == "0" else divisor)
        return str(int(amount.to_integral_value(ROUND_CEILING)))


class Inputs:
    """Reads what Pods refer to."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def _data(self, namespace: str, kind: str, name: str, *, optional: bool) -> dict[str, bytes] | None:
        """A ConfigMap's or a Secret's content; None = it is not there, and need not be."""
        try:
            found = self._api.get(f"/api/v1/namespaces/{namespace}/{kind}/{name}")
        except ApiError as error:
            if error.status == 404 and optional:
                return None
            raise PodError(CONFIG_ERROR, f"{kind} {name!r}: {error}") from error
        if kind == "secrets":
            return {k: base64.b64decode(v) for k, v in (found.get("data") or {}).items()}
        texts = {k: v.encode() for k, v in (found.get("data") or {}).items()}
        return texts | {k: base64.b64decode(v) for k, v in (found.get("binaryData") or {}).items()}

    def environment(self, place: Place, container: Object, image: Image) -> dict[str, str]:
        """In the order of the Pod: what refers to a variable must stand behind it."""
        host, _, port = self._api.server.rpartition("/")[2].rpartition(":")
        found = {"PATH": PATH, "HOME": "/", "HOSTNAME": place.name}
        found |= {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port, **image.environment}
        for source in container.get("envFrom") or []:
            found |= self._all_of(place.namespace, source)
        for variable in container.get("env") or []:
            value = self._value(place, container, variable, found)
            if value is not None:
                found[variable["name"]] = value
        return found

    def _all_of(self, namespace: str, source: Object) -> dict[str, str]:
        key, kind = ("configMapRef", "configmaps") if source.get("configMapRef") else ("secretRef", "secrets")
        reference = source[key]
        data = self._data(namespace, kind, reference["name"], optional=bool(reference.get("optional")))
        return {source.get("prefix", "") + k: v.decode() for k, v in (data or {}).items()}

    def _value(self, place: Place, container: Object, variable: Object, known: dict[str, str]) -> str | None:
        source = variable.get("valueFrom")
        if not source:
            return expand(variable.get("value", ""), known)
        if "fieldRef" in source:
            return place.field(source["fieldRef"]["fieldPath"])
        if "resourceFieldRef" in source:
            return place.resource(container, source["resourceFieldRef"])
        key, kind = (
            ("configMapKeyRef", "configmaps") if "configMapKeyRef" in source else ("secretKeyRef", "secrets")
        )
        reference = source[key]
        optional = bool(reference.get("optional"))
        data = self._data(place.namespace, kind, reference["name"], optional=optional) or {}
        if reference["key"] not in data:
            if optional:
                return None
            raise PodError(CONFIG_ERROR, f"couldn't find key {reference['key']} in {kind} {reference['name']}")
        return data[reference["key"]].decode()

    # -- volumes

    def volumes(self, place: Place, folder: Path) -> dict[str, Path]:
        """Write each volume's files below the folder; where each is, by name."""
        found: dict[str, Path] = {}
        for volume in place.pod["spec"].get("volumes") or []:
            target = found[volume["name"]] = folder / volume["name"]
            if "hostPath" in volume:
                found[volume["name"]] = Path(volume["hostPath"]["path"])
            elif "emptyDir" in volume:
                target.mkdir(parents=True, exist_ok=True)
                target.chmod(0o777)  # an fsGroup's work
            else:
                shutil.rmtree(target, ignore_errors=True)
                target.mkdir(parents=True)
                for source in (volume.get("projected") or {}).get("sources") or [volume]:
                    self._project(place, source, target)
        return found

    def _project(self, place: Place, source: Object, target: Path) -> None:
        files: dict[str, bytes]
        if "configMap" in source:
            files = self._items(place.namespace, "configmaps", source["configMap"], "name")
        elif "secret" in source:
            name = "secretName" if "secretName" in source["secret"] else "name"
            files = self._items(place.namespace, "secrets", source["secret"], name)
        elif "downwardAPI" in source:
            files = {item["path"]: self._downward(place, item) for item in source["downwardAPI"]["items"]}
        elif "serviceAccountToken" in source:
            files = {source["serviceAccountToken"]["path"]: self._token(place, source["serviceAccountToken"])}
        else:
            kinds = sorted(set(source) - {"name"})
            raise PodError("FailedMount", f"volumes of kind {kinds} are not known to this node")
        for name, content in files.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def _items(self, namespace: str, kind: str, source: Object, name: str) -> dict[str, bytes]:
        data = self._data(namespace, kind, source[name], optional=bool(source.get("optional"))) or {}
        items: list[dict[str, Any]] | None = source.get("items")
        if items is None:
            return data
        missing = [item["key"] for item in items if item["key"] not in data]
        if missing and not source.get("optional"):
            raise PodError("FailedMount", f"{kind} {source[name]!r} has no key {', '.join(missing)}")
        return {item["path"]: data[item["key"]] for item in items if item["key"] in data}

    def _downward(self, place: Place, item: Object) -> bytes:
        if "fieldRef" in item:
            return place.field(item["fieldRef"]["fieldPath"]).encode()
        reference = item["resourceFieldRef"]
        named = next(c for c in place.pod["spec"]["containers"] if c["name"] == reference["containerName"])
        return place.resource(named, reference).encode()

    def _token(self, place: Place, wanted: Object) -> bytes:
        bound = {"kind": "Pod", "apiVersion": "v1", "name": place.name, "uid": place.uid}
        audiences = [wanted["audience"]] if wanted.get("audience") else []
        spec = {
            "audiences": audiences,
            "expirationSeconds": wanted.get("expirationSeconds", TOKEN_SECONDS),
            "boundObjectRef": bound,
        }
        path = f"/api/v1/namespaces/{place.namespace}/serviceaccounts/{place.account}/token"
        return str(self._api.post(path, {"spec": spec})["status"]["token"]).encode()


def expand(text: str, known: dict[str, str]) -> str:
    """`$(NAME)` of known names; `$$(NAME)` stands for itself."""

    def replace(found: re.Match[str]) -> str:
        if found[0].startswith("$$"):
            return found[0][1:]
        return known.get(found[1], found[0])

    return re.sub(r"\$?\$\((\w[\w.-]*)\)", replace, text)
