"""Logging for every process. The rule: a record is one entry, whoever wrote its words, never one per record read.

Text on a terminal, JSON lines elsewhere. What a device or a client supplied may hold line breaks, escape sequences
or half of a character pair: none of it reaches a terminal, a file or a log collector as it is.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import IO

PAYLOAD_MAX = 256
#: A message is cut here, and so is an exception's text.
MESSAGE_MAX = 16_384
#: Begins each further line of a message or of a traceback; a record's first line begins with its time.
CONTINUED = "  | "


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable(text: str, limit: int = PAYLOAD_MAX) -> str:
    """Text from outside, safe to print: control characters escaped, cut to `limit`."""
    return _escaped(text[:limit]) + ("..." if len(text) > limit else "")


def one_line(text: str) -> str:
    """JSON as `json.dumps` writes it without ensure_ascii, made safe to print: the same value when it is read.

    JSON leaves the separators U+0085 and U+2028, C1 controls and direction marks as they are.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _cut(text: str) -> str:
    return text if len(text) <= MESSAGE_MAX else text[:MESSAGE_MAX] + "..."


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ts, level, logger, message, and the exception if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(record.getMessage()),
        }
        if record.exc_info:
            entry["exception"] = _cut(self.formatException(record.exc_info))
        return one_line(json.dumps(entry, ensure_ascii=False))


class TextFormatter(logging.Formatter):
    """Time, level, logger and message; further lines are indented, so that none can pass for a record."""

    def __init__(self) -> None:
        super().__init__(datefmt="%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        lines = _cut(record.getMessage()).split("\n")
        if record.exc_info:
            lines += _cut(self.formatException(record.exc_info)).split("\n")
        head = f"{self.formatTime(record, self.datefmt)} {record.levelname:7} {_escaped(record.name)}: "
        return head + f"\n{CONTINUED}".join(map(_escaped, lines))


def setup(level: str = "INFO", style: str = "auto", stream: IO[str] | None = None) -> None:
    """Configure the root logger to write to `stream` (stderr). style: auto, text or json."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    as_json = style == "json" or (style == "auto" and not stream.isatty())
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("fleetwatch.librdkafka").setLevel(logging.CRITICAL)
