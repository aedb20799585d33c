"""What Alertmanager is told: labels that stay, ends that come, and what is known after a restart."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from alerts_made import ONSET_US, made
from hypothesis import given
from hypothesis import strategies as st

from fleetwatch.alert_feed import Received
from fleetwatch.forward import Outcome, Standing
from fleetwatch.forward_alertmanager import BATCH_MAX, Alertmanager, AlertmanagerMessage, labels, words
from telemetry.alerts import Alert, AlertState, GuiltySignal, Severity, ce_attributes, micros_of, rfc3339

OPEN, UPDATE, RESOLVED = AlertState.OPEN, AlertState.UPDATE, AlertState.RESOLVED
NOW_S = ONSET_US / 1e6 + 100
ALL = Standing(frozenset({0, 1}), frozenset({0, 1}))


class Lost:
    def __init__(self) -> None:
        self.told: list[tuple[int, str]] = []

    def __call__(self, count: int, why: str) -> None:
        self.told.append((count, why))


def target(least: Severity = Severity.INFO, lost: Lost | None = None, **changed: Any) -> Alertmanager:
    figures: dict[str, Any] = {"resend_s": 60, "hold_s": 300, "silent_s": 3600, "open_max": 100} | changed
    return Alertmanager("/", least, lost=lost or Lost(), **figures)


def came(alert: Alert, arrived_s: float | None = None) -> Received:
    _, _, headers = alert.to_message()
    at = alert.ts_us / 1e6 if arrived_s is None else arrived_s
    return Received(alert, ce_attributes(headers), int(at * 1000) + 1)


def posted(message: Any, now_s: float = NOW_S) -> list[dict[str, Any]]:
    return [] if message is None else json.loads(message.render(now_s)[1])


def told(where: Alertmanager, alert: Alert, offset: int = 0, partition: int = 0, now_s: float = NOW_S) -> list[Any]:
    return posted(where.accept(came(alert), partition, offset)[0], now_s)


def is_on(item: dict[str, Any], now_s: float = NOW_S) -> bool:
    return micros_of(item["endsAt"]) > now_s * 1e6


def test_an_alert_that_is_on_ends_later_unless_it_is_said_again() -> None:
    (item,) = told(target(), made("gpu-1"))
    assert item["startsAt"] == rfc3339(ONSET_US)
    assert micros_of(item["endsAt"]) == pytest.approx((NOW_S + 300) * 1e6, abs=1)
    (later,) = posted(target().accept(came(made("gpu-1")), 0, 0)[0], NOW_S + 1000)
    assert is_on(later, NOW_S + 1000)  # of the attempt, however late


def test_labels_stay_while_words_change() -> None:
    where = target()
    (first,) = told(where, made("gpu-1"))
    other = (GuiltySignal("Other.Signal", "V", 1.0, 2.0, 3.0),)
    (second,) = told(where, made("gpu-1", UPDATE, kind="relation", signals=other, span_s=60))
    assert second["labels"] == first["labels"]
    assert second["startsAt"] == first["startsAt"]
    assert second["annotations"]["kind_now"] == "relation"
    assert second["annotations"]["signals"] == "Other.Signal 1 V, expected 2 V (surprise 3)"
    (end,) = told(where, made("gpu-1", RESOLVED, span_s=90))
    assert end["labels"] == first["labels"]
    assert end["endsAt"] == rfc3339(ONSET_US + 90_000_000)
    assert where.open == 0


def test_a_severity_that_rises_ends_the_old_labels_in_the_same_post() -> None:
    where = target()
    (minor,) = told(where, made("gpu-1"))
    old, new = told(where, made("gpu-1", UPDATE, Severity.CRITICAL, span_s=20))
    assert old["labels"] == minor["labels"]
    assert not is_on(old)
    assert new["labels"] == minor["labels"] | {"severity": "critical"}
    assert is_on(new)
    (same,) = told(where, made("gpu-1", UPDATE, Severity.MAJOR, span_s=40))  # never back
    assert same["labels"] == new["labels"]
    (end,) = told(where, made("gpu-1", RESOLVED, Severity.CRITICAL, span_s=90))
    assert end["labels"] == new["labels"]


def test_below_the_least_severity_nothing_is_said_until_it_rises() -> None:
    where = target(Severity.MAJOR)
    assert told(where, made("gpu-1")) == []
    assert where.open == 0
    (item,) = told(where, made("gpu-1", UPDATE, Severity.MAJOR, span_s=20), 1)
    assert item["labels"]["severity"] == "major"
    assert told(where, made("gpu-2"), 2) == []
    assert told(where, made("gpu-2", RESOLVED), 3) == []


def test_a_new_episode_of_a_device_takes_the_olds_place() -> None:
    where = target()
    told(where, made("gpu-1"))
    later = ONSET_US + 5_000_000
    (same,) = told(where, made("gpu-1", onset_us=later), 1)  # the same labels go on
    assert is_on(same)
    old, new = told(where, made("gpu-1", onset_us=later + 1, kind="stuck"), 2)
    assert (old["labels"]["kind"], is_on(old)) == ("shift", False)
    assert (new["labels"]["kind"], is_on(new)) == ("stuck", True)
    assert told(where, made("gpu-1", RESOLVED), 3) == []  # of the first, which is over
    assert where.open == 1


def test_two_classes_of_a_device_are_two() -> None:
    where = target()
    told(where, made("box-1"))
    told(where, made("box-1", catalog="vehicle.ev/1"), 1)
    assert where.open == 2
    assert {item["labels"]["device_class"] for item in told(where, made("box-1", UPDATE), 2)} == {"gpu.node"}


def test_a_clock_that_is_ahead_does_not_put_an_end_into_the_future() -> None:
    where = target()
    ahead = made("gpu-1", onset_us=ONSET_US + 300_000_000)
    (item,) = posted(where.accept(came(ahead, NOW_S), 0, 0)[0])
    assert micros_of(item["startsAt"]) <= (NOW_S + 0.01) * 1e6
    gone = made("gpu-1", RESOLVED, onset_us=ONSET_US + 300_000_000, span_s=60)
    (end,) = posted(where.accept(came(gone, NOW_S + 1), 0, 1)[0])
    assert micros_of(end["startsAt"]) <= micros_of(end["endsAt"]) <= (NOW_S + 1.01) * 1e6


def test_an_end_is_never_before_its_start() -> None:
    where = target()
    where.accept(came(made("gpu-1"), NOW_S), 0, 0)
    back = made("gpu-1", RESOLVED, span_s=-50)
    (end,) = posted(where.accept(came(back, NOW_S), 0, 1)[0])
    assert end["endsAt"] == end["startsAt"]


def test_what_is_open_is_said_again_when_it_is_due() -> None:
    where = target()
    told(where, made("gpu-1"))
    assert where.again(NOW_S - 50, {0}, lambda _d: 0, ALL) == {}
    message = where.again(NOW_S + 60, {0}, lambda _d: 0, ALL)[0]
    assert is_on(posted(message, NOW_S + 60)[0], NOW_S + 60)
    assert where.again(NOW_S + 61, {0}, lambda _d: 0, ALL) == {}
    where.heard(message, NOW_S + 61, Outcome.RETRY)
    assert where.again(NOW_S + 67, {0}, lambda _d: 0, ALL)  # sooner after a failure
    assert where.again(NOW_S + 300, {1}, lambda _d: 0, ALL) == {}  # its lane is busy
    assert where.again(NOW_S + 300, {0}, lambda _d: 0, Standing(frozenset(), frozenset())) == {}


def test_what_is_refused_is_not_said_again_until_there_is_news() -> None:
    where = target()
    told(where, made("gpu-1"))
    told(where, made("gpu-2"), 1)
    message = where.again(NOW_S + 60, {0}, lambda _d: 0, ALL)[0]
    parts = message.parts()
    assert [len(posted(part)) for part in parts] == [1, 1]
    where.heard(parts[0], NOW_S + 60, Outcome.REFUSED)
    where.heard(parts[1], NOW_S + 60, Outcome.DELIVERED)
    (left,) = posted(where.again(NOW_S + 130, {0}, lambda _d: 0, ALL)[0])
    assert left["labels"]["device"] == "gpu-2"
    told(where, made("gpu-1", UPDATE, span_s=200), 2)
    again = posted(where.again(NOW_S + 900, {0}, lambda _d: 0, ALL)[0])
    assert {item["labels"]["device"] for item in again} == {"gpu-1", "gpu-2"}


def test_many_are_said_in_batches() -> None:
    where = target(open_max=10 * BATCH_MAX)
    for number in range(2 * BATCH_MAX + 5):
        told(where, made(f"gpu-{number}"), number)
    sizes = [len(posted(where.again(NOW_S + 60, {0}, lambda _d: 0, ALL)[0])) for _ in range(3)]
    assert sizes == [BATCH_MAX, BATCH_MAX, 5]


def test_silence_ends_an_alert_once_and_says_so() -> None:
    lost = Lost()
    where = target(lost=lost)
    told(where, made("gpu-1"))
    late = NOW_S + 4000
    behind = Standing(frozenset({0}), frozenset())
    (item,) = posted(where.again(late, {0}, lambda _d: 0, behind)[0], late)
    assert is_on(item, late)  # news may wait to be read
    (end,) = posted(where.again(late, {0}, lambda _d: 0, ALL)[0], late)
    assert not is_on(end, late)
    assert "no news for 3600 s" in end["annotations"]["ended"]
    assert lost.told == [(1, "silent")]
    assert where.open == 0
    assert where.oldest(0) is None


def test_too_many_open_ones_are_told() -> None:
    lost = Lost()
    where = target(lost=lost, open_max=3)
    for number in range(5):
        told(where, made(f"gpu-{number}"), number)
    assert (where.open, lost.told) == (3, [(1, "open_max")] * 2)
    assert where.oldest(0) == 2


def test_a_partition_that_is_anothers_is_forgotten() -> None:
    where = target()
    told(where, made("gpu-1"), 4, partition=0)
    told(where, made("gpu-2"), 7, partition=1)
    where.forget(0)
    assert (where.open, where.oldest(0), where.oldest(1)) == (1, None, 7)


def test_nobody_asks_for_empty_or_endless_labels() -> None:
    found = labels(made("gpu-1", kind="flood", signals=()))
    assert "signal" not in found
    assert found["alertname"] == "FleetwatchFlood"
    assert "" not in words(made("gpu-1", kind="flood", signals=())).values()


@pytest.mark.parametrize("path", ["/", "/am", "/am/", "/api/v2/alerts", "/am/api/v2/alerts"])
def test_the_api_is_found_below_any_prefix(path: str) -> None:
    made_of = Alertmanager(path, Severity.INFO, resend_s=1, hold_s=3, silent_s=9, open_max=9)
    assert made_of.path == ("/am" if "am" in path else "") + "/api/v2/alerts"


def test_a_link_cannot_be_broken_by_a_device() -> None:
    where = target(generator_url="https://x.example.org/?d={device}&c={class}")
    (item,) = told(where, made("a b&c=d/#ü\r\n"))
    assert item["generatorURL"] == "https://x.example.org/?d=a%20b%26c%3Dd%2F%23%C3%BC%0D%0A&c=gpu.node"


def _life(chance: random.Random) -> list[Alert]:
    """Episodes of a few devices, mixed."""
    found, onset, live = [], ONSET_US, {}
    for _ in range(chance.randint(1, 60)):
        device = f"gpu-{chance.randint(0, 3)}"
        onset += 1_000_000
        if device not in live:
            live[device] = (onset, chance.choice(list(Severity)), chance.choice(["shift", "spike"]))
            found.append(made(device, OPEN, live[device][1], onset_us=onset, span_s=0, kind=live[device][2]))
            continue
        begun, severity, kind = live[device]
        severity = max(severity, chance.choice(list(Severity)), key=lambda s: s.rank)
        state = chance.choice([UPDATE, UPDATE, RESOLVED])
        live[device] = (begun, severity, kind)
        span = (onset - begun) / 1e6
        kind_now = chance.choice(["shift", "spike", "stuck"])
        found.append(made(device, state, severity, onset_us=begun, span_s=span, kind=kind_now))
        if state is RESOLVED:
            del live[device]
    return found


@given(st.randoms(use_true_random=False), st.sampled_from(list(Severity)))
def test_a_restart_anywhere_says_what_it_would_have_said(chance: random.Random, least: Severity) -> None:
    """Whoever recalls from the committed metadata on says the same as whoever was never away."""
    story = _life(chance)
    cut = chance.randint(0, len(story))
    whole, second = target(least), target(least)
    said = [told(whole, alert, offset) for offset, alert in enumerate(story[:cut])]
    since = min([cut, *([] if (oldest := whole.oldest(0)) is None else [oldest])])
    for offset in range(since, cut):
        second.recall(came(story[offset]), 0, offset)
    assert second.open == whole.open
    assert second.oldest(0) == whole.oldest(0)
    for offset in range(cut, len(story)):
        assert told(second, story[offset], offset) == told(whole, story[offset], offset)
    assert len(said) == cut


@given(st.randoms(use_true_random=False))
def test_in_the_end_alertmanager_has_exactly_what_is_open(chance: random.Random) -> None:
    """A model of Alertmanager: by its labels, the newest word counts. Any suffix may come twice."""
    story = _life(chance)
    where, has = target(), {}
    for offset, alert in enumerate(story):
        for item in told(where, alert, offset):
            has[tuple(sorted(item["labels"].items()))] = is_on(item)
    on = {dict(key)["device"] for key, value in has.items() if value}
    last = {alert.device_id: alert.state for alert in story}
    assert on == {device for device, state in last.items() if state is not RESOLVED}
    assert sum(has.values()) == len(on)  # one set of labels each


def test_parts_of_a_post_about_one_episode_stay_together() -> None:
    where = target()
    told(where, made("gpu-1"))
    message, since = where.accept(came(made("gpu-1", UPDATE, Severity.CRITICAL, span_s=20)), 0, 9)
    assert isinstance(message, AlertmanagerMessage)
    assert message.parts() == [message]
    assert since == 0
