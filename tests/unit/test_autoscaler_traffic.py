"""The scaling policy on simulated traffic. The rule: worse than the bounds of its benchmark is a failure.

Bounds are those of docs/autoscaling-bench.md's task: 3,296 s in which nobody can keep the SLO, 639 worker hours, 37
scalings over five traffics; a tenth more without the workers' pages.
"""

from __future__ import annotations

import pytest

from benchmarks.autoscaler.ours import Ours
from benchmarks.autoscaler.peers import Keda
from benchmarks.autoscaler.run import Row, simulate
from benchmarks.autoscaler.traffic import PARTITIONS, bottleneck, fresh, standard, step


@pytest.mark.parametrize(("known", "slack"), [({"hint": 0.0}, 1.0), ({"pages": False}, 1.1)], ids=["pages", "none"])
def test_five_traffics(known: dict, slack: float) -> None:
    row = Row.of("ours", [simulate(Ours(**known), traffic) for traffic in standard()])
    assert row.violated_s <= 3296 * slack
    assert row.worker_h <= 639 * slack
    assert row.scalings <= 37 * slack


@pytest.mark.parametrize("hint", [0.5, 2.0])
def test_a_wrong_hint_costs_nothing(hint: float) -> None:
    """On all but the long one: what the prototype needed there with a right one."""
    row = Row.of("ours", [simulate(Ours(hint=hint), traffic) for traffic in standard()[1:]])
    assert row.violated_s <= 3296
    assert row.worker_h <= 277
    assert row.scalings <= 24


def test_traffic_that_nothing_was_chosen_on() -> None:
    worlds = [simulate(Ours(), traffic) for traffic in fresh(7)[1:]]
    assert sum(int(w.violated.sum()) for w in worlds) <= 30
    fixed = sum(w.traffic.seconds for w in worlds) / 3600 * PARTITIONS
    assert sum(w.worker_s for w in worlds) / 3600 < 0.75 * fixed


def test_a_bottleneck_that_all_share_is_told() -> None:
    ours = Ours(hint=0.0)
    world = simulate(ours, bottleneck())
    told = {note.code for _, decision in ours.decisions for note in decision.notes}
    assert "IneffectiveScaleUp" in told
    assert world.ups <= 6


def test_the_world_tells_policies_apart() -> None:
    """KEDA by a usual threshold breaks the SLO where ours does not: the simulator is no mirror."""
    theirs, ours = simulate(Keda(5000, PARTITIONS), step()), simulate(Ours(), step())
    assert int(theirs.violated.sum()) > 1000
    assert int(ours.violated.sum()) == 0
