"""`fleetwatch topics`: topics and who may use them. The rule: what is missing is made, nothing is altered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import click
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec, ResourceType
from rich.console import Console
from rich.table import Table

from fleetwatch.pages import load_settings, page_console, quiet_end, quiet_pipe
from telemetry import acls
from telemetry import topics as contract
from telemetry.clients import admin, cluster_metadata
from telemetry.errors import BrokerUnavailableError, nearest
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


class Principal(click.ParamType):
    """ROLE=TYPE:NAME, as in worker=User:fleet-worker."""

    name = "principal"

    def convert(
        self, value: str | tuple[str, str], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        role, equals, principal = value.partition("=")
        kind, colon, name = principal.partition(":")
        if not (equals and colon and kind and name):
            self.fail(f"{value!r} is not ROLE=User:NAME", param, ctx)
        if role not in acls.ROLES:
            self.fail(f"no role {role!r}{nearest(role, acls.ROLES)}", param, ctx)
        if name == "*":
            self.fail(f"{principal} is everybody: name who does the work of a {role}", param, ctx)
        return role, principal


def _lists(settings: Settings, named: Iterable[tuple[str, str]], *, dry_run: bool) -> None:
    principals: dict[str, list[str]] = {}
    for role, principal in dict.fromkeys(named):
        principals.setdefault(role, []).append(principal)
    found = acls.compare(settings, principals) if dry_run else acls.apply(settings, principals)
    why = {binding: f"{role}: {grant.why}" for role, grant, binding in acls.bindings(settings, principals)}
    for binding in found.created:
        click.echo(f"{'would allow' if dry_run else 'allowed'} {acls.words(binding)}  # {why[binding]}")
    if found.present:
        click.echo(f"{found.present} permissions were there already")
    for binding in found.beyond:
        click.echo(f"beyond these roles, left alone: {acls.words(binding)}", err=True)


@click.group()
def topics() -> None:
    """Create the topics and say who may use them, or show what exists."""


def _create(settings: Settings) -> None:
    created = contract.ensure(settings)
    for name in created:
        click.echo(f"created {name}")
    if not created:
        click.echo("all topics exist")


@topics.command()
@click.pass_context
def create(ctx: click.Context) -> None:
    """Create the topics that are missing; refuse those that have another shape."""
    tree = load_settings(ctx)
    with quiet_pipe():
        _create(tree)


def _would_create(settings: Settings) -> None:
    for state in look(settings):
        if state.partitions is None:
            click.echo(f"would create {state.spec.name}")


@topics.command()
@click.option("--acls", "with_acls", is_flag=True, help="Also say who may use the topics, groups and transactions.")
@click.option(
    "--principal",
    "principals",
    type=Principal(),
    multiple=True,
    metavar="ROLE=User:NAME",
    help="Who does a role's work, as the brokers name it; repeatable. With --acls.",
)
@click.option("--dry-run", is_flag=True, help="Change nothing; say what would be done.")
@click.pass_context
def apply(ctx: click.Context, with_acls: bool, principals: tuple[tuple[str, str], ...], dry_run: bool) -> None:
    """Bring the cluster to what is expected: topics, and with --acls who may use them.

    Doing it again changes nothing. Permissions are only added; what the named principals have beyond their roles is
    reported. For brokers with an authoriser; run it as one of their super.users.

    \b
    Roles:
      producer    gateways, simulators, replays: write frames
      worker      fleetwatch worker: reads frames and state, writes results and state
      subscriber  fleetwatch alerts, programs that act on alerts: read alerts only
      observer    autoscaler, topics list: sees figures, no records
      replayer    fleetwatch dlq: reads dead letters, sends them in again

    \b
    Example:
      fleetwatch topics apply --acls --dry-run \\
        --principal producer=User:gateway --principal worker=User:fleet-worker \\
        --principal subscriber=User:on-call

    A certificate's principal is its subject, such as User:CN=fleet-worker, unless the brokers map it.
    """
    if with_acls and not principals:
        raise click.UsageError(
            "--acls needs to know who does the work: --principal ROLE=User:NAME for each of "
            + ", ".join(acls.ROLES)
            + " that you have"
        )
    if principals and not with_acls:
        raise click.UsageError("--principal is of use only with --acls")
    tree = load_settings(ctx)
    with quiet_pipe():
        (_would_create if dry_run else _create)(tree)
        if with_acls:
            _lists(tree, principals, dry_run=dry_run)


@topics.command()
@click.argument("role", type=click.Choice(list(acls.ROLES)))
@click.pass_context
def access(ctx: click.Context, role: str) -> None:
    """Say whether this login may do the work of ROLE; exit code 77 and what is lacking if not.

    \b
    Example, before a worker is rolled out with a new login:
      fleetwatch --config worker.yaml topics access worker
    """
    tree = load_settings(ctx)
    acls.require(tree, role)
    click.echo(f"this login may do the work of a {role} (transactions are not asked for: a worker's start tells)")


@topics.command(name="list")
@click.pass_context
def list_(ctx: click.Context) -> None:
    """Show each topic: partitions, configuration, records, and how it differs from what is expected."""
    states = look(load_settings(ctx))
    with quiet_end():
        _show(states, page_console())
