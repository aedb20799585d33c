"""Drift from the core to the metric and the log: which classes are watched, how much is said, what is published."""

import logging

import numpy as np
import pytest
from batches import part
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from streams.core.drifting import DriftSpec, DriftStage
from streams.core.effects import Drift, Effects
from streams.drift_log import BURST, EVERY_S, DriftLog
from streams.metrics import WorkerMetrics
from streams.wiring import engine_spec, make_core
from telemetry import codec, settings

T0 = 1_790_000_000_000_000
SECOND_US = 1_000_000
HOP_US = 10 * SECOND_US
DRIFT = Drift("veh-1", "vehicle.ev/1", "robust", T0, 1.5, 3.25)


def test_a_drift_in_plain_words():
    assert DRIFT.sentence == (
        "veh-1 (vehicle.ev/1): the surprise of robust rose from 1.50 to 3.25 on average, "
        "seen at 2026-09-21T14:13:20+00:00"
    )
    fallen = Drift("veh-1", "vehicle.ev/1", "robust", T0, 3.25, 1.5)
    assert "fell from 3.25 to 1.50" in fallen.sentence


def test_many_drifts_are_few_lines_and_what_is_left_out_is_counted(caplog):
    now = [0.0]
    told = DriftLog(lambda: now[0])
    with caplog.at_level(logging.INFO, "fleetwatch.drift"):
        told.tell([])
        told.tell([DRIFT] * 1000)
        assert len(caplog.records) == BURST
        told.tell([DRIFT])
        assert len(caplog.records) == BURST
        now[0] += EVERY_S
        told.tell([DRIFT] * 2)
        assert len(caplog.records) == BURST + 1
        assert caplog.messages[-1].endswith(f"({1000 - BURST + 1} drifts before it were not told)")
        now[0] += 1000 * EVERY_S
        told.tell([DRIFT] * 3)
    assert len(caplog.records) == BURST + 4
    assert caplog.messages[-3].endswith("(1 drifts before it were not told)")
    assert caplog.messages[-1] == f"drift: {DRIFT.sentence}"


SPEC = DriftSpec(0.002, 100, 3600 * SECOND_US)


def stage(spec=SPEC, names=("rules", "robust")):
    return DriftStage(spec, "vehicle.ev/1", names, HOP_US)


def closed(rows, slot=0, first=0, means=(1.7, 1.7)):
    rng = np.random.default_rng(first)
    head = np.zeros((rows, 3), np.int64)
    head[:, 0], head[:, 1] = slot, first + np.arange(rows)
    return head, (np.array(means) - 0.43 + rng.exponential(0.43, (rows, 2))).astype(np.float32)


def test_a_stage_names_device_detector_and_the_windows_end():
    one = stage()
    assert one.see(*closed(400, slot=7), [b"d-7"] * 400) == []
    told = one.see(*closed(300, slot=7, first=400, means=(1.7, 4.0)), [b"d-7"] * 300)
    assert [(d.device_id, d.catalog, d.detector) for d in told] == [("d-7", "vehicle.ev/1", "robust")]
    assert told[0].ts_us % HOP_US == 0 and 400 * HOP_US < told[0].ts_us <= 701 * HOP_US
    assert one.counts == {"robust": 1}


def test_a_forgotten_device_begins_anew():
    one = stage()
    one.see(*closed(400, slot=7), [b"d-7"] * 400)
    one.forget(np.array([7], np.int32))
    assert one.see(*closed(300, slot=7, first=400, means=(1.7, 4.0)), [b"d-7"] * 300) == []


@pytest.mark.parametrize("off", [stage(None), stage(names=())])
def test_nothing_is_watched_where_it_is_off_or_scores_are(off):
    assert off.see(*closed(400), [b"d"] * 400) == []
    off.forget(np.array([0], np.int32))
    assert off.counts == {}


def test_settings_say_whether_and_how():
    spec = engine_spec(settings.load(environ={}, drift={"delta": 0.01, "devices_max": 7, "idle_s": 60}))
    assert spec.drift == DriftSpec(0.01, 7, 60 * SECOND_US)
    assert engine_spec(settings.load(environ={}, drift={"enabled": False})).drift is None


CLASS = """
name: boat
version: 1
kind: vehicle
period_ms: 1000
signals: [{name: Boat.Heat}, {name: Boat.Roll}]
"""


def boats(tmp_path, **more):
    (tmp_path / "boat.yaml").write_text(CLASS, encoding="utf-8")
    detectors = [{"name": "ewma"}, {"name": "rules", "alerts": "never"}]
    return make_core(
        settings.load(
            environ={},
            catalog={"paths": [str(tmp_path)]},
            detectors=detectors,
            alerts={"open_surprise": 8.0},
            **more,
        )
    )


def sail(core, effects, frames=900):
    """A boat whose signals become heavy-tailed after half the time."""
    rng = np.random.default_rng(5)
    records = []
    for seq in range(frames):
        x = rng.normal(0.0, 1.0, (10, 2)) if seq < frames // 2 else rng.standard_t(1.5, (10, 2))
        frame = codec.Frame("b-1", "boat/1", seq, T0 + seq * HOP_US, SECOND_US, (20 + x).astype(np.float32))
        records.append((b"b-1", codec.encode_frame(frame)))
    core.process(core.topics[0], 0, [part(records)], 0, T0 + frames * HOP_US, effects)


def test_the_worker_counts_drifts_by_detector_and_publishes_none(tmp_path):
    core, effects = boats(tmp_path), Effects()
    sail(core, effects)
    assert {(d.device_id, d.detector) for d in effects.drifts} == {("b-1", "ewma")}
    assert effects.drifts[0].after > effects.drifts[0].before
    published = len(effects.features) + len(effects.scores) + len(effects.alerts) + len(effects.dead)
    assert effects.records == published + len(effects.late)

    class Shell:
        def __getattr__(self, name):
            return {} if name in {"applied", "newest_ts_ms"} else Figures()

        def lag(self, ends):
            return {}

    class Figures(int):
        def __getattr__(self, name):
            return Figures()

    shell = Shell()
    shell.core = core
    registry = CollectorRegistry()
    WorkerMetrics(registry).watch(shell, None)
    lines = generate_latest(registry).decode().splitlines()
    assert f'fleetwatch_drift_total{{detector="ewma"}} {float(len(effects.drifts))}' in lines
    assert 'fleetwatch_drift_total{detector="rules"} 0.0' in lines


def test_without_scores_nothing_is_watched(tmp_path):
    core, effects = boats(tmp_path, outputs={"scores": False}), Effects()
    sail(core, effects)
    assert effects.drifts == []
