"""Laws of a fleet: the same seed gives the same bytes; gaps delay frames but lose, double and reorder none."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.faults import KINDS, FaultError, parse_inject
from producers.fleet import MODELS, Fleet
from producers.model import uniform
from telemetry.catalog import load
from telemetry.codec import decode_frame

START_US = 1_700_000_000_000_000
CATALOGS = load()
CLASSES = st.sampled_from(sorted(MODELS))


def bytes_of(fleet: Fleet, steps: int) -> list[tuple[bytes, bytes, int]]:
    return [(out.key, out.value, out.ts_us) for _ in range(steps) for out in fleet.step()]


@settings(max_examples=12, deadline=None)
@given(CLASSES, st.integers(0, 2**32), st.integers(1, 12))
def test_same_seed_same_bytes(name: str, seed: int, count: int) -> None:
    runs = []
    for _ in range(2):
        fleet = Fleet(CATALOGS.latest(name), count, seed=seed, start_us=START_US, gap_rate_per_hour=60)
        fleet.inject(parse_inject("noise@3s"))
        runs.append(bytes_of(fleet, 12))
    assert runs[0] == runs[1]


@settings(max_examples=8, deadline=None)
@given(CLASSES, st.integers(0, 2**32))
def test_another_seed_another_fleet(name: str, seed: int) -> None:
    one, two = (Fleet(CATALOGS.latest(name), 3, seed=s, start_us=START_US) for s in (seed, seed + 1))
    assert bytes_of(one, 2) != bytes_of(two, 2)


@settings(max_examples=25, deadline=None)
@given(
    CLASSES,
    st.integers(0, 2**32),
    st.integers(1, 8),
    st.floats(0, 400),
    st.floats(0.1, 60),
    st.floats(0, 5),
    st.integers(5, 80),
)
def test_gaps_lose_double_and_reorder_nothing(
    name: str, seed: int, count: int, rate: float, mean_s: float, offset_s: float, steps: int
) -> None:
    catalog = CATALOGS.latest(name)
    fleet = Fleet(
        catalog,
        count,
        seed=seed,
        start_us=START_US,
        gap_rate_per_hour=rate,
        gap_mean_s=mean_s,
        clock_offset_max_s=offset_s,
    )
    seqs: dict[bytes, list[int]] = defaultdict(list)
    for _ in range(steps):
        for out in fleet.step():
            frame = decode_frame(out.value, len(catalog.signals))
            assert frame.device_id.encode() == out.key
            assert (frame.catalog, frame.ts_us) == (catalog.key, out.ts_us)
            assert frame.values.shape == (fleet.steps, len(catalog.signals))
            assert frame.period_us == (fleet.period_us if fleet.steps > 1 else 0)
            true_us = START_US + frame.seq * fleet.frame_period_us
            assert abs(out.ts_us - true_us) <= offset_s * 1e6 + 1
            seqs[out.key].append(frame.seq)
    for seen in seqs.values():
        assert seen == list(range(len(seen)))
    assert fleet.lost == 0
    if rate == 0:
        assert all(len(seen) == steps for seen in seqs.values())
        assert len(seqs) == count


def test_gaps_happen_and_are_caught_up() -> None:
    """60 gaps an hour of 10 s: about a seventh of the frames come late, nearly all have come in the end."""
    catalog = CATALOGS.latest("sensor.pump")
    fleet = Fleet(catalog, 40, seed=9, start_us=START_US, gap_rate_per_hour=60, gap_mean_s=10)
    counts = [len(fleet.step()) for _ in range(600)]
    assert min(counts) < 40 < max(counts)
    waiting = sum(len(store) for store in fleet._stored.values())
    assert sum(counts) + waiting == 40 * 600


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60) | st.from_regex(r"[a-z_]{1,12}@[0-9smh.]{0,5}(:[a-z0-9-]{1,9})?", fullmatch=True))
def test_an_order_is_understood_or_refused(text: str) -> None:
    try:
        kind = parse_inject(text).kind
    except FaultError as exc:
        kind = str(exc)
    assert kind in KINDS or "fault" in kind


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**48 - 1), st.integers(0, 900))
def test_hash_is_uniform_and_depends_on_all(seed: int, stream: int) -> None:
    devices = np.arange(2000)
    u = uniform(seed, devices, 1, stream)
    assert ((u >= 0) & (u < 1)).all()
    assert abs(u.mean() - 0.5) < 0.05
    assert len(np.unique(u)) == 2000
    for other in (uniform(seed ^ 1, devices, 1, stream), uniform(seed, devices, 2, stream)):
        assert abs(np.corrcoef(u, other)[0, 1]) < 0.15
    assert np.array_equal(uniform(seed, devices[7], 1, stream), u[7:8])
