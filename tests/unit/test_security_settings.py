"""How to speak to Kafka: what is refused, where secrets may come from, and that they are never shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from fleetwatch.cli import cli
from telemetry import settings as settings_module
from telemetry.errors import SettingsError

SECRET = "hunter2-is-the-secret"
LOGIN = {"security_protocol": "SASL_SSL", "sasl_username": "fleet"}


def load(**kafka: Any) -> settings_module.Settings:
    return settings_module.load(environ={}, kafka=kafka)


def test_a_password_file_is_read_without_the_newline_at_its_end_and_anew_each_time(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text(f" {SECRET} \n")
    kafka = load(**LOGIN, sasl_password_file=path).kafka
    assert kafka.password() == f" {SECRET} "
    path.write_text("rotated\r\n")
    assert kafka.password() == "rotated"
    path.unlink()
    with pytest.raises(SettingsError, match=r"kafka\.sasl_password_file: cannot read .*password: No such file"):
        kafka.password()


def test_a_key_password_from_variable_or_file(tmp_path: Path) -> None:
    (tmp_path / "pem").write_text("any")
    (tmp_path / "password").write_text(SECRET + "\n")
    pair = {"security_protocol": "SSL", "ssl_certificate": tmp_path / "pem", "ssl_key": tmp_path / "pem"}
    assert load(**pair).kafka.key_password() is None
    assert load(**pair, ssl_key_password=SECRET).kafka.key_password() == SECRET
    assert load(**pair, ssl_key_password_file=tmp_path / "password").kafka.key_password() == SECRET


@pytest.mark.parametrize(
    ("kafka", "message"),
    [
        (LOGIN, "sasl_username and sasl_password (or sasl_password_file) are needed"),
        (LOGIN | {"sasl_password": SECRET, "sasl_password_file": "{text}"}, "both set"),
        (LOGIN | {"sasl_password_file": "/not/there"}, "cannot read /not/there: No such file or directory"),
        (LOGIN | {"sasl_password_file": "{folder}"}, "Is a directory"),
        (LOGIN | {"sasl_password_file": "{empty}"}, "is empty"),
        (LOGIN | {"sasl_password_file": "{binary}"}, "not UTF-8 text"),
        (LOGIN | {"sasl_password": SECRET, "ssl_ca": "/not/there"}, "kafka.ssl_ca: Value error, cannot read"),
        ({"sasl_username": "fleet", "sasl_password": SECRET}, "not used with security_protocol PLAINTEXT"),
        ({"security_protocol": "SSL", "sasl_password": SECRET}, "not used with security_protocol SSL"),
        ({"ssl_ca": "{text}"}, "nothing would be encrypted"),
        ({"security_protocol": "SSL", "ssl_certificate": "{text}"}, "needed together"),
        ({"security_protocol": "SSL", "ssl_key": "{text}"}, "needed together"),
        ({"security_protocol": "SSL", "ssl_key_password": SECRET}, "of no use without ssl_key"),
        (
            LOGIN | {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_password": SECRET},
            "would send the password in clear",
        ),
        ({"ssl_verify": False}, "kafka.ssl_verify"),
    ],
)
def test_what_would_not_protect_is_refused_by_name(tmp_path: Path, kafka: dict[str, Any], message: str) -> None:
    (tmp_path / "text").write_text(SECRET)
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    places = {name: str(tmp_path / name) for name in ("text", "empty", "binary")} | {"folder": str(tmp_path)}
    given = {k: v.format(**places) if isinstance(v, str) else v for k, v in kafka.items()}
    with pytest.raises(SettingsError) as caught:
        load(**given)
    assert message in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_secret_in_a_settings_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump({"kafka": LOGIN | {"sasl_password": SECRET}}))
    with pytest.raises(SettingsError, match=r"__SASL_PASSWORD.*kafka\.sasl_password_file") as caught:
        settings_module.load(path, environ={})
    assert SECRET not in str(caught.value)


def test_a_file_that_is_not_yaml_is_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(f"kafka:\n  sasl_password: {SECRET}: oops\n")
    with pytest.raises(SettingsError, match=r"settings\.yaml, line 2: not YAML") as caught:
        settings_module.load(path, environ={})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("form", ["text", "yaml", "json"])
@pytest.mark.parametrize("from_file", [False, True])
def test_no_form_of_the_settings_shows_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, from_file: bool
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "pem").write_text("any")
    given = {
        "SECURITY_PROTOCOL": "SASL_SSL",
        "SASL_USERNAME": "fleet",
        "SSL_CERTIFICATE": str(tmp_path / "pem"),
        "SSL_KEY": str(tmp_path / "pem"),
    }
    ways = ("SASL_PASSWORD", "SSL_KEY_PASSWORD")
    given |= (
        {f"{name}_FILE": str(tmp_path / "secret") for name in ways} if from_file else dict.fromkeys(ways, SECRET)
    )
    for name, value in given.items():
        monkeypatch.setenv(f"FLEETWATCH_KAFKA__{name}", value)
    result = CliRunner().invoke(cli, ["settings", "--format", form], catch_exceptions=False)
    assert result.exit_code == 0
    assert "fleet" in result.output
    assert SECRET not in result.output
    loaded = settings_module.load()
    assert SECRET not in repr(loaded) + str(loaded) + loaded.model_dump_json()
    if form == "json":
        masked = {row["name"]: row["value"] for row in json.loads(result.output)}["kafka.sasl_password"]
        assert masked == (None if from_file else "********")
