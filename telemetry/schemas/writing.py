"""What a producer does before its first message. The rule: nobody can read a schema that nobody has told of.

Without a registry a version that not everybody knows is announced on a topic; with one, it is registered there, and
frames begin with the Confluent wire format's header instead of single-object encoding's.
"""

from __future__ import annotations

import logging

from telemetry import registry, schemas
from telemetry.schemas.announce import KNOWN_TO_ALL, announce
from telemetry.settings import Settings

log = logging.getLogger("fleetwatch.schemas")


def frame_header(settings: Settings) -> bytes:
    """The header that frames get, readers having been told of their schema.

    Raises
    ------
    DeliveryError, BrokerUnavailableError, TopicError : it cannot be announced. RegistryError : nor registered.
    """
    if settings.schemas.registry_url:
        header = registry.writing_header(settings.schemas, "frame")
        log.info(
            "frames are written with schema %d of %s", int.from_bytes(header[1:]), settings.schemas.registry_url
        )
        return header
    newest = schemas.versions("frame")[-1]
    if newest.number > KNOWN_TO_ALL:
        for told in announce(settings, [newest.schema]):
            log.info("announced the frames' schema %s (version %d)", told, newest.number)
    return schemas.header("frame")
