"""Traffic to scale for. The rule: seeded, so that each run and each policy sees the same."""

from __future__ import annotations

import math

import numpy as np

from benchmarks.autoscaler.world import Traffic

PARTITIONS = 24
HOUR_S = 3600


def _shares(seed: int, partitions: int = PARTITIONS, skew: float = 0.15) -> np.ndarray:
    drawn = np.clip(np.random.default_rng(seed).normal(1, skew, partitions), 0.5, 1.6)
    return (drawn / drawn.sum())[:, None]


def _noise(seconds: int, seed: int, sd: float = 0.06, tau_s: float = 20.0) -> np.ndarray:
    """Around 1, remembered for `tau_s`."""
    drawn = np.random.default_rng(seed).normal(0, 1, seconds)
    keep = math.exp(-1 / tau_s)
    walk = np.zeros(seconds)
    for i in range(1, seconds):
        walk[i] = keep * walk[i - 1] + math.sqrt(1 - keep * keep) * drawn[i]
    return np.clip(1 + sd * walk, 0.5, 2)


def diurnal(
    seed: int = 11, hours: int = 24, low: float = 2000.0, rise: float = 12000.0, shares: int = 3
) -> Traffic:
    """A day: quiet at night, six or seven times as much by day."""
    t = np.arange(hours * HOUR_S)
    base = low + rise * (0.5 - 0.5 * np.cos(2 * np.pi * t / len(t))) ** 1.3
    return Traffic(f"diurnal {hours} h", _shares(shares) * (base * _noise(len(t), seed))[None])


def step(seed: int = 12, low: float = 3000.0, high: float = 12000.0, shares: int = 3) -> Traffic:
    """Four times as much at once, two hours long."""
    t = np.arange(4 * HOUR_S)
    base = np.where((t >= HOUR_S) & (t < 3 * HOUR_S), high, low)
    return Traffic("step 4 h", _shares(shares) * (base * _noise(len(t), seed))[None])


def spikes(
    seed: int = 13,
    low: float = 3000.0,
    high: float = 15000.0,
    every_s: int = 1200,
    long_s: int = 90,
    shares: int = 3,
) -> Traffic:
    """Five times as much for a minute and a half, three times an hour."""
    seconds = 4 * HOUR_S
    base = np.full(seconds, low)
    for begin in range(every_s, seconds, every_s):
        base[begin : begin + long_s] = high
    return Traffic("spike train 4 h", _shares(shares) * (base * _noise(seconds, seed))[None])


def leak(seed: int = 14, load: float = 6000.0, left: float = 0.45, shares: int = 3) -> Traffic:
    """The same traffic, and workers that become slower and slower."""
    t = np.arange(4 * HOUR_S)
    slower = np.interp(t, [0, HOUR_S, 3.5 * HOUR_S, len(t)], [1, 1, left, left])
    base = np.full(len(t), load)
    return Traffic("slow leak 4 h", _shares(shares) * (base * _noise(len(t), seed))[None], slower)


def hot_partition(
    seed: int = 15, load: float = 5000.0, peak: float = 1150.0, which: int = 5, shares: int = 3
) -> Traffic:
    """One partition grows beyond what one worker can do: nothing that a scaler does helps."""
    t = np.arange(4 * HOUR_S)
    arrivals = _shares(shares) * (np.full(len(t), load) * _noise(len(t), seed))[None]
    usual = 6000.0 / PARTITIONS
    times = [0, HOUR_S, 2 * HOUR_S, 2.6 * HOUR_S, 3 * HOUR_S, len(t)]
    arrivals[which] = np.interp(t, times, [usual, usual, peak, peak, usual, usual])
    return Traffic("hot partition 4 h", arrivals)


def bottleneck(seed: int = 16, low: float = 2500.0, high: float = 9000.0, total_max: float = 5000.0) -> Traffic:
    """Traffic grows over half an hour beyond what something that all workers share can take: more gain nothing."""
    t = np.arange(3 * HOUR_S)
    base = np.interp(
        t, [0, HOUR_S / 2, HOUR_S, 1.25 * HOUR_S, 1.5 * HOUR_S, len(t)], [low, low, high, high, low, low]
    )
    return Traffic("bottleneck 3 h", _shares(3) * (base * _noise(len(t), seed))[None], total_max=total_max)


def standard() -> list[Traffic]:
    """The five that policies are compared on."""
    return [diurnal(), step(), spikes(), leak(), hot_partition()]


def fresh(seed: int) -> list[Traffic]:
    """Others like them, of another seed: other sizes, other times, other partitions. All could be served."""
    rng = np.random.default_rng(seed)
    shares, noise = int(rng.integers(1 << 30)), int(rng.integers(1 << 30))
    low = float(rng.uniform(1500, 4000))
    return [
        diurnal(noise, 24, low, float(rng.uniform(8000, 12000)), shares),
        step(noise + 1, low, low * float(rng.uniform(2.5, 4.5)), shares),
        spikes(
            noise + 2,
            low,
            low * float(rng.uniform(3, 5)),
            int(rng.integers(800, 2000)),
            int(rng.integers(40, 150)),
            shares,
        ),
        leak(noise + 3, float(rng.uniform(4000, 7000)), float(rng.uniform(0.45, 0.7)), shares),
        hot_partition(noise + 4, float(rng.uniform(3000, 6000)), 850.0, int(rng.integers(PARTITIONS)), shares),
    ]
