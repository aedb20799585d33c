"""river's anomaly detectors behind one small interface. The rule: only names of `river.anomaly`, never an import by
a name that somebody gave."""

from __future__ import annotations

import copy
import difflib
import inspect
import math
from collections.abc import Mapping
from typing import Any, Protocol

PREFIX = "river.anomaly."
_SMALL_TREES = {"n_trees": 5, "height": 4, "window_size": 50}
#: Models to which a missing column is a 0.
_NEED_ALL = (PREFIX + "LODA", PREFIX + "LocalOutlierFactor")
#: Parameters that say how many rows a model needs before its scores mean anything.
_WARM = ("window_size", "grace_period", "warmup_period")
#: What PredictiveAnomalyDetection learns while it scores.
_LEARNT_IN_SCORE = ("dynamic_mae", "dynamic_se_variance")
#: Rows that a model learns before its scores count, unless it says more itself.
WARM_ROWS = 50
_WHY_NO_FILTER = (
    "with its flag off, one of river 0.26 never learns; the bank's own `hold` keeps anomalies from a model"
)


class Model(Protocol):
    """One device's model. Rows are column number -> value, about 0..1; columns may be missing."""

    def score(self, x: dict[int, float]) -> float:
        """The higher, the stranger; learns nothing."""
        ...

    def learn(self, x: dict[int, float]) -> None: ...


class Joint:
    """A model that sees all columns at once.

    fill : columns that it must not miss: 0.5 stands for their values.
    """

    def __init__(self, river: Any, fill: tuple[int, ...] = ()) -> None:
        self.river = river
        self._fill = dict.fromkeys(fill, 0.5)

    def score(self, x: dict[int, float]) -> float:
        return float(self.river.score_one({**self._fill, **x} if self._fill else x))

    def learn(self, x: dict[int, float]) -> None:
        self.river.learn_one({**self._fill, **x} if self._fill else x)


class Columnwise:
    """Models of one value each, given the others: one a column; the strangest column's score is the row's.

    A column's model that has learnt nothing says nothing: river's may then score NaN, and keep it.

    Parameters
    ----------
    keep : names of what river's `score_one` changes in a model, which is learning: it is done in `learn` here.
    """

    def __init__(self, rivers: list[Any], keep: tuple[str, ...] = ()) -> None:
        self._rivers, self._keep = rivers, keep
        self._known = [False] * len(rivers)

    def _others(self, x: dict[int, float], c: int) -> dict[int, float]:
        """What the model of column c is given; 0.5 stands for what is missing."""
        return {k: x.get(k, 0.5) for k in range(len(self._rivers)) if k != c} if self._keep else {}

    def score(self, x: dict[int, float]) -> float:
        worst = -math.inf
        for c, y in x.items():
            if not self._known[c]:
                continue
            river = self._rivers[c]
            kept = {name: copy.deepcopy(getattr(river, name)) for name in self._keep}
            worst = max(worst, float(river.score_one(self._others(x, c), y)))
            for name, before in kept.items():
                setattr(river, name, before)
        return worst if worst > -math.inf else math.nan

    def learn(self, x: dict[int, float]) -> None:
        for c, y in x.items():
            others = self._others(x, c)
            if self._keep and self._known[c]:
                self._rivers[c].score_one(others, y)
            self._rivers[c].learn_one(others, y)
            self._known[c] = True


class ModelMaker:
    """Makes the models of a bank: all alike, all as new.

    Parameters
    ----------
    path : dotted name of a detector of `river.anomaly` that learns without labels.
    params : its parameters: numbers, texts, true, false, none.
    d : columns.

    Attributes
    ----------
    params : all parameters that are not river's defaults; the seed among them, if the model takes one.
    warm_rows : that a model learns before its scores say anything.

    Raises
    ------
    ValueError : no such detector, a filter, or parameters that it does not take.
    """

    def __init__(self, path: str, params: Mapping[str, Any], d: int) -> None:
        self._path, self._d = path, d
        self._class, self._univariate = _model_class(path)
        self.trees = path == PREFIX + "HalfSpaceTrees"
        self.params = {**(_SMALL_TREES if self.trees else {}), **params}
        accepted = inspect.signature(self._class).parameters
        wrong = [key for key in self.params if key not in accepted]
        if wrong:
            raise ValueError(f"params: {path} has no {', '.join(wrong)}; it has {', '.join(accepted)}")
        odd = [key for key, value in self.params.items() if not isinstance(value, int | float | str | None)]
        if odd:
            raise ValueError(f"params: {', '.join(odd)} must be a number, a text, true, false or none")
        if "seed" in accepted:
            self.params.setdefault("seed", 0)
        own = [self.params.get(k, accepted[k].default) for k in _WARM if k in accepted]
        self.warm_rows = own[0] if self.trees else max([WARM_ROWS, *(n for n in own if isinstance(n, int))])
        self._try()

    def _try(self) -> None:
        """Have a model learn and score a few rows: its parameters are looked at nowhere before."""
        try:
            model = self.make()
            for k in range(3):
                x = dict.fromkeys(range(self._d), 0.25 * (k + 1))
                model.score(x)
                model.learn(x)
        except Exception as exc:
            raise ValueError(f"params: {self._path} refuses {self.params}: {type(exc).__name__}: {exc}") from exc

    def make(self) -> Model:
        """A model as new."""
        if self._univariate:
            made = [self._class(**self.params) for _ in range(self._d)]
            return Columnwise(made, tuple(name for name in _LEARNT_IN_SCORE if hasattr(made[0], name)))
        river, every = self._class(**self.params), range(self._d)
        if self.trees:
            _build_trees(river, self._d)
        elif self._path == PREFIX + "LODA":
            river._initialize(dict.fromkeys(every, 0.5))  # noqa: SLF001 (else the first row's gaps are for ever)
        return Joint(river, tuple(every) if self._path in _NEED_ALL else ())


def _build_trees(river: Any, d: int) -> None:
    """Build the trees from all columns, not from those of the first row learnt; then nothing is learnt."""
    river.learn_one(dict.fromkeys(range(d), 0.5))
    for nodes in river._tree_nodes:  # noqa: SLF001 (river shows its trees nowhere else)
        for node in nodes:
            node.l_mass = node.r_mass = 0
    river.counter = 0
    river._first_window = True  # noqa: SLF001


def _model_class(path: str) -> tuple[type[Any], bool]:
    """The river detector of this dotted name, and whether it is one of a single value. River is imported here: it
    takes half a second, and most workers have no use for it.

    Raises
    ------
    ValueError : it is not one of `river.anomaly`'s detectors, or a filter.
    """
    from river import anomaly, base

    found = {
        name: cls for name, cls in vars(anomaly).items() if inspect.isclass(cls) and not inspect.isabstract(cls)
    }
    joint = {name for name, cls in found.items() if issubclass(cls, base.AnomalyDetector)}
    univariate = {name for name, cls in found.items() if issubclass(cls, base.SupervisedAnomalyDetector)}
    name = path.removeprefix(PREFIX)
    if path.startswith(PREFIX) and name in joint | univariate:
        return found[name], name in univariate
    if path.startswith(PREFIX) and name in found:
        raise ValueError(f"model: {path!r} is no anomaly detector but a filter: {_WHY_NO_FILTER}")
    near = difflib.get_close_matches(name.rpartition(".")[2], joint | univariate, n=1, cutoff=0.0)
    raise ValueError(
        f"model: no anomaly detector {path!r}: only those of {PREFIX}* are; did you mean {PREFIX}{near[0]}?"
    )
