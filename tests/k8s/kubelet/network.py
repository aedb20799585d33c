"""A network for each Pod, with an address of 10.244.0.0/16. The rule: nothing is left of it, none other touched.

A Pod has its own ports and its own interface, a pair of which one end is on the node. What it sends to 127.0.0.1
reaches the node's: a broker or an API server that listens there is found under the address that it gives itself.
Only iproute2 is needed. A network bears the id of the process that made it, so those of a killed one are found.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

NAMESPACES = Path("/run/netns")
PREFIX = "fwpod"
GATEWAY = "169.254.1.1"
FIRST, LAST = 2, 65_533
INSIDE = f"""
set -e
ip link set lo up
ip link set eth0 up
ip addr add $1/32 dev eth0
ip route add {GATEWAY} dev eth0 scope link
ip route add default via {GATEWAY}
echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet
ip addr del 127.0.0.1/8 dev lo
"""


@dataclass(frozen=True)
class Network:
    """One Pod's. name : of its namespace. prefix : what a command begins with that is to run in it."""

    name: str
    address: str

    @property
    def prefix(self) -> tuple[str, ...]:
        return ("nsenter", f"--net={NAMESPACES / self.name}")

    def close(self) -> None:
        """Remove it; both ends and the route go with it."""
        if (NAMESPACES / self.name).exists():
            _ip("netns", "delete", self.name)


def take() -> Network:
    """A new network, under an address that nobody has.

    Raises
    ------
    OSError : it could not be made.
    """
    number = random.randint(FIRST, LAST)
    name = f"{PREFIX}{os.getpid()}-{number}"
    _ip("netns", "add", name)
    try:
        outer = f"fw{os.getpid() % 10**6}.{number}"
        _ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("addr", "add", f"{GATEWAY}/32", "dev", outer)
        _ip("link", "set", outer, "up")
        settings = Path("/proc/sys/net/ipv4/conf") / outer
        for setting in ("forwarding", "route_localnet"):
            (settings / setting).write_text("1")
        network = Network(name, _route(outer, number))
        _run(*network.prefix, "sh", "-c", INSIDE, "sh", network.address)
    except OSError:
        _ip("netns", "delete", name)
        raise
    return network


def _route(device: str, number: int) -> str:
    """The kernel says which address is free: a second route to one is refused."""
    for _ in range(LAST):
        address = f"10.244.{number >> 8}.{number & 255}"
        done = subprocess.run(
            ["ip", "route", "add", f"{address}/32", "dev", device], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return address
        if "exists" not in done.stderr:
            raise OSError(f"ip route add {address}: {done.stderr.strip()}")
        number = FIRST if number >= LAST else number + 1
    raise OSError("no address of 10.244.0.0/16 is free")


def clean() -> list[str]:
    """Remove the networks of processes that are no more; returns their names."""
    gone: list[str] = []
    for path in sorted(NAMESPACES.glob(f"{PREFIX}*")) if NAMESPACES.is_dir() else []:
        owner = re.match(rf"{PREFIX}(\d+)-", path.name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            _ip("netns", "delete", path.name)
            gone.append(path.name)
    return gone


def _ip(*arguments: str) -> str:
    return _run("ip", *arguments)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout
