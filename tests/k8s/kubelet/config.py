"""What a node is told when it starts. The rule: nothing of a chart is known here, an image is a command."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


class PodError(Exception):
    """A Pod cannot be started now. reason : as a kubelet names it, e.g. CreateContainerConfigError."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Image:
    """What stands for an image.

    Attributes
    ----------
    pattern : of the image's whole name, as of a shell.
    command : the entry point; empty = the Pod must name one.
    environment : as the image sets it.
    paths : of this machine that belong to the image: whoever the container runs as can reach them.
    mounts : where in the container -> folder of this machine, which all containers share and may write.
    user : runs as, where the Pod does not say.
    """

    pattern: str
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    paths: tuple[Path, ...] = ()
    mounts: Mapping[str, Path] = field(default_factory=dict)
    user: int = 0
    workdir: str = "/"


def find(images: Sequence[Image], name: str) -> Image:
    """The first that fits.

    Raises
    ------
    PodError : none does.
    """
    for image in images:
        if fnmatch.fnmatchcase(name, image.pattern):
            return image
    known = ", ".join(image.pattern for image in images) or "none"
    raise PodError("ErrImageNeverPull", f"no image {name!r} on this node (known: {known})")


@dataclass(frozen=True)
class NodeConfig:
    """One node.

    Attributes
    ----------
    folder : Pods' volumes and logs.
    cpu, memory, pods : what the scheduler may place here.
    backoff_s : before a container's first restart; doubles, up to `backoff_max_s`.
    keep : leave a Pod's folder when it is gone.
    """

    folder: Path
    images: tuple[Image, ...]
    name: str = "process-0"
    zone: str = "zone-a"
    cpu: str = "64"
    memory: str = "64Gi"
    pods: int = 110
    backoff_s: float = 1.0
    backoff_max_s: float = 300.0
    keep: bool = True
