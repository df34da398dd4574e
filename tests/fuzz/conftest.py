"""How much is tried, and what is watched while it is: that nothing hangs, and nothing outside a folder is touched.

Every property is tried on a hundred inputs each day, and on FUZZ_EXAMPLES of them by `make soak`.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings

FUZZ_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100000"))
LONGEST_SECS = 20.0


def check_sentence(error: Exception, *named: object) -> None:
    """An error that people see is one line, and names what is wrong."""
    assert str(error)
    assert "\n" not in str(error)
    assert all(str(name) in str(error) for name in named)


TOUCHING = {"open", "os.remove", "os.rename", "os.link", "os.symlink", "os.mkdir", "os.rmdir", "os.listdir", "os.scandir"}
RUNNING = {
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "socket.connect",
    "socket.getaddrinfo",
    "pickle.find_class",
}

Watch = Callable[[], AbstractContextManager[None]]


@pytest.fixture(params=[100, pytest.param(FUZZ_EXAMPLES, marks=pytest.mark.soak)], ids=["everyday", "soak"])
def trials(request: pytest.FixtureRequest) -> settings:
    return settings(
        max_examples=request.param,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


class Watcher:
    """Sees what Python touches; a hook cannot be taken away again, so there is one, which is asleep between uses.

    It hears one thread and those that this one starts, for others are what earlier tests left behind.
    """

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] | None = None
        self.threads: set[int] = set()
        self.seen: list[str] = []
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.allowed is None or threading.get_ident() not in self.threads or event not in TOUCHING | RUNNING:
            return
        if event in RUNNING:
            self.seen.append(f"{event} {arguments}")
        paths = [os.fsdecode(item) for item in arguments[:2] if isinstance(item, str | bytes | os.PathLike)]
        for path in paths[: 1 if event == "open" else 2]:
            if not os.path.realpath(path).startswith(self.allowed):
                self.seen.append(f"{event} {path}")


WATCHER = Watcher()


def start_heard(thread: threading.Thread, start: Callable[[threading.Thread], None] = threading.Thread.start) -> None:
    """Starts a thread, which is heard if the one that starts it is."""
    if threading.get_ident() in WATCHER.threads:
        run = thread.run

        def run_heard() -> None:
            WATCHER.threads.add(threading.get_ident())
            try:
                run()
            finally:
                WATCHER.threads.discard(threading.get_ident())

        thread.run = run_heard  # type: ignore[method-assign]
    start(thread)


@contextmanager
def hearing(folder: Path) -> Iterator[None]:
    """Fails where what is done inside runs code, or touches a file outside a folder.

    Python's own files, which imports read, may be read.
    """
    libraries = {os.path.realpath(path) + os.sep for path in (sys.prefix, sys.base_prefix, *sys.path) if path}
    WATCHER.seen.clear()
    WATCHER.threads = {threading.get_ident()}
    WATCHER.allowed = (os.path.realpath(folder), "/proc/self", "/sys", "/usr/share/zoneinfo", "/etc/localtime", *libraries)
    try:
        with patch.object(threading.Thread, "start", start_heard):
            yield
    finally:
        WATCHER.allowed = None
    assert WATCHER.seen == []


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    """Fails where what is done inside takes too long, runs code, or touches a file outside the test's folder."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"longer than {LONGEST_SECS} s")

    @contextmanager
    def watching() -> Iterator[None]:
        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, LONGEST_SECS)
        try:
            with hearing(tmp_path):
                yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    return watching
