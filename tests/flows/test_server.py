"""The Prefect server of a run: named by the environment, or our own, which ends with us."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from flows.server import PrefectServer, prepare_environment


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
