"""Would a worker take these records now? The rule: they are decoded in a process of their own, which may die of it.

Run as ``python -m fleetwatch.dlq_check [CONFIG]``: records come as JSON lines on stdin, answers go as JSON lines to
stdout, one each. Address space and processor time are limited: no record can do worse than end this process.
"""

from __future__ import annotations

import base64
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from fleetwatch.dlq_letters import Letter
from telemetry import settings as settings_module
from telemetry.codec import zigzag
from telemetry.errors import FleetwatchError
from telemetry.settings import Settings

#: Limits of the process that decodes: bytes of address space, seconds of processor time.
ADDRESS_SPACE = 4 << 30
CPU_S = 120
#: Records given to one process at a time, and their bytes, of which the last record may be more.
PORTION, PORTION_BYTES = 2000, 1 << 23
_PATIENCE_S = 180.0

DIED = "ends_the_decoder"


def _section(key: bytes | None, value: bytes | None) -> bytes:
    """A batch's records section that holds one record."""

    def field(data: bytes | None) -> bytes:
        return zigzag(-1) if data is None else zigzag(len(data)) + data

    body = b"".join((b"\0", zigzag(0), zigzag(0), field(key), field(value), b"\0"))
    return zigzag(len(body)) + body


def verdicts(settings: Settings, records: Sequence[tuple[str, bytes | None, bytes | None]]) -> list[str]:
    """For each (topic, key, value) the code of the reason to refuse it, or "" if a worker would take it now."""
    from streams.core.effects import Effects
    from streams.core.records import Part
    from streams.wiring import make_core

    core, found = make_core(settings.model_copy(update={"detectors": ()})), []
    for topic, key, value in records:
        section, effects = _section(key, value), Effects()
        core.process(topic, 0, [Part(section, 0, len(section), 1, 0, 0)], 0, time.time_ns() // 1000, effects)
        found.append(effects.dead[0].reason.code if effects.dead else "")
        core.release({core.owner(topic, 0)})
    return found


def _encode(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _decode(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def _ask(config: Path | None, letters: Sequence[Letter]) -> list[str] | None:
    """The verdicts by a process of its own; None = the records ended it.

    Raises
    ------
    FleetwatchError : it could not work at all.
    """
    lines = [json.dumps([x.topic, _encode(x.key), _encode(x.value)]) for x in letters]
    command = [sys.executable, "-m", "fleetwatch.dlq_check", *([str(config)] if config else [])]
    try:
        done = subprocess.run(
            command, input="\n".join(lines), capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode < 0 or "MemoryError" in done.stderr:
        return None
    if done.returncode:
        why = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise FleetwatchError(
            f"records cannot be checked before they are sent: {why}; --force sends them unchecked"
        )
    return [str(json.loads(line)) for line in done.stdout.splitlines()]


def check(config: Path | None, letters: Sequence[Letter]) -> list[str]:
    """For each letter why a worker would refuse it now: a reason's code, `DIED`, or "" if it would take it."""
    return [verdict for portion in _portions(letters) for verdict in _halved(config, portion)]


def _portions(letters: Sequence[Letter]) -> Iterator[list[Letter]]:
    portion: list[Letter] = []
    nbytes = 0
    for letter in letters:
        portion.append(letter)
        nbytes += len(letter.value or b"") + len(letter.key or b"")
        if len(portion) == PORTION or nbytes >= PORTION_BYTES:
            yield portion
            portion, nbytes = [], 0
    if portion:
        yield portion


def _halved(config: Path | None, letters: Sequence[Letter]) -> list[str]:
    """The verdicts; where records end the process, each half is tried by itself, down to the one that does it."""
    if (answer := _ask(config, letters)) is not None:
        return answer
    if len(letters) == 1:
        return [DIED]
    middle = len(letters) // 2
    return _halved(config, letters[:middle]) + _halved(config, letters[middle:])


def main() -> None:
    """What the process does."""
    config = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    settings = settings_module.load(config)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    records = [json.loads(line) for line in sys.stdin]
    answers = verdicts(settings, [(topic, _decode(key), _decode(value)) for topic, key, value in records])
    sys.stdout.write("".join(json.dumps(answer) + "\n" for answer in answers))


if __name__ == "__main__":
    try:
        main()
    except FleetwatchError as error:
        sys.exit(str(error))
