"""What workers guess of the next assignment, and what they tell each other."""

import random

import numpy as np
import pytest
from faust.assignor.client_assignment import CopartitionedAssignment
from faust.assignor.copartitioned_assignor import CopartitionedAssignor

from streams.core.staterow import Splitter
from streams.foresight import FEW, expected, inherited, leaving_note, read_notes, ready_note
from telemetry import codec

TOPICS = ("t.vehicle", "t.device")


def assigned(held: dict[str, set[int]], partitions: int) -> dict[str, set[int]]:
    """As the group's leader does it, with the standbys that it has planned."""
    group = {name: CopartitionedAssignment(set(some), set(), set(TOPICS)) for name, some in held.items()}
    found = CopartitionedAssignor(TOPICS, group, partitions, replicas=1).get_assignment()
    again = {
        name: CopartitionedAssignment(set(a.actives), set(a.standbys), set(TOPICS)) for name, a in found.items()
    }
    return {
        name: set(a.actives)
        for name, a in CopartitionedAssignor(TOPICS, again, partitions, replicas=1).get_assignment().items()
    }


@pytest.mark.parametrize(("members", "partitions"), [(1, 4), (2, 12), (3, 12), (5, 24)])
def test_a_worker_that_comes_knows_what_it_will_be_given(members, partitions):
    held = assigned({f"member-{i}": set() for i in range(members)}, partitions)
    guess = expected(held, partitions, TOPICS)
    truth = assigned(held | {"new": set()}, partitions)["new"]
    assert guess == truth
    assert len(guess) >= partitions // (members + 1)


@pytest.mark.parametrize(("members", "partitions"), [(2, 4), (3, 6), (3, 12), (4, 12), (7, 24)])
def test_what_a_worker_leaves_is_foreseen_by_those_who_get_it(members, partitions):
    names = [f"member-{i}" for i in range(members)]
    group = {name: CopartitionedAssignment(topics=set(TOPICS)) for name in names}
    for _ in range(2):  # a second time, so that standbys are settled
        group = dict(CopartitionedAssignor(TOPICS, group, partitions, replicas=1).get_assignment())
    held = {name: set(a.actives) for name, a in group.items()}
    standbys = {name: set(a.standbys) for name, a in group.items()}
    leaver = names[-1]
    stay = {name: a for name, a in group.items() if name != leaver}
    truth = CopartitionedAssignor(TOPICS, stay, partitions, replicas=1).get_assignment()
    for name in names[:-1]:
        guess = inherited(held, name, held[leaver], standbys[name], partitions, TOPICS)
        got = set(truth[name].actives) - held[name]
        if members <= 3:
            assert guess == got
        elif members <= FEW + 1:
            assert guess == held[leaver]
        else:
            assert guess == held[leaver] & standbys[name]


def test_notes_are_of_a_generation():
    notes = {
        ("t.vehicle", 0): leaving_note(7),
        ("t.vehicle", 1): leaving_note(6),
        ("t.vehicle", 2): ready_note(7, {0, 11}),
        ("t.vehicle", 3): ready_note(7, ()),
        ("t.vehicle", 4): ready_note(8, {0}),
        ("t.vehicle", 5): "",
        ("t.vehicle", 6): "what another tool has written",
        ("t.vehicle", 7): "ready@7 0,x,-3,",
    }
    leaving, ready = read_notes(notes, 7)
    assert leaving == {0}
    assert ready == {2: {0, 11}, 3: set(), 7: {0}}


def row(device: str, offset: int, size: int, bank: int, state_id: str = "d41d8cd9-128") -> bytes:
    rng = np.random.default_rng(size)
    record = {
        "device_id": device,
        "catalog": "bench.frames/1",
        "state_id": state_id,
        "offset": offset,
        "row": rng.bytes(size),
        "bank": rng.bytes(bank),
    }
    return codec.encode("state_row", record)


def decoded(value: bytes) -> tuple | str:
    try:
        record = codec.decode("state_row", value)
    except codec.RefusedError as exc:
        return exc.reason.code
    return record["catalog"], record["state_id"], record["row"], record["bank"]


def split(splitter: Splitter, value: bytes) -> tuple | str:
    try:
        return splitter.split(value)
    except codec.RefusedError as exc:
        return exc.reason.code


def test_rows_taken_apart_by_hand_are_what_the_decoder_reads():
    """Also damaged ones: what one refuses the other refuses, for the same reason."""
    rng, splitter = random.Random(5), Splitter()
    values = [
        row(f"veh-{i}" * (1 + 20 * (i % 3 == 0)), rng.choice((0, 1, 63, 64, 10**6, 1 << 40)), 100 + i, i % 4)
        for i in range(40)
    ]
    values += [row("veh-other", 5, 120, 0, "d41d8cd9-120"), row("gerät", 5, 128, 3), row("", 0, 0, 0)]
    for value in values:
        assert split(splitter, value) == decoded(value)
    for _ in range(4000):
        data = bytearray(rng.choice(values))
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.randrange(len(data))
            match rng.randrange(3):
                case 0:
                    data[at] = rng.randrange(256)
                case 1:
                    del data[at:]
                    data += b"\0"
                case _:
                    data.insert(at, rng.randrange(256))
        assert split(splitter, bytes(data)) == decoded(bytes(data))
