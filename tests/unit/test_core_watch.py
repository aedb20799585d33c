"""What detectors see of a row: levels, a counter's increase, no positions; its state moves with a device."""

import numpy as np
import pytest

from streams.core.watch import WatchStage
from telemetry.catalog import Catalog, Signal

NAN = np.nan


def entry(*natures):
    signals = tuple(Signal(name=f"S{i}", nature=nature) for i, nature in enumerate(natures))
    return Catalog(name="boat", version=1, kind="vehicle", signals=signals)


def stage(*natures, slots=3):
    made = WatchStage(entry(*natures))
    made.reserve(slots)
    return made


def seen(watch, rows, slots=None):
    values = np.array(rows, np.float32)
    at = np.zeros(len(values), np.int32) if slots is None else np.array(slots, np.int32)
    return watch.select(at, values).tolist()


def same(got, want):
    np.testing.assert_array_equal(np.array(got, np.float32), np.array(want, np.float32))


def test_positions_are_left_out_and_levels_pass():
    watch = stage("position", "level", "position", "level")
    same(seen(watch, [[1, 2, 3, 4], [5, NAN, 7, 8]]), [[2, 4], [NAN, 8]])


def test_levels_alone_are_the_very_array():
    watch = stage("level", "level")
    values = np.ones((4, 2), np.float32)
    assert watch.select(np.zeros(4, np.int32), values) is values
    assert watch.state_nbytes == 0


def test_a_counter_is_seen_as_its_increase_from_the_second_value_on():
    same(seen(stage("counter"), [[100], [100], [103], [110]]), [[NAN], [0], [3], [7]])


def test_a_counter_that_was_reset_has_no_increase_and_counts_from_there():
    same(seen(stage("counter"), [[100], [105], [2], [6]]), [[NAN], [5], [NAN], [4]])


def test_a_missing_counter_is_missing_and_its_increase_is_not_lost():
    same(seen(stage("counter"), [[100], [NAN], [NAN], [107], [108]]), [[NAN], [NAN], [NAN], [7], [1]])


def test_each_device_counts_for_itself():
    watch = stage("counter")
    same(seen(watch, [[100], [5], [101], [9], [1]], [0, 1, 0, 1, 2]), [[NAN], [NAN], [1], [4], [NAN]])


def test_several_counters_among_others_keep_their_own_place():
    watch = stage("position", "counter", "level", "counter")
    same(seen(watch, [[0, 10, 1, 1000], [0, 11, 2, 1005]]), [[NAN, 1, NAN], [1, 2, 5]])


@pytest.mark.parametrize("cut", range(1, 6))
def test_where_a_batch_is_cut_changes_nothing(cut):
    rows = np.array([[100, 1], [NAN, 2], [103, 3], [2, 4], [2, NAN], [9, 5]], np.float32)
    whole, parts = stage("counter", "level"), stage("counter", "level")
    same(seen(whole, rows), seen(parts, rows[:cut]) + seen(parts, rows[cut:]))


def test_a_snapshot_goes_on_in_another_slot_of_another_stage():
    watch = stage("counter", "level", "counter")
    seen(watch, [[100, 0, 7], [50, 0, NAN]], [0, 1])
    states = watch.snapshot(np.array([1, 0], np.int32))
    assert states.shape == (2, watch.state_nbytes) and states.dtype == np.uint8
    other = stage("counter", "level", "counter", slots=9)
    other.restore(np.array([8, 4], np.int32), states)
    same(seen(other, [[53, 1, 3], [101, 1, 9]], [8, 4]), [[3, 1, NAN], [1, 1, 2]])


def test_a_snapshot_does_not_change_with_the_stage():
    watch = stage("counter")
    seen(watch, [[100]])
    states = watch.snapshot(np.zeros(1, np.int32))
    kept = states.copy()
    seen(watch, [[200]])
    assert (states == kept).all()


def test_a_stage_without_counters_snapshots_nothing_and_restores_it():
    watch = stage("level", "position")
    slots = np.arange(2, dtype=np.int32)
    states = watch.snapshot(slots)
    assert states.shape == (2, 0)
    watch.restore(slots, states)


def test_a_forgotten_device_counts_anew_and_room_keeps_the_others():
    watch = stage("counter", slots=2)
    seen(watch, [[100], [200]], [0, 1])
    watch.forget(np.array([0], np.int32))
    watch.reserve(50)
    watch.reserve(1)
    same(seen(watch, [[101], [201], [1]], [0, 1, 49]), [[NAN], [1], [NAN]])


def named(watch, rows, column, expected):
    """(columns, expectations) in the catalogue's terms."""
    values = np.array(rows, np.float32)
    shown = watch.select(np.zeros(len(values), np.int32), values)
    column, expected = np.array(column, np.int16), np.array(expected, np.float32)
    watch.name(column, expected, values, shown)
    return column.tolist(), expected


def test_columns_are_named_as_in_the_catalogue_and_a_counter_is_expected_as_its_total():
    watch = stage("position", "level", "position", "counter")
    rows = [[0, 20, 0, 100], [0, 20, 0, 104], [0, 20, 0, 104], [0, 20, 0, NAN]]
    column = [[-1, -1, -1], [0, 1, -1], [1, -1, -1], [1, 0, -1]]
    expected = [[NAN] * 3, [18, 1, NAN], [0.5, NAN, NAN], [NAN, 18, NAN]]
    got, want = named(watch, rows, column, expected)
    assert got == [[-1, -1, -1], [1, 3, -1], [3, -1, -1], [3, 1, -1]]
    same(want, [[NAN] * 3, [18, 101, NAN], [104.5, NAN, NAN], [NAN, 18, NAN]])


def test_levels_alone_are_named_as_they_are():
    got, want = named(stage("level", "level"), [[1, 2]], [[1, 0, -1]], [[5, 6, NAN]])
    assert got == [[1, 0, -1]]
    same(want, [[5, 6, NAN]])


def test_a_class_of_positions_alone_shows_nothing():
    watch = stage("position", "position")
    assert watch.select(np.zeros(3, np.int32), np.ones((3, 2), np.float32)).shape == (3, 0)
