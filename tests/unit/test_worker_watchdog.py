"""The watchdog's judgement, on a clock of its own."""

import pytest
from confluent_kafka import KafkaError, KafkaException

from streams import watchdog
from streams.watchdog import TOPICS_EVERY_S, StalledError, Watchdog
from telemetry.errors import TopicError

AT = ("t.vehicle", 0)
STALL_S = 60.0


class Scene:
    """A worker and a cluster that do what the test says."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.progress_at = 1000.0
        self.holding = {AT: 10}
        self.end = 10
        self.away = False
        self.topics: str | None = None
        self.dog = Watchdog(self, self, STALL_S, lambda exc: None, lambda: self.now)

    def problem(self) -> str | None:
        self._answer()
        return self.topics

    def ends(self, partitions: list) -> dict:
        self._answer()
        return dict.fromkeys(partitions, self.end)

    def _answer(self) -> None:
        if self.away:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT, "away"))

    def live(self, seconds: float, step: float = 5.0) -> None:
        """Time passes, the event loop runs, the watchdog looks."""
        end = self.now + seconds
        while self.now < end:
            self.now += step
            self.dog.beat()
            self.dog.look()


def test_an_idle_worker_is_let_be():
    Scene().live(3600)


def test_work_that_waits_ends_it():
    scene = Scene()
    scene.end = 11
    with pytest.raises(StalledError, match="1 records wait and nothing was done for 6"):
        scene.live(120)
    assert scene.now == 1000 + STALL_S + 5


def test_a_member_that_its_group_has_forgotten_ends():
    scene = Scene()
    scene.holding = None
    with pytest.raises(StalledError, match="no partitions"):
        scene.live(300)
    assert scene.now == 1000 + 2 * STALL_S + 5


def test_an_absent_broker_is_waited_for_and_told_once_a_minute(caplog):
    scene = Scene()
    scene.end, scene.away = 500, True
    scene.live(300)
    assert 4 <= len(caplog.records) <= 6
    scene.away = False
    scene.live(STALL_S - 15)  # time to catch up, as after a start
    assert "answer again" in caplog.text
    with pytest.raises(StalledError):
        scene.live(120)


def test_a_hanging_event_loop_ends_it_even_without_work(capfd):
    scene = Scene()
    scene.now += STALL_S / 2 + 1
    with pytest.raises(StalledError, match="event loop has not run for 31 s"):
        scene.dog.look()
    assert "most recent call first" in capfd.readouterr().err


def test_a_bug_of_its_own_ends_the_worker_too(monkeypatch):
    scene, ended = Scene(), []
    monkeypatch.setattr(watchdog, "EVERY_S", 0.0)
    dog = Watchdog(scene, scene, STALL_S, ended.append, lambda: scene.now)
    scene.now += TOPICS_EVERY_S
    scene.problem = lambda: {}["a bug"]
    dog._run()
    assert [type(cause) for cause in ended] == [KeyError]
    assert "KeyError" in dog.verdict


def test_topics_that_have_changed_end_it_at_the_second_look():
    scene = Scene()
    scene.topics = "topic t.vehicle has 6 partitions now"
    with pytest.raises(TopicError, match="6 partitions"):
        scene.live(300)
    assert scene.now == 1000 + 2 * TOPICS_EVERY_S


def test_a_topic_that_is_missing_for_one_look_is_no_reason():
    scene = Scene()
    for _ in range(5):
        scene.topics = "topic t.vehicle is gone"
        scene.live(TOPICS_EVERY_S)
        scene.topics = None
        scene.live(TOPICS_EVERY_S)
