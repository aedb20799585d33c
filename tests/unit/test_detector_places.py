"""A bounded number of places: who gets one, who keeps it, who goes."""

import pytest

from detectors.places import Places


def places(devices_max=2, idle_us=100):
    made = iter(range(1000))
    return Places(devices_max, idle_us, lambda: next(made))


def test_a_slot_keeps_what_is_held_for_it():
    two = places()
    assert [two.at(slot, t) for slot, t in ((5, 0), (9, 1), (5, 2), (9, 3))] == [0, 1, 0, 1]
    assert (len(two), two.get(5), two.get(7)) == (2, 0, None)


def test_a_newcomer_gets_the_place_of_the_longest_idle_and_of_nobody_else():
    two = places()
    two.at(1, 0)
    two.at(2, 10)
    assert two.at(3, 100) is None
    assert two.at(3, 101) == 2
    assert (two.get(1), two.get(2)) == (None, 1)
    assert two.at(1, 102) is None


def test_times_that_go_back_make_nobody_older():
    two = places()
    two.at(1, 1000)
    two.at(2, 1050)
    two.at(1, -(2**60))
    assert two.last_us(1) == 1000
    assert two.at(3, 1120) is None
    assert two.at(3, 1151) == 2
    assert two.get(2) is None, "slot 1 spoke after it"


def test_a_forgotten_slot_frees_its_place():
    two = places()
    two.at(1, 0)
    two.at(2, 0)
    two.forget([1, 77])
    assert len(two) == 1
    assert (two.at(3, 0), two.at(1, 0)) == (2, None)


def test_of_too_many_adopted_the_latest_are_held_in_order():
    two = places()
    two.at(1, 50)
    two.adopt([(7, 70, 40), (8, 80, 60)])
    assert (two.get(1), two.get(7), two.get(8)) == (0, None, 80)
    assert two.at(9, 151) == 1
    assert two.get(1) is None


@pytest.mark.parametrize(
    ("devices_max", "idle_us", "name"), [(0, 1, "devices_max"), (70_000, 1, "devices_max"), (1, -1, "idle_us")]
)
def test_wrong_bounds_are_refused(devices_max, idle_us, name):
    with pytest.raises(ValueError, match=name):
        places(devices_max, idle_us)
