"""What the forwarder decides by itself: statuses, pauses, offsets, hosts, signatures."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alerts_made import made
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from fleetwatch.alert_feed import Received
from fleetwatch.alerts_cli import alerts as alerts_command
from fleetwatch.forward import Backoff, Outcome, Progress, outcome, retry_after_s, state_since, state_text
from fleetwatch.forward_http import Address, Poster, UnansweredError, address_of
from fleetwatch.forward_metrics import ForwardMetrics, Page
from fleetwatch.forward_webhook import Webhook
from telemetry import settings as contract
from telemetry.alerts import Severity, ce_attributes
from telemetry.errors import SettingsError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "alert-forwarding.md"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        *((s, Outcome.DELIVERED) for s in (200, 201, 202, 204, 299)),
        *((s, Outcome.RETRY) for s in (408, 425, 429, 500, 502, 503, 504, 599)),
        *((s, Outcome.REFUSED) for s in (300, 301, 302, 307, 308, 400, 401, 403, 404, 409, 410, 413, 422, 499)),
    ],
)
def test_what_a_status_means(status: int, wanted: Outcome) -> None:
    assert outcome(status) is wanted


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("0", 0),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60),
        ("Tue, 14 Nov 2023 22:12:20 GMT", 0),
        ("Tue, 14 Nov 2023 22:14:20", 60),
        *((v, 0) for v in (None, "", "-5", "1.5", "soon", "١٢", "Tue, 99 Nov 2023 22:14:20 GMT")),
    ],
)
def test_retry_after_in_both_forms(value: str | None, seconds: float) -> None:
    assert retry_after_s(value, 1_700_000_000.0) == seconds


def test_pauses_double_to_a_ceiling_and_are_spread() -> None:
    longest = [Backoff(0.5, 60, lambda: 1.0).wait_s(n) for n in range(1, 12)]
    assert longest == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert Backoff(0.5, 60, lambda: 1.0).wait_s(10_000) == 60
    waits = [Backoff(0.5, 60).wait_s(20) for _ in range(200)]
    assert min(waits) < 15 < 45 < max(waits) <= 60


@given(st.lists(st.sampled_from(["read", "owe", "done"]), max_size=60), st.randoms())
def test_what_is_final_never_passes_what_is_owed(steps: list[str], chance: random.Random) -> None:
    progress, owed, offset, last = Progress(100), set(), 100, 100
    for step in steps:
        offset += chance.randint(1, 3) if step != "done" else 0  # control records leave gaps
        if step != "done":
            progress.read(offset)
        if step == "owe":
            progress.owe(offset, offset - chance.randint(0, 50), 1)
            owed.add(offset)
        elif step == "done" and owed:
            gone = chance.choice(sorted(owed))
            owed.remove(gone)
            progress.done(gone)
        assert progress.final == min(owed, default=progress.next)
        assert progress.final >= last  # it never goes back
        last = progress.final
        assert progress.since(None) <= progress.final
        assert progress.since(7) == min(7, progress.since(None))
    assert (progress.oldest_ms is None) is not owed


def test_a_record_out_of_order_is_our_bug() -> None:
    progress = Progress(0)
    progress.owe(5, 5, 1)
    with pytest.raises(AssertionError):
        progress.owe(5, 5, 1)


@pytest.mark.parametrize("text", [None, "", "from=", "from=-1", "from=x", "12", "from=1 ", "from=²"])
def test_strange_metadata_is_not_believed(text: str | None) -> None:
    assert state_since(text) is None
    assert state_since(state_text(0)) == 0
    assert state_since(state_text(1 << 60)) == 1 << 60


# -- hosts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "allowed", "shown"),
    [
        ("http://127.0.0.1:9093", LOOPBACK, "http://127.0.0.1:9093"),
        ("https://localhost/hook?a=secret", LOOPBACK, "https://localhost:443"),
        ("http://[::1]:8080/x", LOOPBACK, "http://[::1]:8080"),
        ("http://LOCALHOST./", LOOPBACK, "http://localhost:80"),
        ("https://hooks.example.org/x", ("hooks.example.org",), "https://hooks.example.org:443"),
        ("http://am:9093", ("am:9093",), "http://am:9093"),
        ("http://[fe80::1]/", ("[fe80::1]:80",), "http://[fe80::1]:80"),
    ],
)
def test_an_allowed_host(url: str, allowed: tuple[str, ...], shown: str) -> None:
    assert str(address_of(url, allowed)) == shown


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://example.org/", "host example.org is not in forward.allowed_hosts"),
        ("http://127.0.0.1.example.org/", "not in forward.allowed_hosts"),
        ("http://localhost.example.org/", "not in forward.allowed_hosts"),
        ("http://2130706433/", "not in forward.allowed_hosts"),  # 127.0.0.1 by another name
        ("http://127.1/", "not in forward.allowed_hosts"),
        ("http://0.0.0.0/", "not in forward.allowed_hosts"),
        ("http://169.254.169.254/latest/meta-data", "not in forward.allowed_hosts"),
        ("http://127.0.0.1@example.org/", "a login in the URL"),
        ("http://example.org\\@127.0.0.1/", "a login in the URL"),
        ("http://user:pass@localhost/", "a login in the URL"),
        ("http://localhost/#x", "#"),
        ("http://localhost:99999/", "the URL is wrong"),
        ("http://local host/", "is not a URL"),
        ("http://localhost/a\r\nX-Evil: 1", "is not a URL"),
        ("http://löcalhost/", "is not a URL"),
        ("file:///etc/passwd", "is not a URL"),
        ("localhost:9093", "is not a URL"),
        ("http://", "is not a URL"),
        ("", "is not a URL"),
    ],
)
def test_any_other_is_refused(url: str, said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)) as caught:
        address_of(url, LOOPBACK)
    assert "pass" not in str(caught.value) or "passwd" in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_port_is_part_of_what_is_allowed_if_it_is_named() -> None:
    address_of("http://am:9093", ("am:9093",))
    with pytest.raises(SettingsError, match="not in forward"):
        address_of("http://am:9094", ("am:9093",))


# -- settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"hold_s": 100}, "three times resend_s"),
        ({"retry_first_s": 5, "retry_max_s": 1}, "below retry_first_s"),
        ({"allowed_hosts": ["*.example.org"]}, "is not HOST or HOST:PORT"),
        ({"allowed_hosts": ["http://example.org"]}, "is not HOST or HOST:PORT"),
        ({"allowed_hosts": [""]}, "is not HOST or HOST:PORT"),
        ({"generator_url": "https://x/{devise}"}, "{devise} is none of {device}, {class}, {episode}"),
        ({"generator_url": "javascript:alert(1)"}, "is not an http or https URL"),
        ({"generator_url": "https://x/{"}, "Single '{' encountered"),
        ({"ca": "/nowhere"}, "cannot read /nowhere"),
        ({"hmac_key_file": "/nowhere"}, "cannot read /nowhere"),
    ],
)
def test_a_wrong_setting_is_named(section: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        contract.load(environ={}, forward=section)
    assert said in str(caught.value)
    assert "forward" in str(caught.value)


def test_keys_come_from_a_file_or_a_variable_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "key"
    key.write_text("sixteen bytes or more\n")
    assert contract.load(environ={}, forward={"hmac_key_file": key}).forward.key() == b"sixteen bytes or more"
    key.write_text("short")
    with pytest.raises(SettingsError, match="has 5 bytes; 16 or more"):
        contract.load(environ={}, forward={"hmac_key_file": key})
    config = tmp_path / "settings.yaml"
    config.write_text("forward: {hmac_key: sixteen bytes or more}\n")
    with pytest.raises(SettingsError, match="a secret does not belong into"):
        contract.load(config, environ={})
    monkeypatch.setenv("FLEETWATCH_FORWARD__HMAC_KEY", "sixteen bytes or more")
    tree = contract.load()
    assert tree.forward.key() == b"sixteen bytes or more"
    assert "sixteen" not in repr(tree)


# -- webhook --------------------------------------------------------------------------------------------------


def received(alert: object) -> Received:
    key, value, headers = alert.to_message()  # type: ignore[attr-defined]
    del key, value
    return Received(alert, ce_attributes(headers), 1_700_000_000_000)  # type: ignore[arg-type]


def test_a_signature_is_of_the_attempt() -> None:
    message, _ = Webhook("/", Severity.INFO, b"k" * 16).accept(received(made("gpu-1")), 0, 5)
    assert message is not None
    (first, body), (second, again) = message.render(1_700_000_000.9), message.render(1_700_000_060.0)
    assert body == again
    assert first["X-Fleetwatch-Timestamp"] == "1700000000"
    assert first["X-Fleetwatch-Signature"] != second["X-Fleetwatch-Signature"]
    for headers in (first, second):
        text = headers["X-Fleetwatch-Timestamp"].encode() + b"." + body
        wanted = hmac.new(b"k" * 16, text, hashlib.sha256).hexdigest()
        assert headers["X-Fleetwatch-Signature"] == f"sha256={wanted}"


@pytest.mark.parametrize("device", ["gpu-1", "gerät/1", "a\r\nX-Evil: 1", "half \ud800", "\x00", "車" * 100])
def test_no_device_writes_a_header(device: str) -> None:
    alert = made("gpu-1")
    attributes = {"id": f"{device}/x", "specversion": "1.0", "source": "s", "type": "t", "subject": device}
    message, _ = Webhook("/", Severity.INFO, None).accept(Received(alert, attributes, 0), 0, 5)
    assert message is not None
    headers, body = message.render(0)
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    assert json.loads(body)["subject"] == device
    assert "X-Fleetwatch-Signature" not in headers


def test_below_the_least_severity_there_is_nothing_to_post() -> None:
    hook = Webhook("/", Severity.MAJOR, None)
    found = {s: hook.accept(received(made("gpu-1", severity=s)), 0, 5)[0] is not None for s in Severity}
    assert found == {Severity.INFO: False, Severity.MINOR: False, Severity.MAJOR: True, Severity.CRITICAL: True}


# -- connections and the page of figures ----------------------------------------------------------------------


@contextmanager
def server(*answers: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """(port, requests): a connection for each of the answers; it is closed after it, without a word of warning."""
    got: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for answer in answers:
                connection, _ = listening.accept()
                with connection:
                    got.append(connection.recv(65536))
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1], got
        thread.join(5)


def poster(port: int, timeout_s: float = 5.0) -> Poster:
    return Poster(Address("http", "127.0.0.1", port, "/"), "/hook", None, timeout_s)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def test_a_kept_connection_that_was_closed_is_opened_anew() -> None:
    with server(OK, OK) as (port, got):
        posts = poster(port)
        assert [posts.post({"A": "b"}, b"body").status for _ in range(2)] == [200, 200]
    assert len(got) == 2
    assert got[0].startswith(b"POST /hook HTTP/1.1\r\n")
    assert b"\r\nUser-Agent: fleetwatch/" in got[0]


def test_a_new_connection_that_is_closed_is_no_answer() -> None:
    with server(b"") as (port, _got), pytest.raises(UnansweredError) as caught:
        poster(port).post({}, b"")
    assert caught.value.kind == "reset"


def test_what_is_not_http_is_no_answer() -> None:
    with server(b"SSH-2.0-x\r\n") as (port, _got), pytest.raises(UnansweredError) as caught:
        poster(port).post({}, b"")
    assert caught.value.kind == "protocol"


def test_a_status_counts_though_its_words_are_cut_off() -> None:
    with server(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", OK) as (port, _got):
        posts = poster(port)
        assert [posts.post({}, b"").status for _ in range(2)] == [200, 200]


def test_a_long_answer_is_cut_and_shown_safely() -> None:
    body = b"\x1b[31m" + b"x" * 100_000
    whole = b"HTTP/1.1 400 Bad\r\nRetry-After: 5\r\nContent-Length: %d\r\n\r\n" % len(body)
    with server(whole + body, OK) as (port, _got):
        posts = poster(port)
        answer = posts.post({}, b"")
        assert (answer.status, answer.retry_after) == (400, "5")
        assert len(answer.said) < 300
        assert answer.said.isprintable()
        assert posts.post({}, b"").status == 200


def test_nobody_there_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(UnansweredError) as caught:
        poster(port).post({}, b"")
    assert caught.value.kind == "connect"


def test_a_loop_that_is_stuck_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page("127.0.0.1", 0, ForwardMetrics(CollectorRegistry()), lambda: {"queued": 3})
    try:
        status, _, body = page.answer("/healthz")
        assert (status, json.loads(body)) == (200, {"status": "ok", "queued": 3})
        then = time.monotonic() + 100
        monkeypatch.setattr("fleetwatch.forward_metrics.time.monotonic", lambda: then)
        assert page.answer("/healthz")[0] == 503
        page.beat()
        assert page.answer("/healthz")[0] == 200
        assert page.answer("/")[0] == 404
        assert b"fleetwatch_forward_events_total" in page.answer("/metrics")[2]
    finally:
        monkeypatch.undo()
        page.close()


def test_what_goes_on_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    metrics = ForwardMetrics(CollectorRegistry())
    for _ in range(1000):
        metrics.no_longer(1, "open_max")
    assert len(caplog.records) == 1
    assert metrics.registry.get_sample_value("fleetwatch_forward_ended_total", {"reason": "open_max"}) == 1000


# -- command and page -----------------------------------------------------------------------------------------


def test_options_of_the_wrong_command_are_not_passed_over() -> None:
    result = CliRunner().invoke(alerts_command, ["--follow", "forward", "--to", "webhook", "http://127.0.0.1/"])
    assert result.exit_code == 2
    assert "options of `forward` stand behind it" in result.output
    assert CliRunner().invoke(alerts_command, ["forwad"]).exit_code == 2


def test_help_shows_how() -> None:
    shown = CliRunner().invoke(alerts_command, ["forward", "--help"]).output
    for word in ("--to alertmanager http://", "FLEETWATCH_FORWARD__ALLOWED_HOSTS", "X-Fleetwatch-Signature"):
        assert word in shown
    assert "forward" in CliRunner().invoke(alerts_command, ["--help"]).output


def test_the_page_has_every_metric_and_setting_and_no_other() -> None:
    text = PAGE.read_text(encoding="utf-8")
    registry = CollectorRegistry()
    ForwardMetrics(registry)
    names = {f"{f.name}_total" if f.type == "counter" else f.name for f in registry.collect()}
    assert set(re.findall(r"\bfleetwatch_forward_\w+", text)) == names
    known = set(contract.Settings.model_fields["forward"].annotation.model_fields)  # type: ignore[union-attr]
    assert set(re.findall(r"`forward\.(\w+)`", text)) == known
