"""Whether a cluster answers, asked in its own protocol. The rule: ready means that a client can work now."""

from __future__ import annotations

import time

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from fleetwatch.kafka.config import INTERNAL_PARTITIONS, internal_topics

REQUEST_TIMEOUT_S = 2.0
CREATE_TIMEOUT_S = 30.0


class Probe:
    """Asks the cluster at `bootstrap`; made when its ports are open, so that no client logs refused connections."""

    def __init__(self, bootstrap: str) -> None:
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, "error_cb": lambda _: None})

    def registered(self) -> tuple[int, str]:
        """How many brokers the cluster's metadata names, and in words why there may be fewer than awaited."""
        try:
            brokers = len(self._admin.list_topics(timeout=REQUEST_TIMEOUT_S).brokers)
        except KafkaException as exc:
            return 0, exc.args[0].str()
        return brokers, f"{brokers} broker(s) registered"

    def create_internal_topics(self, brokers: int) -> None:
        """Make the offsets and transactions topics before the first group asks for them.

        Kafka makes them by itself, but the first consumer then waits some 3 s and the first transaction 1 s in
        its client's retries.

        Raises
        ------
        KafkaException : the cluster refuses.
        """
        existing = self._admin.list_topics(timeout=CREATE_TIMEOUT_S).topics
        new = [
            NewTopic(name, num_partitions=INTERNAL_PARTITIONS, replication_factor=brokers, config=topic_config)
            for name, topic_config in internal_topics(brokers).items()
            if name not in existing
        ]
        if not new:
            return
        deadline_s = time.monotonic() + CREATE_TIMEOUT_S
        for future in self._admin.create_topics(new, operation_timeout=CREATE_TIMEOUT_S).values():
            try:
                future.result(max(0.1, deadline_s - time.monotonic()))
            except KafkaException as exc:
                if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # a client was quicker
                    raise
