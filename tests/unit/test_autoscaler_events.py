"""How many Events are written, and what happens when they cannot be; that they are right, tests/k8s shows."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException

from autoscaler.events import KIND_MAX, NOTE_MAX, REST_S, WINDOW_S, Events
from autoscaler.kube import Kube


class Server:
    """Takes Events while it is there."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.asked = 0
        self.fails: Exception | None = None

    def create_namespaced_event(self, namespace: str, body: Any, _request_timeout: float) -> None:
        assert namespace == "fleet"
        assert _request_timeout > 0
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        self.taken.append(body)


class Desk:
    """Events to such a server, by a clock that is moved by hand."""

    def __init__(self) -> None:
        self.server, self.now_s = Server(), 0.0
        kube = Kube(None, None, None, self.server, None, "fleet", "https://api")
        about = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "worker", "namespace": "fleet", "uid": "u"}
        self.events = Events(kube, lambda: about, "pod-1", clock=lambda: self.now_s)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_an_event_is_about_the_workload(desk: Desk) -> None:
    desk.events("Warning", "HotPartition", "partition 5\nalone")
    (event,) = desk.server.taken
    assert (event.type, event.reason, event.note) == ("Warning", "HotPartition", "partition 5\\nalone")
    assert (event.regarding.kind, event.regarding.name, event.regarding.uid) == ("Deployment", "worker", "u")
    assert event.event_time.microsecond


def test_a_policy_that_flaps_does_not_flood_the_api_server(desk: Desk) -> None:
    for _ in range(10 * KIND_MAX):
        desk.now_s += 1
        desk.events("Normal", "ScaleUp", "text")
    assert len(desk.server.taken) == KIND_MAX
    for _ in range(10 * KIND_MAX):
        desk.events("Warning", "HotPartition", "warnings are written all the same")
    assert len(desk.server.taken) == 2 * KIND_MAX
    desk.now_s += WINDOW_S
    desk.events("Normal", "ScaleUp", "text")
    assert len(desk.server.taken) == 2 * KIND_MAX + 1


def test_events_that_are_not_written_are_logged_once_and_once_when_they_are_again(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fleetwatch.autoscaler")
    desk.server.fails = ApiException(status=503, reason="away")
    for _ in range(5):
        desk.now_s += REST_S
        desk.events("Normal", "ScaleUp", "text")
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    desk.server.fails = None
    desk.now_s += REST_S
    desk.events("Normal", "ScaleUp", "text")
    assert caplog.records[-1].getMessage() == "Events are written again; 5 were not"


def test_a_server_that_does_not_answer_is_not_asked_for_every_event(desk: Desk) -> None:
    """Each costs a time-out, and the loop waits for it."""
    desk.server.fails = ApiException(status=503, reason="away")
    for _ in range(20):
        desk.events("Warning", "Holding", "text")
    assert desk.server.asked == 1
    assert desk.events.lost == 20


@pytest.mark.parametrize("note", ["x" * 5000, "ä" * 5000, "\N{ROCKET}" * 5000])
def test_a_long_note_is_cut_to_what_the_api_takes(desk: Desk, note: str) -> None:
    desk.events("Normal", "ScaleUp", note)
    assert NOTE_MAX - 6 <= len(desk.server.taken[0].note.encode()) <= NOTE_MAX
