"""Dead letters back to where they came from. The rule: only to our input topics, only whole records, not for ever.

A record goes out as it came in: the same key and value bytes, to the same partition of the same topic, with the
header `x-attempt` one higher. Sending it twice is harmless: a worker drops what it has seen.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fleetwatch.dlq_check import check
from fleetwatch.dlq_letters import Letter
from telemetry.clients import admin, cluster_metadata, full_queue_retry, producer
from telemetry.errors import DeliveryError
from telemetry.settings import Settings
from telemetry.topics import topics

#: Letters that one replay holds in memory at most.
LETTERS_MAX = 100_000
BYTES_MAX = 1 << 26


@dataclass(slots=True)
class Plan:
    """What a replay would do. left : how many letters are not sent, by why. full : it may hold no more."""

    send: list[Letter] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)
    full: bool = False


def _obstacle(letter: Letter, partitions: dict[str, int], attempts_max: int) -> str | None:
    """Why a letter cannot be sent at all."""
    if letter.last_offset >= 0:
        return "a whole batch: it has no records to send"
    if letter.is_cut:
        return "cut: the dead letter does not hold all of the record"
    if letter.topic not in partitions:
        return "not from an input topic"
    if not 0 <= letter.source_partition < partitions[letter.topic]:
        return "from a partition that does not exist"
    if letter.attempt >= attempts_max:
        return f"sent again {letter.attempt} times already (--max-attempts {attempts_max})"
    return None


def plan(
    settings: Settings, config: Path | None, letters: Iterable[Letter], attempts_max: int, *, force: bool
) -> Plan:
    """Which of the letters are sent, in their order.

    force : also those that a worker would refuse again.
    """
    known: Any = cluster_metadata(admin(settings), settings).topics
    inputs = [spec.name for spec in topics(settings).inputs]
    partitions = {name: len(known[name].partitions) for name in inputs if name in known}
    found, nbytes = Plan(), 0
    for letter in letters:
        if why := _obstacle(letter, partitions, attempts_max):
            found.left[why] += 1
            continue
        nbytes += len(letter.key or b"") + len(letter.value or b"")
        if len(found.send) >= LETTERS_MAX or nbytes > BYTES_MAX:
            found.full = True
            break
        found.send.append(letter)
    if not force and found.send:
        again = check(config, found.send)
        found.left.update(f"would be refused again: {why}" for why in again if why)
        found.send = [letter for letter, why in zip(found.send, again, strict=True) if not why]
    return found


def send(settings: Settings, letters: Sequence[Letter], rate_per_s: float, told: Callable[[int], None]) -> int:
    """Publish them, at most `rate_per_s` a second; returns how many: fewer than there are after Ctrl-C.

    told : called with how many are on their way.

    Raises
    ------
    DeliveryError : some were not acknowledged.
    """
    refused: list[str] = []

    def report(error: Any, message: Any) -> None:
        del message
        if error is not None:
            refused.append(error.str())

    client = producer(settings, on_delivery=report, linger_ms=5)
    began, done = time.monotonic(), 0
    try:
        for letter in letters:
            while (early := began + done / rate_per_s - time.monotonic()) > 0:
                client.poll(early)  # returns sooner with each delivery report
            headers = [("x-attempt", str(letter.attempt + 1).encode())]
            call = partial(
                client.produce, letter.topic, letter.value, letter.key, letter.source_partition, headers=headers
            )
            full_queue_retry(call, client.poll)
            done += 1
            told(done)
    except KeyboardInterrupt:  # what is on its way is waited for, so that the number is right
        pass
    left = client.flush(60)
    if refused or left:
        why = refused[0] if refused else "no answer within a minute"
        raise DeliveryError(f"{len(refused) + left} of {done} records were not acknowledged: {why}")
    return done
