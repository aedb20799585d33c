"""Services by name, in each Pod's /etc/hosts. The rule: a name leads to what is ready now; there is no proxy.

A Service's port must be its Pods' port, and its own address (`clusterIP`) leads nowhere on this node.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tests.k8s.api import Api, Object

Services = dict[tuple[str, str], list[str]]
DOMAIN = "svc.cluster.local"


def services(api: Api) -> Services:
    """(namespace, name) -> addresses of the Pods that are ready."""
    found: Services = defaultdict(list)
    for piece in api.get("/apis/discovery.k8s.io/v1/endpointslices")["items"]:
        meta = piece["metadata"]
        name = (meta.get("labels") or {}).get("kubernetes.io/service-name")
        if name and piece["addressType"] == "IPv4":
            found[meta["namespace"], name] += _ready(piece.get("endpoints") or [])
    return found


def _ready(endpoints: Sequence[Object]) -> list[str]:
    return [
        address
        for endpoint in endpoints
        if (endpoint.get("conditions") or {}).get("ready") is not False
        for address in endpoint["addresses"]
    ]


def page(own: str, host: str, namespace: str, known: Services) -> str:
    """A Pod's /etc/hosts. own, host : its address and name."""
    lines = ["127.0.0.1 localhost", f"{own} {host}"]
    for (where, name), addresses in sorted(known.items()):
        names = [f"{name}.{where}.{DOMAIN}", f"{name}.{where}.svc", f"{name}.{where}"]
        if where == namespace:
            names.append(name)
        lines += [f"{address} {' '.join(names)}" for address in addresses]
    return "\n".join(lines) + "\n"


def write(path: Path, text: str) -> None:
    """In place: containers have this very file mounted. None who reads meanwhile finds it empty."""
    content = text.encode()
    if path.exists() and path.read_bytes() == content:
        return
    path.touch(mode=0o644)
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()
