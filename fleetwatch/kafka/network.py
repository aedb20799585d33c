"""Ports on 127.0.0.1: free, taken, by whom. The rule: a probe never leaves a socket behind."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import psutil

from fleetwatch.kafka.config import HOST, Ports
from telemetry.errors import FleetwatchError


class PortTakenError(FleetwatchError):
    """A port that a broker needs is in use."""

    exit_code = 73  # EX_CANTCREAT


def free_ports(brokers: int) -> tuple[Ports, ...]:
    """Ports that nobody listens on now, two for each broker."""
    with ExitStack() as stack:
        numbers: list[int] = []
        for _ in range(2 * brokers):
            probe = stack.enter_context(socket.socket())
            probe.bind((HOST, 0))
            numbers.append(probe.getsockname()[1])
    return tuple(Ports(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True))


def is_free(port: int) -> bool:
    """Whether a broker could listen on the port (ports in TIME_WAIT count as free, as for the JVM)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def answers(port: int) -> bool:
    """Whether something accepts connections on the port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


def owner(port: int) -> str | None:
    """'name (pid 123)' of the process that listens on the port, or None where the system does not tell."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or not connection.laddr or not connection.pid:
                continue
            if connection.laddr.port == port:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        return None
    return None


def require_free(ports: tuple[Ports, ...]) -> None:
    """Refuse to start on ports that are in use.

    Raises
    ------
    PortTakenError : names the port and, where the system tells, the process.
    """
    for each in ports:
        for port in (each.client, each.controller):
            if not is_free(port):
                by = owner(port)
                raise PortTakenError(
                    f"port {port} on {HOST} is in use{f' by {by}' if by else ''}. Stop that, choose other ports "
                    "with --port N, or, if it is a Kafka for you to use, name it in FLEETWATCH_KAFKA__BOOTSTRAP."
                )
