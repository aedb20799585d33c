"""The peers: programs, shares of the job, settings. The rule: the settings' text here is the docs'."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PYTHON = HERE / "python"
JAVA = HERE / "java"
EXACTLY_ONCE, AT_LEAST_ONCE = "exactly_once", "at_least_once"
#: Pinned in python/requirements-<environment>.lock and java/pom.xml.
_PIN = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+)", re.MULTILINE)
_PROPERTY = re.compile(r"<([a-z.]+)\.version>([^<]+)</")


@dataclass(frozen=True)
class Peer:
    """One row of the table.

    Attributes
    ----------
    family : what `--only` takes besides the name.
    environment : of Python's, the name of its requirements; of Java's, its module.
    main : the program, or the class.
    share : of the job's devices; slow ones get fewer.
    commits : to the consumer group.
    settings : what is not the default, for people.
    extra : arguments of its own, name=value.
    """

    name: str
    family: str
    title: str
    environment: str
    main: str
    share: float
    settings: str
    guarantee: str = AT_LEAST_ONCE
    commits: bool = True
    floor: bool = False
    extra: tuple[str, ...] = ()

    @property
    def java(self) -> bool:
        return not self.main.endswith(".py")


_STREAMS = (
    "Processor API; in-memory store with 64 MB cache and changelog; two threads; commits each 5 s; "
    "`max.poll.records` 5,000, `fetch.min.bytes` 64 KB, `linger.ms` 100"
)
_FLINK = (
    "DataStream API; `ValueState<double[]>` on the heap, object reuse; checkpoints each 5 s to files; "
    "`fetch.min.bytes` 64 KB, `linger.ms` 100"
)
PEERS = (
    Peer("streams", "streams", "Kafka Streams", "streams", "fleet.StreamsJob", 1.0, _STREAMS),
    Peer("streams-eos", "streams", "Kafka Streams", "streams", "fleet.StreamsJob", 1.0,
         f"{_STREAMS}; `exactly_once_v2`", EXACTLY_ONCE),
    Peer("flink", "flink", "Flink, keyBy", "flink", "fleet.FlinkJob", 1.0, f"{_FLINK}; parallelism 2"),
    Peer("flink-eos", "flink", "Flink, keyBy", "flink", "fleet.FlinkJob", 1.0,
         f"{_FLINK}; parallelism 2; aligned checkpoints, transactional sinks", EXACTLY_ONCE),
    Peer("flink-chained", "flink", "Flink, no shuffle", "flink", "fleet.FlinkJob", 1.0,
         f"{_FLINK}; parallelism 1, `reinterpretAsKeyedStream`", extra=("chained=true",)),
    Peer("bytewax", "bytewax", "Bytewax", "bytewax", "bytewax_job.py", 0.5,
         "`stateful_flat_map`; one worker; recovery store with epochs of 5 s (it commits no offsets to the group)",
         commits=False),
    Peer("quix", "quix", "Quix Streams", "quix", "quix_job.py", 0.2,
         "one stateful function, state as bytes in RocksDB with changelog; commits each 5 s"),
    Peer("faust-take", "faust", "Faust, `take(1000)`, no Table", "faust", "faust_job.py", 0.05,
         "uvloop; state in a dict that is lost at the end; commits each 5 s", extra=("kind=take",)),
    Peer("faust-table", "faust", "Faust, an event at a time, Table", "faust", "faust_job.py", 0.025,
         "uvloop; state as bytes in an in-memory Table with changelog; commits each 5 s", extra=("kind=table",)),
    Peer("java-loop", "loops", "Java, a consumer's loop (kafka-clients)", "streams", "fleet.LoopJob", 1.0,
         "state in a HashMap that is lost at the end; commits each 5 s", floor=True),
    Peer("python-loop", "loops", "Python, a consumer's loop (confluent-kafka)", "bytewax", "loop_job.py", 1.0,
         "state in a dict that is lost at the end; commits each 5 s", floor=True),
)  # fmt: skip
OURS = "ours"
FAMILIES = (OURS, *dict.fromkeys(peer.family for peer in PEERS))

_PACKAGES = {"bytewax": "bytewax", "quix": "quixstreams", "faust": "faust-streaming"}


def requirements(environment: str) -> Path:
    """Hashed pins of all that an environment holds, made from the `.in` beside it."""
    return PYTHON / f"requirements-{environment}.lock"


def version(peer: Peer) -> str:
    """The pinned version of the framework, or of a floor's client."""
    if peer.java:
        found = dict(_PROPERTY.findall((JAVA / "pom.xml").read_text(encoding="utf-8")))
        return found["flink" if peer.environment == "flink" else "kafka"]
    pins = dict(_PIN.findall(requirements(peer.environment).read_text(encoding="utf-8")))
    return pins["confluent-kafka" if peer.floor else _PACKAGES[peer.environment]]


def choose(wanted: Iterable[str]) -> tuple[bool, tuple[Peer, ...]]:
    """Whether ours is among them, and the peers, by names of families or of single ones.

    Raises
    ------
    ValueError : names something else.
    """
    names = set(wanted)
    known = {*FAMILIES, *(peer.name for peer in PEERS)}
    if unknown := sorted(names - known):
        raise ValueError(f"{', '.join(unknown)}: choose from {', '.join(sorted(known))}")
    return OURS in names, tuple(peer for peer in PEERS if {peer.name, peer.family} & names)
