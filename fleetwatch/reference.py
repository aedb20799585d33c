"""Writes the reference pages in docs/ from the code. The rule: nothing of the machine it runs on gets into them.

``python -m fleetwatch.reference`` writes them, ``--check`` ends with 1 and names those that are stale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import click
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from autoscaler import words
from autoscaler.loop import REASONS
from autoscaler.metrics import HELD, AutoscalerMetrics
from fleetwatch import asyncapi, settings_cli
from streams.metrics import WorkerMetrics
from telemetry import catalog, topics
from telemetry.settings import Settings
from telemetry.words import humanise

DOCS = Path(__file__).resolve().parent.parent / "docs"
_NOTE = "<!-- Written by `python -m fleetwatch.reference`; do not edit. -->"


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _table(head: Sequence[str], body: Iterable[Sequence[object]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in body]


def _page(title: str, *parts: Iterable[str]) -> str:
    lines = [f"# {title}", "", _NOTE]
    for part in parts:
        lines += ["", *part]
    return "\n".join(lines) + "\n"


def _defaults() -> Settings:
    """The settings with neither file nor environment."""
    return Settings.model_construct()


def configuration() -> str:
    """docs/configuration.md: every setting."""
    rows = settings_cli.rows(_defaults(), environ={})
    parts: list[list[str]] = [
        [
            "Later sources win: defaults, a YAML file (`--config FILE`, or the variable `FLEETWATCH_CONFIG`), and",
            "environment variables `FLEETWATCH_<SECTION>__<KEY>`. A list or a mapping in a variable is JSON. An",
            "unknown key is refused in either; all problems are reported at once. `fleetwatch settings` shows the",
            "values in force and where each is from; with `--format yaml` it writes a file to start from.",
        ]
    ]
    for section, field in Settings.model_fields.items():
        model = field.annotation
        mine = [row for row in rows if row.name.partition(".")[0] == section]
        about = ["Which detectors run; a list of `name`, `params` and `classes`."]
        if isinstance(model, type) and issubclass(model, BaseModel):
            about = (model.__doc__ or "").strip().splitlines()[:1]
        body = [
            (f"`{r.name}`", r.type, f"`{settings_cli.shown(r.default)}`", f"`{r.variable}`", r.description)
            for r in mine
        ]
        parts += [
            [f"## {section}", "", *about],
            _table(("setting", "type", "default", "variable", "meaning"), body),
        ]
    return _page("Configuration", *parts)


def topics_page() -> str:
    """docs/topics.md: every topic with its key, value and configuration."""
    specs = topics.topics(_defaults()).all()
    body = [
        (
            f"`{s.name}`",
            s.doc,
            s.key,
            s.value,
            s.partitions,
            "<br>".join(f"`{name}={value}`" for name, value in s.config),
        )
        for s in specs
    ]
    alone = [f"`{s.name}`" for s in specs if not s.co_partitioned]
    return _page(
        "Topics",
        [
            "Names and figures are those of the default settings: `topics.prefix` is the part before the last dot,",
            "`topics.partitions` the number of partitions of the inputs and of every topic that is",
            f"co-partitioned with them: all but {', '.join(alone)}. Every producer must use the partitioner",
            "`murmur2_random` (Java's default; librdkafka's own default is another). `fleetwatch topics apply`",
            "makes what is missing, `fleetwatch topics list` shows what there is and where it differs.",
            "[asyncapi.yaml](asyncapi.yaml) has each topic's messages, with headers, schemas and examples, and",
            "who sends and receives them: AsyncAPI 3.0, for tools. [How to subscribe](subscribing.md).",
        ],
        _table(("topic", "holds", "key", "value", "partitions", "configuration"), body),
    )


def catalog_page() -> str:
    """docs/catalog.md: every entry of the signal catalogue that ships with the project."""
    parts: list[list[str]] = [
        [
            "A frame names its entry, for example `vehicle.ev/1`, and carries the values in the order given here.",
            "Entries of your own are YAML files in the folders of the setting `catalog.paths`; check them with",
            "`fleetwatch catalog --check PATH`. An entry never changes once devices use it: write a new version.",
        ]
    ]
    for entry in catalog.load().values():
        body = [
            (
                i,
                f"`{s.name}`",
                humanise(s.name),
                s.unit,
                *("" if v is None else f"{v:.10g}" for v in (s.min, s.max, s.rate_max, s.stuck_after_s)),
                s.description,
            )
            for i, s in enumerate(entry.signals)
        ]
        about = f"Kind: {entry.kind}. Steps a frame: {entry.steps_per_frame}, one every {entry.period_ms:g} ms."
        head = ("#", "signal", "in words", "unit", "min", "max", "rate max /s", "stuck after s", "meaning")
        parts += [[f"## {entry.key}", "", entry.description, about], _table(head, body)]
    return _page("Signal catalogue", *parts)


def _or(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[:-1]) + f" or `{names[-1]}`"


def _metrics_table(registry: CollectorRegistry, known: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """known : labels of families that have no sample yet."""
    body = []
    for family in registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = (
            (known or {}).get(family.name)
            or getattr(family, "_labelnames", ())
            or {k for s in family.samples for k in s.labels if k != "le"}
        )
        body.append((f"`{name}`", family.type, ", ".join(sorted(labels)), family.documentation))
    return _table(("metric", "type", "labels", "meaning"), sorted(body))


def _codes(about: str, codes: Mapping[str, str]) -> list[str]:
    return _table((about, "meaning"), [(f"`{code}`", text) for code, text in sorted(codes.items())])


def metrics_page() -> str:
    """docs/metrics.md: what the pages of a worker and of the autoscaler show beside the process's own figures."""
    worker, scaler = CollectorRegistry(), CollectorRegistry()
    WorkerMetrics(worker)
    metrics = AutoscalerMetrics(scaler)
    return _page(
        "Metrics",
        [
            "Of a worker, at `/metrics` on its port (`service.port`), in the Prometheus text format. Beside these",
            "are the process's own `process_*` and `python_*` figures. No metric has a label that names a device.",
        ],
        _metrics_table(worker),
        [
            "## Autoscaler",
            "",
            "Of `fleetwatch autoscaler`, at `/metrics` on its port (`autoscaler.port`).",
        ],
        _metrics_table(scaler, metrics.labels),
        ["The label `code` of decisions, which is also the reason of an Event on the workload:"],
        _codes("code", words.CODES),
        ["... and of notes, which are Events of type Warning:"],
        _codes("code", words.NOTES),
        ["Other reasons of Events on the workload:"],
        _codes("reason", REASONS),
        [
            f"The label `reason` of `fleetwatch_autoscaler_held` is {_or(HELD)}: no sight of the group, none",
            "of the workload, figures that are too old, a scaling that failed.",
        ],
    )


PAGES: dict[str, Callable[[], str]] = {
    "configuration.md": configuration,
    "topics.md": topics_page,
    "catalog.md": catalog_page,
    "metrics.md": metrics_page,
    "asyncapi.yaml": lambda: asyncapi.page(_defaults()),
}


def stale(folder: Path) -> list[str]:
    """The pages in `folder` that are missing or not what the code says now."""
    found = []
    for name, write in PAGES.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != write():
            found.append(name)
    return found


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; end with 1 and name the stale pages.")
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), default=DOCS, help="Where the pages are."
)
def main(check: bool, folder: Path) -> None:
    """Write the reference pages from the code."""
    names = stale(folder)
    for name in names:
        if check:
            click.echo(f"{folder.name}/{name} is stale: run `python -m fleetwatch.reference`", err=True)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(PAGES[name](), encoding="utf-8")
            click.echo(f"wrote {folder.name}/{name}")
    if check and names:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
