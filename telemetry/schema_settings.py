"""Which schemas are read besides the released ones, and the schema registry. The rule: no password in clear text.

As everywhere, a secret is given in its variable or in a file of its own.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from telemetry.kafka_settings import Section, _secret, _secret_file

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class SchemaSettings(Section):
    """Schemas that are read besides the released ones, and the optional schema registry; see docs/schemas.md."""

    accept: tuple[Path, ...] = Field((), description="Avro schema files (.avsc) of writers to accept.")
    announced: bool = Field(True, description="Accept what producers announce on the topic `<prefix>.schemas`.")
    registry_url: str | None = Field(
        None, description="Of a registry with Confluent's API; producers then write Confluent's wire format."
    )
    registry_register: bool = Field(True, description="Producers register what they write; else it must be there.")
    registry_username: str | None = None
    registry_password: SecretStr | None = Field(None, description="Only as a variable; or see the file.")
    registry_password_file: Path | None = Field(None, description="File that holds the password and nothing else.")
    registry_ca: Path | None = Field(None, description="PEM file of the authorities to trust; none = certifi's.")
    registry_timeout_s: float = Field(5.0, gt=0, le=60, description="How long an answer is waited for.")

    @field_validator("registry_url")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("an http:// or https:// address is needed")
            if parts.username or parts.password:
                raise ValueError("no user and password in the address: use registry_username and its password")
        return value

    @field_validator("registry_password_file")
    @classmethod
    def _holds_a_secret(cls, value: Path | None) -> Path | None:
        if value is not None:
            _secret_file(value)
        return value

    @model_validator(mode="after")
    def _login(self) -> SchemaSettings:
        given = self.registry_password is not None, self.registry_password_file is not None
        if any(given) != bool(self.registry_username):
            raise ValueError("registry_username and registry_password (or its file) are needed together")
        if all(given):
            raise ValueError("registry_password and registry_password_file are both set; one is enough")
        if any(given):
            parts = urlsplit(self.registry_url or "")
            if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
                raise ValueError("registry_url is not https://: the password would be sent in clear")
        return self

    def password(self) -> str | None:
        """The registry's password as it is now.

        Raises
        ------
        SettingsError : the file cannot be read any more.
        """
        return _secret(self.registry_password, self.registry_password_file, "schemas.registry_password_file")
