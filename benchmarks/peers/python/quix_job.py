"""The common job in Quix Streams: one stateful function, state in its store. The rule: state is one value of bytes.

Bytes, since anything else goes through JSON twice a message.
"""

from __future__ import annotations

import sys

import fleetjob
import numpy as np
from quixstreams import Application, State


def main() -> None:
    given = fleetjob.options(sys.argv[1:])
    job, meter = fleetjob.Job(given.signals), fleetjob.Meter(given.total)
    app = Application(
        broker_address=given.bootstrap,
        consumer_group=given.group,
        auto_offset_reset="earliest",
        commit_interval=fleetjob.COMMIT_S,
        processing_guarantee=given.guarantee.replace("_", "-"),
        state_dir=given.folder,
        consumer_extra_config={"fetch.min.bytes": 64 << 10},
        producer_extra_config={"linger.ms": 100},
        loglevel="WARNING",
    )
    frames = app.topic(given.input, key_deserializer="str", value_deserializer="bytes")
    raw = {"key_serializer": "str", "value_serializer": "bytes"}
    features, alerts = app.topic(given.features, **raw), app.topic(given.alerts, **raw)

    def work(
        frame: bytes, device: str, timestamp_ms: int, headers: object, state: State
    ) -> tuple[bytes | None, bytes | None]:
        del timestamp_ms, headers
        held = state.get_bytes("state")
        vector = fleetjob.fresh(given.signals) if held is None else np.frombuffer(held, np.float64).copy()
        found = job.take(vector, frame, device)
        state.set_bytes("state", vector.tobytes())
        meter.count()
        return found

    out = app.dataframe(frames).apply(work, stateful=True, metadata=True)
    out = out.filter(lambda found: found[0] is not None or found[1] is not None)
    out.filter(lambda found: found[0] is not None).apply(lambda found: found[0]).to_topic(features)
    out.filter(lambda found: found[1] is not None).apply(lambda found: found[1]).to_topic(alerts)
    app.run()


if __name__ == "__main__":
    main()
