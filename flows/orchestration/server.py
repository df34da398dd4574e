"""The Prefect API server: the one that PREFECT_API_URL names, or one of our own for the time of a run."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from flows.errors import ServerLost
from flows.orchestration.environment import prepare_environment

STARTUP_SECS, NAMED_SECS, REQUEST_SECS = 120, 20, 10
"""How long our own server may take to answer, a named one, which may be starting as well, and one request to that."""

LEAN = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_FINAL": "1"}

ELSE = ": see what it wrote above, or name another by PREFECT_API_URL"

EPHEMERAL = {"PREFECT__SERVER_EPHEMERAL": "1"}
"""Without the services of a server that stays, the one among them that makes scheduled runs."""

KEEPS_SCHEDULES = {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem"}
"""Who runs is written down: in memory, a run that died with its server would be taken to run for ever, and no other begin."""


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
    PREFECT_API_URL names another, which then serves. Raises InputError where there is no place for its database.
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
                [sys.executable, "-P", "-m", "clear_audit.running", "flows.orchestration.server", str(listener.fileno())],
                stdin=subprocess.PIPE,
                env=os.environ | LEAN | (KEEPS_SCHEDULES if keeps_schedules else EPHEMERAL),
                stdout=subprocess.DEVNULL,
                # Ctrl-C is for the run, which then stops its server.
                start_new_session=True,
                pass_fds=[listener.fileno()],
            )

    def wait(self) -> None:
        """Returns when the server answers. Raises ServerLost where it does not."""
        if self.process is None:
            wait_for_named(os.environ["PREFECT_API_URL"])
            return
        deadline = time.monotonic() + STARTUP_SECS
        while not is_healthy(f"{self.url}/health"):
            if self.process.poll() is not None:
                raise ServerLost(
                    f"the Prefect server of the run ended with code {self.process.returncode} before it answered{ELSE}"
                )
            if time.monotonic() > deadline:
                raise ServerLost(f"the Prefect server of the run did not answer within {STARTUP_SECS} s{ELSE}")
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


def is_healthy(url: str) -> bool:
    # Whatever the environment says of proxies: this is our own machine.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=5):
            return True
    except OSError:
        return False


def wait_for_named(url: str) -> None:
    """Returns when the server that PREFECT_API_URL names answers. Raises ServerLost."""
    deadline = time.monotonic() + NAMED_SECS
    while (fault := why_not_reached()) is not None:
        if time.monotonic() > deadline:
            place = urlsplit(url)._replace(query="", fragment="")
            shown = place._replace(netloc=place.netloc.rpartition("@")[2]).geturl()
            raise ServerLost(
                f"PREFECT_API_URL names {shown}, which cannot be used ({type(fault).__name__}: {fault}): correct it, or "
                "unset it, and each run has a Prefect server of its own"
            )
        time.sleep(1)


def why_not_reached() -> Exception | None:
    """What Prefect's client says of its server, tried once; None where all is well."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(httpx_settings={"timeout": REQUEST_SECS}, sync_client=True) as client,
        ):
            client.raise_for_api_version_mismatch()
            return None
    except Exception as error:  # of any library on the way
        return error.__cause__ if isinstance(error.__cause__, Exception) else error


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
