"""The common job in a plain consumer's loop, state in a dict that nothing keeps: Python's floor, no peer.

The rule: offsets are committed after what came of the records before them is acknowledged.
"""

from __future__ import annotations

import sys
import time

import fleetjob
from confluent_kafka import Consumer, Producer


def main() -> None:
    given = fleetjob.options(sys.argv[1:])
    job, meter, states = fleetjob.Job(given.signals), fleetjob.Meter(given.total), {}
    consumer = Consumer(
        {
            "bootstrap.servers": given.bootstrap,
            "group.id": given.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "fetch.min.bytes": 64 << 10,
        }
    )
    producer = Producer({"bootstrap.servers": given.bootstrap, "linger.ms": 100})
    consumer.subscribe([given.input])
    committed_s = time.monotonic()
    while True:
        messages = consumer.consume(5000, 0.1)
        for message in messages:
            if message.error():
                raise SystemExit(str(message.error()))
            key = message.key()
            state = states.get(key)
            if state is None:
                state = states[key] = fleetjob.fresh(given.signals)
            features, alert = job.take(state, message.value(), key.decode())
            if features:
                producer.produce(given.features, features, key)
            if alert:
                producer.produce(given.alerts, alert, key)
        meter.count(len(messages))
        producer.poll(0)
        if time.monotonic() - committed_s >= fleetjob.COMMIT_S:
            if producer.flush(30.0):
                raise SystemExit("the broker did not acknowledge within 30 s")
            consumer.commit(asynchronous=False)
            committed_s = time.monotonic()


if __name__ == "__main__":
    main()
