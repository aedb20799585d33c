"""What Faust and aiokafka need to prove who we are. The rule: the same checks and secrets as every other client's.

The certificate, the host name and the authorities are `telemetry.security`'s; here they get Faust's shape.
"""

from __future__ import annotations

import logging
from typing import Any

import faust
from faust.types.auth import SASLMechanism

from telemetry.security import ssl_context
from telemetry.settings import Settings


def credentials(settings: Settings) -> Any:
    """Faust's credentials object for `kafka.security_protocol`; None = plain text without a login.

    Raises
    ------
    SettingsError : a certificate, key or secret cannot be used.
    """
    k = settings.kafka
    if k.security_protocol == "PLAINTEXT":
        return None
    context = ssl_context(k) if k.security_protocol.endswith("SSL") else None
    if k.security_protocol == "SSL":
        return faust.SSLCredentials(context=context)
    # at DEBUG aiokafka logs every request as it is, also the one that carries the password
    logging.getLogger("aiokafka.conn").setLevel(logging.INFO)
    return faust.SASLCredentials(
        mechanism=SASLMechanism(k.sasl_mechanism),
        username=k.sasl_username,
        password=k.password(),
        ssl_context=context,
    )
