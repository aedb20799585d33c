"""Errors that a user can act on. The rule: the message says what is wrong, where, and what to do.

Bad data is never raised: it becomes a dead letter (`telemetry.reasons`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FleetwatchError(Exception):
    """Base of the errors that end a command with a message instead of a traceback.

    exit_code follows sysexits.h, so that a supervisor can tell a wrong setting from a broker that is away.
    """

    exit_code = 70  # EX_SOFTWARE


class SettingsError(FleetwatchError):
    """One or many settings are wrong; the message lists all of them by name."""

    exit_code = 78  # EX_CONFIG


class CatalogError(FleetwatchError):
    """A catalogue file or entry is wrong or unknown."""

    exit_code = 78


class BrokerUnavailableError(FleetwatchError):
    """No broker answers at the configured address."""

    exit_code = 69  # EX_UNAVAILABLE


class TopicError(FleetwatchError):
    """A topic is missing, or does not have the shape that the contract asks for."""

    exit_code = 78


class AccessError(FleetwatchError):
    """The cluster knows who we are, and does not allow what was asked."""

    exit_code = 77  # EX_NOPERM


class DeliveryError(FleetwatchError):
    """Records were sent but not acknowledged."""

    exit_code = 74  # EX_IOERR


def nearest(name: str, known: Iterable[str], n: int = 3) -> str:
    """'; did you mean a, b?' or the list of what there is, for the end of a message about an unknown name."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=n, cutoff=0.5)
    if close:
        return f"; did you mean {', '.join(close)}?"
    return f"; known: {', '.join(known)}" if known else "; there are none"
