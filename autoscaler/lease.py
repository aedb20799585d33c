"""Who of several autoscalers may scale. The rule: a holder stops by its own clock before another may begin.

Nobody compares clocks: a holder counts from before it asked for the renewal, an observer from when it last saw the
record change, and the times in the record are for people. The record is only replaced in the version that was read.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from autoscaler.kube import ConflictError, KubeError, MissingError

log = logging.getLogger("fleetwatch.autoscaler")

#: Of the lease's time, after which a holder that could not renew it stops.
HOLD_SHARE = 2 / 3
#: Of the lease's time, between two tries.
PERIOD_SHARE = 1 / 5
#: Between two words of a follower to its leader about other settings, and how long the leader takes one for true.
TELL_S = 60.0
HEARD_S = 3 * TELL_S


@dataclass(frozen=True, slots=True)
class Record:
    """A Lease object.

    holder : "" = nobody. renewed : as written, compared only with itself. settings : digest of the holder's.
    other : digest and identity of a follower whose settings differ. version : of the object; "" = not yet there.
    """

    holder: str
    duration_s: float
    renewed: str = ""
    acquired: str = ""
    transitions: int = 0
    settings: str = ""
    other: str = ""
    version: str = ""


class LeaseStore(Protocol):
    """Where the record is. Every method may raise KubeError; `renewed` "" is written as the time now."""

    def read(self) -> Record | None:
        """None = there is none."""
        ...

    def create(self, record: Record) -> Record:
        """Raises ConflictError : there is one."""
        ...

    def replace(self, record: Record) -> Record:
        """Raises ConflictError : its version is not the newest. MissingError : it is gone."""
        ...


def running_clock() -> float:
    """Seconds that never go back, and go on while the machine sleeps."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


class Lease:
    """One contender. `turn` is called every `period_s`; `leading` from any thread, at any time.

    identity : of this process alone, also among those of one name. settings : digest of what it scales by.
    fit : a process that does not work gives the lease to another.
    """

    def __init__(
        self,
        store: LeaseStore,
        identity: str,
        duration_s: float,
        settings: str = "",
        fit: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = running_clock,
    ) -> None:
        self.identity = identity
        self.period_s = duration_s * PERIOD_SHARE
        self._store, self._duration_s, self._settings, self._fit = store, math.ceil(duration_s), settings, fit
        self._clock = clock
        self._hold_s = duration_s * HOLD_SHARE
        self._until_s = -math.inf
        self._seen: tuple[str, str, int] | None = None
        self._changed_s = -math.inf
        self._differs = ""
        self._heard_s = self._told_s = -math.inf
        self._over = False
        self.holder = ""

    def leading(self) -> bool:
        """May scale, at this moment."""
        return self._clock() < self._until_s

    def differing(self) -> str:
        """What is to be said about another autoscaler's settings; "" = nothing."""
        return self._differs

    def turn(self) -> None:
        """One try to keep the lease, or to take it.

        Raises
        ------
        KubeError : neither; whoever leads goes on until its time ends.
        """
        if self._over:
            return
        if not self._fit():
            if self.holder == self.identity:
                log.error("this autoscaler's loop stands still: the lease is handed over")
                self._hand_over()
            return
        for last in (False, True):
            try:
                self._try()
                return
            except ConflictError:  # a follower's word, or a faster contender: the next reading tells
                if last:
                    return

    def _try(self) -> None:
        record = self._store.read()
        self._observe(record)
        if record is None:
            asked_s = self._clock()
            self._store.create(Record(self.identity, self._duration_s, transitions=0, settings=self._settings))
        elif record.holder == self.identity or self._free(record):
            self._listen(record)
            taken = record.holder != self.identity
            asked_s = self._clock()
            self._store.replace(
                replace(
                    record,
                    holder=self.identity,
                    duration_s=self._duration_s,
                    renewed="",
                    acquired="" if taken else record.acquired,
                    transitions=record.transitions + taken,
                    settings=self._settings,
                    other="",
                )
            )
        else:
            self._until_s = -math.inf
            self._tell(record)
            return
        self.holder = self.identity
        if not self._over:
            self._until_s = asked_s + self._hold_s

    def _observe(self, record: Record | None) -> None:
        seen = (record.holder, record.renewed, record.transitions) if record else None
        if seen != self._seen:
            self._seen, self._changed_s = seen, self._clock()
        self.holder = record.holder if record else ""

    def _free(self, record: Record) -> bool:
        lasts_s = record.duration_s if record.duration_s > 0 else self._duration_s
        return not record.holder or self._clock() - self._changed_s >= lasts_s

    def _tell(self, record: Record) -> None:
        """As a follower: compare, and let the leader know."""
        if not (record.settings and self._settings) or record.settings == self._settings:
            self._differs, self._told_s = "", -math.inf
            return
        self._differs = (
            f"this autoscaler's settings ({self._settings}) are not those of the leader, {record.holder} "
            f"({record.settings}): with another leader the workers would be scaled otherwise. Give both the same."
        )
        if self._clock() - self._told_s >= TELL_S:
            self._store.replace(replace(record, other=f"{self._settings} {self.identity}"))
            self._told_s = self._clock()

    def _listen(self, record: Record) -> None:
        """As the leader: what a follower left in the record."""
        digest, _, who = record.other.partition(" ")
        if digest and digest != self._settings and who != self.identity:
            self._heard_s = self._clock()
            self._differs = (
                f"the autoscaler {who} has other settings ({digest}) than this one, which leads "
                f"({self._settings}): under it the workers would be scaled otherwise. Give both the same."
            )
        elif self._clock() - self._heard_s >= HEARD_S:
            self._differs = ""

    def _hand_over(self) -> None:
        self._until_s = -math.inf
        record = self._store.read()
        if record is not None and record.holder == self.identity:
            self._store.replace(replace(record, holder="", renewed=""))
        self.holder = ""

    def release(self) -> None:
        """For good: another may take it at once.

        Raises
        ------
        KubeError : it could not be told; the others wait until the lease's time is over.
        """
        self._over, held = True, self.holder == self.identity
        self._until_s = -math.inf
        if held:
            try:
                self._hand_over()
            except ConflictError:  # once more, as a follower may have written
                self._hand_over()
            except MissingError:
                log.info("the lease to hand over is gone")


class Keeper(threading.Thread):
    """Turns a lease until it is stopped.

    failed : called with an exception that nobody expected. gained : called when leadership was.
    """

    def __init__(
        self, lease: Lease, failed: Callable[[BaseException], None], gained: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(name="lease", daemon=True)
        self._lease, self._failed, self._gained = lease, failed, gained
        self._stop_event = threading.Event()
        self._led = False
        self._trouble = ""

    def run(self) -> None:
        try:
            while True:
                self.turn()
                if self._stop_event.wait(self._lease.period_s):
                    return
        except Exception as exc:
            self._failed(exc)

    def turn(self) -> None:
        """One try, told if it changed anything."""
        try:
            self._lease.turn()
            if self._trouble:
                log.info("the lease is reached again")
            self._trouble = ""
        except KubeError as exc:
            if not self._trouble:
                log.warning("the lease is not reached, and whoever leads stops when its time ends: %s", exc)
            self._trouble = str(exc)
        leads = self._lease.leading()
        if leads != self._led:
            who = self._lease.holder or "nobody"
            log.info("this autoscaler leads" if leads else f"this autoscaler no longer leads; {who} does")
            if leads:
                self._gained()
        self._led = leads

    def stop(self, timeout_s: float) -> None:
        """No further turn; waits for the one under way."""
        self._stop_event.set()
        if self.is_alive():
            self.join(timeout_s)
