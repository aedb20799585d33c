"""Who of several autoscalers leads, by a clock that is moved by hand and a store that behaves as the API does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from autoscaler.kube import AwayError, ConflictError, MissingError
from autoscaler.lease import HEARD_S, HOLD_SHARE, TELL_S, Keeper, Lease, Record

LEASE_S = 10.0


class Clock:
    """Moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def on(self, seconds: float) -> None:
        self.now_s += seconds


class Object:
    """One Lease object on a server: versions, conflicts, and a wall clock that is nobody's."""

    def __init__(self) -> None:
        self.record: Record | None = None
        self.version = 0
        self.writes = 0

    def write(self, record: Record) -> Record:
        self.version += 1
        self.writes += 1
        self.record = replace(
            record,
            renewed=record.renewed or f"time {self.version}",
            acquired=record.acquired or f"time {self.version}",
            version=str(self.version),
        )
        return self.record


class Store:
    """One contender's way to the object. before : called before each request, may raise or move the clock."""

    def __init__(self, server: Object) -> None:
        self.server = server
        self.before: Callable[[str], None] = lambda verb: None
        self.after: Callable[[str], None] = lambda verb: None

    def read(self) -> Record | None:
        self.before("read")
        found = self.server.record
        self.after("read")
        return found

    def create(self, record: Record) -> Record:
        self.before("create")
        if self.server.record is not None:
            raise ConflictError("it exists")
        return self.server.write(record)

    def replace(self, record: Record) -> Record:
        self.before("replace")
        if self.server.record is None:
            raise MissingError("it is gone")
        if record.version != self.server.record.version:
            raise ConflictError("the version is old")
        made = self.server.write(record)
        self.after("replace")
        return made


class Pair:
    """Two contenders, a and b, on one object. Their clocks stand apart by an hour and run alike."""

    def __init__(self, settings_a: str = "s", settings_b: str = "s") -> None:
        self.server = Object()
        self.clock_a, self.clock_b = Clock(), Clock()
        self.clock_b.on(-3600)
        self.store_a, self.store_b = Store(self.server), Store(self.server)
        self.a = Lease(self.store_a, "a", LEASE_S, settings_a, clock=self.clock_a)
        self.b = Lease(self.store_b, "b", LEASE_S, settings_b, clock=self.clock_b)

    def on(self, seconds: float) -> None:
        self.clock_a.on(seconds)
        self.clock_b.on(seconds)

    def turns(self, seconds: float, *who: Lease) -> None:
        """Turns of `who` every period, for so long; never do both lead."""
        for _ in range(round(seconds / self.a.period_s)):
            self.on(self.a.period_s)
            for lease in who:
                lease.turn()
            assert not (self.a.leading() and self.b.leading())


def away(verb: str) -> None:
    raise AwayError("the API server does not answer")


def test_the_first_leads_and_goes_on_leading() -> None:
    pair = Pair()
    pair.a.turn()
    pair.b.turn()
    assert pair.a.leading()
    assert not pair.b.leading()
    pair.turns(300, pair.a, pair.b)
    assert pair.a.leading()
    assert pair.server.record is not None
    assert (pair.server.record.holder, pair.server.record.transitions) == ("a", 0)


def test_a_leader_that_is_gone_is_followed_after_the_lease_and_not_before() -> None:
    pair = Pair()
    pair.a.turn()
    pair.b.turn()
    pair.on(LEASE_S - 0.1)
    pair.b.turn()
    assert not pair.b.leading()
    pair.on(0.1)
    pair.b.turn()
    assert pair.b.leading()
    assert not pair.a.leading()
    assert pair.server.record is not None
    assert pair.server.record.transitions == 1


def test_one_that_comes_late_waits_for_a_whole_lease_by_its_own_clock() -> None:
    """It cannot know how old the record is: the times in it are another machine's."""
    pair = Pair()
    pair.a.turn()
    pair.on(10 * LEASE_S)
    pair.b.turn()
    assert not pair.b.leading()
    pair.turns(LEASE_S, pair.b)
    assert pair.b.leading()


def test_a_leader_without_an_answer_stops_before_the_other_begins() -> None:
    pair = Pair()
    pair.a.turn()
    pair.b.turn()
    pair.store_a.before = away
    for _ in range(200):
        pair.on(0.1)
        with pytest.raises(AwayError):
            pair.a.turn()
        pair.b.turn()
        assert not (pair.a.leading() and pair.b.leading())
        if not pair.a.leading():
            break
    else:
        pytest.fail("it went on leading")
    stopped_s = pair.clock_a.now_s
    while not pair.b.leading():
        pair.on(0.1)
        pair.b.turn()
    assert pair.clock_a.now_s - stopped_s >= LEASE_S * (1 - HOLD_SHARE) - 0.2


def test_a_renewal_that_hangs_counts_from_when_it_was_asked_for() -> None:
    pair = Pair()
    pair.a.turn()
    pair.store_a.before = lambda verb: pair.clock_a.on(8.0) if verb == "replace" else None
    pair.a.turn()  # it came through, too late to be of use
    assert not pair.a.leading()


def test_leadership_ends_while_a_renewal_hangs() -> None:
    pair = Pair()
    pair.a.turn()
    led = []

    def hang(verb: str) -> None:
        for _ in range(8):
            pair.clock_a.on(1.0)
            led.append(pair.a.leading())  # as the loop's thread would ask
        raise AwayError("timed out")

    pair.store_a.before = hang
    with pytest.raises(AwayError):
        pair.a.turn()
    assert led[0]
    assert not led[-1]


def test_a_frozen_leader_that_wakes_does_not_lead() -> None:
    pair = Pair()
    pair.a.turn()
    pair.b.turn()
    pair.turns(LEASE_S, pair.b)
    assert pair.b.leading()
    assert not pair.a.leading()
    pair.a.turn()
    assert not pair.a.leading()
    assert pair.a.holder == "b"


def test_a_leader_frozen_between_reading_and_writing_is_refused() -> None:
    pair = Pair()
    pair.a.turn()
    pair.b.turn()

    def freeze(verb: str) -> None:
        if verb == "replace":
            pair.store_a.before = lambda verb: None
            pair.turns(LEASE_S, pair.b)

    pair.store_a.before = freeze
    pair.a.turn()
    assert pair.b.leading()
    assert not pair.a.leading()


def test_two_that_take_an_expired_lease_at_once_are_one_leader() -> None:
    pair = Pair()
    pair.server.write(Record("gone", LEASE_S))
    pair.a.turn()
    pair.b.turn()
    pair.on(LEASE_S)

    def faster(verb: str) -> None:
        if verb == "replace":
            pair.store_b.before = lambda verb: None
            pair.a.turn()

    pair.store_b.before = faster
    pair.b.turn()
    assert pair.a.leading()
    assert not pair.b.leading()


def test_two_that_create_it_at_once_are_one_leader() -> None:
    pair = Pair()

    def faster(verb: str) -> None:
        if verb == "create":
            pair.store_b.before = lambda verb: None
            pair.a.turn()

    pair.store_b.before = faster
    pair.b.turn()
    assert pair.a.leading()
    assert not pair.b.leading()


def test_a_released_lease_is_taken_at_once_and_not_taken_back() -> None:
    pair = Pair()
    pair.a.turn()
    pair.b.turn()
    pair.a.release()
    assert not pair.a.leading()
    pair.b.turn()
    assert pair.b.leading()
    pair.turns(5 * LEASE_S, pair.a, pair.b)
    assert pair.b.leading()


def test_a_follower_that_ends_leaves_the_lease_alone() -> None:
    pair = Pair()
    pair.a.turn()
    pair.b.turn()
    writes = pair.server.writes
    pair.b.release()
    assert pair.server.writes == writes
    assert pair.a.leading()


def test_a_release_beside_anothers_write_is_tried_again() -> None:
    pair = Pair(settings_b="t")
    pair.a.turn()

    def follower_writes(verb: str) -> None:
        if verb == "replace":
            pair.store_a.before = lambda verb: None
            pair.b.turn()

    pair.store_a.before = follower_writes
    pair.a.release()
    assert pair.server.record is not None
    assert pair.server.record.holder == ""


def test_a_deleted_lease_is_made_again_by_its_leader() -> None:
    pair = Pair()
    pair.a.turn()
    pair.server.record = None
    pair.a.turn()
    assert pair.a.leading()


def test_a_loop_that_stands_still_gives_the_lease_to_another() -> None:
    pair = Pair()
    works = [True]
    stuck = Lease(pair.store_a, "stuck", LEASE_S, "s", fit=lambda: works[0], clock=pair.clock_a)
    stuck.turn()
    pair.b.turn()
    works[0] = False
    stuck.turn()
    assert not stuck.leading()
    pair.b.turn()
    assert pair.b.leading()
    works[0] = True
    stuck.turn()
    assert not stuck.leading()


def test_one_whose_loop_never_turned_does_not_take_it() -> None:
    pair = Pair()
    stuck = Lease(pair.store_a, "stuck", LEASE_S, "s", fit=lambda: False, clock=pair.clock_a)
    stuck.turn()
    assert pair.server.record is None


def test_the_lease_in_the_record_counts_and_not_ones_own() -> None:
    """An autoscaler with a longer lease is waited for by one with a shorter one."""
    pair = Pair()
    long = Lease(pair.store_a, "long", 60.0, "s", clock=pair.clock_a)
    long.turn()
    pair.b.turn()
    pair.turns(58, pair.b)
    assert not pair.b.leading()
    pair.turns(2, pair.b)
    assert pair.b.leading()


def test_other_settings_are_told_on_both_sides_and_until_they_are_alike() -> None:
    pair = Pair("aaa", "bbb")
    pair.a.turn()
    pair.b.turn()
    assert "bbb" in pair.b.differing()
    assert "aaa" in pair.b.differing()
    pair.a.turn()
    assert "the autoscaler b has other settings (bbb)" in pair.a.differing()
    pair.turns(3 * TELL_S, pair.a, pair.b)
    assert pair.a.differing()
    alike = Lease(pair.store_b, "b2", LEASE_S, "aaa", clock=pair.clock_b)
    alike.turn()
    assert alike.differing() == ""
    pair.turns(HEARD_S + LEASE_S, pair.a, alike)
    assert pair.a.differing() == ""
    assert pair.a.leading()


def test_a_followers_word_does_not_keep_a_dead_leader_alive() -> None:
    pair = Pair("aaa", "bbb")
    pair.a.turn()
    pair.b.turn()
    pair.turns(LEASE_S, pair.b)
    assert pair.b.leading()


def test_a_followers_word_does_not_cost_the_leader_its_lease() -> None:
    """It is written between the leader's reading and writing, again and again."""
    pair = Pair("aaa", "bbb")
    pair.a.turn()
    for n in range(20):
        again = Lease(pair.store_b, f"b{n}", LEASE_S, "bbb", clock=pair.clock_b)
        fresh = [True]

        def interrupt(verb: str, again: Lease = again, fresh: list[bool] = fresh) -> None:
            if verb == "replace" and fresh.pop():
                pair.store_a.before = lambda verb: None
                again.turn()

        pair.store_a.before = interrupt
        pair.on(2)
        pair.a.turn()
        assert pair.a.leading()


class Recorder(Lease):
    """A lease whose turns end as told."""

    def __init__(self, *ends: Exception | None) -> None:
        super().__init__(Store(Object()), "r", LEASE_S, clock=Clock())
        self.ends = list(ends)

    def turn(self) -> None:
        end = self.ends.pop(0)
        if end is not None:
            raise end


def test_a_lost_api_server_is_told_once_and_once_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    keeper = Keeper(Recorder(AwayError("x"), AwayError("x"), AwayError("y"), None, None), pytest.fail)
    with caplog.at_level("INFO"):
        for _ in range(5):
            keeper.turn()
    assert [r.levelname for r in caplog.records] == ["WARNING", "INFO"]


def test_leadership_is_told_when_it_is_gained() -> None:
    gained: list[bool] = []
    pair = Pair()
    keeper = Keeper(pair.a, pytest.fail, lambda: gained.append(True))
    keeper.turn()
    keeper.turn()
    assert gained == [True]
    pair.on(LEASE_S)
    assert not pair.a.leading()
    keeper.turn()
    assert gained == [True]  # it leads again before anybody saw that it did not
    pair.on(LEASE_S)
    pair.store_a.before = away
    keeper.turn()
    pair.store_a.before = lambda verb: None
    keeper.turn()
    assert gained == [True, True]


def test_a_defect_in_the_keeper_is_not_swallowed() -> None:
    failures: list[BaseException] = []
    keeper = Keeper(Recorder(ZeroDivisionError()), failures.append)
    keeper.start()
    keeper.join(5)
    assert [type(f) for f in failures] == [ZeroDivisionError]


def test_a_keeper_renews_until_it_is_stopped() -> None:
    server = Object()
    lease = Lease(Store(server), "k", 0.5)
    keeper = Keeper(lease, pytest.fail)
    keeper.start()
    for _ in range(500):
        if server.writes >= 3:
            break
        keeper.join(0.02)
    assert lease.leading()
    keeper.stop(5)
    assert not keeper.is_alive()
    assert server.writes >= 3
