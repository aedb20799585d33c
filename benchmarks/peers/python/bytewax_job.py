"""The common job in Bytewax: a stateful operator, snapshots each 5 s. The rule: its recovery store has its offsets.

It commits none to the consumer group; a restart goes on from the store's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
import fleetjob
import numpy as np
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main


def main() -> None:
    given = fleetjob.options(sys.argv[1:])
    job, meter = fleetjob.Job(given.signals), fleetjob.Meter(given.total)

    def work(state: np.ndarray | None, frame: KafkaSourceMessage) -> tuple[np.ndarray, Iterable[KafkaSinkMessage]]:
        if state is None:
            state = fleetjob.fresh(given.signals)
        features, alert = job.take(state, frame.value, frame.key.decode())
        meter.count()
        if features is None and alert is None:
            return state, ()
        found = ((given.features, features), (given.alerts, alert))
        return state, [KafkaSinkMessage(frame.key, value, topic) for topic, value in found if value is not None]

    flow = Dataflow("fleet")
    source = KafkaSource(
        [given.bootstrap], [given.input], add_config={"fetch.min.bytes": str(64 << 10)}, batch_size=5000
    )
    frames = op.input("frames", flow, source)
    keyed = op.key_on("device", frames, lambda frame: frame.key.decode())
    found = op.stateful_flat_map("fleet", keyed, work)
    # each message names its own topic
    op.output("out", op.key_rm("results", found), KafkaSink([given.bootstrap], None, {"linger.ms": "100"}))
    folder = Path(given.folder)
    folder.mkdir(parents=True, exist_ok=True)
    init_db_dir(folder, 1)
    every = timedelta(seconds=fleetjob.COMMIT_S)
    cli_main(flow, epoch_interval=every, recovery_config=RecoveryConfig(str(folder)))


if __name__ == "__main__":
    main()
