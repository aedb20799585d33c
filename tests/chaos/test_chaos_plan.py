"""The schedule and the input follow from the seed; the schedule holds what was asked for."""

from collections import Counter
from itertools import islice

from tests.chaos.faults import FAULTS
from tests.chaos.plan import counts, schedule
from tests.chaos.workload import partition_of, records


def test_a_long_run_has_every_fault_and_enough_kills() -> None:
    steps = schedule(1, 100, 20, list(FAULTS))
    by_name = Counter(step.fault for step in steps)
    assert by_name.keys() == FAULTS.keys()
    assert sum(FAULTS[step.fault].worker_kills + step.also_kill for step in steps) >= 100
    assert sum(n * FAULTS[name].broker_kills for name, n in by_name.items()) >= 20


def test_the_seed_fixes_the_schedule() -> None:
    assert schedule(1, 9, 3, list(FAULTS)) == schedule(1, 9, 3, list(FAULTS))
    assert schedule(1, 9, 3, list(FAULTS)) != schedule(2, 9, 3, list(FAULTS))


def test_nothing_is_killed_that_was_not_asked_for() -> None:
    assert counts(5, 0, ["worker-kill", "broker-kill"]) == {"worker-kill": 5, "broker-kill": 0}
    assert not any(step.also_kill for step in schedule(1, 0, 5, ["broker-kill", "slow-link"]))


def test_the_seed_fixes_the_input_which_holds_what_workers_must_bear() -> None:
    some = list(islice(records(3, 6), 4000))
    assert some == list(islice(records(3, 6), 4000))
    assert some != list(islice(records(4, 6), 4000))
    assert {r.topic for r in some} == {0, 1}
    assert any(r.value is None for r in some)
    assert any(r.key is None for r in some)
    assert all(r.partition == partition_of(r.key, 6) for r in some if r.key is not None)
    again = Counter(r.value for r in some if r.value)
    assert max(again.values()) >= 2
