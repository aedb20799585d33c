"""The run in figures: for people in docs/reliability.md, for programs as JSON. The rule: only what was measured."""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.chaos.faults import FAULTS
from tests.chaos.session import Outcome

BEGIN, END = "<!-- chaos:begin -->", "<!-- chaos:end -->"

#: Of brokers, in error messages: they differ from run to run.
ADDRESSES = re.compile(r"(?:(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?(?:/\w+)?,?)+")


def _recoveries(outcome: Outcome, name: str) -> list[float]:
    times = [f.recovery.seconds for f in outcome.fired(name) if f.alone and f.recovery]
    return [t for t in times if t is not None]


def as_data(outcome: Outcome) -> dict[str, Any]:
    """What a program wants to know."""
    verdict = outcome.verdict
    return {
        "seed": outcome.options.seed,
        "guarantee": outcome.options.guarantee,
        "seconds": round(outcome.seconds, 1),
        "sent": outcome.sent,
        "worker_kills": outcome.worker_kills,
        "broker_kills": outcome.broker_kills,
        "faults": {name: len(outcome.fired(name)) for name in FAULTS},
        "recovery_s": {name: [round(t, 2) for t in _recoveries(outcome, name)] for name in FAULTS},
        "ends": [vars(end) for end in outcome.ends],
        "aborted": verdict.aborted if verdict else None,
        "duplicates": verdict.duplicates if verdict else None,
        "topics": {kind: vars(found) for kind, found in verdict.topics.items()} if verdict else {},
        "problems": outcome.problems,
    }


def as_markdown(outcome: Outcome, command: str) -> str:
    """The section between the markers."""
    verdict = outcome.verdict
    assert verdict is not None
    o = outcome.options
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    mode = "loopback" if o.loopback else "network namespaces"
    faults = sum(not f.error for f in outcome.faults)
    run = f"`{command}`, {outcome.seconds / 60:.0f} minutes, seed {o.seed}, `{o.guarantee}`, {mode}"
    kills = f"{outcome.worker_kills} worker kills, {outcome.broker_kills} broker kills, {faults} faults in all"
    copies = f"{verdict.aborted:,} copies of results in aborted transactions, which no reader saw"
    doubled = f", {verdict.copies} of them written twice by the sender's client" if verdict.copies else ""
    found = f"{outcome.sent:,} input records{doubled}; {copies}; **{verdict.wrong} differences**"
    head = [f"Run of {day}: {run}.", "", f"{kills}; {found}.", ""]
    return "\n".join([*head, *_fault_table(outcome), "", *_topic_table(outcome), "", *_ends(outcome)])


def _fault_table(outcome: Outcome) -> list[str]:
    lines = [
        "| fault | what | fired | recovery, s: median | worst | measured |",
        "|---|---|---|---|---|---|",
    ]
    for name, fault in FAULTS.items():
        fired, times = len(outcome.fired(name)), _recoveries(outcome, name)
        if fired:
            figures = f"{statistics.median(times):.1f} | {max(times):.1f} | {len(times)}" if times else "- | - | 0"
            lines.append(f"| {name} | {fault.doc} | {fired} | {figures} |")
    return lines


def _topic_table(outcome: Outcome) -> list[str]:
    assert outcome.verdict is not None
    lines = [
        "| topic | records | missing | duplicate | different | unexpected | out of order | aborted | markers |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, c in outcome.verdict.topics.items():
        lines.append(
            f"| {kind} | {c.expected:,} | {c.missing} | {c.duplicate} | {c.different} | {c.unexpected} | "
            f"{c.misordered} | {c.aborted:,} | {c.markers:,} |"
        )
    return lines


def _ends(outcome: Outcome) -> list[str]:
    """How the workers' processes ended when it was not the harness that ended them."""
    own = Counter((end.code, ADDRESSES.sub("(address)", end.cause)) for end in outcome.ends if not end.ours)
    if not own:
        return ["No worker ended but by the harness."]
    lines = [
        "Workers that ended by themselves, and were started again:",
        "",
        "| times | exit | last error |",
        "|---|---|---|",
    ]
    return lines + [
        f"| {n} | {code} | {cause[:120].replace('|', '/')} |" for (code, cause), n in own.most_common(12)
    ]


def write(path: Path, text: str) -> None:
    """Put the text between the markers of an existing document.

    Raises
    ------
    ValueError : the document has no markers.
    """
    old = path.read_text(encoding="utf-8")
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no place for the report: {BEGIN} and {END} are missing")
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def write_json(path: Path, outcome: Outcome) -> None:
    path.write_text(json.dumps(as_data(outcome), indent=1, default=str) + "\n", encoding="utf-8")
