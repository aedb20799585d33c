"""What `helm test` runs in the image: the topics are as they should be, and a worker is ready."""

import os
import time
import urllib.error
import urllib.request

from telemetry.settings import load
from telemetry.topics import ensure

ensure(load(), create=False)
print("topics: as expected")
url, within_s = os.environ["READY_URL"], float(os.environ["READY_WITHIN_S"])
until = time.monotonic() + within_s
while url:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            print("worker:", answer.read().decode().strip())
            break
    except OSError as exc:
        if time.monotonic() > until:
            said = exc.read().decode().strip() if isinstance(exc, urllib.error.HTTPError) else exc
            raise SystemExit(f"worker: not ready within {within_s:.0f} s: {url}: {said}")
        time.sleep(2)
else:
    print("worker: none need run (autoscaling.minReplicas 0)")
