"""Each broker and worker in a network of its own, on one bridge. The rule: the host's own network is not touched.

The bridge sits in a namespace of its own, too, so no rule of the host's firewall applies to it. Only iproute2 is
needed: a cable is pulled by setting its bridge end down, two neighbours are cut off from each other silently by a
wrong hardware address, connections are reset by `ss --kill`, a link is made slow by tbf.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

NAMESPACES = Path("/run/netns")
PREFIX = "fwchaos"
SUBNET = "10.213.77"
NOWHERE = "02:00:00:00:00:99"  # no interface has this hardware address: what is sent there is lost
CLONE_NEWNET = 0x40000000


class NetworkError(RuntimeError):
    """A network fault could not be set up or did not fire."""


def run(*command: str, check: bool = True) -> str:
    """Run one of iproute2's commands; returns what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if check and done.returncode != 0:
        raise NetworkError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def permitted() -> tuple[bool, str]:
    """Whether namespaces can be made here, and why not."""
    name = f"{PREFIX}{os.getpid()}-try"
    try:
        run("ip", "netns", "add", name)
        run("ip", "netns", "delete", name)
        run("ss", "--version")
        run("tc", "-V")
    except (NetworkError, FileNotFoundError) as exc:
        return False, str(exc)
    return True, ""


@dataclass
class Network:
    """The hosts by name ("b1", "w1", "client"), each with an address; made by `build`, removed by `close`."""

    names: Sequence[str]
    run_id: str = field(default_factory=lambda: f"{PREFIX}{os.getpid()}")
    _home: int = -1

    def address(self, name: str) -> str:
        return f"{SUBNET}.{self.names.index(name) + 1}"

    def namespace(self, name: str) -> str:
        return f"{self.run_id}-{name}"

    def prefix(self, name: str) -> tuple[str, ...]:
        """What to write before a command that shall run on this host."""
        return ("ip", "netns", "exec", self.namespace(name))

    def build(self) -> None:
        bridge = self.namespace("br")
        run("ip", "netns", "add", bridge)
        run("ip", "-n", bridge, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", bridge, "link", "set", "br0", "up")
        for name in self.names:
            own = self.namespace(name)
            run("ip", "netns", "add", own)
            run("ip", "link", "add", name, "netns", bridge, "type", "veth", "peer", "name", "eth0", "netns", own)
            run("ip", "-n", bridge, "link", "set", name, "master", "br0", "up")
            run("ip", "-n", own, "link", "set", "lo", "up")
            run("ip", "-n", own, "link", "set", "eth0", "up")
            run("ip", "-n", own, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")

    def enter(self, name: str) -> None:
        """Move this thread, and all threads that it will start, to that host."""
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY)
        there = os.open(NAMESPACES / self.namespace(name), os.O_RDONLY)
        try:
            _setns(there)
        finally:
            os.close(there)

    def close(self) -> None:
        """Back to the host's network; every namespace of ours goes, with what is in it."""
        if self._home >= 0:
            _setns(self._home)
            os.close(self._home)
            self._home = -1
        for name in (*self.names, "br"):
            if (NAMESPACES / self.namespace(name)).exists():
                run("ip", "netns", "delete", self.namespace(name))

    # -- faults

    def unplug(self, name: str) -> None:
        run("ip", "-n", self.namespace("br"), "link", "set", name, "down")

    def plug(self, name: str) -> None:
        run("ip", "-n", self.namespace("br"), "link", "set", name, "up")

    def part(self, one: str, other: str) -> None:
        """What these two send each other is lost, both ways, and neither is told."""
        for here, there in ((one, other), (other, one)):
            run(*self._neighbour("replace", here, there), "lladdr", NOWHERE, "nud", "permanent")

    def join(self, one: str, other: str) -> None:
        for here, there in ((one, other), (other, one)):
            run(*self._neighbour("delete", here, there))

    def _neighbour(self, verb: str, here: str, there: str) -> tuple[str, ...]:
        return ("ip", "-n", self.namespace(here), "neigh", verb, self.address(there), "dev", "eth0")

    def slow(self, name: str, kbit_s: int) -> None:
        """Bound what this host sends."""
        run(
            *("tc", "-n", self.namespace(name), "qdisc", "replace", "dev", "eth0", "root", "tbf"),
            *("rate", f"{kbit_s}kbit", "burst", "8kb", "latency", "2s"),
        )

    def fast(self, name: str) -> int:
        """Lift the bound; returns how many packets it held up."""
        shown = run("tc", "-n", self.namespace(name), "-s", "qdisc", "show", "dev", "eth0")
        run("tc", "-n", self.namespace(name), "qdisc", "delete", "dev", "eth0", "root")
        held = re.search(r"overlimits (\d+)", shown)
        return int(held[1]) if held else 0

    def reset(self, name: str) -> int:
        """Reset every connection of this host, as a broken middlebox does; returns how many."""
        shown = run(*self.prefix(name), "ss", "-H", "-K", "-t", "state", "established", check=False)
        return sum(SUBNET in line for line in shown.splitlines())

    def reaches(self, here: str, there: str, port: int) -> bool:
        """Whether a connection from one host to another is taken, within a second."""
        probe = f"exec 3<>/dev/tcp/{self.address(there)}/{port}"
        command = (*self.prefix(here), "timeout", "1", "bash", "-c", probe)
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _setns(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise NetworkError(f"setns: {os.strerror(number)}")


def remove_left_overs() -> list[str]:
    """End the processes and remove the namespaces of runs whose harness is gone (killed); returns their names."""
    gone = []
    for path in sorted(NAMESPACES.glob(f"{PREFIX}*")) if NAMESPACES.is_dir() else []:
        owner = re.match(rf"{PREFIX}(\d+)-", path.name)
        if owner is None or Path(f"/proc/{owner[1]}").exists():
            continue
        for pid in run("ip", "netns", "pids", path.name).split():
            run("kill", "-KILL", pid, check=False)
        run("ip", "netns", "delete", path.name)
        gone.append(path.name)
    return gone
