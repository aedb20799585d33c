"""All faults by name. The rule: what is not on this list is not in the schedule."""

from __future__ import annotations

from tests.chaos.fault import Fault
from tests.chaos.network_faults import BrokerCut, BrokerUnplugged, Resets, SlowLink, WorkerUnplugged
from tests.chaos.process_faults import (
    BrokerKill,
    BrokersKill,
    ControllerKill,
    Election,
    RollingRestart,
    WorkerKill,
    WorkersKill,
    WorkerTerm,
    Zombie,
)

FAULTS: dict[str, type[Fault]] = {
    fault.name: fault
    for fault in (
        WorkerKill, WorkersKill, Zombie, WorkerTerm, BrokerKill, ControllerKill, BrokersKill, RollingRestart,
        Election, BrokerUnplugged, BrokerCut, WorkerUnplugged, SlowLink, Resets,
    )
}  # fmt: skip
