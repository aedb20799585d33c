"""The row scorer: what frames are told, rows are; cuts change nothing; each row's note and alert."""

import numpy as np
import pytest
from batches import part
from detector_models import correlated

from detectors.ensemble import Ensemble, Member, Opinions, strangest
from detectors.ewma import EwmaZ
from detectors.protocol import Block, Scores
from fleetwatch.score import NAMED_FROM, scorer, with_budget
from streams.core.core import Core
from streams.core.effects import Effects
from streams.core.lineup import EngineSpec, Lineup
from streams.core.rows import CLOCK_STEP, LATE, MISSING, PLAIN, WARMING, RowScorer, RowScores
from streams.core.windows import WindowSpec
from streams.wiring import detector_factory
from telemetry import settings as settings_module
from telemetry.catalog import Catalog, CatalogSet, Signal
from telemetry.codec import FrameEncoder
from telemetry.errors import SettingsError

SECOND = 1_000_000
T0 = 1_760_000_000 * SECOND
ENTRY = Catalog(
    name="rig",
    version=1,
    kind="device",
    period_ms=1000,
    signals=(
        Signal(name="Speed", min=-500, max=500),
        Signal(name="Bumps", nature="counter"),
        Signal(name="Heading", nature="position"),
        Signal(name="Heat"),
    ),
)
SECTIONS = {
    "detectors": [{"name": "rules"}, {"name": "ewma"}, {"name": "robust", "alerts": "never"}],
    "alerts": {"budget": 1000, "warmup_s": 60, "resolve_s": 15, "cooldown_s": 5, "update_s": 3},
}


def wanted(**sections):
    return settings_module.load(environ={}, **{**SECTIONS, **sections})


def data(n=1500, seed=4):
    """(int64 (n,), float32 (n, 4)): faults from row 400 on, a time that repeats, a clock that is set back."""
    rng = np.random.default_rng(seed)
    values = correlated(rng, 1500, 4)
    values[:, 1] = np.cumsum(rng.poisson(3, 1500))
    values[400:440, 3] += 25
    values[700:730, 0] = 600
    values[900:930] = np.nan
    ts_us = T0 + np.arange(1500, dtype=np.int64) * SECOND
    ts_us[300] = ts_us[299]
    ts_us[1200:] -= 3600 * SECOND
    return ts_us[:n], np.ascontiguousarray(values[:n])


def same(a: RowScores, b: RowScores) -> None:
    for name in RowScores.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def in_pieces(made, ts_us, values, cuts):
    parts = [made.score(ts_us[a:b], values[a:b]) for a, b in zip([0, *cuts], [*cuts, len(ts_us)], strict=True)]
    return RowScores(*(np.concatenate([getattr(p, f) for p in parts]) for f in RowScores.__dataclass_fields__))


def test_rows_are_told_what_their_frames_are_told():
    ts_us, values = data()
    settings = wanted()
    found = scorer(settings, ENTRY).score(ts_us, values)

    lineup = detector_factory(settings)(ENTRY)
    spec = EngineSpec(WindowSpec(10 * SECOND, 10 * SECOND, 0, ("count",)), lineup.policy)
    core = Core(CatalogSet([ENTRY]), spec, lambda entry: lineup, ["t"], ["device"])
    heard = []

    def listen(rows):
        q = rows.opinions.surprise[: lineup.alerting]
        heard.append((np.fmax.reduce(q, axis=0), rows.order.copy()))

    core.engine(ENTRY.key).listener = listen
    encoder = FrameEncoder("rig-7", ENTRY.key, SECOND)
    records = [(b"rig-7", encoder.encode(i, t, values[i : i + 1])) for i, t in enumerate(ts_us.tolist())]
    effects = Effects()
    for first in range(0, len(records), 331):
        core.process("t", 0, [part(records[first : first + 331], first)], first, T0, effects)
    best = np.concatenate([b for b, _ in heard])
    order = np.concatenate([o for _, o in heard])
    np.testing.assert_array_equal(found.score, np.nan_to_num(best))
    np.testing.assert_array_equal(found.note == LATE, order == 0)
    assert effects.dead == []
    flags = np.concatenate([[0], found.alert])
    turns = [(int(ts_us[i]), int(flags[i + 1])) for i in np.flatnonzero(np.diff(flags))]
    told = [(a.ts_us, int(a.state == "open")) for a in effects.alerts if a.state != "update"]
    assert turns == told
    assert len(turns) >= 2 and len(effects.alerts) > len(told)
    opened = next(a for a in effects.alerts if a.state == "open")
    first, last = (int(np.flatnonzero(ts_us == t)[0]) for t in (opened.onset_us, opened.ts_us))
    row = first + int(np.argmax(found.score[first : last + 1]))
    assert ENTRY.columns[found.column[row, 0]] == opened.signals[0].signal
    assert found.expected[row, 0] == pytest.approx(opened.signals[0].expected)
    assert lineup.sample[found.detector[row]].spec.name == opened.detector


def test_where_calls_are_cut_changes_nothing():
    ts_us, values = data()
    whole = scorer(wanted(), ENTRY).score(ts_us, values)
    for cuts in ([1], [700, 701, 715], list(range(7, 1500, 7))):
        same(in_pieces(scorer(wanted(), ENTRY), ts_us, values, cuts), whole)


def test_blocks_inside_a_call_change_nothing():
    rng = np.random.default_rng(2)
    entry = Catalog(name="one", version=1, kind="device", period_ms=1000, signals=(Signal(name="X"),))
    n = 10_000  # more than two blocks
    ts_us, values = T0 + np.arange(n) * SECOND, rng.normal(0, 1, (n, 1)).astype(np.float32)
    whole = scorer(wanted(), entry).score(ts_us, values)
    same(in_pieces(scorer(wanted(), entry), ts_us, values, [5000]), whole)


def test_scores_are_the_ensembles():
    ts_us, values = data(800)
    entry = Catalog(
        name="two", version=1, kind="device", period_ms=1000, signals=(Signal(name="A"), Signal(name="B"))
    )
    settings = wanted(detectors=[{"name": "ewma"}, {"name": "robust"}])
    ts_us[300] += SECOND // 2
    chosen = np.ascontiguousarray(values[:, [0, 3]])
    found = scorer(settings, entry).score(ts_us, chosen)
    lineup = detector_factory(settings, explain_from=NAMED_FROM)(entry)
    ensemble = Ensemble([Member(d, c) for d, c in zip(lineup.sample, lineup.calibrations, strict=True)])
    ensemble.reserve(1)
    said, out = Opinions.empty(2, 800), Scores.empty(800)
    ensemble.ask(Block(np.zeros(800, np.int32), ts_us, chosen), said)
    best = strangest(said, out)
    np.testing.assert_array_equal(found.score, np.nan_to_num(out.surprise))
    np.testing.assert_array_equal(found.column, out.column)
    np.testing.assert_array_equal(found.expected, out.expected)
    np.testing.assert_array_equal(found.share, out.share)
    heard = ~np.isnan(out.surprise)
    np.testing.assert_array_equal(found.detector[heard], best[heard])


def test_each_row_says_why_it_has_no_opinion():
    ts_us, values = data()
    found = scorer(wanted(), ENTRY).score(ts_us, values)
    assert found.note[0] == WARMING
    assert found.note[299] == PLAIN
    assert found.note[300] == LATE
    assert set(found.note[900:930]) == {MISSING}
    late = found.note[1200:1215]
    assert set(late) == {LATE}
    assert found.note[1215] == CLOCK_STEP
    assert set(found.note[1216:]) == {PLAIN}
    unopinionated = np.isin(found.note, (LATE, MISSING))
    assert not found.score[unopinionated & (np.arange(len(ts_us)) < 900)].any()
    assert np.isfinite(found.score).all()


def test_an_opinion_of_some_is_given_while_others_warm():
    ts_us, values = data(120)
    values[50, 0] = 600  # out of its declared range; ewma still warms
    settings = wanted(detectors=[{"name": "rules"}, {"name": "robust"}])
    found = scorer(settings, ENTRY).score(ts_us, values)
    assert (found.note[50], found.score[50] > 0) == (WARMING, True)


def test_a_row_with_part_of_its_values_is_judged_by_those():
    ts_us, values = data(400)
    values[350, :3] = np.nan
    values[351] = np.inf
    values[352] = 1e30
    found = scorer(wanted(), ENTRY).score(ts_us, values)
    assert found.note[350:354].tolist() == [PLAIN, MISSING, MISSING, PLAIN]


def test_values_that_nobody_can_judge_are_missing_once_the_device_is_known():
    ts_us, values = data(300)
    values[:200, [0, 1]] = np.nan
    values[250, 3] = np.nan
    values[200:250, [0, 1]] = np.nan
    settings = wanted(detectors=[{"name": "ewma"}])
    found = scorer(settings, ENTRY).score(ts_us, values)
    assert (found.note[0], found.note[249], found.note[250]) == (WARMING, PLAIN, MISSING)
    assert found.score[250] == 0


def test_positions_do_not_count_as_values():
    ts_us, values = data(400)
    values[350, [0, 1, 3]] = np.nan
    assert scorer(wanted(), ENTRY).score(ts_us, values).note[350] == MISSING


def test_an_alert_of_frames_is_its_row():
    ts_us, values = data()
    settings = wanted(alerts={"mode": "frames", "open_surprise": 8.0})
    made = scorer(settings, ENTRY)
    found = made.score(ts_us, values)
    np.testing.assert_array_equal(found.alert == 1, found.score > 8)
    assert made.alerts == found.alert.sum() > 10


def test_devices_are_scored_apart():
    (ts_us, a), (_, b) = data(600, 4), data(600, 5)
    values = np.stack([a, b], 1).reshape(-1, 4)
    devices = np.tile([3, 1500], 600)
    settings = wanted()
    both = scorer(settings, ENTRY, devices_max=2000).score(np.repeat(ts_us, 2), values, devices)
    for i, alone in enumerate((a, b)):
        one = RowScores(*(getattr(both, f)[i::2] for f in RowScores.__dataclass_fields__))
        same(one, scorer(settings, ENTRY).score(ts_us, alone))


def test_many_devices_make_the_engine_grow():
    n = 3000
    made = scorer(wanted(), ENTRY, devices_max=5000)
    found = made.score(np.full(n, T0), np.ones((n, 4), np.float32), np.arange(n))
    again = made.score(np.full(n, T0), np.ones((n, 4), np.float32), np.arange(n))
    assert set(found.note) == {WARMING}
    assert set(again.note) == {LATE}


@pytest.mark.parametrize(
    ("ts_us", "values", "devices"),
    [
        (np.zeros(2, np.int64), np.zeros((2, 3), np.float32), None),
        (np.zeros(2, np.int64), np.zeros((1, 4), np.float32), None),
        (np.array([0, 1 << 61]), np.zeros((2, 4), np.float32), None),
        (np.zeros(2, np.int64), np.zeros((2, 4), np.float32), np.array([0, 9])),
        (np.zeros(2, np.int64), np.zeros((2, 4), np.float32), np.array([-1, 0])),
        (np.zeros(2, np.int64), np.zeros((2, 4), np.float32), np.array([0])),
    ],
)
def test_wrong_arrays_are_refused_before_a_row_is_learnt(ts_us, values, devices):
    made = scorer(wanted(), ENTRY, devices_max=9)
    with pytest.raises(ValueError):
        made.score(ts_us, values, devices)
    assert made.rows == 0


def test_no_rows_and_one_row():
    made = scorer(wanted(), ENTRY)
    assert len(made.score(np.zeros(0, np.int64), np.zeros((0, 4), np.float32)).score) == 0
    one = made.score(np.array([T0]), np.ones((1, 4), np.float32))
    assert (one.score.tolist(), one.alert.tolist(), one.note.tolist()) == ([0.0], [0], [WARMING])


def test_times_before_1970_and_the_input_is_not_written_to():
    ts_us, values = data(300)
    ts_us = ts_us - 2 * T0
    values.flags.writeable = ts_us.flags.writeable = False
    assert np.isfinite(scorer(wanted(), ENTRY).score(ts_us, values).score).all()


def test_a_line_up_that_cannot_alert_is_refused():
    silent = wanted(detectors=[{"name": "ewma", "alerts": "never"}])
    with pytest.raises(SettingsError, match=r"no detector that may alert runs for rig/1: see the setting"):
        scorer(silent, ENTRY)
    with pytest.raises(ValueError):
        RowScorer(ENTRY, Lineup((EwmaZ(("a", "b", "c")),), (), 1))


def test_window_rate_detectors_do_not_run():
    with_river = wanted(detectors=[{"name": "ewma"}, {"name": "river", "params": {"devices_max": 7}}])
    assert scorer(with_river, ENTRY).detectors == ("ewma",)


def test_a_budget_of_ones_own_beats_a_threshold():
    settings = with_budget(wanted(alerts={"open_surprise": 8.0}), 2.5)
    assert (settings.alerts.budget, settings.alerts.open_surprise) == (2.5, None)
    assert len(detector_factory(settings)(ENTRY).calibrations) == 3


# -- what is learnt of bad values ---------------------------------------------------------------------------------

BAD = {
    "constant": lambda n: np.full(n, 7.0),
    "missing": lambda n: np.full(n, np.nan),
    "infinite": lambda n: np.where(np.arange(n) % 2, np.inf, -np.inf),
    "denormal": lambda n: np.where(np.arange(n) % 2, 1e-42, -1e-45),
    "huge": lambda n: np.where(np.arange(n) % 2, 1e30, -1e30),
    "largest": lambda n: np.where(np.arange(n) % 2, 3.4e38, -3.4e38),
    "large": lambda n: np.where(np.arange(n) % 2, 9.9e29, -9.9e29),
    "gone": lambda n: np.where(np.arange(n) % 200 < 100, np.arange(n) % 7, np.nan),
}
DETECTORS = {
    "few": [{"name": "rules"}, {"name": "ewma"}, {"name": "robust"}],
    "default": [d.model_dump() for d in settings_module.Settings().detectors],
}


@pytest.mark.parametrize("lineup", DETECTORS)
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("d", [1, 4])
def test_after_bad_values_good_ones_have_finite_scores(bad, lineup, d):
    names = [f"S{i}" for i in range(d)]
    entry = Catalog(
        name="f", version=1, kind="device", period_ms=1000, signals=tuple(Signal(name=s) for s in names)
    )
    n, rng = 600, np.random.default_rng(1)
    values = correlated(rng, 3 * n, d)
    with np.errstate(over="ignore"):
        values[n : 2 * n, 0] = BAD[bad](n).astype(np.float32)
    made = scorer(wanted(detectors=DETECTORS[lineup]), entry)
    found = made.score(T0 + np.arange(3 * n) * SECOND, values)
    for array in (found.score, found.expected[found.column >= 0] if bad != "gone" else found.score):
        assert not np.isinf(array).any()
    assert np.isfinite(found.score).all() and (found.score >= 0).all()
    good = found.note[2 * n + 100 :]
    assert not np.isin(good, (MISSING, LATE)).any()
    assert (good == PLAIN).mean() > 0.5  # whoever learnt a NaN would never speak again
    assert np.median(found.score[2 * n + 100 :]) < 3


@pytest.mark.parametrize("bad", BAD)
def test_nothing_but_bad_values_is_no_reason_to_fail(bad):
    entry = Catalog(name="f", version=1, kind="device", period_ms=1000, signals=(Signal(name="S"),))
    with np.errstate(over="ignore"):
        values = BAD[bad](500).astype(np.float32)[:, None]
    found = scorer(wanted(detectors=DETECTORS["default"]), entry).score(T0 + np.arange(500) * SECOND, values)
    assert np.isfinite(found.score).all()
