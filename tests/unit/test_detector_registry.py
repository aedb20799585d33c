"""Names and parameters: a wrong one is refused with the nearest right one."""

import numpy as np
import pytest
from detector_models import needed

from detectors.blocks import grown
from detectors.protocol import Block, Scores
from detectors.registry import DETECTORS, make_detector, parameters_of

TWO = ("a", "b")


def test_unknown_detector_names_the_nearest():
    with pytest.raises(ValueError, match=r"unknown detector 'ewna': did you mean 'ewma'\?"):
        make_detector("ewna", ("a",), {})


def test_unknown_parameters_are_all_named_with_the_nearest():
    with pytest.raises(ValueError, match="no parameter") as caught:
        make_detector("ewma", ("a",), {"alhpa": 0.1, "warmrows": 3, "exact_z": 5.0})
    text = str(caught.value)
    assert "'alhpa': did you mean 'alpha'" in text
    assert "'warmrows': did you mean 'warm_rows'" in text
    assert "'exact_z':" not in text


def test_parameters_of_gives_defaults():
    assert parameters_of("ewma")["alpha"] == 0.02
    assert all(parameters_of(name) for name in DETECTORS)


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("slot", [-1, 1_000_000])
def test_a_slot_that_was_not_reserved_is_our_bug(name, slot):
    detector = make_detector(name, TWO, needed(name, TWO))
    detector.reserve(2)
    slots = np.array([0, slot], np.int32)
    with pytest.raises(IndexError, match=r"row 1\b"):
        detector.update(Block(slots, np.zeros(2, np.int64), np.ones((2, 2), np.float32)), Scores.empty(2))


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize(
    "change",
    [
        {"values": np.ones((3, 1), np.float32)},
        {"values": np.ones((3, 2), np.float64)},
        {"values": np.ones((2, 3), np.float32).T},
        {"values": np.ones((2, 2), np.float32)},
        {"slots": np.zeros(3, np.int64)},
        {"slots": np.zeros(6, np.int32)[::2]},
        {"ts_us": np.zeros(2, np.int64)},
    ],
)
def test_wrong_arrays_are_refused_before_anything_is_learnt(name, change):
    detector = make_detector(name, TWO, needed(name, TWO))
    detector.reserve(1)
    fields = {"slots": np.zeros(3, np.int32), "ts_us": np.zeros(3, np.int64), "values": np.ones((3, 2), np.float32)}
    with pytest.raises(ValueError, match="must be"):
        detector.update(Block(**{**fields, **change}), Scores.empty(3))
    with pytest.raises(ValueError, match="no room"):
        detector.update(Block(**fields), Scores.empty(2))
    assert not detector.snapshot(np.zeros(1, np.int32)).any()


@pytest.mark.parametrize("name", DETECTORS)
def test_an_empty_block_is_nothing(name):
    detector = make_detector(name, TWO, needed(name, TWO))
    detector.update(
        Block(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros((0, 2), np.float32)), Scores.empty(0)
    )


@pytest.mark.parametrize("name", DETECTORS)
def test_no_columns_are_refused(name):
    with pytest.raises(ValueError, match="columns"):
        make_detector(name, (), needed(name, TWO) | {"limits": ()} if name == "rules" else needed(name, TWO))


def test_growing_one_by_one_copies_seldom():
    rows, copies = np.zeros((1000, 1)), 0
    for n in range(1000, 3000):
        more = grown(rows, n)
        copies += more is not rows
        rows = more
    assert len(rows) >= 2999
    assert copies < 10
