"""`fleetwatch topics`: create what is missing, show what is there. The rule: nothing that exists is altered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import click
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec, ResourceType
from rich.console import Console
from rich.table import Table

from fleetwatch.pages import load_settings, page_console, quiet_end
from telemetry import topics as contract
from telemetry.clients import admin, cluster_metadata
from telemetry.errors import BrokerUnavailableError
from telemetry.offsets import list_offsets
from telemetry.settings import Settings
from telemetry.topics import TopicSpec


@dataclass(frozen=True, slots=True)
class TopicState:
    """One topic as it should be and as it is. partitions, records : None = it does not exist.

    config : the settings that the contract gives it, as they are on the cluster.
    """

    spec: TopicSpec
    partitions: int | None
    records: int | None
    config: Mapping[str, str]

    def problems(self) -> list[str]:
        """How it differs from the contract."""
        if self.partitions is None:
            return ["missing"]
        found = []
        if self.spec.co_partitioned and self.partitions != self.spec.partitions:
            found.append(f"{self.partitions} partitions, not {self.spec.partitions}")
        found += [
            f"{name} is {self.config.get(name, 'unset')}, not {wanted}"
            for name, wanted in self.spec.config
            if self.config.get(name) != wanted
        ]
        return found


def _records(client: AdminClient, partitions: Mapping[str, int], timeout_s: float) -> dict[str, int]:
    """Records held by each topic: last offset less first; compaction and transaction marks count as records."""
    totals = dict.fromkeys(partitions, 0)
    for sign, spec in ((1, OffsetSpec.latest()), (-1, OffsetSpec.earliest())):
        for (name, _), offset in list_offsets(client, partitions, spec, timeout_s).items():
            totals[name] += sign * offset
    return totals


def _configs(client: AdminClient, names: Iterable[str], timeout_s: float) -> dict[str, dict[str, str]]:
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    if not resources:
        return {}
    futures = client.describe_configs(resources, request_timeout=timeout_s)
    return {
        resource.name: {name: str(entry.value) for name, entry in future.result().items()}
        for resource, future in futures.items()
    }


def look(settings: Settings) -> list[TopicState]:
    """All topics of the contract, as they are.

    Raises
    ------
    BrokerUnavailableError : no broker answers, or it refuses.
    """
    client = admin(settings)
    timeout_s = settings.kafka.connect_timeout_s
    specs = contract.topics(settings).all()
    metadata: Any = cluster_metadata(client, settings)
    partitions = {
        spec.name: len(metadata.topics[spec.name].partitions)
        for spec in specs
        if spec.name in metadata.topics and metadata.topics[spec.name].error is None
    }
    try:
        records = _records(client, partitions, timeout_s)
        configs = _configs(client, partitions, timeout_s)
    except KafkaException as exc:
        raise BrokerUnavailableError(
            f"asking {settings.kafka.bootstrap} about the topics: {exc.args[0].str()}"
        ) from exc
    return [
        TopicState(spec, partitions.get(spec.name), records.get(spec.name), configs.get(spec.name, {}))
        for spec in specs
    ]


def _show(states: Iterable[TopicState], console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name, justify in (("topic", "left"), ("partitions", "right"), ("expected", "right"), ("records", "right")):
        table.add_column(name, justify="right" if justify == "right" else "left", no_wrap=True)
    table.add_column("config", overflow="fold")
    table.add_column("state", overflow="fold")
    for state in states:
        problems = state.problems()
        shown = [f"{name}={state.config.get(name, wanted)}" for name, wanted in state.spec.config]
        table.add_row(
            state.spec.name,
            "–" if state.partitions is None else str(state.partitions),
            str(state.spec.partitions),
            "–" if state.records is None else f"{state.records:,}",
            "\n".join(shown),
            "\n".join(problems) or "as expected",
            style="yellow" if problems else "",
        )
    console.print(table)


@click.group()
def topics() -> None:
    """Create the topics, or show what exists."""


@topics.command()
@click.pass_context
def create(ctx: click.Context) -> None:
    """Create the topics that are missing; refuse those that have another shape."""
    created = contract.ensure(load_settings(ctx))
    with quiet_end():
        for name in created:
            click.echo(f"created {name}")
        if not created:
            click.echo("all topics exist")


@topics.command(name="list")
@click.pass_context
def list_(ctx: click.Context) -> None:
    """Show each topic: partitions, configuration, records, and how it differs from what is expected."""
    states = look(load_settings(ctx))
    with quiet_end():
        _show(states, page_console())
