"""Measures how long the group takes to get over a fault. The rule: over is when newer work is committed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from telemetry.settings import Settings
from tests.chaos.reading import GroupView, TopicPart

ASK_EVERY_S = 0.25
#: A thread that only sleeps and wakes so much too late: the whole machine stood still.
STALL_S = 1.5


@dataclass
class Recovery:
    """From `began_s` until each partition's committed offset has reached the baseline's.

    A fault's baseline is one record more than was acknowledged when it had struck: something that came after it.
    """

    baseline: dict[TopicPart, int]
    began_s: float
    over_s: float | None = None

    @property
    def seconds(self) -> float | None:
        return None if self.over_s is None else self.over_s - self.began_s


class Watch:
    """A thread that asks for the group's commits and closes the recoveries that are open."""

    def __init__(self, settings: Settings, at: Iterable[TopicPart]) -> None:
        self._view = GroupView(settings, at)
        self._lock = threading.Lock()
        self._open: list[Recovery] = []
        self._committed: dict[TopicPart, int] = {}
        self._stop = threading.Event()
        self.notes: list[str] = []
        self.stalls: list[tuple[float, float]] = []  # (end, seconds)
        self._pulse = threading.Thread(target=self._feel_pulse, name="pulse", daemon=True)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._pulse.start()
        self._thread.start()

    def _feel_pulse(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(0.2):
            now = time.monotonic()
            if now - last > STALL_S:
                self.stalls.append((now, now - last))
                self.notes.append(f"the machine stood still for {now - last:.1f} s")
            last = now

    def stalled_within(self, began_s: float, over_s: float) -> bool:
        """Whether the machine stood still in that time: what was measured then says nothing of the workers."""
        return any(end - seconds < over_s and end > began_s for end, seconds in self.stalls)

    def _run(self) -> None:
        while not self._stop.wait(ASK_EVERY_S):
            found = self._view.committed()
            if found is None:
                continue
            now = time.monotonic()
            with self._lock:
                self._go_backwards(found)
                self._committed = found
                for recovery in self._open:
                    if all(found.get(at, 0) >= end for at, end in recovery.baseline.items()):
                        recovery.over_s = now
                self._open = [r for r in self._open if r.over_s is None]

    def _go_backwards(self, found: Mapping[TopicPart, int]) -> None:
        """A coordinator that was cut off may answer with old commits; where one stays so, the checker finds it."""
        back = {at: offset for at, offset in found.items() if offset < self._committed.get(at, 0)}
        if back:
            at, offset = next(iter(back.items()))
            self.notes.append(
                f"commits of {len(back)} partitions were seen to go back: {at} {self._committed[at]} to {offset}"
            )

    def committed(self) -> dict[TopicPart, int]:
        with self._lock:
            return dict(self._committed)

    @property
    def total(self) -> int:
        return sum(self.committed().values())

    def expect(self, baseline: Mapping[TopicPart, int], began_s: float | None = None) -> Recovery:
        """Begin to measure; began_s : when it began, if not now."""
        recovery = Recovery(dict(baseline), time.monotonic() if began_s is None else began_s)
        with self._lock:
            self._open.append(recovery)
        return recovery

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)
        self._view.close()


def wait_over(recovery: Recovery, timeout_s: float) -> bool:
    """Wait for the end of a recovery; returns whether it came."""
    end = time.monotonic() + timeout_s
    while recovery.over_s is None and time.monotonic() < end:
        time.sleep(0.1)
    return recovery.over_s is not None
