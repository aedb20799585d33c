"""What Faust and aiokafka need to prove who we are. The rule: the certificate and host name are always checked."""

from __future__ import annotations

import ssl
from typing import Any

import faust
from faust.types.auth import SASLMechanism

from telemetry.settings import Settings


def credentials(settings: Settings) -> Any:
    """Faust's credentials object for `kafka.security_protocol`; None = plain text without a login."""
    k = settings.kafka
    context = ssl.create_default_context(cafile=str(k.ssl_ca) if k.ssl_ca else None)
    if k.security_protocol.startswith("SASL"):
        assert k.sasl_password is not None
        return faust.SASLCredentials(
            mechanism=SASLMechanism(k.sasl_mechanism),
            username=k.sasl_username,
            password=k.sasl_password.get_secret_value(),
            ssl_context=context if k.security_protocol.endswith("SSL") else None,
        )
    return faust.SSLCredentials(context=context) if k.security_protocol == "SSL" else None
