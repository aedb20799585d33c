"""Where a worker learns of schemas that it does not know. The rule: nothing is asked before the first one comes."""

from __future__ import annotations

from telemetry.registry import RegistrySchemas
from telemetry.schemas.announce import AnnouncedSchemas
from telemetry.schemas.book import Learner, SchemaBook, Source
from telemetry.settings import Settings


def learner(settings: Settings) -> Learner:
    """The released schemas, those of `schemas.accept`, and whom to ask for more.

    Raises
    ------
    SchemaRefusedError : a file of `schemas.accept` is not a schema that can be accepted.
    """
    sources: list[Source] = []
    if settings.schemas.announced:
        sources.append(AnnouncedSchemas(settings))
    if settings.schemas.registry_url:
        sources.append(RegistrySchemas(settings.schemas))
    return Learner(SchemaBook(settings.schemas.accept), sources, framed=bool(settings.schemas.registry_url))
