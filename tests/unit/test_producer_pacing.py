"""Pacing with a fake clock."""

from __future__ import annotations

import pytest

from producers.driver import default_start_us
from producers.pacing import Pacer


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def never() -> bool:
    return False


def test_ten_times_as_fast_waits_a_tenth() -> None:
    clock = FakeClock()
    pacer = Pacer(10, clock=clock)
    assert pacer.due_in_s(5_000_000) == 0
    assert pacer.due_in_s(25_000_000) == pytest.approx(2.0)
    assert pacer.wait(25_000_000, clock.sleep, never)
    assert clock.now_s == pytest.approx(102.0)
    assert pacer.late_s == pytest.approx(0.0, abs=1e-9)


def test_speed_zero_never_waits() -> None:
    clock = FakeClock()
    pacer = Pacer(0, clock=clock)
    for event_us in (0, 10**15):
        assert pacer.wait(event_us, clock.sleep, never)
    assert clock.now_s == 100.0


def test_a_short_stall_is_caught_up_and_a_long_one_is_given_up() -> None:
    clock = FakeClock()
    pacer = Pacer(1, late_max_s=1.0, clock=clock)
    pacer.due_in_s(0)
    clock.now_s += 1.5
    assert pacer.due_in_s(1_000_000) == 0
    assert pacer.late_s == pytest.approx(0.5)
    assert pacer.slipped_s == 0
    clock.now_s += 60
    at_once = sum(pacer.due_in_s(event_us) == 0 for event_us in range(2_000_000, 60_000_000, 100_000))
    assert at_once == pytest.approx(10, abs=1)  # the last second at 0.1 s a step, not the whole minute
    assert pacer.slipped_s == pytest.approx(58.5)


def test_waiting_ends_when_stopped() -> None:
    clock = FakeClock()
    pacer = Pacer(1, clock=clock)
    pacer.due_in_s(0)
    assert not pacer.wait(3_600_000_000, clock.sleep, lambda: clock.now_s > 101)
    assert clock.now_s < 102


def test_a_negative_speed_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        Pacer(-1)


@pytest.mark.parametrize("speed", [0, 0.5, 1, 2, 10, 1000])
@pytest.mark.parametrize("event_s", [1.0, 600.0])
def test_event_time_does_not_overtake_the_clock(speed: float, event_s: float) -> None:
    now_us = 1_800_000_000_000_000
    start_us = default_start_us(now_us, speed, event_s)
    wall_s = event_s / speed if speed else 0.0
    assert start_us + event_s * 1e6 <= now_us + wall_s * 1e6 + 1
    if speed == 1:
        assert start_us == now_us
