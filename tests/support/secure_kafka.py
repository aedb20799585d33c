"""A real broker that lets nobody in without proof: TLS, SCRAM, client certificates, and an authoriser.

Two ports: `password` (SASL_SSL) and `certificate` (SSL, mutual). Whoever has no ACL may do nothing.
``python tests/support/secure_kafka.py FOLDER`` runs one until Ctrl-C, with a settings file for each user in FOLDER.
"""

from __future__ import annotations

import secrets
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pki
import yaml
from confluent_kafka import KafkaException

from fleetwatch.kafka import config, jvm, network, process
from fleetwatch.kafka.cluster import new_cluster_id
from fleetwatch.kafka.progress import silent
from telemetry import acls, clients
from telemetry import settings as settings_module
from telemetry.settings import Settings

HEAP_MB = 256
START_TIMEOUT_S = 90.0
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"
PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
#: Users with a password each, made with the storage, and with a certificate each.
USERS = ("admin", "producer", "worker", "subscriber", "forwarder", "observer", "replayer", "stranger")


@dataclass
class SecureKafka:
    """One running broker. secrets : user -> password; certificates : user -> files."""

    folder: Path
    authority: pki.Authority
    password_port: int
    certificate_port: int
    controller_port: int
    secrets: dict[str, str]
    certificates: dict[str, pki.Pair] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.folder / "broker.log"

    def kafka(self, user: str, **changed: Any) -> dict[str, Any]:
        """The `kafka` section for a user who has a password."""
        section = {
            "bootstrap": f"127.0.0.1:{self.password_port}",
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_username": user,
            "sasl_password_file": self.password_file(user),
            "ssl_ca": self.authority.path,
        }
        return {k: v for k, v in (section | changed).items() if v is not None}

    def kafka_mutual(self, user: str, **changed: Any) -> dict[str, Any]:
        """The `kafka` section for a user who has a certificate."""
        pair = self.certificates[user]
        section = {
            "bootstrap": f"127.0.0.1:{self.certificate_port}",
            "security_protocol": "SSL",
            "ssl_ca": self.authority.path,
            "ssl_certificate": pair.certificate,
            "ssl_key": pair.key,
        }
        return {k: v for k, v in (section | changed).items() if v is not None}

    def password_file(self, user: str) -> Path:
        path = self.folder / f"{user}.password"
        path.write_text(self.secrets[user] + "\n")
        return path

    def settings(self, user: str, prefix: str, **changed: Any) -> Settings:
        """Settings of a user with a password, on topics of a prefix."""
        return settings_module.load(
            environ={},
            kafka=self.kafka(user, **changed),
            topics={"prefix": prefix, "partitions": 2},
            processing={"group": prefix},
        )


def grant(admin: Settings, principals: dict[str, list[str]], without: tuple[str, str] | None = None) -> None:
    """Give roles their permissions, and wait until the broker goes by them.

    without : a (resource, name) that is left out.
    """
    wanted = {b for _, g, b in acls.bindings(admin, principals) if (g.resource, g.name) != without}
    client = clients.admin(admin)
    for future in client.create_acls(list(wanted)).values():
        future.result(20)
    end = time.monotonic() + 20
    while wanted & set(acls.compare(admin, principals, client).created):
        assert time.monotonic() < end, "the permissions are not in force after 20 s"
        time.sleep(0.05)


def _properties(folder: Path, ports: dict[str, int], broker: pki.Pair, authority: Path, own: str) -> dict[str, str]:
    """The embedded broker's properties with every listener closed but to those who prove who they are."""
    plain = config.properties(0, (config.Ports(ports["password"], ports["controller"]),), folder / "data")
    controller = f'{PLAIN} required username="broker" password="{own}" user_broker="{own}";'
    password = f'{SCRAM} required username="broker" password="{own}";'
    host = config.HOST
    return plain | {
        "listeners": f"PASSWORD://{host}:{ports['password']},CERTIFICATE://{host}:{ports['certificate']},"
        f"CONTROLLER://{host}:{ports['controller']}",
        "advertised.listeners": f"PASSWORD://{host}:{ports['password']},CERTIFICATE://{host}:{ports['certificate']}",
        "inter.broker.listener.name": "PASSWORD",
        "listener.security.protocol.map": "PASSWORD:SASL_SSL,CERTIFICATE:SSL,CONTROLLER:SASL_SSL",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(broker.both),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority),
        "ssl.client.auth": "none",
        "listener.name.certificate.ssl.client.auth": "required",
        "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/,DEFAULT",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.password.sasl.enabled.mechanisms": "SCRAM-SHA-512,SCRAM-SHA-256,PLAIN",
        "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
        "listener.name.password.scram-sha-512.sasl.jaas.config": password,
        "listener.name.password.scram-sha-256.sasl.jaas.config": password,
        "listener.name.password.plain.sasl.jaas.config": f'{PLAIN} required user_worker="{own}-plain";',
        "sasl.mechanism.controller.protocol": "PLAIN",
        "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.controller.plain.sasl.jaas.config": controller,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:broker;User:admin",
        "allow.everyone.if.no.acl.found": "false",
    }


def _format(runtime: jvm.Runtime, properties: Path, passwords: dict[str, str]) -> None:
    """Format the storage with the users in it; what the tool says holds salted passwords and is not kept."""
    users: list[str] = []
    for user, password in passwords.items():
        for mechanism in ("SCRAM-SHA-512", "SCRAM-SHA-256"):
            users += ["--add-scram", f"{mechanism}=[name={user},password={password}]"]
    command = runtime.command(
        128, "kafka.tools.StorageTool", "format", "-t", new_cluster_id(), "-c", str(properties), *users
    )
    subprocess.run(command, check=True, capture_output=True, timeout=jvm.FORMAT_TIMEOUT_S)


@contextmanager
def secure_kafka(folder: Path) -> Iterator[SecureKafka]:
    """A broker for the time of the block."""
    runtime = jvm.prepare(silent)
    (first, second) = network.free_ports(2)
    ports = {"password": first.client, "controller": first.controller, "certificate": second.client}
    authority = pki.Authority(folder / "pki")
    own = secrets.token_hex(16)
    made = SecureKafka(
        folder,
        authority,
        ports["password"],
        ports["certificate"],
        ports["controller"],
        {user: secrets.token_hex(16) for user in USERS},
        {user: authority.issue(user) for user in USERS},
    )
    properties = folder / "server.properties"
    text = config.render(_properties(folder, ports, authority.issue("broker"), authority.path, own))
    properties.write_text(text, encoding="utf-8")
    _format(runtime, properties, made.secrets | {"broker": own})
    made.secrets["worker by PLAIN"] = f"{own}-plain"
    child = process.spawn(runtime.broker_command(properties, HEAP_MB), made.log, folder / "pid.json")
    try:
        _await(made, child)
        yield made
    finally:
        child.terminate()
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(10)


def _await(made: SecureKafka, child: Any) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while not network.answers(made.password_port):
        assert child.poll() is None, made.log.read_text()[-4000:]
        assert time.monotonic() < end, f"the broker does not listen after {START_TIMEOUT_S} s"
        time.sleep(0.1)
    admin = clients.admin(made.settings("admin", "any"))
    while True:
        try:
            if admin.list_topics(timeout=2.0).brokers:
                return
        except KafkaException as exc:
            if child.poll() is not None or time.monotonic() > end:
                raise RuntimeError(made.log.read_text()[-4000:]) from exc
        time.sleep(0.1)


@contextmanager
def tls_port(pair: pki.Pair) -> Iterator[int]:
    """A port that shakes hands with this certificate and then waits, as no real broker would."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)

        def serve() -> None:
            while not ended.is_set():
                try:
                    raw, _ = server.accept()
                except TimeoutError:
                    continue
                try:
                    with raw, context.wrap_socket(raw, server_side=True) as tls:
                        tls.settimeout(1.0)
                        tls.recv(1)
                except OSError:  # the client turned away, as the test expects
                    continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            ended.set()
            thread.join(5)


def write_settings(made: SecureKafka) -> None:
    """A settings file a user, `<user>.yaml`, and for the worker also `worker-certificate.yaml`."""
    files = {user: made.kafka(user) for user in USERS} | {"worker-certificate": made.kafka_mutual("worker")}
    for name, kafka in files.items():
        text = yaml.safe_dump({"kafka": {k: str(v) for k, v in kafka.items()}}, sort_keys=False)
        (made.folder / f"{name}.yaml").write_text(text)


def main() -> None:
    """Run a broker until Ctrl-C."""
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True)
    with secure_kafka(folder) as made:
        write_settings(made)
        print(f"ready; settings of {', '.join(USERS)} in {folder}; Ctrl-C ends it", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
