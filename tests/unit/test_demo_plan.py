"""The demo's plan holds together: what it orders exists and fits in its time."""

from fleetwatch import demo_plan as plan
from producers.faults import KINDS, parse_inject
from telemetry import settings as settings_of


def test_five_kinds_that_fit_their_fleets():
    assert len({f.kind for f in plan.FAULTS}) == len(plan.FAULTS) == 5
    classes = {"vehicles": plan.VEHICLE_CLASS, "devices": plan.NODE_CLASS}
    for fault in plan.FAULTS:
        order = parse_inject(fault.order)
        assert (order.kind, order.at_s, order.magnitude) == (fault.kind, fault.at_s, fault.size)
        assert KINDS[fault.kind].fits(classes[fault.fleet])
        assert not KINDS[fault.kind].fleet_wide


def test_each_fault_begins_after_the_warm_up_and_can_be_seen_before_the_end():
    settings = settings_of.load(environ={}, **plan.sections({}, "demo", (), plan.CHANGED))
    for fault in plan.FAULTS:
        assert fault.at_s > settings.alerts.warmup_s
        assert fault.at_s + KINDS[fault.kind].seen_within_s < plan.EVENT_S


def test_work_goes_on_around_the_kill():
    onsets = [f.at_s for f in plan.FAULTS]
    assert min(onsets) < plan.KILL_AT_S < max(onsets)
    assert plan.WORKERS == 2


def test_the_same_event_time_whatever_the_wall_time():
    assert plan.speed(72.0) * 72.0 == plan.speed(20.0) * 20.0 == plan.EVENT_S


def test_replay_settings_are_valid():
    settings = settings_of.load(environ={}, **plan.sections({}, "demo", (), plan.REPLAY_CHANGED))
    assert settings.alerts.warmup_s < 60
