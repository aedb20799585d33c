"""A node as a process of its own: `python -m tests.k8s.kubelet --kubeconfig F --image 'NAME=COMMAND'`.

The rule: until SIGINT or SIGTERM; then all its Pods' processes are gone.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import signal
import sys
import tempfile
import threading
from pathlib import Path

from tests.k8s.api import Access
from tests.k8s.kubelet.config import Image, NodeConfig
from tests.k8s.kubelet.node import Kubelet, obstacle


def image(text: str) -> Image:
    """Of `pattern=command line`; this Python and these sources are part of every image."""
    pattern, _, command = text.partition("=")
    paths = (Path(sys.prefix), Path(sys.base_prefix), Path.cwd())
    return Image(pattern, tuple(shlex.split(command)), paths=paths)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.k8s.kubelet", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--name", default="process-0")
    parser.add_argument("--zone", default="zone-a")
    parser.add_argument("--folder", type=Path, help="Pods' volumes and logs (default: a new one)")
    parser.add_argument("--image", action="append", type=image, default=[], help="PATTERN=COMMAND LINE")
    given = parser.parse_args()
    if why := obstacle():
        sys.exit(why)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = given.folder or Path(tempfile.mkdtemp(prefix="kubelet-"))
    config = NodeConfig(folder.absolute(), tuple(given.image), given.name, given.zone)
    with Kubelet(Access.read(given.kubeconfig), config):
        print(f"node {given.name}: Pods' logs in {folder}", flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
