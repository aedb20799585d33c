"""What the engine of a class is made of, and what its state's pieces mean. The rule: values only, no behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.calibration import TailCalibration
from detectors.ensemble import Opinions
from detectors.protocol import Detector
from streams.core.alert_policy import AlertStage, Events, PolicySpec
from streams.core.devices import DEVICE_WORDS
from streams.core.drifting import DriftSpec
from streams.core.layout import Layout, Piece
from streams.core.watch import WatchStage
from streams.core.window_stage import WindowStage
from streams.core.windows import WindowSpec
from telemetry.catalog import Catalog

#: Whatever keeps state by slot.
Stage = WatchStage | WindowStage | AlertStage | Detector | TailCalibration

#: Features of a window that window-rate detectors see, for each signal.
WINDOW_COLUMNS = ("mean", "std")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a batch came from. owner : names (topic, partition) in a device's row."""

    topic: str
    partition: int
    owner: int


@dataclass(frozen=True, slots=True)
class Lineup:
    """The detectors of a class. sample : of them the first `alerting` may open alerts; window : scores only.

    calibrations : of the sample-rate detectors, in their order; () = their surprises are taken as they are.
    open_rows : strange rows that open an alert, by sample-rate detector; () = as the policy says.
    policy : of this class; None = the engine's.
    """

    sample: tuple[Detector, ...] = ()
    window: tuple[Detector, ...] = ()
    alerting: int = 0
    calibrations: tuple[TailCalibration, ...] = ()
    open_rows: tuple[int, ...] = ()
    policy: PolicySpec | None = None


@dataclass(slots=True)
class Rows:
    """What became of a block's n rows, for whoever listens: views that are good during the call.

    slots, ts_us, frame_no, order : see `streams.core.devices.place`. opinions : of the sample-rate detectors.
    events : of the alert policy, in order.
    """

    slots: NDArray[np.int32]
    ts_us: NDArray[np.int64]
    frame_no: NDArray[np.int32]
    order: NDArray[np.uint8]
    opinions: Opinions
    events: list[Events]


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What the core does for every class.

    scores_min_surprise : a window's scores below this are not published; None = no scores at all.
    partitions : of the inputs: a device's frames on another than its id's are refused. 0 = not looked at.
    drift : None = detectors' scores are not watched.
    """

    windows: WindowSpec
    policy: PolicySpec
    features: bool = True
    scores_min_surprise: float | None = 0.0
    late: bool = True
    devices_max: int = 2_000_000
    partitions: int = 0
    block_values: int = 64 * 1024
    drift: DriftSpec | None = None


def layout(
    catalog: Catalog, spec: EngineSpec, lineup: Lineup, stages: Sequence[Stage], bank: Sequence[Detector]
) -> Layout:
    """The row's pieces. Thresholds of the alert policy are not part of their meaning: they may change.

    stages : watch, the sample-rate detectors, their calibrations, windows, alerts.
    """
    base = (catalog.key, *(f"{s.name}:{s.nature}" for s in catalog.signals))
    watch, *detectors, windows, alerts = stages
    calibrations = detectors[len(lineup.sample) :]
    names = [d.spec.name for d in lineup.sample]
    opinions = names if spec.scores_min_surprise is not None else []
    return Layout(
        (
            Piece.of(8 * DEVICE_WORDS, *base, f"device:{DEVICE_WORDS}"),
            Piece.of(watch.state_nbytes, *base, "watch"),
            *(
                Piece.of(s.state_nbytes, *base, d.spec.state_id)
                for s, d in zip(detectors[: len(lineup.sample)], lineup.sample, strict=True)
            ),
            *(
                Piece.of(c.state_nbytes, *base, lineup.sample[q].spec.state_id, c.meaning)
                for q, c in enumerate(calibrations)
                if isinstance(c, TailCalibration)
            ),
            Piece.of(windows.state_nbytes, *base, repr(spec.windows), *opinions),
            Piece.of(alerts.state_nbytes, *base, "alerts:1", *names[: lineup.alerting]),
        ),
        tuple(Piece.of(d.state_nbytes, *base, d.spec.state_id) for d in bank),
    )
