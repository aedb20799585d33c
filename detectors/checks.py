"""The laws that every detector obeys, for tests of ours and of anybody's own detector. The rule: a law compares
two runs bit for bit, so there is no tolerance to argue about.

`check_detector(factory)` runs them all; `LAWS` holds each by name. A law raises AssertionError, its message
beginning with the law's name.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.protocol import TOP, Block, Detector, Scores

#: Makes a detector as new, always the same one.
Factory = Callable[[], Detector]


@dataclass(frozen=True, slots=True)
class Trial:
    """A seeded stretch of telemetry with what laws need: several devices, missing values, spikes, repeats.

    block : rows of `devices` devices, interleaved.
    """

    factory: Factory
    block: Block
    devices: int
    seed: int

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed + 1)

    def fresh(self, n_slots: int | None = None) -> Detector:
        detector = self.factory()
        detector.reserve(self.devices if n_slots is None else n_slots)
        return detector


def make_trial(factory: Factory, *, seed: int = 0, devices: int = 4, rows: int = 1600) -> Trial:
    """Rows for a detector of any number of columns; its columns are asked of one instance."""
    rng = np.random.default_rng(seed)
    d = len(factory().spec.columns)
    slots = rng.integers(0, devices, rows).astype(np.int32)
    values = rng.normal(20.0, 3.0, (rows, d)) + 10.0 * slots[:, None]
    spikes = rng.random((rows, d)) < 0.01
    values[spikes] += rng.normal(0.0, 60.0, int(spikes.sum()))
    values[rng.random((rows, d)) < 0.02] = np.nan
    values[rows * 3 // 4 : rows * 3 // 4 + 2 * devices] = np.nan
    again = rng.random(rows) < 0.05
    again[0] = False
    values[again] = values[np.flatnonzero(again) - 1]
    ts_us = 1_700_000_000_000_000 + np.arange(rows, dtype=np.int64) * 100_000
    return Trial(factory, Block(slots, ts_us, values.astype(np.float32)), devices, seed)


def cut(block: Block, rows: slice | NDArray[np.bool_] | NDArray[np.int64]) -> Block:
    """Some of its rows, copied."""
    return Block(block.slots[rows].copy(), block.ts_us[rows].copy(), block.values[rows].copy())


def run(detector: Detector, block: Block) -> Scores:
    """What `update` says of the block; `out` is longer than the block and full of rubbish before."""
    n = len(block)
    out = Scores.empty(n + 3)
    out.surprise.fill(77.0)
    out.column.fill(77)
    out.expected.fill(77.0)
    out.share.fill(77.0)
    detector.update(block, out)
    return out.head(n)


def _same(law: str, a: Scores, b: Scores, what: str) -> None:
    for name in ("surprise", "column", "expected", "share"):
        one, two = getattr(a, name), getattr(b, name)
        differ = (one.view(f"u{one.itemsize}") != two.view(f"u{two.itemsize}")) & ((one == one) | (two == two))
        if differ.any():
            at = np.argwhere(differ)[0]
            raise AssertionError(
                f"{law}: {what}: {name} of row {at[0]} is {one[tuple(at)]} and {two[tuple(at)]}"
                f" ({int(differ.sum())} differ)"
            )


def _take(scores: Scores, rows: slice | NDArray[np.bool_] | NDArray[np.int64]) -> Scores:
    return Scores(scores.surprise[rows], scores.column[rows], scores.expected[rows], scores.share[rows])


def _join(parts: list[Scores]) -> Scores:
    return Scores(
        np.concatenate([p.surprise for p in parts]),
        np.concatenate([p.column for p in parts]),
        np.concatenate([p.expected for p in parts]),
        np.concatenate([p.share for p in parts]),
    )


def speaks(trial: Trial) -> None:
    """It has an opinion on some rows: one that never speaks would pass every other law."""
    scores = run(trial.fresh(), trial.block)
    told = int(np.isfinite(scores.surprise).sum())
    assert told * 4 >= len(trial.block), f"speaks: an opinion on {told} of {len(trial.block)} rows only"


def batch_invariance(trial: Trial) -> None:
    """Where a batch was cut changes no bit of any score."""
    whole = run(trial.fresh(), trial.block)
    rng = trial.rng()
    n = len(trial.block)
    for cuts in (np.arange(1, n), np.sort(rng.integers(0, n, 20)), np.array([n // 2])):
        edges = [0, *cuts.tolist(), n]
        detector = trial.fresh()
        parts = [run(detector, cut(trial.block, slice(a, b))) for a, b in itertools.pairwise(edges)]
        _same("batch_invariance", whole, _join(parts), f"cut into {len(parts)}")


def device_isolation(trial: Trial) -> None:
    """Other devices' rows in between change no bit of a device's scores."""
    whole = run(trial.fresh(), trial.block)
    for slot in range(trial.devices):
        mine = trial.block.slots == slot
        alone = run(trial.fresh(), cut(trial.block, mine))
        _same("device_isolation", _take(whole, mine), alone, f"device {slot} alone")


def snapshot_restore(trial: Trial) -> None:
    """A fresh instance goes on from a snapshot bit for bit, under other slot numbers, and so does the old one;
    what is restored replaces what the slot had learnt."""
    n = len(trial.block)
    rng = trial.rng()
    slots = np.arange(trial.devices, dtype=np.int32)
    for at in (3, n // 3, n * 3 // 4 + 1):
        before, after = cut(trial.block, slice(0, at)), cut(trial.block, slice(at, n))
        old = trial.fresh()
        run(old, before)
        states = old.snapshot(slots)
        kept = states.copy()
        _check_states(old, states, len(slots))
        moved = (rng.permutation(trial.devices) + trial.devices).astype(np.int32)
        new = trial.fresh(2 * trial.devices)
        run(new, Block(moved[before.slots][::-1].copy(), before.ts_us, before.values))
        new.restore(moved, states)
        assert (states == kept).all(), "snapshot_restore: restore wrote to the states"
        want = run(old, after)
        got = run(new, Block(moved[after.slots], after.ts_us, after.values))
        _same("snapshot_restore", want, got, f"restored after {at} rows")
        assert (states == kept).all(), "snapshot_restore: a snapshot changed with the detector"
        again = trial.fresh()
        again.restore(slots, kept)
        assert (again.snapshot(slots) == kept).all(), "snapshot_restore: a restored slot's snapshot differs"


def _check_states(detector: Detector, states: NDArray[np.uint8], n: int) -> None:
    want = (n, detector.state_nbytes)
    assert (states.shape, states.dtype) == (want, np.dtype(np.uint8)), (
        f"snapshot_restore: a snapshot is uint8 {want}, not {states.dtype} {states.shape}"
    )
    short = states[:, :-1].copy()
    try:
        detector.restore(np.arange(n, dtype=np.int32), short)
    except ValueError:
        return
    raise AssertionError("snapshot_restore: states of a wrong width were not refused with ValueError")


def forget(trial: Trial) -> None:
    """A forgotten slot is as new; the others do not notice."""
    detector = trial.fresh()
    half = len(trial.block) // 2
    run(detector, cut(trial.block, slice(0, half)))
    gone = np.array([0, 2], np.int32)
    detector.forget(gone)
    rest = cut(trial.block, slice(half, None))
    after = run(detector, rest)
    there = np.isin(rest.slots, gone)
    _same("forget", _take(after, there), run(trial.fresh(), cut(rest, there)), "forgotten slots")
    kept = _take(run(trial.fresh(), trial.block), slice(half, None))
    _same("forget", _take(after, ~there), _take(kept, ~there), "other slots")


def input_unwritten(trial: Trial) -> None:
    """The block is not written to, and may be read-only."""
    block = cut(trial.block, slice(None))
    run(trial.fresh(), block)
    for name in ("slots", "ts_us", "values"):
        a, b = getattr(block, name), getattr(trial.block, name)
        assert a.tobytes() == b.tobytes(), f"input_unwritten: {name} was written to"
        a.flags.writeable = False
    try:
        run(trial.fresh(), block)
    except ValueError as refused:
        raise AssertionError(f"input_unwritten: a read-only block was refused: {refused}") from refused


def nan_is_missing(trial: Trial) -> None:
    """A row of nothing gets no opinion and teaches nothing."""
    block = trial.block
    n = len(block)
    nothing = trial.rng().random(n) < 0.3
    values = block.values.copy()
    values[nothing] = np.nan
    scores = run(trial.fresh(), Block(block.slots, block.ts_us, values))
    empty = np.isnan(values).all(axis=1)
    assert np.isnan(scores.surprise[empty]).all(), "nan_is_missing: an opinion on a row of NaN only"
    assert (scores.column[empty] == -1).all(), "nan_is_missing: a guilty column in a row of NaN only"
    there = np.flatnonzero(~empty)
    without = run(trial.fresh(), Block(block.slots[there], block.ts_us[there], values[there]))
    _same("nan_is_missing", _take(scores, there), without, "rows of NaN left out")


def warming_is_nan(trial: Trial) -> None:
    """The first row of a device gets no opinion: NaN, never 0."""
    scores = run(trial.fresh(), trial.block)
    firsts = np.array([np.flatnonzero(trial.block.slots == slot)[0] for slot in range(trial.devices)])
    told = scores.surprise[firsts]
    assert np.isnan(told).all(), f"warming_is_nan: the first rows of devices got {told.tolist()}"


def score_before_learn(trial: Trial) -> None:
    """A score does not depend on later rows, and a row of a warm device does not excuse itself: after the same
    past, the more absurd of two values is never the less surprising one."""
    n = len(trial.block)
    whole = run(trial.fresh(), trial.block)
    for at in (n // 4, n // 2, n - 7):
        first = run(trial.fresh(), cut(trial.block, slice(0, at)))
        _same("score_before_learn", _take(whole, slice(0, at)), first, f"rows after {at} left out")
        other = cut(trial.block, slice(None))
        other.values[at:] = 1e6
        changed = run(trial.fresh(), other)
        _same("score_before_learn", _take(whole, slice(0, at)), _take(changed, slice(0, at)), f"changed from {at}")
    detector = trial.fresh()
    run(detector, trial.block)
    slots = np.arange(trial.devices, dtype=np.int32)
    states = detector.snapshot(slots)
    ts_us = np.full(len(slots), trial.block.ts_us[-1] + 1)
    calm = np.array([np.nanmedian(trial.block.values[trial.block.slots == s], axis=0) for s in slots], np.float32)
    told = []
    for values in (calm, calm + np.float32(1e5), calm + np.float32(1e7)):
        told.append(run(detector, Block(slots, ts_us, values)).surprise.copy())
        detector.restore(slots, states)
    assert np.isfinite(told).all(), "score_before_learn: no opinion on a warm device"
    assert ((told[1] > told[0]) & (told[2] >= told[1])).all(), (
        f"score_before_learn: an absurd row excused itself: {told[0]} when calm, {told[1]} and {told[2]} when not"
    )


def surprise_in_range(trial: Trial) -> None:
    """A surprise is NaN, or finite and not negative, whatever the values."""
    block = cut(trial.block, slice(None))
    wild = trial.rng().random(block.values.shape)
    half = len(block) // 2
    wild[:half] = 1.0
    block.values[wild < 0.02] = np.float32(3.4e38)
    block.values[(wild > 0.02) & (wild < 0.04)] = np.float32(-3.4e38)
    block.values[(wild > 0.04) & (wild < 0.05)] = np.inf
    block.values[(wild > 0.05) & (wild < 0.06)] = np.float32(1e-45)
    block.values[half - 200 : half] = block.values[half - 200]
    for values in (trial.block.values, block.values):
        scores = run(trial.fresh(), Block(block.slots, block.ts_us, values))
        told = scores.surprise[~np.isnan(scores.surprise)]
        assert (np.isfinite(told) & (told >= 0)).all(), (
            f"surprise_in_range: {told[~(np.isfinite(told) & (told >= 0))][:5].tolist()}"
        )


def columns_in_range(trial: Trial) -> None:
    """Guilty columns exist, differ, come first, guiltiest first, and carry a share and a finite expectation, or
    none (NaN) where the guilt is to be missing; the rest is -1 and NaN."""
    scores = run(trial.fresh(), trial.block)
    d = trial.block.values.shape[1]
    column, share = scores.column, scores.share
    named = column >= 0
    assert ((column >= -1) & (column < d)).all(), f"columns_in_range: {np.unique(column).tolist()} of {d}"
    assert (named[:, :-1] | ~named[:, 1:]).all(), "columns_in_range: a gap before a guilty column"
    assert (named | (np.isnan(share) & np.isnan(scores.expected))).all(), (
        "columns_in_range: a share or an expectation without a column"
    )
    assert (np.isfinite(share[named]) & (share[named] >= 0)).all(), "columns_in_range: share not finite"
    assert not named[np.isnan(scores.surprise)].any(), "columns_in_range: a column named without an opinion"
    for j in range(1, TOP):
        both = named[:, j]
        assert (share[both, j] <= share[both, j - 1]).all(), "columns_in_range: not the guiltiest first"
        for i in range(j):
            assert (column[both, j] != column[both, i]).all(), "columns_in_range: a column named twice"
    rows, at = np.nonzero(named)
    expected = np.isfinite(scores.expected[rows, at])
    missing = np.isnan(trial.block.values[rows, column[rows, at]])
    assert (expected | missing).all(), "columns_in_range: expected is not finite"
    assert not (expected & missing).any(), "columns_in_range: a missing column named with an expectation"


def reserve_keeps(trial: Trial) -> None:
    """Making room keeps what is learnt; reserving less does no harm; new room is as new."""
    n = len(trial.block)
    want = run(trial.fresh(), trial.block)
    detector = trial.fresh()
    parts = []
    for i, rows in enumerate(np.array_split(np.arange(n), 7)):
        detector.reserve(trial.devices * (1 + i * i))
        detector.reserve(1)
        parts.append(run(detector, cut(trial.block, rows)))
    _same("reserve_keeps", want, _join(parts), "grown between batches")
    far = 2 * trial.devices
    moved = Block(trial.block.slots + np.int32(far), trial.block.ts_us, trial.block.values)
    detector.forget(np.arange(trial.devices, dtype=np.int32))
    _same("reserve_keeps", want, run(detector, moved), "slots that came later")


#: Every law, by name.
LAWS: dict[str, Callable[[Trial], None]] = {
    law.__name__: law
    for law in (
        input_unwritten,  # first: a block that is written to would mislead the others
        speaks,
        batch_invariance,
        device_isolation,
        snapshot_restore,
        forget,
        nan_is_missing,
        warming_is_nan,
        score_before_learn,
        surprise_in_range,
        columns_in_range,
        reserve_keeps,
    )
}


def check_detector(factory: Factory, *, seed: int = 0) -> None:
    """Run every law over detectors that `factory` makes, each time a new one of the same spec.

    The detector must be warm after about 100 rows of a device, and hold at least 8 devices.

    Raises
    ------
    AssertionError : a law is broken; its name comes first in the message.
    """
    one, two = factory().spec, factory().spec
    assert (one, one.state_id) == (two, two.state_id), "spec: two instances of one factory differ"
    trial = make_trial(factory, seed=seed)
    for law in LAWS.values():
        law(trial)
