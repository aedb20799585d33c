"""The peers' benchmark: its arithmetic against the reference, its verification, its pins and its page."""

import json
import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location

import numpy as np
import pytest

from benchmarks import reference
from benchmarks.job import FRAMES, ROUND_US, SINGLE, T0_US, device_ids, rounds
from benchmarks.peers import install, measure, programs, report, verify
from benchmarks.peers.install import CannotInstallError
from producers.loadgen import RoundEncoder

DEVICES, ROUNDS = 40, 50
WANT = reference.expected(FRAMES, DEVICES, DEVICES * ROUNDS)


class Record:
    def __init__(self, key, value):
        self._key, self._value = key, value

    def key(self):
        return self._key

    def value(self):
        return self._value


def encoded(variant, values, r):
    """A round of frames, as the job writes them."""
    encoder = RoundEncoder(device_ids(DEVICES), variant.catalog, variant.steps, variant.period_us)
    return [row.tobytes() for row in encoder.encode(r, T0_US + r * ROUND_US, values.reshape(DEVICES, -1))]


@pytest.fixture(scope="module")
def fleetjob():
    spec = spec_from_file_location("fleetjob", programs.PYTHON / "fleetjob.py")
    module = sys.modules["fleetjob"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["fleetjob"]


def outputs(fleetjob, variant, rate=0.05):
    """What a Python peer would publish for 50 rounds with many spikes: features, alerts."""
    job = fleetjob.Job(variant.signals)
    names = device_ids(DEVICES)
    states = [fleetjob.fresh(variant.signals) for _ in names]
    found = [], []
    for r, values in enumerate(rounds(variant, DEVICES, ROUNDS, rate)):
        for name, state, frame in zip(names, states, encoded(variant, values, r), strict=True):
            for records, value in zip(found, job.take(state, frame, name), strict=True):
                if value is not None:
                    records.append(Record(name.encode(), value))
    return found


@pytest.mark.parametrize("variant", [FRAMES, SINGLE])
def test_the_python_peers_arithmetic_is_the_references(fleetjob, monkeypatch, variant):
    monkeypatch.setattr(reference, "rounds", lambda *given: rounds(*given, 0.05))
    want = reference.expected(variant, DEVICES, DEVICES * ROUNDS)
    assert len(want.features) == 2
    assert want.alerts
    assert verify.differences(want, DEVICES, *outputs(fleetjob, variant)) == []


def right():
    """Records of both outputs as they must be."""
    names = device_ids(DEVICES)
    features = [
        Record(names[i].encode(), start.to_bytes(8, "little") + figures[i].tobytes())
        for start, figures in WANT.features.items()
        for i in range(DEVICES)
    ]
    alerts = [
        Record(device.encode(), alert(device, ts, int(signal[1:]), z))
        for (device, ts, signal), (z, _) in WANT.alerts.items()
    ]
    return features, alerts


def alert(device, ts, signal, z):
    return json.dumps({"device": device, "ts": ts, "signal": signal, "z": z}).encode()


def changed(record, at, by):
    """The record with figure `at` off by so many units in the last place."""
    start, figures = verify.features(record.value())
    flat = figures.copy().ravel()
    flat[at] += by * np.spacing(flat[at])
    return Record(record.key(), start.to_bytes(8, "little") + flat.tobytes())


def test_what_must_be_is_verified():
    features, alerts = right()
    assert verify.counts(WANT) == {"features": len(features), "alerts": len(alerts)}
    assert verify.differences(WANT, DEVICES, features, alerts) == []


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda f: f[1:], "not exactly once"),
        (lambda f: [*f, f[0]], "not exactly once"),
        (lambda f: [changed(f[0], 0, 1), *f[1:]], "count is wrong 1 times"),
        (lambda f: [changed(f[0], 10, 4), *f[1:]], "mean is wrong 1 times"),
        (lambda f: [changed(f[0], 59, 1), *f[1:]], "last is wrong 1 times"),
        (lambda f: [*f, Record(b"nobody", f[0].value())], "none of the job's"),
        (lambda f: [*f, Record(f[0].key(), b"\0" * 8 + f[0].value()[8:])], "none of the job's"),
        (lambda f: [*f, Record(f[0].key(), f[0].value()[:-1])], "none of the job's"),
    ],
)
def test_wrong_windows_are_told(spoil, told):
    features, alerts = right()
    assert told in "; ".join(verify.differences(WANT, DEVICES, spoil(features), alerts))


def test_a_mean_may_be_off_by_two_units_in_the_last_place():
    features, alerts = right()
    assert verify.differences(WANT, DEVICES, [changed(features[0], 10, 1), *features[1:]], alerts) == []


def test_wrong_alerts_are_told(monkeypatch):
    monkeypatch.setattr(reference, "rounds", lambda *given: rounds(*given, 0.05))
    want = reference.expected(FRAMES, DEVICES, DEVICES * ROUNDS)
    (device, ts, signal), (z, _) = min(want.alerts.items())
    key, s = device.encode(), int(signal[1:])
    others = [
        Record(d.encode(), alert(d, t, int(n[1:]), v[0]))
        for (d, t, n), v in want.alerts.items()
        if (d, t) != (device, ts)
    ]

    def told(*records):
        return "; ".join(p for p in verify.differences(want, DEVICES, [], [*others, *records]) if "alerts" in p)

    assert told(Record(key, alert(device, ts, s, z))) == ""
    assert "1 missing" in told()
    assert "different" in told(*[Record(key, alert(device, ts, s, z))] * 2)
    assert "that should not be" in told(
        Record(key, alert(device, ts, s, z)), Record(key, alert(device, ts + 1, s, z))
    )
    assert "has z" in told(Record(key, alert(device, ts, s, z * 1.001)))
    assert "has z" in told(Record(key, alert(device, ts, s, float("nan"))))
    assert "has the key" in told(Record(b"veh-9", alert(device, ts, s, z)))
    assert "cannot be read" in told(Record(key, alert(device, ts, s, z)), Record(key, b"{"))


def test_every_dependency_is_pinned():
    for peer in programs.PEERS:
        assert re.fullmatch(r"\d+(\.\d+)+", programs.version(peer)), peer.name
        if not peer.java:
            lock = programs.requirements(peer.environment).read_text(encoding="utf-8")
            pinned = re.findall(r"^[a-z0-9-]+==[^\n]+\\\n    --hash=sha256:[0-9a-f]{64}", lock, re.MULTILINE)
            assert len(pinned) == len(re.findall(r"^[^ #\n]", lock, re.MULTILINE)) > 5
            wanted = programs.requirements(peer.environment).with_suffix(".in").read_text(encoding="utf-8").split()
            assert all(re.sub(r"\[.*\]", "", each) + " " in lock for each in wanted)
    poms = "".join(pom.read_text(encoding="utf-8") for pom in programs.JAVA.rglob("pom.xml"))
    assert not re.search(r"SNAPSHOT|LATEST|RELEASE|<version>[\[(]", poms)
    plugins = re.findall(r"<plugin>\s*<artifactId>[^<]+</artifactId>\s*(<version>)?", poms)
    assert plugins
    assert all(plugins)


def test_faust_and_its_client_are_those_that_fleetwatch_runs_on():
    theirs = programs.requirements("faust").read_text(encoding="utf-8")
    ours = (report.ROOT / "requirements" / "runtime.lock").read_text(encoding="utf-8")
    for package in ("faust-streaming", "aiokafka"):
        pin = re.search(rf"^{package}==\S+", theirs, re.MULTILINE)[0]
        assert pin in ours


def test_rows_are_chosen_by_family_or_name():
    assert programs.choose(programs.FAMILIES) == (True, programs.PEERS)
    ours, peers = programs.choose(["streams-eos", "faust"])
    assert (ours, [peer.name for peer in peers]) == (False, ["streams-eos", "faust-take", "faust-table"])
    with pytest.raises(ValueError, match="spark: choose from"):
        programs.choose(["ours", "spark"])


def test_windows_close_whatever_the_number_of_messages():
    assert measure.devices_of(2_000_000, 1.0) == 10_000
    assert measure.devices_of(20_000, 0.05) == measure.DEVICES_MIN
    assert measure.ROUNDS * ROUND_US > reference.WINDOW_US


def test_marks_are_found_among_other_lines(tmp_path):
    code = """if True:
        print('[INFO] x', flush=True)
        print('\\x1b[0m{"done": 5, "cpu_ns": 7, "time_ms": 9}', flush=True)
        print('{"done": 6, "cpu', end='', flush=True)
        import time; time.sleep(60)
    """
    with measure.Program([sys.executable, "-c", code], tmp_path / "run") as program:
        program.wait_until(lambda: '"done": 6' in program.log.read_text(), 30, "its lines")
        assert program.marks() == [{"done": 5, "cpu_ns": 7, "time_ms": 9}]
        assert program.all_cpu_s() > 0


def test_a_program_that_ends_is_told_with_its_last_words(tmp_path):
    with (
        measure.Program([sys.executable, "-c", "raise SystemExit('no luck')"], tmp_path / "run") as program,
        pytest.raises(RuntimeError, match="no luck"),
    ):
        program.wait_until(lambda: False, 30, "nothing")


def test_an_installer_that_fails_is_told_and_one_half_done_is_done_again(tmp_path):
    with pytest.raises(CannotInstallError, match="code 3"):
        install.run([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log", print, "pip")
    made = []

    def make():
        made.append(1)
        if len(made) == 1:
            raise CannotInstallError("no")

    with pytest.raises(CannotInstallError):
        install._once(tmp_path / "env", make)
    for _ in range(2):
        install._once(tmp_path / "env", make)
    assert len(made) == 2


def test_without_maven_it_is_said_what_to_do(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CannotInstallError, match="mvn is not on the PATH: install"):
        install.maven()


def results():
    runs = [{"ns_per_message": ns, "messages_per_s": 1e5, "rss_mb": 300.0} for ns in (2000.0, 2500.0, 2400.0)]
    slow = [run | {"ns_per_message": 10 * run["ns_per_message"]} for run in runs]
    row = {"messages": 2_000_000, "devices": 10_000, "problems": []}
    return {
        "date": "2026-01-01", "repetitions": 3, "samples_per_message": 50, "minutes": 20.0, "variant": "frames",
        "machine": {"processor": "x", "cores": 2, "memory_gb": 8, "system": "y", "load_average_at_start": 0.1},
        "versions": {"fleetwatch": "0", "kafka": "4", "python": "3"},
        "rows": {
            "fleetwatch-exactly_once": row | {"runs": runs},
            "streams": row | {"runs": slow},
            "flink": row | {"runs": runs, "problems": ["features: 3 | wrong"]},
            "quix": row | {"runs": [], "problems": ["not installed: pip"]},
        },
    }  # fmt: skip


def test_the_table_has_medians_and_says_what_failed():
    lines = report.table(results()).splitlines()
    [ours] = [line for line in lines if "Fleetwatch" in line]
    assert "| 2.40 (2.00-2.50) | 48 (40-50) | 1.0 |" in ours
    [streams] = [line for line in lines if line.startswith("| Kafka Streams")]
    assert "| 24.00 (20.00-25.00) | 480 (400-500) | 10.0 |" in streams
    [flink] = [line for line in lines if line.startswith("| Flink")]
    assert "| - | - | - | - | - |" in flink
    assert "no: features: 3 / wrong" in flink
    assert any("not installed: pip" in line for line in lines)
    assert len({line.count("|") for line in lines}) == 1


def test_the_picture_has_what_was_verified_and_is_the_same_each_time(tmp_path):
    for name in ("a.svg", "b.svg"):
        report.draw(results(), tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert "Kafka Streams, at least once" in text
    assert "Flink" not in text


def test_the_section_goes_between_the_marks_of_the_page():
    page = report.PAGE.read_text(encoding="utf-8")
    once = report.placed(page, report.section(results()))
    assert "24.00 (20.00-25.00)" in once
    assert report.placed(once, page[page.index(report.BEGIN) : page.index(report.END) + len(report.END)]) == page
    with pytest.raises(ValueError, match="once each"):
        report.placed("# page", "")


def test_the_command_refuses_what_it_does_not_know():
    command = [sys.executable, "-m", "benchmarks.peers.run", "--only", "spark"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=report.ROOT, timeout=60, check=False)
    assert done.returncode == 2
    assert "spark: choose from" in done.stderr
