"""What a broker is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleetwatch.kafka import config
from fleetwatch.kafka.cluster import EmbeddedKafka, new_cluster_id
from fleetwatch.kafka.config import Ports, consecutive_ports, properties, render
from telemetry.errors import SettingsError


def test_ports_are_two_a_broker_from_the_first():
    assert consecutive_ports(9092, 3) == (Ports(9092, 9093), Ports(9094, 9095), Ports(9096, 9097))


@pytest.mark.parametrize(("first", "brokers"), [(0, 1), (65535, 1), (65531, 3)])
def test_ports_outside_the_range_are_refused_by_name(first, brokers):
    with pytest.raises(SettingsError, match=f"--port {first}: {brokers} broker"):
        consecutive_ports(first, brokers)


def test_the_last_ports_can_be_used():
    assert consecutive_ports(65530, 3)[-1] == Ports(65534, 65535)


@pytest.mark.parametrize("brokers", config.BROKER_COUNTS)
def test_every_listener_is_on_the_loopback_address(brokers):
    for index in range(brokers):
        settings = properties(index, consecutive_ports(19000, brokers), Path("/data"))
        for key in ("listeners", "advertised.listeners"):
            for listener in settings[key].split(","):
                assert listener.split("://")[1].startswith("127.0.0.1:"), listener


def test_three_brokers_survive_the_loss_of_one():
    settings = properties(1, consecutive_ports(19000, 3), Path("/data"))
    assert settings["node.id"] == "2"
    assert settings["controller.quorum.voters"] == "1@127.0.0.1:19001,2@127.0.0.1:19003,3@127.0.0.1:19005"
    for internal in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic"):
        assert settings[f"{internal}.replication.factor"] == "3"
    assert settings["min.insync.replicas"] == settings["transaction.state.log.min.isr"] == "2"
    assert settings["unclean.leader.election.enable"] == "false"


def test_one_broker_needs_no_other():
    settings = properties(0, consecutive_ports(19000, 1), Path("/data"))
    factors = {value for key, value in settings.items() if "replication.factor" in key or key.endswith("min.isr")}
    assert factors == {"1"}


def test_rendering_escapes_backslashes_and_keeps_one_line_a_setting():
    assert render({"a.b": "c", "d": "e\\f"}) == "a.b=c\nd=e\\\\f\n"
    with pytest.raises(AssertionError):
        render({"a": "b\nc=d"})


def test_a_cluster_of_two_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="--brokers 2"):
        EmbeddedKafka(tmp_path, brokers=2)


def test_a_damaged_state_file_is_named(tmp_path):
    (tmp_path / "cluster.json").write_text("{", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"cluster\.json is damaged"):
        EmbeddedKafka(tmp_path).status()


def test_a_cluster_id_never_reads_as_an_option():
    ids = {new_cluster_id() for _ in range(500)}
    assert len(ids) == 500
    assert {len(each) for each in ids} == {22}
    assert not any(each.startswith("-") for each in ids)
