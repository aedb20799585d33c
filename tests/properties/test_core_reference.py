"""The core against a naive reference of the common job, and the laws of batching and of state."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from batches import part
from fleet_job import T0, Record, job

from detectors.ewma import EwmaZ
from streams.core.alert_policy import PolicySpec
from streams.core.core import Core
from streams.core.effects import Effects
from streams.core.lineup import EngineSpec, Lineup
from streams.core.windows import WindowSpec
from telemetry import catalog, codec
from telemetry.alerts import AlertState
from telemetry.reasons import Reason

CATALOGS = catalog.load()
TOPIC = "t.vehicle"
WINDOW = 10_000_000
Z = 6.0
BASIC = ("count", "mean", "std", "min", "max", "last")


def make_core(*, frames: bool = True, grace_us: int = 0) -> Core:
    probe = EwmaZ(tuple(f"S{i}" for i in range(10)))
    policy = PolicySpec(
        open_surprise=probe.surprise_at_z(Z),
        close_surprise=2.0,
        open_rows=2,
        confirm_us=30_000_000,
        resolve_us=20_000_000,
        update_us=10_000_000,
        cooldown_us=5_000_000,
        warmup_us=0,
        major_surprise=15,
        critical_surprise=40,
        frames=frames,
    )
    spec = EngineSpec(
        WindowSpec(WINDOW, WINDOW, grace_us, BASIC), policy, scores_min_surprise=None if frames else 0.0
    )
    return Core(CATALOGS, spec, lambda c: Lineup((EwmaZ(c.columns),), (), 1), [TOPIC], ["vehicle"])


def reference(records: list[Record]) -> tuple[dict, list]:
    """JOB.md, one sample at a time, with fastavro and Python floats."""
    state, features, alerts = {}, {}, []
    for _, value in records:
        frame = codec.decode_frame(value, 10)
        best = None
        for step, row in enumerate(frame.values.tolist()):
            t = frame.ts_us + step * frame.period_us
            for s, x in enumerate(row):
                d = state.setdefault((frame.device_id, s), {"n": 0, "mean": 0.0, "var": 0.0, "win": None})
                if d["win"] is None or t // WINDOW > d["win"]:
                    if d["win"] is not None:
                        features[frame.device_id, d["win"], s] = d["acc"]
                    d["win"], d["acc"] = t // WINDOW, []
                d["acc"].append(x)
                e = x - d["mean"]
                if d["n"] == 0:
                    d["mean"] = x
                else:
                    if d["n"] >= 20 and d["var"] > 0:
                        z = e / math.sqrt(d["var"])
                        if abs(z) > Z and (best is None or abs(z) > abs(best[2])):
                            best = (frame.device_id, s, z)
                    inc = 0.02 * e
                    d["mean"] += inc
                    d["var"] = 0.98 * (d["var"] + e * inc)
                d["n"] += 1
        if best:
            alerts.append((frame.ts_us, *best[:2]))
    return features, alerts


def run(core: Core, records: list[Record], cut: list[int], start: int = 0) -> Effects:
    effects, at = Effects(), start
    while at < len(records):
        n = cut[at % len(cut)]
        core.process(TOPIC, 0, [part(records[at : at + n], at)], at, T0, effects)
        at += n
    return effects


def by_window(effects: Effects) -> dict:
    out = {}
    for message in effects.features:
        f = codec.decode("window_features", message["value"])
        assert f["device_id"].encode() == message["key"]
        for s in range(10):
            key = f["device_id"], f["window_start"] // WINDOW, s
            assert key not in out
            out[key] = [f[name][s] for name in BASIC]
    return out


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return job(40, 70)


def test_every_feature_and_alert_of_the_common_job(records):
    features, alerts = reference(records)
    effects = run(make_core(), records, [1000])
    found = by_window(effects)
    assert found.keys() == features.keys() and len(features) > 1000
    for key, xs in features.items():
        count, mean, std, low, high, last = found[key]
        assert (count, low, high, last) == (len(xs), min(xs), max(xs), xs[-1])
        assert mean == pytest.approx(np.mean(xs), rel=1e-6)
        assert std == pytest.approx(np.std(xs), rel=1e-4)
    assert len(alerts) > 20
    got = [(a.ts_us, a.device_id, int(a.signals[0].signal[1:])) for a in effects.alerts]
    frame_of = lambda ts: T0 + (ts - T0) // 500_000 * 500_000
    assert [(frame_of(ts), d, s) for ts, d, s in got] == alerts


@pytest.mark.parametrize("frames", [True, False])
def test_where_a_batch_is_cut_changes_nothing(records, frames):
    whole = run(make_core(frames=frames), records, [len(records)])
    pieces = run(make_core(frames=frames), records, [1, 7, 130, 2, 999])
    assert sorted(m["value"] for m in whole.features) == sorted(m["value"] for m in pieces.features)
    assert [a.event_id for a in whole.alerts] == [a.event_id for a in pieces.alerts]
    assert sorted(m["value"] for m in whole.scores) == sorted(m["value"] for m in pieces.scores)


def test_duplicates_reboots_and_clock_steps():
    core = make_core()
    values = np.ones((1, 10), np.float32)

    def send(seq: int, ts_s: float, offset: int) -> None:
        frame = codec.Frame("veh-1", "bench.frames/1", seq, T0 + int(ts_s * 1e6), 1000, values)
        core.process(TOPIC, 0, [part([(b"veh-1", codec.encode_frame(frame))], offset)], 0, T0, Effects())

    for offset, (seq, ts) in enumerate([(0, 0), (1, 1), (1, 1), (3, 3), (2, 2), (2, 2), (0, 9)]):
        send(seq, ts, offset)
    counters = core.counters()
    assert (counters["frames"], counters["duplicates"], counters["out_of_order"]) == (5, 2, 1)
    assert (counters["reboots"], counters["missing_frames"]) == (1, 1)
    for i in range(20):
        send(1 + i, 5 + i * 0.01, 7 + i)
    assert core.counters()["clock_steps"] == 1


def test_late_rows_are_counted_and_set_out():
    core = make_core(grace_us=1_000_000)
    values = np.ones((1, 10), np.float32)
    effects = Effects()
    sent = []
    for offset, (seq, ts) in enumerate([(0, 1), (1, 9), (2, 10.5), (4, 12), (3, 2)]):
        frame = codec.Frame("veh-1", "bench.frames/1", seq, T0 + int(ts * 1e6), 1000, values)
        sent.append(codec.encode_frame(frame))
        core.process(TOPIC, 0, [part([(b"veh-1", sent[-1])], offset)], 0, T0, effects)
    assert core.counters()["late_rows"] == 1
    assert [(m["key"], m["value"]) for m in effects.late] == [(b"veh-1", sent[-1])]
    assert len(effects.features) == 1


def test_what_is_refused_becomes_a_dead_letter_byte_for_byte():
    core, effects = make_core(), Effects()
    good = codec.encode_frame(codec.Frame("veh-1", "bench.frames/1", 0, T0, 1000, np.ones((1, 10), np.float32)))
    sent = [
        (b"veh-1", good),
        (b"veh-2", good),
        (b"veh-1", b"junk"),
        (None, good),
        (b"veh-1", None),
        (b"k", good[:40]),
    ]
    core.process(TOPIC, 3, [part(sent, 100)], 0, T0, effects)
    reasons = [
        Reason.KEY_MISMATCH,
        Reason.BAD_HEADER,
        Reason.KEY_MISMATCH,
        Reason.NULL_VALUE,
        Reason.AVRO_TRUNCATED,
    ]
    assert [d.reason for d in effects.dead] == reasons
    assert [(d.key, d.value) for d in effects.dead] == sent[1:]
    assert [(d.partition, d.offset) for d in effects.dead] == [(3, o) for o in range(101, 106)]
    assert core.counters()["frames"] == 1


def test_a_released_partition_is_forgotten_and_its_slots_are_used_again(records):
    core = make_core()
    run(core, records[:80], [80])
    assert core.release({core.owner(TOPIC, 1)}) == 0
    assert core.release({core.owner(TOPIC, 0)}) == 40
    assert sum(core.devices_held().values()) == 0
    run(core, records, [500])
    assert sum(core.devices_held().values()) == 40
    assert core.engines["bench.frames/1"].devices.high == 40


def test_an_episode_opens_updates_and_resolves():
    core, effects = make_core(frames=False), Effects()
    rng = np.random.default_rng(3)
    by_state = defaultdict(int)
    for r in range(600):
        x = rng.normal(50, 1, (5, 10)).astype(np.float32)
        if 200 <= r < 204:
            x[:, 4] += 40
        frame = codec.Frame("veh-1", "bench.frames/1", r, T0 + r * 500_000, 100_000, x)
        core.process(TOPIC, 0, [part([(b"veh-1", codec.encode_frame(frame))], r)], 0, T0, effects)
    for alert in effects.alerts:
        by_state[alert.state.value] += 1
        assert alert.signals[0].signal == "S4" and alert.signals[0].observed > 80
        assert alert.signals[0].expected < 80
    assert by_state["open"] == by_state["resolved"] == 1
    assert len({a.id for a in effects.alerts}) == 1
    assert effects.alerts[0].offset_first == 200 and effects.alerts[0].onset_us == T0 + 200 * 500_000


@pytest.mark.parametrize("step", [1, 37, 500])
def test_what_is_said_to_be_open_is_what_was_told(records, step):
    core, told, seen, mine = make_core(frames=False), {}, set(), {0}
    for at in range(0, len(records), step):
        for alert in run(core, records[: at + step], [step], at).alerts:
            if alert.state is AlertState.RESOLVED:
                del told[alert.id]
            else:
                told[alert.id] = (str(alert.severity), alert.kind)
        assert core.alerts_open(mine) == Counter(told.values())
        seen.add(len(told))
    assert len(seen) > 3
    assert core.alerts_open({1}) == Counter(), "another partition's devices"


def test_devices_report_by_their_newest_row(records):
    core = make_core()
    run(core, records, [1000])
    newest: dict[str, int] = {}
    for _, value in records:
        frame = codec.decode_frame(value, 10)
        last = frame.ts_us + (len(frame.values) - 1) * frame.period_us
        newest[frame.device_id] = max(last, newest.get(frame.device_id, 0))
    key = next(iter(core.engines))
    assert core.frames_by_class() == {key: len(records)}
    for since_us in (0, *sorted(newest.values())[::7], max(newest.values()) + 1):
        wanted = sum(at >= since_us for at in newest.values())
        assert core.devices_reporting({0}, since_us) == {key: wanted}
    assert core.devices_reporting({1}, 0) == {key: 0}
