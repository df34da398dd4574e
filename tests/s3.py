"""An S3 service of the tests' own, in a process of its own, and a door to it that can be closed."""

import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

SERVE = """
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server
WSGIRequestHandler.log = lambda *arguments: None
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=False)
print(server.port, flush=True)
server.serve_forever()
"""
"""One request after the other: moto's conditional put looks first and writes then, where that of S3 is one step."""


class Door:
    """Passes connections on to a port of this machine, as long as it is open. port: its own."""

    def __init__(self, behind: int) -> None:
        self.behind = behind
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.closing = threading.Event()
        self.open()

    def open(self) -> None:
        self.closing = threading.Event()
        self.listening = socket.create_server(("127.0.0.1", self.port), backlog=100)
        self.listening.settimeout(0.1)
        self.answering = threading.Thread(target=self.answer, args=(self.closing,), daemon=True)
        self.answering.start()

    def close(self) -> None:
        """Ends the connections that there are, and refuses others."""
        self.closing.set()
        self.answering.join()

    def answer(self, closing: threading.Event) -> None:
        with self.listening:
            while not closing.is_set():
                with suppress(TimeoutError):
                    client, _ = self.listening.accept()
                    threading.Thread(target=self.connect, args=(client, closing), daemon=True).start()

    def connect(self, client: socket.socket, closing: threading.Event) -> None:
        with client, socket.create_connection(("127.0.0.1", self.behind)) as server:
            while not closing.is_set():
                for ready in select.select([client, server], [], [], 0.1)[0]:
                    content = ready.recv(1 << 16)
                    if not content:
                        return
                    (server if ready is client else client).sendall(content)


@contextmanager
def serve_s3() -> Iterator[int]:
    """The port of a service that is ended on leaving."""
    process = subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def environment(port: int) -> dict[str, str]:
    """What a program finds the service by. No credentials of the machine are looked for."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
