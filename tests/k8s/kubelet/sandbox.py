"""A container as a local process. The rule: it sees its own file system, user and name, and its Pod's network.

The machine's root is the image: below a private overlay, so that a container writes to no file of the machine, and
to none at all where the root is to be read-only. The Pod's volumes lie over it. Capabilities are dropped, and
privileges cannot be gained. Nothing of it is left when the process ends.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kubernetes.utils.quantity import parse_quantity

from tests.k8s.api import Object
from tests.k8s.kubelet.cgroups import CpuLimits
from tests.k8s.kubelet.config import Image, PodError, find
from tests.k8s.kubelet.inputs import CONFIG_ERROR, Inputs, Place, expand
from tests.k8s.kubelet.network import Network

SPECIAL = ("/proc", "/sys", "/dev")
READ_ONLY_KINDS = ("configMap", "secret", "projected", "downwardAPI")


@dataclass
class Started:
    """A container's process. marker : is there once the set-up before its command went well."""

    process: subprocess.Popen[bytes]
    marker: Path
    environment: dict[str, str]
    user: int
    group: int

    @property
    def set_up(self) -> bool:
        return self.marker.exists()

    def signal(self, number: signal.Signals) -> None:
        """To the container's first process; SIGKILL to all of its session."""
        if self.process.poll() is None:
            if number is signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)

    def sweep(self) -> None:
        """End what the first process left behind."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


class Sandbox:
    """Starts the containers of one Pod."""

    def __init__(
        self,
        place: Place,
        network: Network,
        folder: Path,
        images: Sequence[Image],
        inputs: Inputs,
        limits: CpuLimits,
    ) -> None:
        self._place, self._network, self._folder, self._images = place, network, folder, images
        self._inputs, self._limits = inputs, limits
        self._volumes: dict[str, Path] = {}

    @property
    def hosts(self) -> Path:
        """What its containers have as /etc/hosts."""
        return self._folder / "hosts"

    def mount(self) -> None:
        """Fill the Pod's volumes."""
        self._volumes = self._inputs.volumes(self._place, self._folder / "volumes")

    def log(self, container: str) -> Path:
        return self._folder / f"{container}.log"

    def start(self, container: Object) -> Started:
        """Run a container's command.

        Raises
        ------
        PodError : it cannot be started as the Pod wants it.
        """
        image = find(self._images, container["image"])
        environment = self._inputs.environment(self._place, container, image)
        command = [expand(word, environment) for word in self._command(container, image)]
        context = (self._place.pod["spec"].get("securityContext") or {}) | (container.get("securityContext") or {})
        user = int(context.get("runAsUser", image.user))
        group = int(context.get("runAsGroup", user))
        if context.get("runAsNonRoot") and user == 0:
            raise PodError(CONFIG_ERROR, "container has runAsNonRoot and image will run as root")
        name = container["name"]
        marker = self._folder / f".{name}.set-up"
        marker.unlink(missing_ok=True)
        script = self._script(container, image, context, marker)
        workdir = container.get("workingDir") or image.workdir
        privileges = _privileges(context, user, group)
        entered = [*self._network.prefix, "unshare", "--mount", "--uts"]
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                [*entered, "sh", "-c", script, name, workdir, *privileges, "--", *command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip
        return Started(process, marker, environment, user, group)

    def inside(self, started: Started, command: Sequence[str], timeout_s: float) -> int:
        """Run a command where the container is; its exit code.

        Raises
        ------
        subprocess.TimeoutExpired : it did not end; it was killed.
        """
        pid = str(started.process.pid)
        entered = [
            "nsenter",
            "--target",
            pid,
            "--mount",
            "--uts",
            "--net",
            f"--root=/proc/{pid}/root",
            f"--wd=/proc/{pid}/cwd",
        ]
        user = ["--setuid", str(started.user), "--setgid", str(started.group)]
        return subprocess.run(
            [*entered, *user, "--", *command],
            env=started.environment, capture_output=True, timeout=timeout_s, check=False,
        ).returncode  # fmt: skip

    def group_name(self, container: str) -> str:
        return f"{self._place.uid}-{container}"

    def forget(self, container: str) -> None:
        """Remove what a container that ended for good had from the machine."""
        self._limits.remove(self.group_name(container))

    # -- inside

    def _command(self, container: Object, image: Image) -> list[str]:
        command = list(container.get("command") or image.command)
        if not command:
            raise PodError("RunContainerError", f"no command specified, and image {image.pattern} has none")
        return command + list(container.get("args") or [])

    def _script(self, container: Object, image: Image, context: Object, marker: Path) -> str:
        """Set-up, as root, up to the container's own command; "$1" is the working folder, the rest is run."""
        base = self._folder / f"{container['name']}.fs"
        base.mkdir(exist_ok=True)
        root = base / "root"
        layers = f"lowerdir=/,upperdir={base / 'upper'},workdir={base / 'work'}"
        lines = [
            "set -e",
            "mount --make-rprivate /",
            f"mount -t tmpfs -o mode=755 sandbox {_q(base)}",
            f"mkdir {_q(base / 'upper')} {_q(base / 'work')} {_q(root)}",
            f"mount -t overlay overlay -o {_q(layers)} {_q(root)}",
            *(f"mount --rbind {name} {_q(root)}{name}" for name in SPECIAL),
            *_other_file_systems(root),
            *_reachable(image, root),
            f"mount --bind {_q(self.hosts)} {_q(root)}/etc/hosts",
            *(
                f"mkdir -p {_q(root)}{at}; mount --bind {_q(path)} {_q(root)}{at}"
                for at, path in image.mounts.items()
            ),
        ]
        for mount in sorted(container.get("volumeMounts") or [], key=lambda mount: mount["mountPath"]):
            lines += self._bind(mount, root)
        if context.get("readOnlyRootFilesystem"):
            lines.append(f"mount -o remount,ro {_q(root)}")
        lines.append(f"hostname {_q(self._place.name)}")
        cpus = (container.get("resources") or {}).get("limits", {}).get("cpu")
        if cpus is not None:
            group = self._limits.group(self.group_name(container["name"]), float(parse_quantity(cpus)))
            lines += [f"echo $$ > {_q(group / 'cgroup.procs')}"] if group else []
        lines += [
            f": > {_q(marker)}",
            "workdir=$1; shift; exec chroot " + _q(root) + ' env --chdir="$workdir" "$@"',
        ]
        return "\n".join(lines)

    def _bind(self, mount: Mapping[str, str], root: Path) -> list[str]:
        source = self._volumes.get(mount["name"])
        if source is None:
            raise PodError("FailedMount", f"the Pod has no volume {mount['name']!r}")
        source = source / mount.get("subPath", "")
        # resolved, as a link to an absolute path (/var/run) would lead out of the container's root
        target = root / str(Path(mount["mountPath"]).resolve()).lstrip("/")
        kinds = next(v for v in self._place.pod["spec"]["volumes"] if v["name"] == mount["name"])
        if not source.exists():
            if any(kind in kinds for kind in READ_ONLY_KINDS):
                raise PodError("FailedMount", f"volume {mount['name']!r} has no {mount.get('subPath')!r}")
            source.mkdir(parents=True)
            source.chmod(0o777)
        make = f"mkdir -p {_q(target)}"
        if source.is_file():
            make = f"mkdir -p {_q(target.parent)}; touch {_q(target)}"
        lines = [make, f"mount --bind {_q(source)} {_q(target)}"]
        if mount.get("readOnly") or any(kind in kinds for kind in READ_ONLY_KINDS):
            lines.append(f"mount -o remount,bind,ro {_q(target)}")
        return lines


def _q(path: Path | str) -> str:
    return shlex.quote(str(path))


def _privileges(context: Object, user: int, group: int) -> list[str]:
    command = ["setpriv", f"--reuid={user}", f"--regid={group}", "--pdeathsig=KILL"]
    extra = [str(each) for each in context.get("supplementalGroups") or []]
    if "fsGroup" in context:
        extra.append(str(context["fsGroup"]))
    command.append(f"--groups={','.join(extra)}" if extra else "--clear-groups")
    if context.get("allowPrivilegeEscalation") is False:
        command.append("--no-new-privs")
    if "ALL" in ((context.get("capabilities") or {}).get("drop") or []):
        command += ["--inh-caps=-all", "--bounding-set=-all"]
    return command


def _other_file_systems(root: Path) -> list[str]:
    """What is mounted on the machine's root is part of the image, to be read only."""
    lines: list[str] = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        at = line.split()[1].encode().decode("unicode_escape")
        if at == "/" or any(at == name or at.startswith(f"{name}/") for name in SPECIAL) or not Path(at).is_dir():
            continue
        if at == "/tmp":
            lines.append(f"mount -t tmpfs -o mode=1777 tmp {_q(root)}/tmp")
        else:
            inner = _q(f"{root}{at}")
            lines.append(f"mount --bind {_q(at)} {inner} && mount -o remount,bind,ro {inner}")
    return lines


def _reachable(image: Image, root: Path) -> list[str]:
    """Let every user pass the folders above the image's paths: in the container's own layer, not on the machine."""
    closed = {
        parent
        for path in image.paths
        for parent in path.parents
        if parent.exists() and not parent.stat().st_mode & 0o001
    }
    return [f"chmod o+x {_q(root)}{_q(parent)}" for parent in sorted(closed)]
