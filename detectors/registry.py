"""Which detectors exist, by name, and how one is made from settings. The rule: a wrong name or parameter is
refused with the nearest right one, before anything is built."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from detectors.covariance import Covariance
from detectors.ewma import EwmaZ
from detectors.novelty import Novelty
from detectors.protocol import Detector
from detectors.relations import Relations
from detectors.river_bank import RiverBank
from detectors.robust import RobustMultiscale
from detectors.rules import Rules

#: Each is called with the columns, then its parameters by keyword, and its spec's `params` are again
#: parameters that make the same detector.
DETECTORS: dict[str, Callable[..., Detector]] = {
    "covariance": Covariance,
    "ewma": EwmaZ,
    "novelty": Novelty,
    "relations": Relations,
    "robust": RobustMultiscale,
    "river": RiverBank,
    "rules": Rules,
}


def _nearest(word: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.0)
    return f"did you mean {near[0]!r}? Known: {', '.join(names)}" if near else "there are none"


def parameters_of(name: str) -> dict[str, Any]:
    """The parameters of a registered detector and their defaults (`inspect.Parameter.empty` = required).

    Raises
    ------
    ValueError : no detector has this name.
    """
    if name not in DETECTORS:
        raise ValueError(f"unknown detector {name!r}: {_nearest(name, DETECTORS)}")
    keyword = inspect.Parameter.KEYWORD_ONLY
    found = inspect.signature(DETECTORS[name]).parameters.values()
    return {p.name: p.default for p in found if p.kind is keyword}


def rate_of(name: str) -> str:
    """``window`` for detectors that see closed windows, ``sample`` for those that see every row."""
    parameters_of(name)
    return "window" if DETECTORS[name] is RiverBank else "sample"


def make_detector(name: str, columns: tuple[str, ...], params: Mapping[str, Any]) -> Detector:
    """A detector as new, with no slots reserved.

    Parameters
    ----------
    name : a key of `DETECTORS`.
    columns : names of the value columns, in order.
    params : parameters that differ from their defaults.

    Raises
    ------
    ValueError : unknown name, unknown parameter (all of them at once, with the nearest known ones), or a
        value that the detector refuses.
    """
    known = parameters_of(name)
    wrong = [key for key in params if key not in known]
    if wrong:
        hints = "; ".join(f"{key!r}: {_nearest(key, known)}" for key in wrong)
        raise ValueError(f"detector {name!r} has no parameter {hints}")
    return DETECTORS[name](tuple(columns), **params)
