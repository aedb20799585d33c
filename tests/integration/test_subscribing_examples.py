"""The programs in docs/subscribing.md, run as they stand there: a real broker, alerts as workers write them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alerts_made import ONSET_US, made
from debian_programs import command
from real_worker import environment, wait_for
from secure_kafka import SecureKafka, grant, secure_kafka

from fleetwatch import reference
from fleetwatch.kafka import artifacts
from telemetry import settings as contract
from telemetry.alerts import Alert, AlertState, Severity
from telemetry.clients import committed_offsets, producer
from telemetry.settings import Settings
from telemetry.topics import ensure, topics

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

PAGE = (reference.DOCS / "subscribing.md").read_text(encoding="utf-8")
EXAMPLES: dict[str, str] = dict(re.findall(r"^<!-- executed: (\S+) -->\n```\w+\n(.*?)^```$", PAGE, re.M | re.S))
#: Of a JVM on a busy machine, or a group's first member
PATIENCE_S = 90

OPEN, UPDATE, RESOLVED = AlertState.OPEN, AlertState.UPDATE, AlertState.RESOLVED
STORY = [
    made("gpu-1", OPEN, Severity.MAJOR),
    made("veh-2", OPEN, Severity.MINOR, catalog="vehicle.ev/1"),
    made("gpu-1", UPDATE, Severity.CRITICAL, span_s=63),
]
#: What a worker wrote and took back, in the midst of a partition whose end is read, too.
TAKEN_BACK = [
    made("gpu-1", UPDATE, Severity.INFO, span_s=70),
    made("gpu-1", OPEN, Severity.CRITICAL, onset_us=ONSET_US + 1_000_000),
]
END = made("gpu-1", RESOLVED, Severity.CRITICAL, span_s=90)
TOLD = [*STORY, END]


def tell(settings: Settings) -> None:
    """A committed transaction, an aborted one, a committed one: the topic holds `TOLD` to who reads committed."""
    client = producer(settings, transactional_id=f"{settings.topics.prefix}-worker")
    client.init_transactions(30)
    for alerts, committed in ((STORY, True), (TAKEN_BACK, False), ([END], True)):
        client.begin_transaction()
        for alert in alerts:
            key, value, headers = alert.to_message()
            client.produce(topics(settings).alerts.name, key=key, value=value, headers=headers)
        assert client.flush(20) == 0
        client.commit_transaction(20) if committed else client.abort_transaction(20)


@pytest.fixture
def story(kafka_bootstrap: str, topic_prefix: str) -> Settings:
    """The story is told in a topic of this test's own."""
    settings = contract.load(
        environ={},
        kafka={"bootstrap": kafka_bootstrap},
        topics={"prefix": topic_prefix, "partitions": 3},
        processing={"group": topic_prefix},
    )
    ensure(settings, (topics(settings).alerts,))
    tell(settings)
    return settings


def variables(settings: Settings) -> dict[str, str]:
    """What the page tells to export; nothing else of ours."""
    name = topics(settings).alerts.name
    return {"KAFKA": settings.kafka.bootstrap, "TOPIC": name, "GROUP": f"{settings.topics.prefix}-subscriber-pager"}


@contextmanager
def running(settings: Settings, folder: Path, *argv: str, **more: str) -> Iterator[Callable[[], list[str]]]:
    """The program, which does not end by itself; a function that gives its lines so far."""
    out, log = folder / "out", folder / "log"
    with out.open("w") as stdout, log.open("w") as stderr:
        own = environment(**variables(settings), **more)
        process = subprocess.Popen(argv, stdout=stdout, stderr=stderr, cwd=folder, env=own, start_new_session=True)

    def lines() -> list[str]:
        code = process.poll()
        assert code is None, f"ended with {code}: {log.read_text()[-2000:]}"
        return [
            line.rstrip("\n") for line in out.read_text(encoding="utf-8").splitlines(keepends=True) if "\n" in line
        ]

    try:
        yield lines
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # a shell and what it started
        process.wait(10)


def whole(lines: Callable[[], list[str]], count: int) -> list[str]:
    """Its lines, `count` of them or, if it writes more within a second, more."""
    wait_for(lambda: len(lines()) >= count, PATIENCE_S, f"{count} lines")
    time.sleep(1.0)
    return lines()


def of_one_device(alerts: list[Alert], device: str) -> list[Alert]:
    return [alert for alert in alerts if alert.device_id == device]


def test_the_page_has_these_programs_and_each_reads_what_is_committed() -> None:
    assert set(EXAMPLES) == {
        "python",
        "python-commit",
        "kcat",
        "kcat-group",
        "java",
        "java-run",
        "librdkafka-tls",
        "librdkafka-certificate",
        "java-tls",
    }
    for name in ("python", "python-commit", "kcat", "kcat-group", "java"):
        text = EXAMPLES[name]
        assert re.search(r'isolation\.level(=|": "|", ")read_committed', text), name
    assert PAGE.count("```python") + PAGE.count("```java") == 3  # none is without its mark
    assert len([line for line in EXAMPLES["python"].splitlines() if line.strip()]) == 10
    body = EXAMPLES["java"].partition("main(String[] args) {\n")[2].partition("\n    }\n")[0]
    assert len(body.splitlines()) <= 11


def test_python(story: Settings, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(EXAMPLES["python"], encoding="utf-8")
    with running(story, tmp_path, sys.executable, "example.py") as lines:
        check_python(whole(lines, len(TOLD)))


def check_python(got: list[str]) -> None:
    expected = [f"{a.severity.value} {a.state.value} {a.device_id} {a.sentence}" for a in TOLD]
    assert sorted(got) == sorted(expected)
    assert [line for line in got if "gpu-1" in line] == [line for line in expected if "gpu-1" in line]


def test_python_that_commits(story: Settings, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(EXAMPLES["python-commit"], encoding="utf-8")
    name, group = topics(story).alerts.name, variables(story)["GROUP"]

    def committed() -> int:
        found = committed_offsets(story, group, [(name, p) for p in range(story.topics.partitions)])
        return sum(offset or 0 for offset in found.values())

    with running(story, tmp_path, sys.executable, "example.py") as lines:
        got = whole(lines, 1)
        # in each partition behind its last alert, what was taken back included
        wait_for(lambda: committed() >= len(TOLD) + len(TAKEN_BACK), PATIENCE_S, "the commit")
    assert got == [f"{STORY[0].event_id} major {STORY[0].sentence}"]


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """PATH with kcat on it: installed, or fetched from Debian's packages."""
    start = command("kcat", libraries=("librdkafka1", "libyajl2"))
    own = tmp_path / "bin"
    own.mkdir()
    quoted = " ".join(f"'{part}'" for part in start)
    (own / "kcat").write_text(f'#!/bin/sh\nexec {quoted} "$@"\n')
    (own / "kcat").chmod(0o755)
    return {"PATH": f"{own}{os.pathsep}{os.environ['PATH']}"}


def run_kcat(settings: Settings, folder: Path, **more: str) -> str:
    """What it writes until it ends by itself."""
    done = subprocess.run(
        ["sh", "-c", EXAMPLES["kcat"]],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        cwd=folder,
        env=environment(**{**variables(settings), **more}),
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_kcat_shows_all_and_ends(story: Settings, tmp_path: Path, shell: dict[str, str]) -> None:
    check_kcat(run_kcat(story, tmp_path, **shell))


def check_kcat(stdout: str) -> None:
    got = [line.partition(" ") for line in stdout.splitlines()]
    assert sorted(key for key, _, _ in got) == sorted(a.device_id for a in TOLD)
    data = [json.loads(value) for _, _, value in got]
    assert [d for d in data if d["device"] == "gpu-1"] == [a.to_data() for a in of_one_device(TOLD, "gpu-1")]
    assert [d for d in data if d["device"] == "veh-2"] == [a.to_data() for a in of_one_device(TOLD, "veh-2")]


def test_kcat_in_a_group(story: Settings, tmp_path: Path, shell: dict[str, str]) -> None:
    with running(story, tmp_path, "sh", "-c", EXAMPLES["kcat-group"], **shell) as lines:
        got = [line.split("\t") for line in whole(lines, len(TOLD))]
    alerts = []
    for headers, key, value in got:
        pairs = [tuple(pair.split("=", 1)) for pair in headers.split(",")]
        alerts.append(Alert.from_message(value.encode(), [(name, text.encode()) for name, text in pairs]))
        assert alerts[-1].device_id == key
    assert sorted(alerts, key=lambda a: a.event_id) == sorted(TOLD, key=lambda a: a.event_id)
    assert of_one_device(alerts, "gpu-1") == of_one_device(TOLD, "gpu-1")


def need_java() -> None:
    """One that compiles: the JVM that runs the embedded Kafka has no compiler."""
    found, modules = shutil.which("java"), ""
    if found:
        modules = subprocess.run([found, "--list-modules"], capture_output=True, text=True, check=False).stdout
    if "jdk.compiler" not in modules:
        pytest.skip("no `java` with a compiler on PATH: install a JDK (11 or newer) to run the Java example")


def check_java(settings: Settings, folder: Path, text: str) -> None:
    need_java()
    (folder / "AlertSubscriber.java").write_text(text, encoding="utf-8")
    for jar in artifacts.class_path():
        (folder / jar.name).symlink_to(jar)
    with running(settings, folder, "sh", "-c", EXAMPLES["java-run"], LC_ALL="C.UTF-8") as lines:
        got = [line.split(" ", 2) for line in whole(lines, len(TOLD))]
    assert sorted(got) == sorted([a.state.ce_type, a.device_id, a.to_message()[1].decode()] for a in TOLD)
    assert [kind for kind, device, _ in got if device == "gpu-1"] == [
        a.state.ce_type for a in of_one_device(TOLD, "gpu-1")
    ]


def test_java(story: Settings, tmp_path: Path) -> None:
    check_java(story, tmp_path, EXAMPLES["java"])


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    with secure_kafka(tmp_path_factory.mktemp("secure")) as made:
        yield made


@pytest.fixture
def closed(secure: SecureKafka, topic_prefix: str, tmp_path: Path) -> Settings:
    """The story on a broker where only roles may do anything; a subscriber's settings, `ca.pem` beside it."""
    admin = secure.settings("admin", topic_prefix)
    ensure(admin, (topics(admin).alerts,))
    grant(admin, {"worker": ["User:worker"], "subscriber": ["User:subscriber"]})
    tell(secure.settings("worker", topic_prefix))
    (tmp_path / "ca.pem").write_bytes(Path(secure.authority.path).read_bytes())
    return secure.settings("subscriber", topic_prefix)


def options(name: str, settings: Settings) -> dict[str, str]:
    """What the page tells to set, with this user's name and password in the place of the page's."""
    text = EXAMPLES[name].replace("the password", settings.kafka.password() or "").replace("pager", "subscriber")
    return dict(line.split("=", 1) for line in text.splitlines())


def with_options(text: str, added: dict[str, str], colon: str) -> str:
    """The program with more entries in its mapping."""
    last = '"auto.offset.reset"' + colon + '"earliest"'
    assert text.count(last) == 1
    return text.replace(last, ", ".join([last, *(json.dumps(k) + colon + json.dumps(v) for k, v in added.items())]))


def test_python_with_tls_and_a_password(closed: Settings, tmp_path: Path) -> None:
    text = with_options(EXAMPLES["python"], options("librdkafka-tls", closed), ": ")
    (tmp_path / "example.py").write_text(text, encoding="utf-8")
    with running(closed, tmp_path, sys.executable, "example.py") as lines:
        check_python(whole(lines, len(TOLD)))


def test_kcat_with_a_certificate(
    secure: SecureKafka, closed: Settings, tmp_path: Path, shell: dict[str, str]
) -> None:
    """Debian 12's has a librdkafka whose SCRAM Kafka 4 refuses; the page says so."""
    pair = secure.certificates["subscriber"]
    for name, there in (("pager.pem", pair.certificate), ("pager.key", pair.key)):
        (tmp_path / name).symlink_to(there)
    (tmp_path / "kafka.properties").write_text(EXAMPLES["librdkafka-certificate"])
    where = {"KAFKA": f"127.0.0.1:{secure.certificate_port}", "KCAT_CONFIG": "kafka.properties"}
    check_kcat(run_kcat(closed, tmp_path, **shell, **where))


def test_java_with_tls_and_a_password(closed: Settings, tmp_path: Path) -> None:
    check_java(closed, tmp_path, with_options(EXAMPLES["java"], options("java-tls", closed), ", "))
