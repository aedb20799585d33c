"""The optional schema registry: Confluent's API and wire format. The rule: asked at start and for a new id, only.

confluent-kafka's own client and serializer speak to it. A record has one subject, its full name, whichever topic
carries it (confluent-kafka's `record_subject_name_strategy`): frames of vehicles and of devices are one schema.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from telemetry import codec, schemas
from telemetry.errors import FleetwatchError, SettingsError
from telemetry.schema_settings import SchemaSettings
from telemetry.schemas.book import Told

#: First byte of the Confluent wire format; the schema's id follows, 4 bytes, big-endian.
MAGIC = b"\0"
#: Versions of one subject that are read at most.
VERSIONS_MAX = 64
#: Of a request that failed in transport or at the server, before the registry counts as away.
RETRIES = 2
RETRY_MS = 100
NOT_FOUND = 404


class RegistryError(FleetwatchError):
    """The schema registry does not answer, or refuses."""

    exit_code = 69  # EX_UNAVAILABLE


def header(schema_id: int) -> bytes:
    """The 5 bytes that begin a message in the Confluent wire format."""
    return MAGIC + struct.pack(">I", schema_id)


@contextmanager
def _explained(settings: SchemaSettings, doing: str) -> Iterator[None]:
    from confluent_kafka.schema_registry.error import SchemaRegistryError
    from httpx2 import HTTPError

    try:
        yield
    except SchemaRegistryError as exc:
        hint = {
            401: "; set schemas.registry_username and schemas.registry_password",
            403: "; this user may not do it",
            NOT_FOUND: "; it is not registered: `fleetwatch schemas register` does that",
            409: "; it is not compatible with the versions there: `fleetwatch schemas check` says why",
        }.get(exc.http_status_code, "")
        raise RegistryError(f"schema registry {settings.registry_url}: {doing}: {exc.error_message}{hint}") from exc
    except (HTTPError, OSError) as exc:
        raise RegistryError(
            f"schema registry {settings.registry_url} does not answer ({doing}): {exc}. "
            "Is schemas.registry_url right, and the registry running?"
        ) from exc


def client(settings: SchemaSettings) -> Any:
    """confluent-kafka's client of the configured registry.

    Raises
    ------
    SettingsError : none is configured, or a file named cannot be read.
    """
    from confluent_kafka.schema_registry import SchemaRegistryClient

    if settings.registry_url is None:
        raise SettingsError("no schema registry: set schemas.registry_url")
    config: dict[str, Any] = {
        "url": settings.registry_url,
        "timeout": settings.registry_timeout_s,
        "max.retries": RETRIES,
        "retries.wait.ms": RETRY_MS,
        "retries.max.wait.ms": 10 * RETRY_MS,
    }
    if settings.registry_username:
        config["basic.auth.user.info"] = f"{settings.registry_username}:{settings.password()}"
    if settings.registry_ca:
        config["ssl.ca.location"] = str(settings.registry_ca)
    try:
        return SchemaRegistryClient(config)
    except OSError as exc:
        raise SettingsError(f"schemas.registry_ca {settings.registry_ca}: {exc}") from exc


class RegistrySchemas:
    """The versions of our records in the registry: a `Source`. Used by one thread."""

    def __init__(self, settings: SchemaSettings, names: Sequence[str] = ("frame",)) -> None:
        self._settings = settings
        self._client: Any = None
        self._subjects = [schemas.full_name(schemas.raw(name)) for name in names]
        self._seen: set[tuple[str, int]] = set()

    def refresh(self) -> Sequence[Told]:
        """The versions that are new since the last call; one request a subject if there are none.

        Raises
        ------
        RegistryError : no answer.
        """
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        found: list[Told] = []
        if self._client is None:
            self._client = client(self._settings)
        for subject in self._subjects:
            with _explained(self._settings, f"versions of {subject}"):
                try:
                    numbers = self._client.get_versions(subject)
                except SchemaRegistryError as exc:
                    if exc.http_status_code != NOT_FOUND:
                        raise
                    numbers = []
                for number in sorted(numbers)[-VERSIONS_MAX:]:
                    if (subject, number) not in self._seen:
                        found += self._version(subject, number)
                        self._seen.add((subject, number))
        return found

    def _version(self, subject: str, number: int) -> list[Told]:
        registered = self._client.get_version(subject, number)
        origin = f"registry, {subject} version {number}"
        if registered.schema.schema_type not in (None, "AVRO"):
            return []
        return [Told(header(registered.schema_id), registered.schema.schema_str, origin)]


def register(settings: SchemaSettings, schema: dict[str, Any], registry: Any = None) -> int:
    """Register a schema under its record's full name, if it is not there; returns its id.

    Raises
    ------
    RegistryError : no answer, or refused as incompatible.
    """
    from confluent_kafka.schema_registry import Schema

    subject = schemas.full_name(schema)
    with _explained(settings, f"schema of {subject}"):
        found = client(settings) if registry is None else registry
        return int(found.register_schema(subject, Schema(json.dumps(schema), "AVRO")))


def _sample(node: Any) -> Any:
    """A value of a schema: empty, zero, the first branch."""
    if isinstance(node, list):
        return _sample(node[0])
    kind = node["type"] if isinstance(node, dict) else node
    if isinstance(kind, dict | list):
        return _sample(kind)
    if kind == "record":
        return {field["name"]: _sample(field["type"]) for field in node["fields"]}
    empty: dict[str, Any] = {"null": None, "boolean": False, "string": "", "bytes": b"", "array": [], "map": {}}
    return empty.get(kind, 0)


def writing_header(settings: SchemaSettings, name: str, registry: Any = None) -> bytes:
    """The header that messages of the named schema get, from confluent-kafka's own serializer.

    The serializer registers the schema, or with `schemas.registry_register` off only looks it up; its message is
    then compared with ours, so that the encoders that put this header before their bytes write what it would.

    Raises
    ------
    RegistryError : no answer, refused as incompatible, or not registered.
    """
    from confluent_kafka.schema_registry import record_subject_name_strategy
    from confluent_kafka.schema_registry.avro import AvroSerializer
    from confluent_kafka.serialization import MessageField, SerializationContext

    schema = schemas.raw(name)
    subject = schemas.full_name(schema)
    with _explained(settings, f"schema of {subject}"):
        serializer = AvroSerializer(
            client(settings) if registry is None else registry,
            json.dumps(schema),
            conf={
                "auto.register.schemas": settings.registry_register,
                "subject.name.strategy": record_subject_name_strategy,
            },
        )
        sample = _sample(schema)
        message = bytes(serializer(sample, SerializationContext("", MessageField.VALUE)))
    found = message[:5]
    assert message == codec.encode(name, sample, found), f"{name}: our encoding is not the serializer's"
    return found
