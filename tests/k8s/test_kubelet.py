"""The process kubelet judged by the real control plane. The rule: what a node must do, seen through the API."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from functools import partial

import pytest

from tests.k8s.api import Object
from tests.k8s.control_plane import ControlPlane
from tests.k8s.kubelet.node import Kubelet

pytestmark = pytest.mark.timeout(300)

WAIT_S = 30.0

#: Serves its own state: /health fails once `sick` is asked for; SIGTERM is waited out for as long as told.
SERVER = """
import http.server, json, os, pathlib, signal, socket, sys, time
sick = False
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global sick
        sick = sick or self.path == "/sick"
        self.send_response(500 if sick and self.path == "/health" else 200)
        self.end_headers()
        seen = {"env": dict(os.environ), "host": socket.gethostname(), "uid": os.getuid(), "gid": os.getgid()}
        for name in ("/etc/given/text", "/etc/pod/labels"):
            seen[name] = pathlib.Path(name).read_text() if pathlib.Path(name).exists() else None
        for name in ("/var/x", "/scratch/x", "/etc/given/x"):
            try:
                pathlib.Path(name).write_text("x")
                seen[name] = "written"
            except OSError as error:
                seen[name] = error.strerror
        self.wfile.write(json.dumps(seen).encode())
    def log_message(self, *args): pass
def end(*_):
    print("told to end", flush=True)
    time.sleep(float(os.environ.get("SLOW_S", "0")))
    print("ended well", flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
print("begins", flush=True)
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Page).serve_forever()
"""


def field(path: str) -> Object:
    return {"fieldRef": {"fieldPath": path}}


def container(code: str = SERVER, **more: object) -> Object:
    given: Object = {
        "name": "main",
        "image": "python:test",
        "args": ["-c", code],
        "env": [{"name": "POD_IP", "valueFrom": field("status.podIP")}],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
    }
    return given | more


def pod(name: str, main: Object, **spec: object) -> Object:
    return {"metadata": {"name": name}, "spec": {"containers": [main], "restartPolicy": "Always"} | spec}


class Cluster:
    """Short words for what the tests do."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.api, self.namespace = plane.api, namespace
        self.pods = f"/api/v1/namespaces/{namespace}/pods"

    def run(self, given: Object) -> str:
        self.api.post(self.pods, given)
        return str(given["metadata"]["name"])

    def until(self, name: str, wanted: Callable[[Object], bool], what: str, wait_s: float = WAIT_S) -> Object:
        found: Object = self.api.await_that(f"{self.pods}/{name}", wanted, wait_s, what)["status"]
        return found

    def until_ready(self, name: str) -> Object:
        return self.until(name, is_ready, f"{name} being ready")

    def gone(self, name: str, wait_s: float = WAIT_S) -> float:
        began = time.monotonic()
        while self.api.exists(f"{self.pods}/{name}"):
            assert time.monotonic() < began + wait_s, f"{name} is still there"
            time.sleep(0.05)
        return time.monotonic() - began


def has_condition(kind: str, found: Object) -> bool:
    return any(c["type"] == kind and c["status"] == "True" for c in found["status"].get("conditions") or [])


def is_ready(found: Object) -> bool:
    return has_condition("Ready", found)


def main_of(status: Object) -> Object:
    """The status of its one container; before the node has told one, as if it waited."""
    found: Object = (status.get("containerStatuses") or [{"state": {}, "restartCount": 0}])[0]
    return found


def page(status: Object, path: str = "/") -> Object:
    with urllib.request.urlopen(f"http://{status['podIP']}:8080{path}", timeout=5) as answer:
        found: Object = json.load(answer)
        return found


@pytest.fixture
def cluster(control_plane: ControlPlane, kubelet: Kubelet, namespace: str) -> Cluster:
    return Cluster(control_plane, namespace)


def test_deployment_rolls_out_and_is_replaced(cluster: Cluster) -> None:
    labels = {"app": "web"}
    health = {"httpGet": {"path": "/health", "port": 8080}, "periodSeconds": 1}
    template = {"metadata": {"labels": labels}, "spec": pod("", container(readinessProbe=health))["spec"]}
    deployment = {
        "metadata": {"name": "web"},
        "spec": {"replicas": 3, "selector": {"matchLabels": labels}, "template": template},
    }
    path = f"/apis/apps/v1/namespaces/{cluster.namespace}/deployments"
    cluster.api.post(path, deployment)

    def rolled_out(found: Object) -> bool:
        status = found["status"]
        now = status.get("observedGeneration") == found["metadata"]["generation"]
        return now and [status.get(k) for k in ("replicas", "updatedReplicas", "availableReplicas")] == [3, 3, 3]

    cluster.api.await_that(f"{path}/web", rolled_out, WAIT_S, "three replicas")
    changed = {"spec": {"template": {"metadata": {"annotations": {"round": "2"}}}}}
    cluster.api.patch(f"{path}/web", changed)
    cluster.api.await_that(f"{path}/web", rolled_out, WAIT_S, "three new replicas")
    cluster.api.patch(f"{path}/web/scale", {"spec": {"replicas": 0}}, "application/merge-patch+json")
    cluster.api.await_that(f"{path}/web", lambda d: not d["status"].get("replicas"), WAIT_S, "no replicas")


def test_container_has_what_the_pod_says(cluster: Cluster) -> None:
    namespace, api = cluster.namespace, cluster.api
    api.post(f"/api/v1/namespaces/{namespace}/configmaps", {"metadata": {"name": "c"}, "data": {"text": "abc"}})
    api.post(f"/api/v1/namespaces/{namespace}/secrets", {"metadata": {"name": "s"}, "stringData": {"key": "open"}})
    env = [
        {"name": "POD_IP", "valueFrom": field("status.podIP")},
        {"name": "NODE", "valueFrom": field("spec.nodeName")},
        {"name": "TEXT", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "text"}}},
        {"name": "NONE", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "no", "optional": True}}},
        {"name": "BOTH", "value": "$(TEXT)-$(NODE)-$$(TEXT)-$(UNKNOWN)"},
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
    ]
    mounts = [
        {"name": "given", "mountPath": "/etc/given"},
        {"name": "scratch", "mountPath": "/scratch"},
        {"name": "about", "mountPath": "/etc/pod"},
    ]
    volumes = [
        {"name": "given", "configMap": {"name": "c"}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "about", "downwardAPI": {"items": [{"path": "labels", **field("metadata.labels")}]}},
    ]
    main = container(
        env=env,
        envFrom=[{"secretRef": {"name": "s"}, "prefix": "FROM_"}],
        volumeMounts=mounts,
        resources={"limits": {"cpu": "1500m"}},
        securityContext={"readOnlyRootFilesystem": True, "runAsUser": 10001, "runAsNonRoot": True},
    )
    made = pod("given", main, volumes=volumes)
    made["metadata"]["labels"] = {"colour": "green"}
    seen = page(cluster.until_ready(cluster.run(made)))
    environment = seen["env"]
    assert (environment["TEXT"], environment["FROM_key"], environment["CPU"]) == ("abc", "open", "1500")
    assert environment["BOTH"] == "abc-process-0-$(TEXT)-$(UNKNOWN)"
    assert "NONE" not in environment
    assert seen["/etc/given/text"] == "abc"
    assert 'colour="green"' in seen["/etc/pod/labels"].splitlines()
    assert (seen["/var/x"], seen["/scratch/x"]) == ("Read-only file system", "written")
    assert seen["/etc/given/x"] == "Read-only file system"
    assert (seen["uid"], seen["gid"], seen["host"]) == (10001, 10001, "given")


def test_ready_and_alive_are_two_things(cluster: Cluster) -> None:
    health = {"httpGet": {"path": "/health", "port": 8080}, "periodSeconds": 1, "failureThreshold": 2}
    name = cluster.run(pod("unready", container(readinessProbe=health)))
    status = cluster.until_ready(name)
    page(status, "/sick")
    status = cluster.until(name, lambda found: not is_ready(found), "no longer being ready")
    assert main_of(status)["restartCount"] == 0
    assert "running" in main_of(status)["state"]


def test_failing_liveness_probe_restarts(cluster: Cluster, kubelet: Kubelet) -> None:
    health = {"httpGet": {"path": "/health", "port": 8080}, "periodSeconds": 1, "failureThreshold": 2}
    name = cluster.run(pod("sick", container(livenessProbe=health, startupProbe=health | {"failureThreshold": 20})))
    page(cluster.until_ready(name), "/sick")
    status = cluster.until(
        name, lambda found: is_ready(found) and main_of(found["status"])["restartCount"] == 1, "one restart"
    )
    assert main_of(status)["lastState"]["terminated"]["exitCode"] == 0  # it heeded SIGTERM
    assert kubelet.logs(cluster.namespace, name).count("begins") == 2


def test_sigterm_and_the_grace_period(cluster: Cluster, kubelet: Kubelet) -> None:
    def slow(seconds: str) -> Object:
        main = container()
        main["env"].append({"name": "SLOW_S", "value": seconds})
        return main

    for name, seconds in (("patient", "1"), ("stubborn", "60")):
        cluster.run(pod(name, slow(seconds), terminationGracePeriodSeconds=3))
        page(cluster.until_ready(name))
    cluster.api.delete(f"{cluster.pods}/patient")
    assert 0.9 < cluster.gone("patient") < 2.9
    assert kubelet.logs(cluster.namespace, "patient").endswith("told to end\nended well\n")
    cluster.api.delete(f"{cluster.pods}/stubborn")
    assert 2.5 < cluster.gone("stubborn") < 6
    assert kubelet.logs(cluster.namespace, "stubborn").endswith("told to end\n")
    assert cluster.namespace not in str(kubelet.pids(cluster.namespace))


def test_pre_stop_comes_before_sigterm(cluster: Cluster, kubelet: Kubelet) -> None:
    hook = {"preStop": {"exec": {"command": ["sh", "-c", "hostname > /scratch/hook; sleep 1"]}}}
    reads = SERVER.replace('print("told to end"', 'print("told", pathlib.Path("/scratch/hook").read_text().strip()')
    main = container(reads, lifecycle=hook, volumeMounts=[{"name": "scratch", "mountPath": "/scratch"}])
    name = cluster.run(pod("hooked", main, volumes=[{"name": "scratch", "emptyDir": {}}]))
    page(cluster.until_ready(name))
    cluster.api.delete(f"{cluster.pods}/{name}")
    assert 0.9 < cluster.gone(name) < 10
    assert kubelet.logs(cluster.namespace, name).endswith("told hooked\nended well\n")


def test_exit_codes_and_back_off(cluster: Cluster) -> None:
    name = cluster.run(pod("crash", container("import os; os._exit(78)")))
    status = cluster.until(name, lambda found: main_of(found["status"])["restartCount"] == 3, "three restarts")
    assert main_of(status)["lastState"]["terminated"]["exitCode"] == 78
    assert main_of(status)["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    killed = cluster.run(pod("killed", container("import os; os.kill(os.getpid(), 9)"), restartPolicy="Never"))
    status = cluster.until(killed, lambda found: found["status"]["phase"] == "Failed", "its failure")
    assert main_of(status)["state"]["terminated"]["exitCode"] == 137
    absent = cluster.run(pod("absent", container() | {"command": ["/no/such/program"]}, restartPolicy="Never"))
    status = cluster.until(absent, lambda found: found["status"]["phase"] == "Failed", "its failure")
    assert main_of(status)["state"]["terminated"]["exitCode"] == 127


def test_init_containers_run_first(cluster: Cluster, kubelet: Kubelet) -> None:
    image = {"image": "python:test"}
    first = image | {"name": "first", "args": ["-c", "print('first')"]}
    second = image | {"name": "second", "args": ["-c", "import sys; print('second'); sys.exit(3)"]}
    good = cluster.run(pod("good", container(), initContainers=[first]))
    cluster.until_ready(good)
    bad = cluster.run(pod("bad", container(), initContainers=[first, second], restartPolicy="Never"))
    status = cluster.until(bad, lambda found: found["status"]["phase"] == "Failed", "its failure")
    assert [s["state"]["terminated"]["exitCode"] for s in status["initContainerStatuses"]] == [0, 3]
    assert "begins" not in kubelet.logs(cluster.namespace, bad)


def test_pod_that_cannot_start_waits_and_says_why(cluster: Cluster) -> None:
    api, namespace = cluster.api, cluster.namespace
    main = container(envFrom=[{"configMapRef": {"name": "later"}}])
    name = cluster.run(pod("waits", main))
    reason = "CreateContainerConfigError"

    def waits(found: Object) -> bool:
        return bool(main_of(found["status"])["state"].get("waiting", {}).get("reason") == reason)

    status = cluster.until(name, waits, "its reason")
    assert status["phase"] == "Pending"
    assert "later" in main_of(status)["state"]["waiting"]["message"]
    api.post(f"/api/v1/namespaces/{namespace}/configmaps", {"metadata": {"name": "later"}, "data": {"A": "1"}})
    cluster.until_ready(name)
    root = cluster.run(pod("root", container(securityContext={"runAsNonRoot": True})))
    status = cluster.until(root, waits, "its refusal")
    assert "runAsNonRoot" in main_of(status)["state"]["waiting"]["message"]


def test_job_completes_and_gives_up(cluster: Cluster) -> None:
    path = f"/apis/batch/v1/namespaces/{cluster.namespace}/jobs"
    for name, code, wanted in (("done", "print('x')", "Complete"), ("bad", "import sys; sys.exit(1)", "Failed")):
        template = {"spec": pod("", container(code), restartPolicy="Never")["spec"]}
        cluster.api.post(path, {"metadata": {"name": name}, "spec": {"backoffLimit": 0, "template": template}})
        cluster.api.await_that(f"{path}/{name}", partial(has_condition, wanted), WAIT_S, f"{name}: {wanted}")


def test_cpu_limit_is_kept(cluster: Cluster, kubelet: Kubelet) -> None:
    if not kubelet.limits_cpu:
        pytest.skip("control groups cannot be written here")
    spins = """
import time
end = time.monotonic() + 4
while time.monotonic() < end: pass
print(time.process_time())
"""
    main = container(spins, resources={"limits": {"cpu": "250m"}})
    name = cluster.run(pod("spins", main, restartPolicy="Never"))
    cluster.until(name, lambda found: found["status"]["phase"] == "Succeeded", "its end")
    used_s = float(kubelet.logs(cluster.namespace, name))
    assert 0.3 < used_s < 1.4  # a quarter of four seconds


def test_token_reaches_the_api_server_and_rbac_refuses(cluster: Cluster, kubelet: Kubelet) -> None:
    asks = """
import kubernetes
kubernetes.config.load_incluster_config()
try:
    kubernetes.client.CoreV1Api().list_namespaced_pod("default")
except kubernetes.client.ApiException as error:
    print(error.status, error.body)
"""
    name = cluster.run(pod("asks", container(asks), restartPolicy="Never"))
    cluster.until(name, lambda found: found["status"]["phase"] == "Succeeded", "its end")
    said = kubelet.logs(cluster.namespace, name)
    assert said.startswith("403")
    assert f"system:serviceaccount:{cluster.namespace}:default" in said


def test_pods_find_each_other_by_name_and_the_node_at_its_loopback(
    cluster: Cluster, kubelet: Kubelet, control_plane: ControlPlane
) -> None:
    service = {
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "clusterIP": "None", "ports": [{"port": 8080}]},
    }
    cluster.api.post(f"/api/v1/namespaces/{cluster.namespace}/services", service)
    for name in ("one", "two"):  # both listen on all their addresses, on one port
        made = pod(name, container())
        made["metadata"]["labels"] = {"app": "web"}
        cluster.run(made)
    addresses = {cluster.until_ready(name)["podIP"] for name in ("one", "two")}
    port = control_plane.url.rpartition(":")[2]
    asks = f"""
import json, socket, time, urllib.request
end, found = time.monotonic() + 20, set()
while len(found) < 2 and time.monotonic() < end:
    try:
        found = {{at[4][0] for at in socket.getaddrinfo("web", 8080, socket.AF_INET, socket.SOCK_STREAM)}}
    except socket.gaierror:
        time.sleep(0.2)
for address in found:
    urllib.request.urlopen(f"http://{{address}}:8080/", timeout=5).read()
socket.create_connection(("127.0.0.1", {port}), 5).close()
print(json.dumps(sorted(found)))
"""
    name = cluster.run(pod("asks", container(asks), restartPolicy="Never"))
    cluster.until(name, lambda found: found["status"]["phase"] in {"Succeeded", "Failed"}, "its end")
    assert json.loads(kubelet.logs(cluster.namespace, name)) == sorted(addresses)


def test_frozen_and_stopped_api_server_do_not_touch_pods(
    cluster: Cluster, kubelet: Kubelet, control_plane: ControlPlane
) -> None:
    name = cluster.run(pod("steady", container()))
    status = cluster.until_ready(name)
    before = kubelet.pids(cluster.namespace)[name]
    control_plane.freeze_api_server()
    time.sleep(3)
    assert page(status)["host"] == name
    control_plane.thaw_api_server()
    control_plane.stop_api_server()
    time.sleep(3)
    assert page(status)["host"] == name
    control_plane.start_api_server()
    assert kubelet.pids(cluster.namespace)[name] == before
    cluster.api.delete(f"{cluster.pods}/{name}")
    cluster.gone(name)
