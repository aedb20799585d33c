"""The roles' permissions as data: least privilege holds whatever the names are."""

from __future__ import annotations

import pytest
from confluent_kafka.admin import ResourcePatternType, ResourceType

from telemetry import acls
from telemetry import settings as settings_module
from telemetry.settings import Settings
from telemetry.topics import topics


@pytest.fixture
def settings() -> Settings:
    return settings_module.load(environ={}, topics={"prefix": "site.a"}, processing={"group": "detect"})


def touched(settings: Settings, role: str, operation: str) -> set[str]:
    grants = acls.roles(settings)[role]
    return {g.name.removeprefix("site.a.") for g in grants if g.resource == "topic" and g.operation == operation}


def test_who_writes_and_who_reads_what(settings: Settings) -> None:
    assert touched(settings, "producer", "WRITE") == {"vehicle", "device", "truth", "devices", "control", "schemas"}
    assert touched(settings, "producer", "READ") == {"control", "schemas"}
    assert touched(settings, "worker", "READ") == {"vehicle", "device", "state", "devices", "schemas"}
    assert touched(settings, "worker", "WRITE") == {"features", "scores", "alerts", "dlq", "late", "state"}
    assert (touched(settings, "subscriber", "READ"), touched(settings, "subscriber", "WRITE")) == (
        {"alerts"},
        set(),
    )
    assert (touched(settings, "forwarder", "READ"), touched(settings, "forwarder", "WRITE")) == ({"alerts"}, set())
    assert (touched(settings, "observer", "READ"), touched(settings, "observer", "WRITE")) == (set(), set())
    assert touched(settings, "replayer", "READ") == {"dlq", "schemas"}
    assert touched(settings, "replayer", "WRITE") == {"vehicle", "device"}


def test_every_topic_has_a_writer(settings: Settings) -> None:
    for spec in topics(settings).all():
        assert spec.writers, spec.name
        assert set(spec.writers) | set(spec.readers) <= set(acls.ROLES)


def test_only_the_observer_has_a_prefix_of_topics_and_it_may_read_none(settings: Settings) -> None:
    for role, grants in acls.roles(settings).items():
        for grant in grants:
            if grant.resource == "topic" and grant.prefixed:
                assert role == "observer"
                assert grant.operation in ("DESCRIBE", "DESCRIBE_CONFIGS")


def test_no_grant_reaches_what_is_not_of_this_settings_names(settings: Settings) -> None:
    shared = {"fleetwatch.schemas", "fleetwatch-control-"}  # groups that hold no offsets
    for grants in acls.roles(settings).values():
        for grant in grants:
            assert grant.name in shared or grant.name.startswith(("site.a.", "detect"))
            if grant.name in shared:
                assert (grant.resource, grant.operation) == ("group", "DESCRIBE")
            assert grant.name.rstrip("-.") != ""


def test_transactions_are_the_workers_alone(settings: Settings) -> None:
    for role, grants in acls.roles(settings).items():
        found = {(g.name, g.operation, g.prefixed) for g in grants if g.resource == "transactional id"}
        assert found == ({("detect-", "WRITE", True), ("detect-", "DESCRIBE", True)} if role == "worker" else set())


def test_a_grant_as_the_cluster_has_it(settings: Settings) -> None:
    principals = {"worker": ["User:a", "User:b"], "subscriber": ["User:CN=x,O=\x1b[31m"]}
    found = acls.bindings(settings, principals)
    assert len({binding for _, _, binding in found}) == len(found)
    state = [b for role, _, b in found if role == "worker" and b.name == "site.a.state" and b.principal == "User:b"]
    assert sorted(acls.words(b) for b in state) == [
        "User:b READ topic site.a.state",
        "User:b WRITE topic site.a.state",
    ]
    prefixed = [b for _, _, b in found if b.resource_pattern_type == ResourcePatternType.PREFIXED]
    assert {b.restype for b in prefixed} == {ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID}
    assert all(acls.words(b).isprintable() for _, _, b in found)
