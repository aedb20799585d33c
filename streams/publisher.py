"""Results out, through confluent-kafka. The rule: a record that was not delivered is never taken for one that was.

Results are handed to librdkafka as they arise, within the open transaction where there are transactions. While a
checkpoint makes those that were sent before it final, later ones are held back. A full queue makes the worker wait,
never drop.
"""

from __future__ import annotations

import asyncio
import time

from streams.core.effects import Effects, Message
from streams.outlet import Outlet
from telemetry.topics import Topics

#: More records than this waiting in librdkafka: the worker takes no new batch.
QUEUE_HIGH = 200_000
#: Batches' results that may be held back during a checkpoint.
HELD_MAX = 64
#: Rows handed over at a time: a call holds Python's lock, and the event loop has batches to process meanwhile.
ROWS_AT_A_TIME = 500


class Publisher:
    """Called by the worker's event loop, but for `write_rows`, which a checkpoint calls in an executor.

    results, rows : the same outlet where there are transactions.
    """

    def __init__(self, results: Outlet, rows: Outlet, topics: Topics, worker: str) -> None:
        self.results, self.rows = results, rows
        self._topics, self._worker = topics, worker
        self._held: list[Effects] | None = None
        self.published = 0

    def publish(self, effects: Effects) -> None:
        """Send a batch's results, or hold them back while a checkpoint is under way."""
        if not effects.records:
            return
        if self._held is not None:
            self._held.append(effects)
            return
        topics, out = self._topics, self.results
        out.begin()
        for topic, messages in (
            (topics.features.name, effects.features),
            (topics.scores.name, effects.scores),
            (topics.late.name, effects.late),
        ):
            if messages:
                out.hand_over(topic, messages)
        for alert in effects.alerts:
            key, value, headers = alert.to_message()
            out.hand_over_one(topics.alerts.name, key, value, headers, alert.partition)
        for letter in effects.dead:
            out.hand_over_one(
                topics.dlq.name, letter.key, letter.value, letter.headers(self._worker), letter.partition
            )
        self.published += effects.records
        out.poll()

    async def room(self) -> None:
        """Wait until there is room for another batch's results.

        Raises
        ------
        UndeliveredError : without transactions: an earlier record was not delivered.
        """
        while len(self.results) > QUEUE_HIGH or (self._held is not None and len(self._held) > HELD_MAX):
            self.results.poll()
            await asyncio.sleep(0.01)
        if not self.results.transactional:
            self.results.check()

    def hold(self) -> None:
        """From now on results wait for `release`."""
        assert self._held is None, "two checkpoints at once"
        self._held = []

    def release(self) -> None:
        """Send what was held back."""
        held, self._held = self._held, None
        for effects in held or ():
            self.publish(effects)

    def restart(self, results: Outlet, rows: Outlet) -> None:
        """Drop what was held back or sent and not made final; go on with new outlets."""
        old = {self.results, self.rows}
        self._held = None
        self.results, self.rows = results, rows
        for outlet in old:
            outlet.discard()

    def write_rows(self, rows: list[Message], outlet: Outlet) -> None:
        """Hand state rows over."""
        topic = self._topics.state.name
        for first in range(0, len(rows), ROWS_AT_A_TIME):
            outlet.hand_over(topic, rows[first : first + ROWS_AT_A_TIME])
            time.sleep(0)
