"""The Prefect server of a run: named by the environment, or our own, which ends with us."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from urllib.parse import urlsplit

import psutil
import pytest

from flows.server import PrefectServer, prefect_server, prepare_environment


def test_named_server_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    server = PrefectServer()
    server.wait()
    assert server.process is None
    assert server.url is None


def test_telemetry_is_off_whatever_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    monkeypatch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "true")
    prepare_environment()
    assert os.environ["DO_NOT_TRACK"] == "1"
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


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
    with prefect_server() as server, pytest.raises(RuntimeError, match=r"ended with code 3 before it answered"):
        server.wait()
    assert "Fatal Python error" not in capfd.readouterr().err


def test_own_server_ends_when_its_parent_is_killed() -> None:
    script = "from flows.server import PrefectServer; print(PrefectServer().process.pid, flush=True); input()"
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    assert "flows.server" in child.cmdline()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 60
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
