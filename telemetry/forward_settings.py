"""Where alerts are sent on to, and how insistently. The rule: no host is spoken to that is not named here."""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter

from pydantic import Field, SecretStr, field_validator, model_validator

from telemetry.kafka_settings import Section, _secret, _secret_file

_HOST = re.compile(
    r"[a-z0-9]([a-z0-9._-]{0,252}[a-z0-9])?(:\d{1,5})?|\[[0-9a-f:.]+\](:\d{1,5})?|[0-9a-f:]*:[0-9a-f:.]*"
)
#: What forward.generator_url may name.
PLACES = ("device", "class", "episode")
KEY_BYTES_MIN = 16


class ForwardSettings(Section):
    """What `fleetwatch alerts forward` may do; see docs/alert-forwarding.md."""

    allowed_hosts: tuple[str, ...] = Field(
        ("127.0.0.1", "::1", "localhost"),
        description="The only hosts that alerts are sent to, as HOST or HOST:PORT; redirects are never followed.",
    )
    ca: Path | None = Field(None, description="PEM file of the authorities to trust; none = the system's.")
    hmac_key: SecretStr | None = Field(
        None, description="Signs what is posted to a webhook. Only as a variable; or see hmac_key_file."
    )
    hmac_key_file: Path | None = Field(None, description="File that holds the key and nothing else.")
    generator_url: str = Field(
        "", description="Link of each alert in Alertmanager; {device}, {class} and {episode} are filled in."
    )
    resend_s: float = Field(60.0, ge=1, le=3600, description="An open alert is sent to Alertmanager so often.")
    hold_s: float = Field(
        300.0, ge=3, description="Alertmanager takes an alert for over when it has not heard of it for so long."
    )
    silent_s: float = Field(
        3600.0, gt=0, description="An open alert without an event for so long is ended: its device may be gone."
    )
    open_max: int = Field(20_000, ge=1, description="Open alerts that are held at most.")
    connections: int = Field(4, ge=1, le=64, description="Requests at once; a device's are one after the other.")
    queue_max: int = Field(1000, ge=1, le=1_000_000, description="Events in hand; then reading waits.")
    timeout_s: float = Field(10.0, gt=0, le=300, description="Of one request, from connecting to the answer.")
    retry_first_s: float = Field(0.5, gt=0, description="The first pause is up to this, each next up to twice.")
    retry_max_s: float = Field(60.0, gt=0, description="... and up to this long at most.")
    retry_after_max_s: float = Field(3600.0, ge=0, description="A Retry-After is kept to for so long at most.")
    drain_s: float = Field(10.0, ge=0, le=300, description="When stopped: time for what is in hand.")
    host: str = Field("127.0.0.1", description="Of the page with /metrics and /healthz; see --metrics-port.")

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        lower = tuple(host.strip().lower() for host in value)
        for host in lower:
            if not _HOST.fullmatch(host):
                raise ValueError(f"{host!r} is not HOST or HOST:PORT (no scheme, path or *)")
        return lower

    @field_validator("hmac_key_file")
    @classmethod
    def _holds_a_key(cls, value: Path | None) -> Path | None:
        if value is not None:
            _secret_file(value)
        return value

    @field_validator("ca")
    @classmethod
    def _is_readable(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                value.open("rb").close()
            except OSError as exc:
                raise ValueError(f"cannot read {value}: {exc.strerror}") from None
        return value

    @field_validator("generator_url")
    @classmethod
    def _link(cls, value: str) -> str:
        try:
            named = {name for _, name, _, _ in Formatter().parse(value) if name is not None}
        except ValueError as exc:
            raise ValueError(f"{value!r}: {exc}") from None
        if unknown := sorted(named - set(PLACES)):
            raise ValueError(f"{{{unknown[0]}}} is none of {', '.join(f'{{{p}}}' for p in PLACES)}")
        if value and not re.match(r"https?://[^/\s]", value):
            raise ValueError(f"{value!r} is not an http or https URL")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> ForwardSettings:
        if self.hold_s < 3 * self.resend_s:
            raise ValueError(
                f"hold_s {self.hold_s:g} must be three times resend_s ({self.resend_s:g} s) or more: else one lost "
                "request resolves alerts that are open"
            )
        if self.retry_max_s < self.retry_first_s:
            raise ValueError(f"retry_max_s {self.retry_max_s:g} is below retry_first_s {self.retry_first_s:g}")
        if self.hmac_key is not None and self.hmac_key_file is not None:
            raise ValueError("hmac_key and hmac_key_file are both set; one is enough")
        key = self.key()
        if key is not None and len(key) < KEY_BYTES_MIN:
            raise ValueError(f"the HMAC key has {len(key)} bytes; {KEY_BYTES_MIN} or more are needed")
        return self

    def key(self) -> bytes | None:
        """The HMAC key as it is now.

        Raises
        ------
        SettingsError : the file cannot be read any more.
        """
        secret = _secret(self.hmac_key, self.hmac_key_file, "forward.hmac_key_file")
        return None if secret is None else secret.encode()
