"""The Prefect server of a run: named by the environment, or our own, which ends with us."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from urllib.parse import urlsplit

import psutil
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

import flows.orchestration.server
from flows.errors import ServerLost
from flows.orchestration.server import PrefectServer, prefect_server


def test_named_server_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with prefect_server() as running:
        running.wait()
        assert running.url is not None
        monkeypatch.setenv("PREFECT_API_URL", running.url)
        with temporary_settings({PREFECT_API_URL: running.url}):
            server = PrefectServer()
            server.wait()
    assert server.process is None
    assert server.url is None


def test_named_server_that_is_not_there_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://user:secret@127.0.0.1:9/api"
    monkeypatch.setenv("PREFECT_API_URL", url)
    monkeypatch.setattr(flows.orchestration.server, "NAMED_SECS", 0)
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(ServerLost) as caught:
        PrefectServer().wait()
    assert str(caught.value).startswith("PREFECT_API_URL names http://127.0.0.1:9/api, which cannot be used (ConnectError: ")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("nothing", ["", " "])
def test_an_api_url_that_is_empty_names_no_server(monkeypatch: pytest.MonkeyPatch, nothing: str) -> None:
    monkeypatch.setenv("PREFECT_API_URL", nothing)
    with prefect_server() as server:
        assert server.url is not None
        assert "PREFECT_API_URL" not in os.environ


def test_own_server_is_asked_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a proxy that answers nothing, and bypasses nothing."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    answering = HTTPServer(("127.0.0.1", 0), Answering)
    Thread(target=answering.handle_request, daemon=True).start()
    assert flows.orchestration.server.is_healthy(f"http://127.0.0.1:{answering.server_port}/health")
    answering.server_close()
    assert not flows.orchestration.server.is_healthy(f"http://127.0.0.1:{answering.server_port}/health")


class Answering(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()


def test_own_servers_address_is_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when it answers, seconds later: another process would have had the time."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with prefect_server() as server:
        assert server.url is not None
        port = urlsplit(server.url).port
        assert port is not None
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        server.wait()
        with urllib.request.urlopen(f"{server.url}/health", timeout=5) as answer:
            assert answer.status == 200


def test_own_server_that_cannot_start_ends_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "sqlite+aiosqlite:////nowhere/at/all/prefect.db")
    with prefect_server() as server, pytest.raises(ServerLost, match=r"ended with code 3 before it answered"):
        server.wait()
    assert "Fatal Python error" not in capfd.readouterr().err


def test_own_server_ends_when_its_parent_is_killed() -> None:
    script = "from flows.orchestration.server import PrefectServer; print(PrefectServer().process.pid, flush=True); input()"
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    assert "flows.orchestration.server" in child.cmdline()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 60
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
