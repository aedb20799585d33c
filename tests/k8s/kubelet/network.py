"""A network for each Pod, with an address of 10.244.0.0/16. The rule: nothing is left of it, none other touched.

A Pod has its own ports and its own interface. What it sends to 127.0.0.1 reaches the node's: a broker or an API
server that listens there is found under the address that it gives itself. Between Pods goes a router in a namespace
of its own, so that no rule of the machine's firewall about forwarding applies. Only iproute2 is needed. A namespace
bears the id of the process that made it, so those of a killed one are found.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

NAMESPACES = Path("/run/netns")
PREFIX = "fwpod"
#: The router's address to Pods, and the node's to the router.
GATEWAY, NODE = "169.254.1.1", "169.254.1.2"
FIRST, LAST = 2, 65_533
#: In a namespace: $1 = the interface, $2 = its address, $3 = what lies behind all else.
INSIDE = """
set -e
ip link set lo up
ip addr flush dev lo
ip addr add $2/32 dev $1
ip link set $1 up
ip route add $3/32 dev $1 scope link
ip route add default via $3
echo 1 > /proc/sys/net/ipv4/conf/$1/route_localnet
echo 1 > /proc/sys/net/ipv4/conf/all/forwarding
"""
#: In the router: $1 = the interface to a Pod, $2 = the Pod's address.
TO_POD = f"""
set -e
ip addr add {GATEWAY}/32 dev $1
ip link set $1 up
ip route add $2/32 dev $1
echo 1 > /proc/sys/net/ipv4/conf/$1/route_localnet
"""
_lock = threading.Lock()


@dataclass(frozen=True)
class Network:
    """One Pod's. name : of its namespace. prefix : what a command begins with that is to run in it."""

    name: str
    address: str

    @property
    def prefix(self) -> tuple[str, ...]:
        return _within(self.name)

    def close(self) -> None:
        """Remove it, and what leads to it."""
        _delete(self.name)
        _ip("route", "del", f"{self.address}/32", "dev", _uplink())


def take() -> Network:
    """A new network, under an address that nobody has.

    Raises
    ------
    OSError : it could not be made.
    """
    with _lock:
        router = _router()
        number, address = _address()
        name = f"{PREFIX}{os.getpid()}-{number}"
        try:
            _ip("netns", "add", name)
            outer = f"pod{number}"
            _ip("link", "add", outer, "netns", router, "type", "veth", "peer", "name", "eth0", "netns", name)
            _run(*_within(router), "sh", "-c", TO_POD, "sh", outer, address)
            _run(*_within(name), "sh", "-c", INSIDE, "sh", "eth0", address, GATEWAY)
        except OSError:
            Network(name, address).close()
            raise
        return Network(name, address)


def leave() -> None:
    """Remove this process's router, if no Pod of another node of it needs it."""
    with _lock:
        if not list(NAMESPACES.glob(f"{PREFIX}{os.getpid()}-[0-9]*")):
            _delete(f"{PREFIX}{os.getpid()}-router")


def clean() -> list[str]:
    """Remove the namespaces of processes that are no more; returns their names."""
    gone: list[str] = []
    for path in sorted(NAMESPACES.glob(f"{PREFIX}*")) if NAMESPACES.is_dir() else []:
        owner = re.match(rf"{PREFIX}(\d+)-", path.name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            _delete(path.name)
            gone.append(path.name)
    return gone


def _uplink() -> str:
    """The node's end of the link to this process's router."""
    return f"fw{os.getpid()}"


def _router() -> str:
    """Make this process's, if it is not there."""
    name = f"{PREFIX}{os.getpid()}-router"
    if (NAMESPACES / name).exists():
        return name
    _ip("netns", "add", name)
    try:
        _ip("link", "add", _uplink(), "type", "veth", "peer", "name", "uplink", "netns", name)
        _ip("addr", "add", f"{NODE}/32", "dev", _uplink())
        _ip("link", "set", _uplink(), "up")
        (Path("/proc/sys/net/ipv4/conf") / _uplink() / "route_localnet").write_text("1")
        _run(*_within(name), "sh", "-c", INSIDE, "sh", "uplink", GATEWAY, NODE)
    except OSError:
        _delete(name)
        raise
    return name


def _address() -> tuple[int, str]:
    """The kernel says which address is free: a second route to one is refused."""
    number = random.randint(FIRST, LAST)
    for _ in range(LAST):
        address = f"10.244.{number >> 8}.{number & 255}"
        way = ("via", GATEWAY, "dev", _uplink(), "onlink")
        done = subprocess.run(
            ["ip", "route", "add", f"{address}/32", *way], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return number, address
        if "exists" not in done.stderr:
            raise OSError(f"ip route add {address}: {done.stderr.strip()}")
        number = FIRST if number >= LAST else number + 1
    raise OSError("no address of 10.244.0.0/16 is free")


def _within(name: str) -> tuple[str, ...]:
    return ("nsenter", f"--net={NAMESPACES / name}")


def _delete(name: str) -> None:
    if (NAMESPACES / name).exists():
        _ip("netns", "delete", name)


def _ip(*arguments: str) -> str:
    return _run("ip", *arguments)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout
