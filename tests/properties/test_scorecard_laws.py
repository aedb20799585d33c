"""Laws of the scorecard: shares are shares, counts add up, and order between devices does not matter."""

import random

from hypothesis import given
from hypothesis import strategies as st

from fleetwatch.scorecard import SECOND_US, Event, Exposure, Fault, Rules, Scorer
from fleetwatch.scorecard_page import data, page
from telemetry.alerts import AlertState

DEVICES = "abcd"
TIMES = st.integers(0, 1500)  # observed is 0 to 1000


@st.composite
def faults(draw):
    found = []
    for number in range(draw(st.integers(0, 8))):
        onset = draw(TIMES)
        length = draw(st.none() | st.integers(0, 300))
        found.append(
            Fault(
                f"f{number}", draw(st.sampled_from(["leak", "drift", "skew"])), draw(st.sampled_from(DEVICES)),
                onset * SECOND_US, None if length is None else (onset + length) * SECOND_US,
                frozenset(draw(st.sets(st.sampled_from("AB")))), draw(st.sampled_from(["car", "pump"])),
                draw(st.sampled_from([1.0, 1.0, 0.5, 1.5])),
            )
        )  # fmt: skip
    return found


@st.composite
def events(draw):
    """Episodes of each device one after the other, as a worker makes them."""
    found = []
    for device in DEVICES:
        now = 0
        for number in range(draw(st.integers(0, 5))):
            now += draw(st.integers(0, 200))
            detector, signal = draw(st.sampled_from("xyz")), draw(st.sampled_from(["A", "B", ""]))
            for state in draw(st.sampled_from([(AlertState.OPEN,), (AlertState.OPEN, AlertState.RESOLVED)])):
                found.append(Event(f"{device}{number}", device, "car", state, now * SECOND_US, detector, signal))
                now += draw(st.integers(0, 100))
    return found


def card_of(truth, alerts):
    exposure = Exposure()
    for device in DEVICES[:3]:
        exposure.see(device, "car", 0, 1000 * SECOND_US)
    scorer = Scorer(truth, Rules())
    for event in alerts:
        scorer.add(event)
    return scorer.card(exposure)


@given(faults(), events())
def test_shares_are_shares_and_counts_add_up(truth, alerts):
    card = card_of(truth, alerts)
    kinds = card.by(lambda f: f.kind)
    total, alarms = card.all, card.episodes()
    for row in (*kinds.values(), total):
        assert 0 <= row.named <= row.nameable <= row.found <= row.injected
        assert 0 <= row.masked <= row.missed == row.injected - row.found
        rate = row.recall
        assert row.injected == 0 or 0 <= rate.low <= rate.value <= rate.high <= 1
        assert row.found == 0 or 0 <= row.after_s(0.5) <= row.after_s(0.9)
        assert sum(count for _, count in row.detectors) == row.found
    assert total.injected == len(truth)
    for name in ("injected", "found", "missed", "masked", "named", "nameable"):
        assert sum(getattr(row, name) for row in kinds.values()) == getattr(total, name)
    assert alarms.episodes == len({e.episode for e in alerts if e.state is AlertState.OPEN})
    assert sum((card.episodes(detector=d).false for d in card.detectors), 0) == alarms.false
    assert sum(card.found_by(d).found for d in card.detectors) == total.found
    assert bool(total.found) == bool(alarms.matched)
    days = card.exposure()
    assert 0 <= days.healthy <= days.observed
    assert data(card)
    assert page(card, by_class=True, alone={"x": card})


@given(faults(), events(), st.integers(0, 1000))
def test_order_between_devices_does_not_matter(truth, alerts, seed):
    draw = random.Random(seed)
    queues = {d: [e for e in alerts if e.device == d] for d in DEVICES}
    mixed = []
    while left := [d for d in DEVICES if queues[d]]:
        mixed.append(queues[draw.choice(left)].pop(0))
    shuffled = draw.sample(truth, len(truth))
    assert data(card_of(truth, alerts)) == data(card_of(shuffled, mixed))


@given(faults(), events())
def test_one_alert_more_never_lowers_recall(truth, alerts):
    fewer = card_of(truth, alerts[:-1]) if alerts else card_of(truth, [])
    assert card_of(truth, alerts).all.found >= fewer.all.found
