"""A cluster for trials: `python -m tests.k8s --folder F [--image 'NAME=COMMAND']`. The rule: it ends with us.

Prints the kubeconfig; kubectl and helm are in the folder that `python -m tests.k8s.build` prints.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

from tests.k8s import build
from tests.k8s.control_plane import ControlPlane
from tests.k8s.kubelet.__main__ import image
from tests.k8s.kubelet.config import NodeConfig
from tests.k8s.kubelet.node import Kubelet, obstacle


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.k8s", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="keys, data, logs; made anew")
    parser.add_argument("--first-port", type=int, default=0, help="of five; 0 = any free ones")
    parser.add_argument("--image", action="append", type=image, default=[], help="PATTERN=COMMAND LINE")
    parser.add_argument("--nodes", type=int, default=1, help="process kubelets; 0 = a control plane only")
    given = parser.parse_args()
    if given.nodes and (why := obstacle()):
        sys.exit(why)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder: Path = given.folder.absolute()
    with ExitStack() as stack:
        plane = stack.enter_context(ControlPlane(folder, build.programs(), given.first_port))
        for index in range(given.nodes):
            config = NodeConfig(folder / "pods", tuple(given.image), f"process-{index}", f"zone-{index}")
            stack.enter_context(Kubelet(plane.admin, config))
        print(f"export KUBECONFIG={plane.kubeconfig}", flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
