"""Faust's worker process, with an end to its stopping. The rule: whoever asks it to stop need not kill it.

Faust finishes the batch in hand, commits and leaves the group, in a second or two. It waits for ever when it was
told to stop while it was still starting, or while its broker is away. Ending it then loses nothing: what is not
final will be done again.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from typing import Any

import faust

from streams import foresight
from streams.worker import UnfinishedError

log = logging.getLogger("fleetwatch.worker")

#: Seconds from the signal to the end: less than Kubernetes' 30. Without work in hand there is nothing to finish.
DRAIN_S = 25.0
DRAIN_IDLE_S = 10.0
#: The last question and commit of a farewell may take so much longer.
FAREWELL_MORE_S = 2.0


class DrainingWorker(faust.Worker):
    """Used by `fleetwatch worker` and, as the app's Worker setting, by `faust worker`."""

    def _schedule_shutdown(self, signal: signal.Signals) -> None:
        worker: Any = self.app.fleetwatch
        wait_s = DRAIN_S if worker.restored else DRAIN_IDLE_S
        text = f"not stopped {wait_s:.0f} s after {signal.name}: what is not final will be done again"
        timer = threading.Timer(wait_s, worker.fail, (UnfinishedError(text),))
        timer.daemon = True
        timer.start()
        super()._schedule_shutdown(signal)

    async def _stop_on_signal(self, signal: signal.Signals) -> None:
        worker: Any = self.app.fleetwatch
        try:
            farewell = foresight.farewell(worker, self.app.consumer)
            await asyncio.wait_for(farewell, foresight.FAREWELL_S + FAREWELL_MORE_S)
        except TimeoutError:
            log.warning("the group was not told that this worker leaves: its brokers do not answer")
        except Exception as exc:  # ends the process
            worker.fail(exc)
        await super()._stop_on_signal(signal)
