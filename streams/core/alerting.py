"""Events of the alert policy to alerts. The rule: an alert is a function of the input; no clock, no random id."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detectors import rules
from detectors.protocol import DetectorSpec
from streams.core.alert_policy import (
    E_DETECTOR,
    E_FIRST_COL,
    E_ONSET,
    E_ONSET_OFFSET,
    G_EXPECTED,
    G_PEAK,
    G_TOLD,
    OPENED,
    TOP,
    UPDATED,
    V_EPISODE,
    V_KIND,
    PolicySpec,
)
from telemetry.alerts import Alert, AlertState, GuiltySignal, Severity, rfc3339, sentence
from telemetry.catalog import Catalog

#: What sort of anomaly a detector's alerts are, in a word; of `rules` it is the rule that was broken.
KINDS = {
    "ewma": "spike",
    "robust": "shift",
    "relations": "relation",
    "covariance": "relation",
    "novelty": "novelty",
}
#: A device is settled after so many rows of its class, and so many times the time in which there are no alerts.
SETTLED_ROWS, SETTLED_WARMUPS = 300, 5
_STATES = {OPENED: AlertState.OPEN, UPDATED: AlertState.UPDATE}


def kind_of(detector: DetectorSpec, signals: Sequence[GuiltySignal]) -> str:
    """What sort of anomaly a detector tells of, in a word."""
    if not signals:
        return _kind(detector, None, 0.0, 0.0)
    return _kind(detector, signals[0].signal, signals[0].observed, signals[0].expected)


def _kind(detector: DetectorSpec, signal: str | None, observed: float, expected: float) -> str:
    """By the guiltiest signal; None = of the device as a whole."""
    if detector.name == "rules":
        return rules.FLOOD if signal is None else rules.kind_of(detector, signal, observed, expected)
    if math.isnan(observed):
        return rules.DROPOUT
    return KINDS.get(detector.name, "pattern")


class AlertWriter:
    """Writes the alerts of one class.

    Parameters
    ----------
    detectors : of the sample-rate detectors, in the engine's order.
    """

    def __init__(self, catalog: Catalog, detectors: tuple[DetectorSpec, ...], spec: PolicySpec) -> None:
        self._catalog, self._detectors, self._spec = catalog, detectors, spec
        self._settled_us = max(SETTLED_WARMUPS * spec.warmup_us, SETTLED_ROWS * round(catalog.period_ms * 1000))

    def _severity(self, score: float) -> Severity:
        if score >= self._spec.critical_surprise:
            return Severity.CRITICAL
        return Severity.MAJOR if score >= self._spec.major_surprise else Severity.MINOR

    def _confidence(self, age_us: int) -> float:
        """Below 1 while the detectors still get to know the device."""
        return 1.0 if age_us >= self._settled_us else round(max(age_us, 0) / self._settled_us, 3)

    def count(self, words: NDArray[np.int64], figures: NDArray[np.float32]) -> Counter[tuple[str, str]]:
        """Episodes by (severity that was last told, kind that they have now). words, figures : a row an episode."""
        found: Counter[tuple[str, str]] = Counter()
        detectors, columns = words[:, E_DETECTOR].tolist(), words[:, E_FIRST_COL].tolist()
        scores, expected = figures[:, G_TOLD].tolist(), figures[:, G_EXPECTED].tolist()
        observed = figures[:, G_EXPECTED + TOP].tolist()
        for detector, column, score, was, should in zip(
            detectors, columns, scores, observed, expected, strict=True
        ):
            signal = self._catalog.signals[column].name if column >= 0 else None
            kind = _kind(self._detectors[detector], signal, was if signal else 0.0, should)
            found[str(self._severity(score)), kind] += 1
        return found

    def _signals(self, words: NDArray[np.int64], figures: NDArray[np.float32]) -> tuple[GuiltySignal, ...]:
        found = []
        for k in range(TOP):
            column = int(words[V_EPISODE + E_FIRST_COL + k])
            if column < 0:
                break
            signal = self._catalog.signals[column]
            expected, observed, share = (float(figures[G_EXPECTED + j * TOP + k]) for j in range(3))
            found.append(GuiltySignal(signal.name, signal.unit, observed, expected, share))
        return tuple(found)

    def write(
        self,
        words: NDArray[np.int64],
        figures: NDArray[np.float32],
        device_id: str,
        ts_us: int,
        topic: str,
        partition: int,
        offset: int,
        first_ts_us: int,
    ) -> Alert:
        """The alert of one event (`streams.core.alert_policy`) at one row.

        first_ts_us : the device's first event time: until it is settled its alerts are less certain, and say so.
        """
        detector = self._detectors[int(words[V_EPISODE + E_DETECTOR])]
        signals = self._signals(words, figures)
        kind = kind_of(detector, signals)
        onset_us = int(words[V_EPISODE + E_ONSET])
        score = float(figures[G_PEAK])
        confidence = self._confidence(ts_us - first_ts_us)
        others = len(self._catalog.monitored) - 1 if kind == "relation" else 0
        state = _STATES.get(int(words[V_KIND]), AlertState.RESOLVED)
        episode = f"{device_id}/{rfc3339(onset_us)}"
        if self._spec.frames:
            episode = f"{device_id}/{topic}/{partition}/{offset}"
        return Alert(
            id=episode,
            device_id=device_id,
            catalog=self._catalog.key,
            kind=kind,
            state=state,
            severity=self._severity(score),
            score=score,
            confidence=confidence,
            onset_us=onset_us,
            ts_us=ts_us,
            window_us=ts_us - onset_us,
            signals=signals,
            sentence=sentence(device_id, kind, signals, others, warming=confidence < 1.0),
            detector=detector.name,
            detector_version=detector.version,
            topic=topic,
            partition=partition,
            offset_first=int(words[V_EPISODE + E_ONSET_OFFSET]),
            offset_last=offset,
            warming=confidence < 1.0,
        )
