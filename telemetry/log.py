"""Logging for every process. The rule: text on a terminal, JSON lines elsewhere, never a line per record."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import IO

PAYLOAD_MAX = 256


def printable(text: str, limit: int = PAYLOAD_MAX) -> str:
    """Text from outside, safe to print: control characters escaped, cut to `limit`."""
    cut = text[:limit]
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return safe + ("..." if len(text) > limit else "")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ts, level, logger, message, and the exception if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def setup(level: str = "INFO", style: str = "auto", stream: IO[str] | None = None) -> None:
    """Configure the root logger to write to `stream` (stderr). style: auto, text or json."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    if style == "json" or (style == "auto" and not stream.isatty()):
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("fleetwatch.librdkafka").setLevel(logging.CRITICAL)
