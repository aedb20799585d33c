"""Who is let in, and what is said to who is not: a real broker with TLS, SCRAM and client certificates."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faust.transport.drivers.aiokafka as faust_driver
import pki
import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError
from click.testing import CliRunner
from secure_kafka import SecureKafka, secure_kafka, tls_port

from fleetwatch.cli import main
from streams.credentials import credentials
from telemetry import clients
from telemetry import settings as settings_module
from telemetry.errors import SettingsError
from telemetry.settings import Settings

pytestmark = pytest.mark.kafka

#: Bad credentials must be told within so long; the broker that is away is waited for connect_timeout_s = 8.
TOLD_WITHIN_S = 5.0


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    with secure_kafka(tmp_path_factory.mktemp("secure")) as made:
        yield made


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> pki.Authority:
    """An authority that nobody trusts."""
    return pki.Authority(tmp_path_factory.mktemp("stranger"), "stranger-ca")


def load(kafka: dict[str, Any]) -> Settings:
    return settings_module.load(environ={}, kafka=kafka)


def by_plain(secure: SecureKafka) -> dict[str, Any]:
    password = secure.secrets["worker by PLAIN"]
    return secure.kafka("worker", sasl_mechanism="PLAIN", sasl_password_file=None, sasl_password=password)


def by_encrypted_key(secure: SecureKafka) -> dict[str, Any]:
    pair = secure.authority.issue("encrypted", password="the key's")
    return secure.kafka_mutual(
        "worker", ssl_certificate=pair.certificate, ssl_key=pair.key, ssl_key_password="the key's"
    )


WAYS_IN = {
    "SCRAM-SHA-512": lambda secure: secure.kafka("worker"),
    "SCRAM-SHA-256": lambda secure: secure.kafka("worker", sasl_mechanism="SCRAM-SHA-256"),
    "PLAIN": by_plain,
    "certificate": lambda secure: secure.kafka_mutual("worker"),
    "certificate, encrypted key": by_encrypted_key,
}


async def _brokers_by_aiokafka(settings: Settings) -> int:
    """How many brokers Faust's client finds with Faust's credentials."""
    auth = faust_driver.credentials_to_aiokafka_auth(credentials(settings))
    client = AIOKafkaClient(bootstrap_servers=settings.kafka.bootstrap, **auth)
    try:
        await client.bootstrap()
        return len(client.cluster.brokers())
    finally:
        await client.close()


@pytest.mark.parametrize("way", WAYS_IN)
def test_every_way_in_works_for_librdkafka_and_for_aiokafka(secure: SecureKafka, way: str) -> None:
    settings = load(WAYS_IN[way](secure))
    for client in (clients.admin(settings), clients.producer(settings), clients.consumer(settings, "any")):
        assert clients.cluster_metadata(client, settings).brokers
    assert asyncio.run(_brokers_by_aiokafka(settings)) == 1


def _expired(secure: SecureKafka) -> dict[str, Any]:
    pair = secure.authority.issue("expired", days=-1)
    return secure.kafka_mutual("worker", ssl_certificate=pair.certificate, ssl_key=pair.key)


REFUSED = {
    "wrong password": (
        lambda s, _: s.kafka("worker", sasl_password_file=s.password_file("producer")),
        r"refuses the login of 'worker'.*kafka\.sasl_password",
    ),
    "unknown user": (
        lambda s, _: s.kafka("worker", sasl_username="nobody"),
        r"refuses the login of 'nobody'.*kafka\.sasl_username",
    ),
    "authority that did not sign": (
        lambda s, other: s.kafka("worker", ssl_ca=other.path),
        r"unable to get local issuer certificate.*kafka\.ssl_ca",
    ),
    "the system's authorities": (
        lambda s, _: s.kafka("worker", ssl_ca=None),
        r"Trusted are the system's: set kafka\.ssl_ca",
    ),
    "plain text to a TLS port": (
        lambda s, _: {"bootstrap": s.kafka("worker")["bootstrap"]},
        r"speaks TLS, but kafka\.security_protocol is PLAINTEXT",
    ),
    "login in plain text to a TLS port": (
        lambda s, _: s.kafka("worker", security_protocol="SASL_PLAINTEXT", ssl_ca=None),
        r"speaks TLS, but kafka\.security_protocol is SASL_PLAINTEXT",
    ),
    "no login where one is asked for": (
        lambda s, _: s.kafka_mutual("worker", bootstrap=s.kafka("worker")["bootstrap"]),
        r"asks for a login: set kafka\.security_protocol to SASL_SSL",
    ),
    "no certificate where one is asked for": (
        lambda s, _: s.kafka_mutual("worker", ssl_certificate=None, ssl_key=None),
        r"asks for a client certificate.*kafka\.ssl_certificate",
    ),
    "expired client certificate": (
        lambda s, _: _expired(s),
        r"refuses our certificate, kafka\.ssl_certificate .*expired",
    ),
    "client certificate of a stranger": (
        lambda s, other: s.kafka_mutual(
            "worker", **dict(zip(("ssl_certificate", "ssl_key"), _files(other.issue("worker")), strict=True))
        ),
        r"refuses our certificate, kafka\.ssl_certificate",
    ),
}


def _files(pair: pki.Pair) -> tuple[Path, Path]:
    return pair.certificate, pair.key


def _one_line_refusal(settings: Settings, message: str) -> None:
    began = time.monotonic()
    with pytest.raises(SettingsError, match=message) as caught:
        clients.require_broker(settings)
    assert time.monotonic() - began < TOLD_WITHIN_S
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 78


@pytest.mark.parametrize("case", REFUSED)
def test_who_is_not_let_in_is_told_the_setting_at_once(
    secure: SecureKafka, stranger: pki.Authority, case: str
) -> None:
    kafka, message = REFUSED[case]
    _one_line_refusal(load(kafka(secure, stranger)), message)


@pytest.mark.parametrize(
    ("host", "days", "message"),
    [
        ("127.0.0.1", -1, r"certificate has expired.*The broker needs a new one"),
        ("other.example", 1, r"not valid for '127\.0\.0\.1'.*kafka\.bootstrap"),
    ],
)
def test_a_broker_with_a_wrong_certificate_is_not_spoken_to(
    secure: SecureKafka, host: str, days: int, message: str
) -> None:
    pair = secure.authority.issue("wrong-broker", hosts=(host,), days=days)
    with tls_port(pair) as port:
        settings = load(secure.kafka("worker", bootstrap=f"127.0.0.1:{port}"))
        _one_line_refusal(settings, message)
        with pytest.raises(KafkaConnectionError):  # nor by Faust's client
            asyncio.run(_brokers_by_aiokafka(settings))


def test_a_mechanism_that_is_not_offered_is_named(secure: SecureKafka) -> None:
    settings = load(secure.kafka("worker", bootstrap=f"127.0.0.1:{secure.controller_port}"))  # offers PLAIN only
    _one_line_refusal(settings, r"does not offer kafka\.sasl_mechanism SCRAM-SHA-512")


def test_files_that_do_not_fit_are_named_before_anything_connects(
    secure: SecureKafka, stranger: pki.Authority
) -> None:
    other = stranger.issue("other")
    pair = secure.authority.issue("locked", password="right")
    locked = {"ssl_certificate": pair.certificate, "ssl_key": pair.key}
    for changed, message in (
        ({"ssl_key": other.key}, "is not the key of the certificate"),
        (locked, "encrypted and kafka.ssl_key_password .* is needed"),
        (locked | {"ssl_key_password": "wrong"}, "encrypted and kafka.ssl_key_password .* is wrong"),
        ({"ssl_ca": other.key}, "kafka.ssl_ca: .*: no certificate in PEM form"),
        ({"ssl_key": secure.password_file("worker")}, "not in PEM form"),
    ):
        settings = load(secure.kafka_mutual("worker", **changed))
        for make in (clients.admin, clients.producer, credentials):
            with pytest.raises(SettingsError, match=message) as caught:
                make(settings)
            assert "wrong'" not in str(caught.value)


@pytest.mark.parametrize("command", [["topics", "list"], ["worker", "--port", "0"], ["alerts"], ["top", "--once"]])
def test_every_command_ends_with_one_line_and_its_exit_code(
    secure: SecureKafka, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    wrong = secure.secrets["producer"]
    for name, value in secure.kafka("worker", sasl_password_file=None, sasl_password=wrong).items():
        monkeypatch.setenv(f"FLEETWATCH_KAFKA__{name.upper()}", str(value))
    runner = CliRunner()
    with runner.isolation() as (out, err, _), pytest.raises(SystemExit) as caught:
        main(command)
    assert caught.value.code == 78
    said = err.getvalue().decode()
    (line,) = [text for text in said.splitlines() if text.startswith("fleetwatch: ")]
    assert "kafka.sasl_password" in line
    assert wrong not in said + out.getvalue().decode()
