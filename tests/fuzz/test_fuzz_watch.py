"""What the other tests of this folder rely on does see what it should."""

import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import tests.fuzz.conftest
from tests.fuzz.conftest import Watch

ESCAPES: dict[str, Callable[[Path], object]] = {
    "read": lambda folder: (folder.parent / "outside").read_text(),
    "write": lambda folder: (folder.parent / "outside").write_text("x"),
    "list": lambda folder: list(folder.parent.iterdir()),
    "link": lambda folder: (folder / "link").symlink_to(folder.parent),
    "through": lambda folder: (folder / ".." / "outside").read_text(),
    "process": lambda folder: subprocess.run([sys.executable, "-c", ""], check=True),
    "pickle": lambda folder: pickle.loads(b"cbuiltins\nlen\n."),
    "thread": lambda folder: ThreadPoolExecutor().submit((folder.parent / "outside").write_text, "x").result(),
}


@pytest.mark.parametrize("escape", ESCAPES)
def test_what_leaves_the_folder_is_seen(escape: str, tmp_path: Path, watch: Watch) -> None:
    (tmp_path.parent / "outside").write_text("")
    with pytest.raises(AssertionError), watch():
        ESCAPES[escape](tmp_path)
    with watch():
        (tmp_path / "inside").write_text("x")


def test_what_another_thread_does_is_not_charged(tmp_path: Path, watch: Watch) -> None:
    asked, done = threading.Event(), threading.Event()

    def leave() -> None:
        asked.wait()
        (tmp_path.parent / "outside").write_text("")
        done.set()

    threading.Thread(target=leave).start()
    with watch():
        asked.set()
        assert done.wait(10)


def test_what_hangs_is_stopped(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tests.fuzz.conftest, "LONGEST_SECS", 0.05)
    with pytest.raises(TimeoutError), watch():
        time.sleep(30)
