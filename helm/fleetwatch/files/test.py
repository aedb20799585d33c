"""What `helm test` runs, with a worker's login: its topics are as they should be, and a worker is ready."""

import os
import time
import urllib.error
import urllib.request

from telemetry.errors import FleetwatchError
from telemetry.settings import load
from telemetry.topics import ensure, role_topics

settings = load()
specs = role_topics(settings, "worker")
try:
    ensure(settings, specs, create=False)
except FleetwatchError as exc:
    raise SystemExit(f"topics: {exc}") from None
print(f"topics: {len(specs)} as expected")
url, within_s = os.environ["READY_URL"], float(os.environ["READY_WITHIN_S"])
until = time.monotonic() + within_s
while url:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 (the chart's own Service)
            print("worker:", answer.read().decode().strip())
            break
    except OSError as exc:
        if time.monotonic() > until:
            said = exc.read().decode().strip() if isinstance(exc, urllib.error.HTTPError) else exc
            raise SystemExit(f"worker: not ready within {within_s:.0f} s: {url}: {said}") from None
        time.sleep(2)
else:
    print("worker: none need run (autoscaling.minReplicas 0)")
