"""The life of one container: started, probed, stopped, started again. The rule: `step` never waits.

The status that it tells is what happened, in a kubelet's words.
"""

from __future__ import annotations

import datetime as dt
import signal
import subprocess
import time
from concurrent.futures import Executor, Future

from tests.k8s.api import ApiError, Object, Unreachable
from tests.k8s.kubelet.config import NodeConfig, PodError
from tests.k8s.kubelet.probes import Probe, ask
from tests.k8s.kubelet.sandbox import Sandbox, Started

#: A run longer than this was a good one: the next restart is as the first.
GOOD_RUN_S = 600.0
#: What a preStop hook that used up the grace period leaves to SIGTERM.
EXTRA_S = 2.0


def stamp() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Container:
    """One container of a Pod.

    Parameters
    ----------
    restart : the Pod's `restartPolicy`. restarts : that it already had.
    grace_s : between SIGTERM and SIGKILL when a probe wants its end.

    Attributes
    ----------
    finished : it ended and is not started again. code : its last exit code.
    """

    def __init__(
        self,
        spec: Object,
        ip: str,
        sandbox: Sandbox,
        config: NodeConfig,
        executor: Executor,
        *,
        restart: str,
        restarts: int,
        grace_s: float,
    ) -> None:
        self.spec, self._ip, self._sandbox, self._config, self._executor = spec, ip, sandbox, config, executor
        self._restart, self._restarts, self._grace_s = restart, restarts, grace_s
        self._started: Started | None = None
        self._began, self._began_s, self._next_s = "", 0.0, 0.0
        self._failures = 0
        self._probes: dict[str, Probe] = {}
        self._state: Object = {"waiting": {"reason": "ContainerCreating"}}
        self._last: Object = {}
        self._stopping: Future[str] | None = None  # a preStop hook that runs
        self._term_sent = False
        self._kill_at_s = float("inf")
        self._ever_started = False
        self._leaving = False
        self.finished = False
        self.code = 0

    # -- what is

    @property
    def running(self) -> bool:
        return self._started is not None

    @property
    def pid(self) -> int | None:
        started = self._started
        return started.process.pid if started else None

    @property
    def ever_started(self) -> bool:
        return self._ever_started

    @property
    def _startup_done(self) -> bool:
        return "startupProbe" not in self._probes or self._probes["startupProbe"].passed is True

    @property
    def ready(self) -> bool:
        """Serves, as its readiness probe sees it."""
        if self._started is None or self._stopping is not None or self._term_sent or not self._startup_done:
            return False
        return "readinessProbe" not in self._probes or self._probes["readinessProbe"].passed is True

    def status(self) -> Object:
        """As in `containerStatuses`."""
        return {
            "name": self.spec["name"],
            "image": self.spec["image"],
            "imageID": f"process://{self.spec['image']}",
            "ready": self.ready or (self.finished and self.code == 0),
            "started": self._started is not None and self._startup_done,
            "restartCount": self._restarts,
            "state": self._state,
            "lastState": self._last,
        }

    # -- what happens

    def step(self) -> None:
        """Look at it, and do what is due."""
        now_s = time.monotonic()
        if self._started is None:
            if not self.finished and not self._leaving and now_s >= self._next_s:
                self._start(now_s)
        elif (code := self._started.process.poll()) is not None:
            self._ended(self._started, code, now_s)
        else:
            self._go_on_stopping(self._started, now_s)
            self._look(self._started, now_s)

    def leave(self, grace_s: float) -> None:
        """The Pod goes: stop it, and do not start it again."""
        self._leaving = True
        if self._started is None:
            self.finished = True
        else:
            self._begin_stop(self._started, grace_s)

    def _start(self, now_s: float) -> None:
        try:
            self._started = self._sandbox.start(self.spec)
        except (PodError, ApiError, Unreachable, OSError) as error:
            reason = error.reason if isinstance(error, PodError) else "CreateContainerError"
            self._state = {"waiting": {"reason": reason, "message": str(error)[:1000]}}
            self._next_s = now_s + self._delay()
            return
        self._began, self._began_s = stamp(), now_s
        self._ever_started = True
        self._state = {"running": {"startedAt": self._began}}
        kinds = ("startupProbe", "readinessProbe", "livenessProbe")
        self._probes = {kind: Probe(self.spec[kind], now_s) for kind in kinds if self.spec.get(kind)}
        self._stopping, self._term_sent, self._kill_at_s = None, False, float("inf")

    def _delay(self) -> float:
        delay = self._config.backoff_s * 2.0 ** min(self._failures, 12)
        self._failures += 1
        return min(delay, self._config.backoff_max_s)

    def _ended(self, started: Started, code: int, now_s: float) -> None:
        started.sweep()
        self._started = None
        self.code = 128 - code if code < 0 else code
        reason, message = ("Completed" if self.code == 0 else "Error"), ""
        if not started.set_up:
            self.code, reason = 128, "StartError"
            message = self._sandbox.log(self.spec["name"]).read_text(errors="replace")[-500:]
        ended: Object = {
            "exitCode": self.code,
            "reason": reason,
            "startedAt": self._began,
            "finishedAt": stamp(),
        } | ({"signal": -code} if code < 0 else {})
        if message:
            ended["message"] = message
        again = self._restart == "Always" or (self._restart == "OnFailure" and self.code != 0)
        if self._leaving or not again:
            self.finished, self._state = True, {"terminated": ended}
            self._sandbox.forget(self.spec["name"])
            return
        if now_s - self._began_s > GOOD_RUN_S:
            self._failures = 0
        delay_s = self._delay()
        self._next_s, self._restarts, self._last = now_s + delay_s, self._restarts + 1, {"terminated": ended}
        waits = f"back-off {delay_s:g}s restarting failed container={self.spec['name']}"
        self._state = {"waiting": {"reason": "CrashLoopBackOff", "message": waits}}

    def _look(self, started: Started, now_s: float) -> None:
        if self._stopping is not None or self._term_sent:
            return
        for kind, probe in self._probes.items():
            if (kind == "startupProbe") == self._startup_done:
                continue  # over, or not yet its turn
            probe.step(now_s, self._executor, self.spec, self._ip, self._sandbox, started)
            if probe.passed is False and kind != "readinessProbe":
                grace_s = float(self.spec[kind].get("terminationGracePeriodSeconds", self._grace_s))
                self._begin_stop(started, grace_s)
                return

    # -- the end

    def _begin_stop(self, started: Started, grace_s: float) -> None:
        self._kill_at_s = min(self._kill_at_s, time.monotonic() + grace_s)
        if self._stopping is not None or self._term_sent:
            return
        hook: Object = (self.spec.get("lifecycle") or {}).get("preStop") or {}
        if grace_s > 0 and hook:
            self._stopping = self._executor.submit(self._before_stop, hook, started, grace_s)
        else:
            self._terminate(started)

    def _before_stop(self, hook: Object, started: Started, grace_s: float) -> str:
        if "sleep" in hook:
            end = time.monotonic() + min(grace_s, float(hook["sleep"]["seconds"]))
            while time.monotonic() < end and started.process.poll() is None:
                time.sleep(0.05)
            return ""
        if "exec" in hook:
            try:
                code = self._sandbox.inside(started, hook["exec"]["command"], grace_s)
            except subprocess.TimeoutExpired as error:
                return str(error)
            return f"preStop ended with {code}" if code else ""
        return ask(hook | {"timeoutSeconds": grace_s}, self.spec, self._ip, self._sandbox, started)

    def _terminate(self, started: Started) -> None:
        self._term_sent = True
        started.signal(signal.SIGTERM)

    def _go_on_stopping(self, started: Started, now_s: float) -> None:
        if self._stopping is not None and not self._term_sent:
            if self._stopping.done():
                self._terminate(started)
            elif now_s > self._kill_at_s:
                self._terminate(started)
                self._kill_at_s = now_s + EXTRA_S
        elif now_s > self._kill_at_s:
            started.signal(signal.SIGKILL)

    def kill(self) -> None:
        """At once, without a word: the node itself ends."""
        if self._started is not None:
            self._started.signal(signal.SIGKILL)
            self._started.process.wait()
            self._started.sweep()
            self._started = None
        self._sandbox.forget(self.spec["name"])
        self.finished = True
