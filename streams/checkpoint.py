"""The one place where work becomes final. The rule: results, state and offsets together, or none of them.

Exactly once, in one Kafka transaction:

 1  snapshot, with no await between: the changed state rows, the next offset of each partition; later results are
    held back from here (those of the work so far were sent within the open transaction as they arose)
 2  produce the state rows
 3  send the offsets with the group's metadata: a member whose partitions were given to others is refused here
 4  commit the transaction
 5  release what was held back, into the next transaction

A crash before 4 leaves nothing that a reader of committed records sees; after it, nothing is done again.

At least once, with deterministic ids, for brokers without transactions:

 1  snapshot, likewise
 2  flush: every result of the work so far is acknowledged; release what was held back
 3  produce the state rows, by a producer of their own, and wait until they are acknowledged
 4  commit the input offsets to the consumer group

A crash before 3 repeats the work since the last commit: the same results again, with the same ids. A crash
between 3 and 4 repeats nothing but dead letters: each row knows the last offset that it has seen.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from streams.core.core import Core
from streams.core.effects import Message
from streams.core.state import dirty_rows
from streams.outlet import CALL_S, Outlet, Patience, UndeliveredError
from streams.ownership import NotMemberError, Ownership, TopicPart, group_metadata
from streams.publisher import Publisher

CommitGroup = Callable[[Mapping[TopicPart, int]], Awaitable[bool]]


class Loss(Enum):
    """Why a checkpoint failed, as far as what to do next depends on it."""

    MEMBERSHIP = "the partitions were given to other members"
    TRANSACTION = "the transaction cannot be saved"
    READING = "what was fetched does not follow on what was done"
    FENCED = "another process took this worker's transactional id"


class CheckpointError(RuntimeError):
    """The work since the last checkpoint is not final and cannot become so."""

    def __init__(self, loss: Loss, cause: str) -> None:
        super().__init__(f"{loss.value}: {cause}")
        self.loss = loss


_NOT_MEMBER = {
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
}
_FENCES = {
    KafkaError._FENCED,  # noqa: SLF001
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
}


def loss_of(error: KafkaError, age_s: float, timeout_s: float) -> Loss:
    """age_s : of the transaction. The broker fences the producer of one that is older than its timeout, too."""
    if error.code() in _NOT_MEMBER:
        return Loss.MEMBERSHIP
    if error.code() in _FENCES and age_s < timeout_s:
        return Loss.FENCED
    return Loss.TRANSACTION


def outlet_error(outlet: Outlet, error: KafkaError, timeout_s: float) -> CheckpointError:
    """What `error` means for the work since the last checkpoint."""
    error = outlet.verdict(error)
    return CheckpointError(loss_of(error, time.monotonic() - outlet.opened_at, timeout_s), error.str())


@dataclass(slots=True)
class CheckpointTotals:
    """Since the start.

    seconds : wall time that the checkpoints took. commit_seconds : thereof, with transactions, from sending the
    offsets to the answer that all is committed. lost : checkpoints that failed.
    """

    checkpoints: int = 0
    rows: int = 0
    row_bytes: int = 0
    seconds: float = 0.0
    commit_seconds: float = 0.0
    lost: int = 0


class Checkpointer:
    """Runs in the worker's event loop, one at a time by the caller's lock; the waiting is done in an executor.

    note : goes with the committed offsets, as their metadata; told : the last that went with all of them.
    """

    def __init__(
        self, core: Core, publisher: Publisher, owned: Ownership, group: str, timeout_s: float, patience: Patience
    ) -> None:
        self._core, self._publisher, self._owned = core, publisher, owned
        self._group, self._timeout_s, self._patience = group, timeout_s, patience
        self.totals = CheckpointTotals()
        self.note = self.told = ""

    async def run(self, commit_group: CommitGroup) -> bool:
        """Make the work so far final; returns whether there was any and it is.

        Raises
        ------
        CheckpointError : exactly once: nothing of it is final; it must be done again from the last commit.
        UndeliveredError : at least once: likewise, but some of its results are out.
        """
        offsets, note = self._owned.pending(), self.note
        if note != self.told:
            offsets = dict(self._owned.applied)
        if not offsets:
            return False
        started = time.monotonic()
        rows = dirty_rows(self._core)
        self._publisher.hold()
        if self._publisher.results.transactional:
            done = await self._in_transaction(rows, offsets, note)
        else:
            done = await self._in_steps(rows, offsets, commit_group)
        totals = self.totals
        totals.checkpoints += 1
        totals.rows += len(rows)
        totals.row_bytes += sum(len(row["value"]) for row in rows)
        totals.seconds += time.monotonic() - started
        return done

    async def _in_transaction(self, rows: list[Message], offsets: dict[TopicPart, int], note: str) -> bool:
        outlet = self._publisher.results
        loop = asyncio.get_running_loop()
        try:
            outlet.begin()
            work = loop.run_in_executor(None, self._commit, outlet, rows, offsets, note)
            await asyncio.wait_for(work, 2 * self._timeout_s + 4 * CALL_S)
        except TimeoutError:
            # a call that does not heed its own timeout: its thread is left behind with the outlet
            raise self._lost(outlet, KafkaError(KafkaError._TIMED_OUT, "the client does not answer")) from None  # noqa: SLF001
        except KafkaException as exc:
            raise self._lost(outlet, exc.args[0]) from exc
        except UndeliveredError as exc:
            raise self._lost(outlet, KafkaError(KafkaError._FAIL, str(exc))) from exc  # noqa: SLF001
        except NotMemberError as exc:
            self.totals.lost += 1
            raise CheckpointError(Loss.MEMBERSHIP, str(exc)) from exc
        outlet.open, self.told = False, note
        self._owned.finish(offsets)
        self._publisher.release()
        return True

    def _lost(self, outlet: Outlet, error: KafkaError) -> CheckpointError:
        self.totals.lost += 1
        return outlet_error(outlet, error, self._timeout_s)

    def _commit(self, outlet: Outlet, rows: list[Message], offsets: dict[TopicPart, int], note: str) -> None:
        """Steps 2 to 4. Blocking."""
        outlet.check()
        self._publisher.write_rows(rows, outlet)
        positions = [TopicPartition(*at, offset, note) for at, offset in offsets.items()]
        metadata = group_metadata(self._group, *self._owned.membership)
        send, commit = outlet.producer.send_offsets_to_transaction, outlet.producer.commit_transaction
        # longer than that the broker keeps no transaction; what has become of it the next registration finds out
        limit_s = self._timeout_s + CALL_S
        started = time.monotonic()
        self._patience.retry(lambda: send(positions, metadata, CALL_S), "sending offsets", limit_s)
        self._patience.retry(lambda: commit(CALL_S), "committing", limit_s)
        self.totals.commit_seconds += time.monotonic() - started
        outlet.check()

    async def _in_steps(
        self, rows: list[Message], offsets: dict[TopicPart, int], commit_group: CommitGroup
    ) -> bool:
        loop, publisher = asyncio.get_running_loop(), self._publisher
        try:
            await loop.run_in_executor(None, publisher.results.flush, self._patience)
        finally:
            publisher.release()
        await loop.run_in_executor(None, publisher.write_rows, rows, publisher.rows)
        await loop.run_in_executor(None, publisher.rows.flush, self._patience)
        committed = await commit_group(offsets)
        if committed:
            self._owned.finish(offsets)
        return committed
