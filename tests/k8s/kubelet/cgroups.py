"""CPU limits by control groups, of either version. The rule: where they cannot be had, `why` says so."""

from __future__ import annotations

import os
from pathlib import Path

PERIOD_US = 100_000
#: The kernel's least.
QUOTA_MIN_US = 1_000
PREFIX = "fleetwatch-kubelet-"
ROOT = Path("/sys/fs/cgroup")


class CpuLimits:
    """Groups below one of our own, made and removed container by container.

    why : empty, or why there are no limits.
    """

    def __init__(self) -> None:
        self._two = (ROOT / "cgroup.controllers").exists()
        base = ROOT if self._two else ROOT / "cpu"
        self._own = base / f"{PREFIX}{os.getpid()}"
        self.why = ""
        self._clean()
        try:
            if self._two:
                (ROOT / "cgroup.subtree_control").write_text("+cpu")
            self._own.mkdir(exist_ok=True)
            if self._two:
                (self._own / "cgroup.subtree_control").write_text("+cpu")
        except OSError as error:
            self.why = f"no CPU limits: {error}"

    def group(self, name: str, cpus: float) -> Path | None:
        """A group of so many CPUs' time, for a process to enter; None = without limits here."""
        if self.why:
            return None
        group = self._own / name
        group.mkdir(exist_ok=True)
        quota = max(QUOTA_MIN_US, round(cpus * PERIOD_US))
        if self._two:
            (group / "cpu.max").write_text(f"{quota} {PERIOD_US}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        return group

    def throttled(self, name: str) -> dict[str, int]:
        """What the kernel counts of a group: periods, those that were cut short, for how long."""
        lines = (self._own / name / "cpu.stat").read_text().splitlines()
        return {key: int(value) for key, value in (line.split() for line in lines)}

    def remove(self, name: str) -> None:
        """Of a container that has ended."""
        _remove(self._own / name)

    def close(self) -> None:
        if not self.why:
            _remove_all(self._own)

    def _clean(self) -> None:
        """Remove the groups of processes that are no more."""
        for group in self._own.parent.glob(f"{PREFIX}*"):
            if not Path(f"/proc/{group.name.removeprefix(PREFIX)}").exists():
                _remove_all(group)


def _remove_all(group: Path) -> None:
    for inner in group.iterdir():
        if inner.is_dir():
            _remove(inner)
    _remove(group)


def _remove(group: Path) -> None:
    try:
        group.rmdir()
    except FileNotFoundError:
        return
    except OSError:
        return  # a process of it is being reaped; an empty group costs nothing
