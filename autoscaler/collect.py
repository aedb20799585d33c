"""Looks at Kafka, the workers and what is scaled. The rule: a whole look, or an error that says what to do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from autoscaler.kafka_source import KafkaSource
from autoscaler.observation import Observation
from autoscaler.positions import Positions
from autoscaler.worker_pages import PagesLook, WorkerPages
from autoscaler.workload import Workload


class Collector:
    """Each look adds to what is known of the past, also one that fails for the workload's sake.

    pages : None = workers' own figures are not read. partitions : as the setting topics.partitions says.
    """

    def __init__(self, kafka: KafkaSource, pages: WorkerPages | None, workload: Workload, partitions: int) -> None:
        self._kafka = kafka
        self._pages = pages
        self._workload = workload
        self._positions = Positions(partitions)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="collect")

    def close(self) -> None:
        """Ends its threads and those of the pages."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._pages is not None:
            self._pages.close()

    def look(self, now_s: float) -> Observation:
        """What is to be seen now. now_s : by a clock that never goes back.

        Raises
        ------
        BlindError : the group could not be read. WorkloadError : what is scaled could not.
        """
        reading = self._pool.submit(self._pages.read) if self._pages is not None else None
        try:
            kafka = self._kafka.look()
        finally:
            pages = reading.result() if reading is not None else PagesLook()
        figures = self._positions.add(kafka, now_s, pages.waiting)
        scale = self._workload.read()
        return Observation(
            at_s=now_s,
            ends=figures.ends,
            committed=figures.committed,
            lag_s=figures.lag_s,
            replicas=scale.replicas,
            ready=scale.ready,
            members=len(kafka.members),
            epoch=kafka.epoch,
            rebalancing=kafka.rebalancing,
            owner=figures.owner,
            workers=pages.loads,
            scaled_by=scale.scaled_by,
            problems=(*figures.problems, *pages.problems),
        )
