"""The figures as a page. The rule: every number is of this run or of `published`, and says which."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.quality import published
from benchmarks.quality.evaluate import Scored, SetResult
from benchmarks.quality.plots import chart

#: Rows that a chart shows before and after what it is about.
AROUND = 0.6
LEAST_ROWS = 300


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(c) for c in cells) + " |"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    return [_row(head), _row("---" for _ in head), *(_row(row) for row in rows)]


def _figure(value: float | None, digits: int = 3) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _nab(result: SetResult) -> list[str]:
    f = result.figures
    names = ("standard", "reward_low_FP_rate", "reward_low_FN_rate")
    ours = [
        ("**this project**, best threshold", *(_figure(f[f"{n}, best threshold"], 1) for n in names), "no"),
    ]
    if all(f"{n}, frozen" in f for n in names):
        ours.append(("**this project**, frozen threshold", *(_figure(f[f"{n}, frozen"], 1) for n in names), "no"))
    ours.append(
        ("**this project**, leave one file out", _figure(f["standard, leave one file out"], 1), "", "", "no")
    )
    theirs = [
        (name, *(_figure(v, 1) for v in (standard, low_fp, low_fn)), "yes" if ahead else "no")
        for name, standard, low_fp, low_fn, ahead in published.NAB
    ]
    windows = sum(int(b["windows"]) for b in result.by_series.values())
    found = sum(int(b["found"]) for b in result.by_series.values())
    false = sum(int(b["false"]) for b in result.by_series.values())
    intro = (
        f"{len(result.scored)} files, {windows} windows. At the best standard threshold {found} windows are found, "
        f"with {false} false detections. CPU {result.ns_per_value:.0f} ns a value, the whole engine."
    )
    return [
        "## NAB",
        "",
        intro,
        "",
        *_table(("detector", "standard", "low FP", "low FN", "looks ahead"), [*ours, *theirs]),
        "",
    ]


def _servers(result: SetResult, others: Sequence[tuple[str, float]]) -> list[str]:
    f = result.figures
    keys = ("VUS-PR cold", "VUS-PR warm", "AUC-PR cold", "AUC-PR warm", "named first cold", "named first warm")
    rows = [("**this project**, mean", *(_figure(f[k]) for k in keys))]
    rows += [(name, *(_figure(each[k]) for k in keys)) for name, each in sorted(result.by_series.items())]
    rows += [(f"{name} (published)", _figure(value), "", "", "", "", "") for name, value in others]
    intro = (
        f"{len(result.by_series)} machines. CPU {result.ns_per_value:.0f} ns a value, the whole engine. "
        f"Named first, over all events, warm: {_figure(f['named first, all events, warm'])}."
    )
    return [
        f"## {result.name}",
        "",
        intro,
        "",
        *_table(("", *keys), rows),
        "",
    ]


def _vehicle(result: SetResult) -> list[str]:
    rows: list[Sequence[object]] = [
        (key, _figure(value)) for key, value in result.figures.items() if key != "base rate"
    ]
    rows += [(f"AUC-PR of {name}, a base rate", _figure(value)) for name, value in published.VEHICLE]
    kinds = [(kind, int(each["events"]), int(each["found"])) for kind, each in sorted(result.by_series.items())]
    intro = (
        f"{len(result.scored)} trips of a real car with injected faults, {result.figures['base rate']:.1%} of the "
        f"rows. CPU {result.ns_per_value:.0f} ns a value, the whole engine."
    )
    return [
        "## Vehicle faults",
        "",
        intro,
        "",
        *_table(("figure", "this project"), rows),
        "",
        *_table(("fault", "events", "found"), kinds),
        "",
    ]


def _span(scored: Scored, start: int, end: int) -> tuple[int, int]:
    around = max(int(AROUND * (end - start)), LEAST_ROWS)
    return max(0, start - around), min(len(scored.told.score), end + around)


def _columns(scored: Scored, start: int, end: int, guilty: Iterable[int]) -> tuple[int, ...]:
    """The column that was named and one that is guilty, each once."""
    row = start + int(np.argmax(scored.told.score[start:end]))
    named = int(scored.told.column[row, 0])
    return tuple(dict.fromkeys(c for c in (named, *sorted(guilty)[:1]) if c >= 0)) or (0,)


def _labelled(scored: Scored) -> list[tuple[int, int, frozenset[int], str]]:
    if scored.series.events:
        return [(e.start, min(e.end, len(scored.told.score)), e.guilty, e.kind) for e in scored.series.events]
    nab = scored.series.nab
    spans = nab.windows if nab is not None else ()
    return [(start, end + 1, frozenset({0}), "") for start, end in spans]


def pictures(results: Sequence[SetResult], folder: Path) -> list[str]:
    """Three typical hits, each the middle one of its set, and the worst miss: what stands out least."""
    lines = ["## Three typical hits and the worst miss", ""]
    misses: list[tuple[float, SetResult, Scored, tuple[int, int, frozenset[int], str]]] = []
    for result in results:
        hits = []
        for scored in result.scored:
            score = scored.told.score
            for event in _labelled(scored):
                if event[1] <= event[0] or (
                    scored.series.nab is not None and not scored.series.nab.judged[event[0]]
                ):
                    continue
                peak = float(score[event[0] : event[1]].max())
                share = float((score >= peak).mean())
                hits.append((peak, scored, event))
                misses.append((share, result, scored, event))
        hits = sorted((h for h in hits if h[0] >= _level(result, h[1])), key=lambda hit: hit[0])
        if hits and result.name != "ASD":
            lines += _picture(folder, result, *hits[len(hits) // 2][1:], "hit")
    if misses:
        share, result, scored, event = max(misses, key=lambda miss: miss[0])
        lines += _picture(folder, result, scored, event, "worst miss")
        lines += [
            f"{share:.0%} of that series' rows are told as strange or stranger than the worst of the event.",
            "",
        ]
    return lines


def _level(result: SetResult, scored: Scored) -> float:
    """The set's threshold; sets of servers have none: then one row of the series in a hundred is above."""
    level = result.figures.get("threshold", result.figures.get("standard, threshold", float("nan")))
    return float(np.quantile(scored.told.score, 0.99)) if math.isnan(level) else level


def _picture(
    folder: Path, result: SetResult, scored: Scored, event: tuple[int, int, frozenset[int], str], what: str
) -> list[str]:
    start, end, guilty, kind = event
    name = f"{result.name}-{what}".lower().replace(" ", "-") + ".svg"
    level = _level(result, scored)
    first, last = _span(scored, start, end)
    about = " ".join(filter(None, (scored.series.name, kind)))
    title = f"{result.name}, {what}: {about}, labelled rows {start}-{end - 1}"
    chart(folder / name, scored, first, last, _columns(scored, start, end, guilty), level, title)
    return [f"![{title}](img/quality/{name})", ""]


def page(results: Sequence[SetResult], missing: Sequence[str], folder: Path) -> str:
    """docs/detection-quality.md. folder : of the pictures."""
    by_chance = ", ".join(f"{value} {name}" for name, value in published.RANDOM_TOP1.items())
    lines = [
        "# Detection quality",
        "",
        "Written by `make quality`: each set, row by row and in order, through the engine that the worker runs,",
        "with the shipped settings; one configuration for all sets. A row is scored before it is learnt, nothing",
        'looks ahead. Figures are of the development halves; "frozen" thresholds stand in',
        "`benchmarks/quality/frozen.json`, chosen on them once. The metrics: `benchmarks/quality/nab_score.py` and",
        "`vus_pr.py` beside it. What was tried and what it gave: [detection-ablation.md](detection-ablation.md).",
        "Warm: training rows are streamed first; cold: they are not. Named first: the share of events whose",
        f"strangest row names a guilty signal first (at random: {by_chance}).",
        "",
    ]
    if missing:
        lines += [f"Not run, for their files are not there: {', '.join(missing)}.", ""]
    for result in results:
        if result.name == "NAB":
            lines += _nab(result)
        elif result.name == "SMD":
            lines += _servers(result, published.SMD)
        elif result.name == "ASD":
            lines += _servers(result, published.ASD)
        else:
            lines += _vehicle(result)
    return "\n".join([*lines, *pictures(results, folder)]).rstrip() + "\n"
