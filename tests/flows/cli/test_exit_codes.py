"""How commands end: exit codes and sentences, and what a reader that goes does to them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from flows.cli.audits import say_resumption
from flows.cli.exit_codes import FAILED, INTERRUPTED, USAGE, exit_codes
from flows.errors import ClusterLost, ServerLost
from flows.runtime.progress import Progress, Terminal
from storage.errors import InputError
from storage.runs.run import Run

OLD_STORE = Path(__file__).parents[2] / "storage" / "old_stores" / "v1"
RESUMES = "; the same command resumes the run"


@pytest.mark.parametrize(
    ("error", "code", "said", "is_resumed"),
    [
        (InputError("wrong"), USAGE, "wrong", False),
        (ClusterLost("lost"), FAILED, "lost", True),
        (ServerLost("lost"), FAILED, "lost", True),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted", True),
        (PermissionError(13, "no"), FAILED, "failed, for a place could not be written ([Errno 13] no): make it writable", True),
        (ZeroDivisionError("by zero"), FAILED, "failed (ZeroDivisionError: by zero)", True),
    ],
)
def test_what_becomes_of_a_run_is_said_where_one_was_planned(
    error: BaseException, code: int, said: str, is_resumed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress()
    for run in (None, Run(Path("store"), "run-1")):
        progress.run = run
        with pytest.raises(typer.Exit) as caught, exit_codes(lambda: say_resumption(progress)):
            raise error
        assert caught.value.exit_code == code
        tail = RESUMES if is_resumed and run is not None else ""
        assert capsys.readouterr().err.splitlines()[-1] == f"clear-audit: {said}{tail}"


def test_a_run_that_lacks_its_report_alone_is_not_resumed() -> None:
    progress = Progress()
    progress.run, progress.is_published = Run(Path("store"), "run-1"), True
    assert say_resumption(progress) == "all of run 'run-1' but its report is there, and 'clear-audit report' writes that"


def test_a_traceback_is_for_what_is_nobodys_input(capsys: pytest.CaptureFixture[str]) -> None:
    for error, is_shown in ((ServerLost("gone"), False), (OSError(28, "full"), False), (ValueError("odd"), True)):
        with pytest.raises(typer.Exit), exit_codes():
            raise error
        assert ("Traceback" in capsys.readouterr().err) == is_shown


SQL = "SELECT range, repeat('x', 100) AS x FROM range(2000)"
COMMANDS = {
    "much": ["query", SQL, "--format", "json"],
    "little": ["query", "SELECT 1", "--format", "csv"],
    "line by line": ["show"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_reader_that_is_gone_ends_a_command_without_a_word(name: str, unread_pipe: int) -> None:
    command = [sys.executable, "-m", "flows.cli", *COMMANDS[name], "--store", str(OLD_STORE)]
    done = subprocess.run(command, stdout=unread_pipe, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("redirections", [">&-", ">&- 2>&- <&-"])
def test_streams_that_are_closed_from_the_start_are_no_fault(redirections: str) -> None:
    line = f'exec "$0" -m flows.cli query "SELECT 1" --store "$1" {redirections}'
    done = subprocess.run(["sh", "-c", line, sys.executable, str(OLD_STORE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_fault_keeps_its_code_where_nobody_reads_of_it(unread_pipe: int) -> None:
    command = [sys.executable, "-m", "flows.cli", "query", "DROP TABLE samples", "--store", str(OLD_STORE)]
    assert subprocess.run(command, stdout=unread_pipe, stderr=unread_pipe, check=False).returncode == USAGE


def test_progress_that_nobody_watches_ends_nothing(unread_pipe: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.dup(unread_pipe), "w") as stream:  # noqa: PTH123
        monkeypatch.setattr(sys, "stderr", stream)
        terminal = Terminal()
        for _ in range(3):
            terminal.print("x" * 10_000)
        assert terminal.quiet
