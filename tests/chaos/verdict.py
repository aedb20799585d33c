"""The whole check after a run, partition by partition. The rule: the input itself is checked first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from confluent_kafka.admin import AdminClient

from telemetry.settings import Settings
from telemetry.topics import Topics
from tests.chaos.checker import Comparison, compare
from tests.chaos.expected import Uninterrupted
from tests.chaos.reading import TopicPart, ends, open_transactions, read
from tests.chaos.records import OUTPUTS, STATE, Entry
from tests.chaos.sending import digest

#: Beyond the transactions' timeout: the broker looks for timed-out ones each second.
ABORT_MARGIN_S = 20.0


@dataclass
class Verdict:
    """What the check found.

    copies : input records that stand there twice: the sender's client sent them again under a new epoch.
    problems : each is a failure, in words.
    """

    exactly_once: bool
    inputs: int = 0
    copies: int = 0
    topics: dict[str, Comparison] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def aborted(self) -> int:
        return sum(c.aborted for c in self.topics.values())

    @property
    def duplicates(self) -> int:
        return sum(c.duplicate for c in self.topics.values())

    @property
    def wrong(self) -> int:
        return sum(c.wrong(exactly_once=self.exactly_once) for c in self.topics.values())


def _check_input(at: TopicPart, sent: Sequence[int], held: Sequence[Entry], verdict: Verdict) -> None:
    """Kafka must hold all that was sent, in order, and nothing else but copies of records that were in doubt.

    An idempotent producer of librdkafka begins a new epoch when all brokers died at once, and sends again what had
    no answer: also what had been written.
    """
    number, before = 0, set[int]()
    for entry in held:
        found = digest(entry.key, entry.value)
        if number < len(sent) and found == sent[number]:
            before.add(found)
            number += 1
        elif found in before:
            verdict.copies += 1
        else:
            verdict.problems.append(f"{at}: offset {entry.offset} holds what was not sent, or too early")
            return
    if number < len(sent):
        verdict.problems.append(
            f"{at}: record {number} of {len(sent)} sent and acknowledged is not there in its order"
        )
    if held and held[-1].offset != len(held) - 1:
        verdict.problems.append(f"{at}: {len(held)} records, the last at offset {held[-1].offset}")


def _check_outputs(
    settings: Settings, admin: AdminClient, outputs: Mapping[str, TopicPart], expected: Mapping[str, list[Entry]]
) -> list[Comparison]:
    """One partition of every output topic. outputs : by kind."""
    found = read(settings, outputs.values(), newest=frozenset({outputs[STATE][0]}))
    results = {kind: compare(kind, at[1], expected[kind], found[at]) for kind, at in outputs.items()}
    whole = [outputs[kind] for kind in OUTPUTS]
    everything, last = read(settings, whole, committed=False), ends(admin, whole, committed=False)
    for kind in OUTPUTS:
        at = outputs[kind]
        results[kind].aborted = len(everything[at]) - len(found[at])
        results[kind].markers = last[at] - len(everything[at])
    return list(results.values())


def check(
    settings: Settings,
    names: Topics,
    admin: AdminClient,
    sent: Mapping[TopicPart, Sequence[int]],
    progress: Callable[[str], None],
    *,
    exactly_once: bool,
    upto: Mapping[TopicPart, int] | None = None,
) -> Verdict:
    """Compare every output partition with the uninterrupted run's.

    Parameters
    ----------
    sent : digests of the input records by partition, in order.
    upto : what the group has committed, where that is not all: results of later records must not be there.
    """
    verdict = Verdict(exactly_once)
    count = settings.topics.partitions
    outputs = {kind: getattr(names, kind).name for kind in (*OUTPUTS, STATE)}
    places = [(name, p) for name in outputs.values() for p in range(count)]
    stuck = open_transactions(admin, places, ABORT_MARGIN_S)
    if stuck:
        verdict.problems.append(f"a transaction is still open on {stuck}: its readers would wait for ever")
    reference = Uninterrupted(settings)
    verdict.topics = {kind: Comparison(kind) for kind in outputs}
    for p in range(count):
        held = read(settings, [(spec.name, p) for spec in names.inputs])
        inputs = [held[spec.name, p] for spec in names.inputs]
        for spec, entries in zip(names.inputs, inputs, strict=True):
            _check_input((spec.name, p), sent.get((spec.name, p), ()), entries, verdict)
            verdict.inputs += len(entries)
        if upto is not None:
            inputs = [entries[: upto[s.name, p]] for s, entries in zip(names.inputs, inputs, strict=True)]
        expected = reference.run(p, inputs)
        at = {kind: (name, p) for kind, name in outputs.items()}
        for found in _check_outputs(settings, admin, at, expected):
            verdict.topics[found.kind].add(found)
        progress(
            f"checked partition {p + 1} of {count}: {verdict.inputs} input records, {verdict.wrong} differences"
        )
    return verdict
