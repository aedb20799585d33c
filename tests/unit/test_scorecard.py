"""The scorecard by hand-made faults and alerts: what is found, missed, masked, false; and its figures."""

import json
import math

import numpy as np
import pytest

from fleetwatch.scorecard import DAY_US, SECOND_US, Event, Exposure, Fault, Rules, Scorer
from fleetwatch.scorecard_page import data, detector_lines, fault_lines, page, per_thousand, share
from fleetwatch.scorecard_stats import EXACT_MAX, Rate, percentile, poisson, wilson
from telemetry.alerts import AlertState

T0 = 1_760_000_000_000_000


def at(seconds):
    return T0 + round(seconds * SECOND_US)


def fault(device, onset_s, end_s=None, kind="leak", signals=("A", "B"), **more):
    return Fault(
        f"{kind}-{device}-{onset_s}", kind, device, at(onset_s), None if end_s is None else at(end_s),
        frozenset(signals), more.pop("device_class", "car"), **more,
    )  # fmt: skip


def event(device, at_s, state=AlertState.OPEN, episode=None, detector="d", signal="A", device_class="car"):
    return Event(episode or f"{device}@{at_s}", device, device_class, state, at(at_s), detector, signal)


def scored(faults, events, exposure=None, **rules):
    scorer = Scorer(faults, Rules(**rules))
    for item in events:
        scorer.add(item)
    return scorer.card(exposure)


def over(card):
    alarms = card.episodes()
    return card.all.found, card.all.missed, alarms.matched, alarms.false


def test_an_episode_within_the_span_finds_the_fault():
    card = scored([fault("a", 100, 200)], [event("a", 112)])
    (finding,) = card.findings
    assert finding.opened == event("a", 112)
    assert finding.after_s == 12.0
    assert finding.named
    assert over(card) == (1, 0, 1, 0)


def test_two_episodes_count_once_and_none_is_false():
    card = scored([fault("a", 100, 500)], [event("a", 112), event("a", 400)])
    assert card.findings[0].after_s == 12.0
    assert over(card) == (1, 0, 2, 0)


def test_the_first_of_several_finds_it_in_whatever_order_they_come():
    card = scored([fault("a", 100)], [event("a", 400, detector="late"), event("a", 112, detector="early")])
    assert card.all.detectors == [("early", 1)]
    assert card.findings[0].after_s == 12.0


def test_a_tie_is_the_first_that_came():
    events = [event("a", 112, episode="1", detector="x"), event("a", 112, episode="2", detector="y")]
    card = scored([fault("a", 100)], events)
    assert card.all.detectors == [("x", 1)]


@pytest.mark.parametrize(
    ("at_s", "found"), [(99.4, False), (99.5, True), (100, True), (200, True), (260, True), (260.001, False)]
)
def test_the_span_is_onset_to_end_with_the_clocks_tolerance_and_the_grace(at_s, found):
    assert over(scored([fault("a", 100, 200)], [event("a", at_s)])) == ((1, 0, 1, 0) if found else (0, 1, 0, 1))


def test_what_opens_before_the_onset_by_a_wrong_clock_is_found_after_no_time():
    assert scored([fault("a", 100, 200)], [event("a", 99.6)]).findings[0].after_s == 0.0


def test_an_early_alert_is_false_and_hides_the_fault_it_lasts_into():
    events = [event("a", 50, episode="e"), event("a", 150, AlertState.RESOLVED, episode="e")]
    card = scored([fault("a", 100, 200)], events)
    assert over(card) == (0, 1, 0, 1)
    assert card.all.masked == 1


def test_an_early_alert_that_never_ends_hides_it_too():
    assert scored([fault("a", 100, 200)], [event("a", 50)]).all.masked == 1


def test_an_early_alert_that_is_over_hides_nothing():
    events = [event("a", 50, episode="e"), event("a", 90, AlertState.RESOLVED, episode="e")]
    assert scored([fault("a", 100, 200)], events).all.masked == 0


def test_what_is_found_is_not_masked():
    events = [event("a", 50, episode="e"), event("a", 150, AlertState.RESOLVED, episode="e"), event("a", 170)]
    card = scored([fault("a", 100, 200)], events)
    assert (card.all.found, card.all.masked) == (1, 0)


def test_an_episode_that_outlasts_its_fault_is_no_false_alarm():
    events = [event("a", 112, episode="e")]
    events += [event("a", s, AlertState.UPDATE, episode="e") for s in (172, 300)]
    events += [event("a", 400, AlertState.RESOLVED, episode="e")]
    assert over(scored([fault("a", 100, 200)], events)) == (1, 0, 1, 0)


def test_a_fault_without_end_lasts():
    assert over(scored([fault("a", 100)], [event("a", 1e6)])) == (1, 0, 1, 0)


def test_overlapping_faults_are_both_found_by_an_episode_in_both():
    both = [fault("a", 100, 300), fault("a", 200, 400, kind="drift", signals=("C",))]
    card = scored(both, [event("a", 250)])
    assert over(card) == (2, 0, 1, 0)
    assert [(f.after_s, f.named) for f in card.findings] == [(150.0, True), (50.0, False)]


def test_an_episode_of_the_first_is_no_find_of_one_that_begins_later():
    card = scored([fault("a", 100, 300), fault("a", 200, 400, kind="drift")], [event("a", 112)])
    assert {f.fault.kind: (f.opened is not None, f.masked) for f in card.findings} == {
        "leak": (True, False),
        "drift": (False, True),
    }


def test_other_devices_do_not_count():
    card = scored([fault("a", 100)], [event("b", 112)])
    assert over(card) == (0, 1, 0, 1)


def test_an_event_that_comes_twice_counts_once():
    assert over(scored([fault("a", 100)], [event("a", 112), event("a", 112)])) == (1, 0, 1, 0)


def test_a_fault_that_changes_no_signal_cannot_be_named():
    row = scored([fault("a", 100, signals=())], [event("a", 112)]).all
    assert (row.found, row.named, row.nameable) == (1, 0, 0)


def test_a_skewed_clocks_times_are_set_right():
    skewed = fault("a", 100, 200, signals=(), clock_rate=1.5)
    assert scored([skewed], [event("a", 130)]).findings[0].after_s == pytest.approx(20.0)
    assert over(scored([skewed], [event("a", 335)])) == (1, 0, 1, 0)  # true time 256.7, by its clock 335
    assert over(scored([skewed], [event("a", 345)])) == (0, 1, 0, 1)


def test_rows_and_totals_by_detector_and_class():
    faults = [fault("a", 100), fault("b", 100, kind="drift"), fault("p", 100, device_class="pump")]
    events = [
        event("a", 110, detector="x"), event("b", 120, detector="y", signal="Z"),
        event("c", 5, detector="x"), event("q", 7, detector="y", device_class="pump"),
    ]  # fmt: skip
    exposure = Exposure()
    for device, name in (("a", "car"), ("b", "car"), ("c", "car"), ("p", "pump"), ("q", "pump")):
        exposure.see(device, name, T0, DAY_US)
    card = scored(faults, events, exposure)
    assert {k: (r.injected, r.found) for k, r in card.by(lambda f: f.kind).items()} == {
        "drift": (1, 1),
        "leak": (2, 1),
    }
    assert {d: (card.found_by(d).found, card.found_by(d).named) for d in card.detectors} == {
        "x": (1, 1),
        "y": (1, 0),
    }
    assert card.episodes(detector="x").precision.value == 0.5
    assert card.episodes("pump").false == 1
    assert card.exposure("car").observed == 3.0
    assert card.exposure("car").healthy == pytest.approx(1 + 2 * 100 / 86_400)
    assert card.false_rate("pump").value == pytest.approx(1000 / (1 + 100 / 86_400))


def test_exposure_counts_each_stretch_once_and_knows_gaps():
    exposure = Exposure()
    for start in (0, 10, 20, 10, 20, 30, 100):  # 10 and 20 come again after a failover; then a gap
        exposure.see("a", "car", at(start), 10 * SECOND_US)
    (days,) = exposure.days([], Rules()).values()
    assert days.observed * DAY_US == pytest.approx(50 * SECOND_US)
    sick = [fault("a", 10, 15), fault("a", 12, 20), fault("z", 0)]
    (days,) = exposure.days(sick, Rules(grace_us=0)).values()
    assert days.healthy * DAY_US == pytest.approx(40 * SECOND_US)


def test_a_fault_outside_what_was_observed_takes_nothing_away():
    exposure = Exposure()
    exposure.see("a", "car", at(0), 10 * SECOND_US)
    (days,) = exposure.days([fault("a", 500), fault("a", -500, -400)], Rules()).values()
    assert days.healthy == days.observed


# -- figures ----------------------------------------------------------------------------------------------------


def test_wilson_is_the_textbooks():
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29
    for hits, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        rate = wilson(hits, n)
        assert (rate.low, rate.high) == pytest.approx((low, high), abs=5e-5)
    assert math.isnan(wilson(0, 0).value)


def test_poisson_is_garwoods():
    table = {0: (0, 3.6889), 1: (0.0253, 5.5716), 2: (0.2422, 7.2247), 5: (1.6235, 11.6683), 10: (4.7954, 18.3904)}
    table |= {20: (12.2165, 30.8884), 50: (37.1110, 65.9188), 100: (81.3640, 121.6268)}
    for count, limits in table.items():
        rate = poisson(count, 2.0)
        assert (rate.value, rate.low, rate.high) == pytest.approx(
            (count / 2, limits[0] / 2, limits[1] / 2), abs=5e-5
        )
    assert math.isnan(poisson(3, 0.0).value)
    assert math.isnan(poisson(3, math.nan).value)


def test_poisson_goes_on_smoothly_where_it_is_approximated():
    exact, near = poisson(EXACT_MAX, 1.0), poisson(EXACT_MAX + 1, 1.0)
    assert near.low - exact.low == pytest.approx(1, abs=0.2)
    assert near.high - exact.high == pytest.approx(1, abs=0.2)


def test_percentile_is_numpys():
    rng = np.random.default_rng(4)
    for n in (1, 2, 7, 50):
        values = rng.uniform(0, 1e6, n).tolist()
        for q in (0.0, 0.31, 0.5, 0.9, 1.0):
            assert percentile(values, q) == pytest.approx(float(np.quantile(values, q)), rel=1e-9)
    assert math.isnan(percentile([], 0.5))


# -- pages ------------------------------------------------------------------------------------------------------


def test_not_quite_all_is_not_all():
    assert share(Rate(999 / 1000, 0, 1)) == "99 %"
    assert share(wilson(4, 4)) == "100 %"


def test_rates_of_any_size_stay_short():
    texts = [per_thousand(poisson(count, days)) for count in (0, 1, 1000) for days in (1e-4, 1.0, 1e6)]
    assert max(map(len, texts)) < 30
    assert per_thousand(poisson(1, 1.0)) == "1 (0.025 to 5.6)"


def test_an_empty_card_is_shown_and_has_no_figures():
    card = scored([], [])
    text = "\n".join(page(card, by_class=False, alone={}))
    assert "0 faults on 0 devices, 0 alerts, unknown exposure" in text
    assert data(card)["all"]["recall"]["value"] is None
    json.dumps(data(card), allow_nan=False)


def test_names_from_outside_are_printed_escaped():
    card = scored([fault("a", 100, kind="\x1b[31mred", device_class="\x1b]0;x")], [event("a", 101, detector="\n")])
    assert not any(c in line for line in page(card, by_class=True, alone={}) for c in "\x1b\n")


def test_the_demos_tables_fit_their_width():
    kinds = [f"a_kind_of_fault_number_{n:04d}" for n in range(9)]
    faults = [fault(f"dev{n}", 100, kind=kind) for n, kind in enumerate(kinds) for _ in range(1)]
    events = [event(f"dev{n}", 101 + n, detector=f"detector_with_a_long_name_{n}") for n in range(9)]
    exposure = Exposure()
    exposure.see("dev0", "car", T0, DAY_US)
    card = scored(faults, events, exposure)
    lines = fault_lines(card, lambda f: f.kind, intervals=False, width=96) + detector_lines(card, width=96)
    assert max(map(len, lines)) <= 96
    assert all(f"{name[:20]}" in "\n".join(lines) for name in kinds)
