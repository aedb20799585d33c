"""How to speak to Kafka, and as whom. The rule: no secret in a settings file, and encryption is checked or refused.

Verification of the brokers' certificates and host names cannot be switched off: a private authority is named in
`ssl_ca` instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from telemetry.errors import SettingsError


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _secret_file(path: Path) -> str:
    """What a file of one secret holds, without the newline at its end.

    Raises
    ------
    ValueError : it cannot be read, or holds nothing.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ValueError(f"cannot read {path}: {getattr(exc, 'strerror', None) or 'not UTF-8 text'}") from None
    if not (secret := text.removesuffix("\n").removesuffix("\r")):
        raise ValueError(f"{path} is empty")
    return secret


class KafkaSettings(Section):
    """The cluster, and how to speak to it. A secret is given in its variable, or in a file of its own."""

    bootstrap: str = Field("127.0.0.1:9092", description="Comma-separated host:port of some brokers.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="SSL: TLS, by client certificate where the brokers ask for one; SASL: by password."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = Field(None, description="Only as a variable; or see sasl_password_file.")
    sasl_password_file: Path | None = Field(
        None, description="File that holds the password and nothing else; read anew for each new client."
    )
    ssl_ca: Path | None = Field(None, description="PEM file of the authorities to trust; none = the system's.")
    ssl_certificate: Path | None = Field(None, description="PEM file of our certificate and its chain, for mTLS.")
    ssl_key: Path | None = Field(None, description="PEM file of the certificate's private key.")
    ssl_key_password: SecretStr | None = Field(
        None, description="Of an encrypted key. Only as a variable; or see ssl_key_password_file."
    )
    ssl_key_password_file: Path | None = Field(None, description="File that holds the key's password.")
    connect_timeout_s: float = Field(8.0, gt=0, description="How long a command waits for the first answer.")

    @field_validator("bootstrap")
    @classmethod
    def _addresses(cls, value: str) -> str:
        for part in value.split(","):
            host, colon, port = part.strip().rpartition(":")
            if not (colon and host and port.isdigit() and 0 < int(port) < 65536):
                raise ValueError(f"{part.strip()!r} is not host:port")
        return value

    @field_validator("sasl_password_file", "ssl_key_password_file")
    @classmethod
    def _holds_a_secret(cls, value: Path | None) -> Path | None:
        if value is not None:
            _secret_file(value)
        return value

    @field_validator("ssl_ca", "ssl_certificate", "ssl_key")
    @classmethod
    def _is_readable(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                value.open("rb").close()
            except OSError as exc:
                raise ValueError(f"cannot read {value}: {exc.strerror}") from None
        return value

    @model_validator(mode="after")
    def _sasl(self) -> KafkaSettings:
        given = self.sasl_password is not None, self.sasl_password_file is not None
        if not self.security_protocol.startswith("SASL"):
            if any(given) or self.sasl_username:
                raise ValueError(
                    f"sasl_username and sasl_password are not used with security_protocol "
                    f"{self.security_protocol}: set it to SASL_SSL"
                )
        elif not self.sasl_username or not any(given):
            raise ValueError(
                "sasl_username and sasl_password (or sasl_password_file) are needed with a SASL security_protocol"
            )
        elif all(given):
            raise ValueError("sasl_password and sasl_password_file are both set; one is enough")
        elif self.security_protocol == "SASL_PLAINTEXT" and self.sasl_mechanism == "PLAIN":
            raise ValueError(
                "security_protocol SASL_PLAINTEXT with sasl_mechanism PLAIN would send the password in clear: "
                "set security_protocol to SASL_SSL, or use a SCRAM mechanism"
            )
        return self

    @model_validator(mode="after")
    def _tls(self) -> KafkaSettings:
        key_password = self.ssl_key_password is not None, self.ssl_key_password_file is not None
        named = [n for n in ("ssl_ca", "ssl_certificate", "ssl_key") if getattr(self, n) is not None]
        if named and not self.security_protocol.endswith("SSL"):
            raise ValueError(
                f"{' and '.join(named)} given, but with security_protocol {self.security_protocol} nothing would "
                "be encrypted: set it to SASL_SSL (password) or SSL (client certificate, or none)"
            )
        if (self.ssl_certificate is None) != (self.ssl_key is None):
            raise ValueError("ssl_certificate and ssl_key are needed together")
        if any(key_password) and self.ssl_key is None:
            raise ValueError("ssl_key_password is of no use without ssl_key")
        if all(key_password):
            raise ValueError("ssl_key_password and ssl_key_password_file are both set; one is enough")
        return self

    def password(self) -> str | None:
        """The SASL password as it is now: a file is read anew, so that a new client has a rotated secret.

        Raises
        ------
        SettingsError : the file cannot be read any more.
        """
        return _secret(self.sasl_password, self.sasl_password_file, "kafka.sasl_password_file")

    def key_password(self) -> str | None:
        """The private key's password; as `password`."""
        return _secret(self.ssl_key_password, self.ssl_key_password_file, "kafka.ssl_key_password_file")


def _secret(value: SecretStr | None, path: Path | None, name: str) -> str | None:
    if path is None:
        return value.get_secret_value() if value is not None else None
    try:
        return _secret_file(path)
    except ValueError as exc:
        raise SettingsError(f"{name}: {exc}") from None
