"""The Prefect API server: the one that PREFECT_API_URL names, or one of our own for the time of a run."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

STARTUP_SECS = 120

NO_TELEMETRY = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}

QUIET = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL", "PREFECT_CLI_WIKI": "false"}
"""No log lines between ours: failures reach people as our own messages."""

LEAN = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_FINAL": "1"}

EPHEMERAL = {"PREFECT__SERVER_EPHEMERAL": "1"}
"""Without the services of a server that stays, the one among them that makes scheduled runs."""

KEEPS_SCHEDULES = {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem"}
"""Who runs is written down: in memory, a run that died with its server would be taken to run for ever, and no other begin."""


def prepare_environment() -> None:
    """Sets what Prefect reads when it is imported; call before. What the user has set stays, but for telemetry."""
    os.environ.update(NO_TELEMETRY)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if "PREFECT_API_URL" not in os.environ:
        # Nobody reads the logs of a server that ends with the run.
        os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")
    # Our own database: another Prefect version's must not be migrated by a run of ours.
    home = os.environ.setdefault("PREFECT_HOME", str(Path(typer.get_app_dir("clear-audit")) / "prefect"))
    Path(home).mkdir(parents=True, exist_ok=True)


@contextmanager
def prefect_server(keeps_schedules: bool = False) -> Iterator["PrefectServer"]:
    """Begins to start a server, unless one is named; `wait()` returns when it answers. Stopped on leaving."""
    server = PrefectServer(keeps_schedules)
    try:
        yield server
    finally:
        server.stop()


class PrefectServer:
    """A Prefect API server in a process of its own, on a free port of the loopback interface.

    keeps_schedules: whether it makes the runs of deployments that have a schedule. url: its API's; None where
    PREFECT_API_URL names another, which then serves.
    """

    def __init__(self, keeps_schedules: bool = False) -> None:
        prepare_environment()
        self.process: subprocess.Popen[bytes] | None = None
        self.url: str | None = None
        if "PREFECT_API_URL" in os.environ:
            return
        # Handed on as it is: a number alone might be another's by the time the server takes it.
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "clear_audit.running", "flows.server", str(listener.fileno())],
                stdin=subprocess.PIPE,
                env=os.environ | LEAN | (KEEPS_SCHEDULES if keeps_schedules else EPHEMERAL),
                stdout=subprocess.DEVNULL,
                # Ctrl-C is for the run, which then stops its server.
                start_new_session=True,
                pass_fds=[listener.fileno()],
            )

    def wait(self) -> None:
        """Returns when the server answers. Raises RuntimeError where it does not start."""
        deadline = time.monotonic() + STARTUP_SECS
        while self.process is not None:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                pass
            if self.process.poll() is not None:
                raise RuntimeError(f"the Prefect server ended with code {self.process.returncode} before it answered")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the Prefect server did not answer within {STARTUP_SECS} s: set PREFECT_API_URL to another")
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def serve(listener: socket.socket) -> None:
    """Serves Prefect's API until it is told to end, or until the process that started it is gone, however it went.

    listener: bound to an address.
    """
    import uvicorn

    def end_with_parent() -> None:
        # Not by sys.stdin, whose lock an interpreter that ends by itself would wait for.
        while os.read(0, 1024):
            pass
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    server = uvicorn.Server(uvicorn.Config("prefect.server.api.server:create_app", factory=True, log_level="error"))
    server.run(sockets=[listener])
    if not server.started:
        raise SystemExit(3)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
