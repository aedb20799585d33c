"""etcd, API server, controller manager and scheduler on loopback. The rule: what was started here is ended here.

RBAC is on, nobody gets in without a token, and every process dies with the one that started it.
"""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from fleetwatch.kafka.network import free_ports
from tests.k8s.api import Access, Api, ApiError, Unreachable

HOST = "127.0.0.1"
START_TIMEOUT_S = 120.0
#: The API server waits for its watchers, who do not go; nothing here has to outlive it.
STOP_PATIENCE_S = 1.0
ISSUER = "https://kubernetes.default.svc"
TAIL_LINES = 12


class ControlPlaneError(Exception):
    """A part did not start or a command failed; the text holds the end of its log."""


class ControlPlane:
    """A control plane in one folder.

    Parameters
    ----------
    folder : keys, data and logs; made anew.
    programs : what `build.programs` found.
    first_port : the first of five to take; 0 = any free ones.
    """

    def __init__(self, folder: Path, programs: Path, first_port: int = 0) -> None:
        self.folder, self._programs = folder, programs
        free = (number for pair in free_ports(3) for number in (pair.client, pair.controller))
        ports = range(first_port, first_port + 5) if first_port else list(free)[:5]
        self._etcd_port, self._peer_port, self._api_port, self._manager_port, self._scheduler_port = ports
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._frozen = False
        self._admin_token = secrets.token_hex(16)

    # -- who we are

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self._api_port}"

    @property
    def ca(self) -> Path:
        return self.folder / "certs" / "apiserver.crt"

    @property
    def admin(self) -> Access:
        """May do everything."""
        return Access(self.url, self.ca, self._admin_token)

    @property
    def kubeconfig(self) -> Path:
        """The admin's."""
        return self.folder / "admin.kubeconfig"

    @property
    def api(self) -> Api:
        return Api(self.admin)

    def access_of(self, namespace: str, account: str, seconds: int = 3600) -> Access:
        """As a Pod with this ServiceAccount has it."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        answer = self.api.post(path, {"spec": {"expirationSeconds": seconds}})
        return Access(self.url, self.ca, answer["status"]["token"])

    def kubeconfig_of(self, namespace: str, account: str) -> Path:
        return self.access_of(namespace, account).write(self.folder / f"{namespace}.{account}.kubeconfig")

    # -- life

    def __enter__(self) -> ControlPlane:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Return when the API server is ready and the controllers work.

        Raises
        ------
        ControlPlaneError : a part ended or was not ready in time.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_keys()
        client, peer = f"http://{HOST}:{self._etcd_port}", f"http://{HOST}:{self._peer_port}"
        self._launch(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync=true",  # nothing here has to outlive the machine
        )
        self.start_api_server()
        self.admin.write(self.kubeconfig)
        self._launch(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            f"--service-account-private-key-file={self.folder / 'sa.key'}",
            f"--root-ca-file={self.ca}",
            "--use-service-account-credentials=false",
            "--leader-elect=false",
            f"--bind-address={HOST}",
            f"--secure-port={self._manager_port}",
            f"--cert-dir={self.folder / 'manager-certs'}",
            "--horizontal-pod-autoscaler-sync-period=5s",
        )
        self._launch(
            "kube-scheduler",
            f"--kubeconfig={self.kubeconfig}",
            "--leader-elect=false",
            f"--bind-address={HOST}",
            f"--secure-port={self._scheduler_port}",
            f"--cert-dir={self.folder / 'scheduler-certs'}",
        )
        self._await("kube-controller-manager", "/api/v1/namespaces/default/serviceaccounts/default")

    def stop(self) -> None:
        """End all parts, the last started first; safe to call again."""
        self.thaw_api_server()
        for name in reversed(list(self._running)):
            self._end(name)

    # -- faults

    def start_api_server(self) -> None:
        self._launch(
            "kube-apiserver",
            f"--etcd-servers=http://{HOST}:{self._etcd_port}",
            f"--cert-dir={self.folder / 'certs'}",
            f"--bind-address={HOST}",
            f"--secure-port={self._api_port}",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={self.folder / 'sa.key'}",
            f"--service-account-signing-key-file={self.folder / 'sa.key'}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=RBAC",
            "--anonymous-auth=false",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--enable-admission-plugins=NodeRestriction",
            "--advertise-address=10.0.0.1",  # loopback is refused here; nothing ever dials it
            "--endpoint-reconciler-type=none",
            "--profiling=false",
        )
        self._await("kube-apiserver", "/readyz")

    def stop_api_server(self) -> None:
        """As if its machine were gone: connections are refused."""
        self._end("kube-apiserver")

    def freeze_api_server(self) -> None:
        """Connections are taken, and nothing is answered."""
        self._running["kube-apiserver"].send_signal(signal.SIGSTOP)
        self._frozen = True

    def thaw_api_server(self) -> None:
        if self._frozen:
            self._running["kube-apiserver"].send_signal(signal.SIGCONT)
            self._frozen = False

    # -- commands

    def kubectl(
        self, *arguments: str, stdin: str | None = None, config: Path | None = None, timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run to its end, whatever its exit code. config : another's kubeconfig."""
        return self._command("kubectl", arguments, stdin, config, timeout_s)

    def helm(self, *arguments: str, stdin: str | None = None, timeout_s: float = 300.0) -> str:
        """What it printed.

        Raises
        ------
        ControlPlaneError : it failed.
        """
        done = self.try_helm(*arguments, stdin=stdin, timeout_s=timeout_s)
        if done.returncode:
            said = (done.stdout + done.stderr).strip()
            raise ControlPlaneError(f"helm {shlex.join(arguments)} ended with {done.returncode}: {said}")
        return done.stdout

    def try_helm(
        self, *arguments: str, stdin: str | None = None, timeout_s: float = 300.0
    ) -> subprocess.CompletedProcess[str]:
        """Run to its end, whatever its exit code."""
        return self._command("helm", arguments, stdin, None, timeout_s)

    def _command(
        self, name: str, arguments: tuple[str, ...], stdin: str | None, config: Path | None, timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        home = self.folder / "home"  # neither plugins nor settings of whoever runs this
        home.mkdir(exist_ok=True)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "KUBECONFIG": str(config or self.kubeconfig),
        }
        return subprocess.run(
            [self._programs / name, *arguments],
            input=stdin, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    # -- inside

    def _write_keys(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        text = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        for name, content in (
            ("sa.key", text),
            ("tokens.csv", f"{self._admin_token},admin,admin,system:masters\n".encode()),
        ):
            path = self.folder / name
            path.touch(mode=0o600)
            path.write_bytes(content)

    def _launch(self, name: str, *flags: str) -> None:
        # setpriv: not even SIGKILL of the tests leaves a control plane behind
        command = ["setpriv", "--pdeathsig", "KILL", "--", str(self._programs / name), *flags]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )

    def _await(self, name: str, path: str) -> None:
        end = time.monotonic() + START_TIMEOUT_S
        problem: Exception | None = None
        while time.monotonic() < end:
            for each, process in self._running.items():
                if process.poll() is not None:
                    raise ControlPlaneError(f"{each} ended with {process.returncode}:\n{self._tail(each)}")
            try:
                if self.ca.exists():
                    self.api.get(path)
                    return
            except (ApiError, Unreachable) as error:
                problem = error
            time.sleep(0.1)
        raise ControlPlaneError(
            f"{name}: {path} was not there after {START_TIMEOUT_S:g} s ({problem}):\n{self._tail(name)}"
        )

    def _tail(self, name: str) -> str:
        lines = (self.folder / f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    def _end(self, name: str) -> None:
        process = self._running.pop(name, None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
