"""The autoscaler's Prometheus metrics. The rule: every label is from a set that is fixed or bounded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from autoscaler.observation import Decision, Observation
from autoscaler.words import CODES, NOTES

#: Why nothing is decided, or not done: the group, the workload, figures too old, the scaling itself.
HELD = ("blind", "workload", "stale", "scale")
#: Where an error was met; `conflict` is a count that another changed meanwhile.
PARTS = (*HELD, "conflict")
#: A policy's codes and figures are few; what a defect would bring beyond is counted as "other".
NAMES_MAX = 64


class _Names:
    """Lets the first NAMES_MAX through."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known = set(known)

    def __call__(self, name: str) -> str:
        if name not in self._known and len(self._known) >= NAMES_MAX:
            return "other"
        self._known.add(name)
        return name


class AutoscalerMetrics:
    """Registers itself. leading, differs : read when scraped."""

    def __init__(
        self,
        registry: CollectorRegistry,
        leading: Callable[[], bool] = lambda: False,
        differs: Callable[[], bool] = lambda: False,
    ) -> None:
        #: Of every family, for the reference page.
        self.labels: dict[str, tuple[str, ...]] = {}

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            self.labels[f"fleetwatch_autoscaler_{name}"] = labels
            return Gauge(f"fleetwatch_autoscaler_{name}", text, labels, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            self.labels[f"fleetwatch_autoscaler_{name}"] = labels
            return Counter(f"fleetwatch_autoscaler_{name}", text, labels, registry=registry)

        self._replicas = gauge("replicas", "Wanted: decided. Current: set. Ready: that are.", "kind")
        self._lag_s = gauge("lag_seconds", "Age of the oldest record that waits; NaN = not known.", "partition")
        self._lag = gauge("lag_records", "Records that wait to be processed and committed.", "partition")
        self._decisions = counter("decisions", "Looks that ended in a decision, by its reason.", "code")
        self._scalings = counter("scalings", "Changes of the replicas that were made.", "direction")
        self._held = gauge("held", "1 = the last decision holds, for this reason.", "reason")
        self._errors = counter("errors", "Looks and scalings that failed, by the part that did.", "part")
        self._figure = gauge("figure", "What the last decision was made from; NaN = not known.", "name")
        self._note = gauge("note", "1 = found at the last look, beside the decision.", "code")
        self._look = Histogram(
            "fleetwatch_autoscaler_look_seconds",
            "Time for a look at the group, the workload and the workers.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=registry,
        )
        self._last = gauge("last_look_timestamp", "Unix time of the last look that saw everything it must.")
        leader = gauge("leader", "1 = this process may scale.")
        leader.set_function(lambda: float(leading()))
        other = gauge("settings_differ", "1 = another autoscaler of this target has other settings.")
        other.set_function(lambda: float(differs()))
        self._code, self._name = _Names(CODES), _Names()
        self._partitions = 0
        self._figures: set[str] = set()
        self._notes: set[str] = set()
        self._note_code = _Names(NOTES)
        for code in CODES:
            self._decisions.labels(code)
        self._set_notes(NOTES)
        self._set_notes(())
        for reason in HELD:
            self._held.labels(reason).set(0)
        for part in PARTS:
            self._errors.labels(part)
        for direction in ("up", "down"):
            self._scalings.labels(direction)

    def looked(self, seconds: float) -> None:
        """Every look, also one that failed."""
        self._look.observe(seconds)

    def seen(self, seen: Observation, at_unix_s: float) -> None:
        """A look that saw everything it must."""
        self._last.set(at_unix_s)
        self._replicas.labels("current").set(seen.replicas)
        self._replicas.labels("ready").set(seen.ready)
        for partition in range(seen.partitions):
            waiting = max(0.0, float(seen.ends[partition] - seen.committed[partition]))
            self._lag.labels(str(partition)).set(waiting)
            self._lag_s.labels(str(partition)).set(float(seen.lag_s[partition]))
        for partition in range(seen.partitions, self._partitions):  # the topic was made anew with fewer
            self._lag.remove(str(partition))
            self._lag_s.remove(str(partition))
        self._partitions = seen.partitions

    def decided(self, decision: Decision) -> None:
        """Every decision."""
        self._replicas.labels("wanted").set(decision.replicas)
        self._decisions.labels(self._code(decision.code)).inc()
        self._set_figures(decision.figures)
        self._set_notes(note.code for note in decision.notes)

    def _set_figures(self, figures: Mapping[str, float]) -> None:
        named = {self._name(name): float(value) for name, value in figures.items()}
        for name in self._figures - named.keys():
            self._figure.labels(name).set(math.nan)
        for name, value in named.items():
            self._figure.labels(name).set(value)
        self._figures |= named.keys()

    def _set_notes(self, codes: Iterable[str]) -> None:
        found = {self._note_code(code) for code in codes}
        self._notes |= found
        for code in self._notes:
            self._note.labels(code).set(float(code in found))

    def scaled(self, before: int, after: int) -> None:
        """The workload's replicas were set."""
        self._scalings.labels("up" if after > before else "down").inc()
        self._replicas.labels("current").set(after)

    def held(self, reason: str, *, on: bool) -> None:
        """reason : one of HELD."""
        assert reason in HELD
        self._held.labels(reason).set(float(on))

    def failed(self, part: str) -> None:
        """part : one of PARTS."""
        assert part in PARTS
        self._errors.labels(part).inc()
