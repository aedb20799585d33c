"""The common job in plain Faust, by its own means only. The rule: what a careful user would write, no more.

`kind=table` takes an event at a time and keeps the state, as bytes, in a Table with its changelog; `kind=take`
takes up to 1,000 at a time and keeps it in a dict that nothing keeps.
"""

from __future__ import annotations

import sys
from typing import Any

import faust
import fleetjob
import mode.loop
import numpy as np

TAKE = 1000


def table(app: faust.App, given: fleetjob.Options, source: Any, out: Any, alerts: Any) -> None:
    job, meter = fleetjob.Job(given.signals), fleetjob.Meter(given.total)
    states = app.Table("state", partitions=source.partitions, key_type=str, value_type=bytes)

    @app.agent(source)
    async def process(stream: Any) -> None:
        async for device, frame in stream.items():
            held = states.get(device)
            vector = fleetjob.fresh(given.signals) if held is None else np.frombuffer(held, np.float64).copy()
            features, alert = job.take(vector, frame, device)
            states[device] = vector.tobytes()
            if features:
                await out.send(key=device, value=features)
            if alert:
                await alerts.send(key=device, value=alert)
            meter.count()


def take(app: faust.App, given: fleetjob.Options, source: Any, out: Any, alerts: Any) -> None:
    job, meter = fleetjob.Job(given.signals), fleetjob.Meter(given.total)
    states: dict[str, np.ndarray] = {}

    @app.agent(source)
    async def process(stream: Any) -> None:
        async for events in stream.take_events(TAKE, within=0.1):
            for event in events:
                device = event.key
                if device not in states:
                    states[device] = fleetjob.fresh(given.signals)
                features, alert = job.take(states[device], event.value, device)
                if features:
                    await out.send(key=device, value=features)
                if alert:
                    await alerts.send(key=device, value=alert)
            meter.count(len(events))


def main() -> None:
    given = fleetjob.options(sys.argv[1:])
    mode.loop.use("uvloop")
    partitions = 4
    app = faust.App(
        given.group,
        broker=f"kafka://{given.bootstrap}",
        store="memory://",
        topic_partitions=partitions,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        broker_commit_interval=fleetjob.COMMIT_S,
        producer_linger=0.1,
        processing_guarantee=given.guarantee,
        web_enabled=False,
        datadir=given.folder,
    )
    raw = {"key_type": str, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
    source, out, alerts = (
        app.topic(name, partitions=partitions, **raw) for name in (given.input, given.features, given.alerts)
    )
    {"table": table, "take": take}[given.kind](app, given, source, out, alerts)
    faust.Worker(app, loglevel="WARNING", quiet=True, redirect_stdouts=False).execute_from_commandline()


if __name__ == "__main__":
    main()
