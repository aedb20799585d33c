"""How busy a worker's loop is: what it computes counts, what it waits does not."""

import asyncio
import time

from prometheus_client import CollectorRegistry

from streams import busy
from streams.busy import WaitTimer
from streams.metrics import WorkerMetrics
from streams.worker import Worker
from telemetry import settings as settings_module


async def work(seconds: float, of_each: float, each_s: float) -> None:
    """Compute `of_each` of every `each_s`, wait for the rest."""
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        while time.perf_counter() < began + of_each * each_s:
            pass
        await asyncio.sleep(began + each_s - time.perf_counter() if of_each < 1 else 0)


def share(of_each: float, seconds: float = 0.5) -> float:
    """As a scraper computes it: the difference of two readings by the time between them."""
    timer = WaitTimer()
    loop = asyncio.SelectorEventLoop(timer)
    try:
        loop.run_until_complete(work(0.05, 0.5, 0.01))
        before, began = timer.busy_s, time.perf_counter()
        loop.run_until_complete(work(seconds, of_each, 0.02))
        return (timer.busy_s - before) / (time.perf_counter() - began)
    finally:
        loop.close()


def test_idle_half_and_saturated():
    assert share(0.0) < 0.1
    assert 0.45 < share(0.5) < 0.6
    assert share(1.0) > 0.97


def test_nothing_is_counted_before_the_loop_runs():
    now = [100.0]
    timer = WaitTimer(lambda: now[0])
    now[0] = 160.0
    assert timer.busy_s == 0.0
    timer.select(0.001)
    now[0] = 163.0
    assert timer.busy_s == 3.0
    timer.close()


def test_the_loop_that_faust_finds_is_the_timed_one_or_none():
    from mode.utils import loops

    loops._current_loop.__dict__.clear()
    timer = busy.install()
    try:
        assert timer is not None
        found = loops.get_event_loop()
        found.run_until_complete(asyncio.sleep(0.01))
        assert timer.busy_s > 0
        assert busy.install() is None
        assert loops.get_event_loop() is found
        assert asyncio.get_event_loop_policy().get_event_loop() is found
        found.close()
    finally:
        loops._current_loop.__dict__.clear()
        asyncio.set_event_loop(None)


def test_a_figure_that_is_not_known_is_not_shown():
    # nobody answers at that address; without transactions a worker does not wait for it to begin
    settings = settings_module.load(
        environ={}, kafka={"bootstrap": "127.0.0.1:1"}, processing={"guarantee": "at_least_once"}
    )
    registry, timer = CollectorRegistry(), WaitTimer()
    metrics = WorkerMetrics(registry)
    name = "fleetwatch_busy_seconds_total"
    assert registry.get_sample_value(name) == 0.0  # the reference page lists it
    worker = Worker(settings, "w", lambda: False)
    metrics.watch(worker, None)
    assert registry.get_sample_value(name) is None
    timer.select(0.001)
    metrics.watch(worker, None, timer)
    assert 0 < registry.get_sample_value(name) < 60
    timer.close()
