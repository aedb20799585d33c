"""TLS, logins and what keeps us out. The rule: each cause is one line that names the setting to look at.

librdkafka retries a refused login or certificate for ever, and says little of why. Here the brokers' port is asked
directly, with Python's TLS, so that an expired certificate is told from one of an unknown authority.
"""

from __future__ import annotations

import socket
import ssl
import struct
from dataclasses import dataclass
from pathlib import Path

from telemetry.errors import SettingsError
from telemetry.kafka_settings import KafkaSettings
from telemetry.log import printable

#: A broker that refuses our certificate says so after the handshake (TLS 1.3): so long is listened for it.
_ALERT_WAIT_S = 0.5
_CONNECT_S = 3.0
_HOST_NAME_CODES = {62, 63, 64}  # X509_V_ERR_HOSTNAME_MISMATCH, EMAIL_, IP_ADDRESS_
_TIME_CODES = {9, 10}  # X509_V_ERR_CERT_NOT_YET_VALID, CERT_HAS_EXPIRED
#: Kafka's protocol: the request's key; the error of a mechanism that the broker does not offer.
_SASL_HANDSHAKE, _UNSUPPORTED_MECHANISM = 17, 33
_NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST")


@dataclass(frozen=True, slots=True)
class Cause:
    """Why the cluster does not let us in. sure : no waiting will mend it."""

    text: str
    sure: bool


def ssl_context(kafka: KafkaSettings) -> ssl.SSLContext:
    """The client's side of TLS: the certificate and its host name are verified, always.

    Raises
    ------
    SettingsError : a file is not what its setting says.
    """
    try:
        context = ssl.create_default_context(cafile=str(kafka.ssl_ca) if kafka.ssl_ca else None)
    except (ssl.SSLError, OSError) as exc:
        why = exc.strerror if not isinstance(exc, ssl.SSLError) else "no certificate in PEM form"
        raise SettingsError(f"kafka.ssl_ca: {kafka.ssl_ca}: {why}") from None
    if kafka.ssl_certificate and kafka.ssl_key:
        _present(context, kafka.ssl_certificate, kafka.ssl_key, kafka.key_password())
    return context


def _present(context: ssl.SSLContext, certificate: Path, key: Path, password: str | None) -> None:
    try:
        # never None: OpenSSL would ask for the password on the terminal
        context.load_cert_chain(certificate, key, password or "")
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            why = f"kafka.ssl_key: {key} is not the key of the certificate in {certificate}"
        elif "ENCRYPTED" in key.read_text(encoding="utf-8", errors="replace"):
            wrong = "is wrong" if password else "is needed"
            why = f"kafka.ssl_key: {key} is encrypted and kafka.ssl_key_password (or ssl_key_password_file) {wrong}"
        else:
            why = f"kafka.ssl_certificate or kafka.ssl_key: {certificate} or {key} is not in PEM form"
        raise SettingsError(why) from None
    except OSError as exc:
        raise SettingsError(f"kafka.ssl_certificate or kafka.ssl_key: {exc}") from None


def refused_login(kafka: KafkaSettings, said: str) -> Cause:
    """A SASL login that the broker refused, with the client's words for it."""
    if "mechanism" in said and "nsupported" in said:
        text = f"the broker does not offer kafka.sasl_mechanism {kafka.sasl_mechanism} ({printable(said)})"
    else:
        user = printable(kafka.sasl_username or "", 64)
        text = (
            f"the broker at {kafka.bootstrap} refuses the login of {user!r} by {kafka.sasl_mechanism}: check "
            "kafka.sasl_username and kafka.sasl_password (or kafka.sasl_password_file)"
        )
    return Cause(text, sure=True)


def diagnose(kafka: KafkaSettings) -> Cause | None:
    """What TLS itself says at the first address that accepts connections; None = nothing wrong, or none does.

    Raises
    ------
    SettingsError : our own certificate, key or authorities cannot be read.
    """
    for address in kafka.bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        host = host.strip("[]")
        try:
            with socket.create_connection((host, int(port)), _CONNECT_S) as raw:
                if kafka.security_protocol.endswith("SSL"):
                    return _handshake(raw, host, address.strip(), kafka)
                return _answers_tls(raw, address.strip(), kafka)
        except OSError:
            continue  # not there: the next
    return None


def _handshake(raw: socket.socket, host: str, address: str, kafka: KafkaSettings) -> Cause | None:
    context = ssl_context(kafka)
    try:
        with context.wrap_socket(raw, server_hostname=host) as tls:
            tls.settimeout(_ALERT_WAIT_S)
            try:
                tls.recv(1)
            except TimeoutError:  # it waits for our request, as it should
                tls.settimeout(_CONNECT_S)
                return _login(tls, address) if kafka.security_protocol == "SSL" else None
    except ssl.SSLCertVerificationError as exc:
        return _unverified(exc, address, kafka)
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError):
        return Cause(
            f"{address} closed the connection during the TLS handshake: it may be a port without TLS; check "
            f"kafka.security_protocol ({kafka.security_protocol}) and kafka.bootstrap",
            sure=False,
        )
    except ssl.SSLError as exc:
        return _alert(exc, address, kafka)
    except TimeoutError:
        return None
    return None


def _login(tls: ssl.SSLSocket, address: str) -> Cause | None:
    """Whether the port wants a SASL login: it is asked for an unheard-of mechanism, and refuses in its own way."""
    name = b"\x00\x01?"  # a string with its length
    request = struct.pack(">hhi", _SASL_HANDSHAKE, 1, 0) + name + name
    tls.sendall(struct.pack(">i", len(request)) + request)
    answer = tls.recv(10)
    if len(answer) == 10 and struct.unpack(">iih", answer)[2] == _UNSUPPORTED_MECHANISM:
        text = (
            f"{address} asks for a login: set kafka.security_protocol to SASL_SSL, with kafka.sasl_username and "
            "kafka.sasl_password (or kafka.sasl_password_file)"
        )
        return Cause(text, sure=True)
    return None


def _unverified(exc: ssl.SSLCertVerificationError, address: str, kafka: KafkaSettings) -> Cause:
    found = f"the certificate of {address} is not accepted: {printable(exc.verify_message).rstrip('.')}"
    if exc.verify_code in _HOST_NAME_CODES:
        text = f"{found}. Name the broker in kafka.bootstrap as its certificate does"
    elif exc.verify_code in _TIME_CODES:
        text = f"{found}. The broker needs a new one (or this clock is wrong); kafka.ssl_ca is not at fault"
    else:
        trusted = f"those in {kafka.ssl_ca}" if kafka.ssl_ca else "the system's"
        text = f"{found}. Trusted are {trusted}: set kafka.ssl_ca to the authority that signed it"
    return Cause(text, sure=True)


def _alert(exc: ssl.SSLError, address: str, kafka: KafkaSettings) -> Cause:
    reason = exc.reason or ""
    if reason in _NOT_TLS:
        text = (
            f"{address} does not speak TLS: check kafka.security_protocol ({kafka.security_protocol}) and "
            "the port in kafka.bootstrap"
        )
    elif "CERTIFICATE" in reason or "UNKNOWN_CA" in reason:
        alert = reason.partition("ALERT_")[2].lower().replace("_", " ") or reason
        if kafka.ssl_certificate:
            text = (
                f"{address} refuses our certificate, kafka.ssl_certificate {kafka.ssl_certificate}: {alert} "
                "(expired, or of an authority that the broker does not trust)"
            )
        else:
            text = (
                f"{address} asks for a client certificate ({alert}): set kafka.ssl_certificate and kafka.ssl_key, "
                "or use a port that takes passwords"
            )
    else:
        text = f"the TLS handshake with {address} failed ({reason}): check kafka.security_protocol and kafka.ssl_*"
    return Cause(text, sure=True)


def _answers_tls(raw: socket.socket, address: str, kafka: KafkaSettings) -> Cause | None:
    """Whether a port that we would speak to in clear text wants TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # only to recognise the protocol: nothing is sent
    context.verify_mode = ssl.CERT_NONE
    try:
        context.wrap_socket(raw).close()
    except (ssl.SSLEOFError, ConnectionError, TimeoutError):
        return None
    except ssl.SSLError as exc:
        if exc.reason in _NOT_TLS:
            return None
    wanted = "SASL_SSL" if kafka.security_protocol.startswith("SASL") else "SSL or SASL_SSL"
    return Cause(
        f"{address} speaks TLS, but kafka.security_protocol is {kafka.security_protocol}: set it to {wanted}",
        sure=True,
    )
