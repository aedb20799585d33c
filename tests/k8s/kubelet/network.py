"""Pods' addresses: 10.244.0.0/16 on the loopback device. The rule: the kernel says which one is free.

Each address bears the id of the process that took it, so what a killed one left behind is found and removed.
"""

from __future__ import annotations

import json
import os
import random
import subprocess

import psutil

FIRST, LAST = 2, 65_533
DEVICE = "lo"


def _label() -> str:
    return f"{DEVICE}:k{os.getpid()}"


def take() -> str:
    """An address that nobody has."""
    number = random.randint(FIRST, LAST)
    for _ in range(LAST):
        address = f"10.244.{number >> 8}.{number & 255}"
        done = _ip("addr", "add", f"{address}/32", "dev", DEVICE, "label", _label())
        if done.returncode == 0:
            return address
        if "exists" not in done.stderr and "assigned" not in done.stderr:
            raise OSError(f"ip addr add {address}: {done.stderr.strip()}")
        number = FIRST if number >= LAST else number + 1
    raise OSError("no address of 10.244.0.0/16 is free")


def give_back(address: str) -> None:
    """Remove it; none is not an error: the device may have been flushed."""
    _ip("addr", "del", f"{address}/32", "dev", DEVICE)


def clean() -> list[str]:
    """Remove the addresses of processes that are no more; returns them."""
    removed: list[str] = []
    done = _ip("-j", "addr", "show", "dev", DEVICE)
    for entry in json.loads(done.stdout)[0]["addr_info"]:
        label = str(entry.get("label", ""))
        if label.startswith(f"{DEVICE}:k") and not psutil.pid_exists(int(label.removeprefix(f"{DEVICE}:k"))):
            give_back(entry["local"])
            removed.append(entry["local"])
    return removed


def _ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
