"""What a login may do, asked of a cluster that has just been made. The rule: what passes is waited for."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from telemetry import acls
from telemetry.errors import BrokerUnavailableError


class Cluster:
    """Answers descriptions of groups in turn: an error code, or None = it may be read."""

    def __init__(self, *codes: int | None) -> None:
        self._codes: Iterator[int | None] = iter(codes)
        self.asked = 0

    def _answer(self, code: int | None) -> Future[Any]:
        future: Future[Any] = Future()
        if code is None:
            future.set_result(SimpleNamespace(authorized_operations=[SimpleNamespace(name="READ")]))
        else:
            future.set_exception(KafkaException(KafkaError(code, "")))
        return future

    def describe_topics(self, named: Any, **options: Any) -> dict[str, Future[Any]]:
        del named, options
        return {"t": self._answer(None)}

    def describe_consumer_groups(self, groups: list[str], **options: Any) -> dict[str, Future[Any]]:
        del options
        self.asked += 1
        return {name: self._answer(next(self._codes)) for name in groups}


def test_a_coordinator_that_is_being_made_is_asked_again() -> None:
    cluster: Any = Cluster(KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.NOT_COORDINATOR, None)
    assert acls._all_allowed(cluster, ["t"], ["g"]) == {("topic", "t"): {"READ"}, ("group", "g"): {"READ"}}
    assert cluster.asked == 3


def test_a_refusal_is_an_answer() -> None:
    cluster: Any = Cluster(KafkaError.GROUP_AUTHORIZATION_FAILED)
    assert acls._all_allowed(cluster, ["t"], ["g"])["group", "g"] == set()


def test_what_does_not_pass_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BrokerUnavailableError, match="UNSUPPORTED_VERSION"):
        acls._all_allowed(Cluster(KafkaError.UNSUPPORTED_VERSION), ["t"], ["g"])  # type: ignore[arg-type]
    monkeypatch.setattr(acls, "_TIMEOUT_S", -1.0)
    cluster: Any = Cluster(KafkaError.NOT_COORDINATOR)
    with pytest.raises(BrokerUnavailableError, match="NOT_COORDINATOR"):
        acls._all_allowed(cluster, ["t"], ["g"])
