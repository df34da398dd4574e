"""Ctrl-C is heard, even where an event loop swallows it."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from flows.orchestration.interruption import end_with_starter, heeding_interrupts
from flows.runtime.progress import Progress


def test_interrupt_is_raised_and_remembered() -> None:
    before, progress = signal.getsignal(signal.SIGINT), Progress()
    with pytest.raises(KeyboardInterrupt), heeding_interrupts(progress):
        os.kill(os.getpid(), signal.SIGINT)
    assert progress.interrupted
    assert signal.getsignal(signal.SIGINT) is before


def test_swallowed_interrupt_is_raised_by_the_next_stage() -> None:
    async def swallow() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(1)
        except (KeyboardInterrupt, asyncio.CancelledError):
            pass

    progress = Progress()
    with heeding_interrupts(progress):
        asyncio.run(swallow())
        with pytest.raises(KeyboardInterrupt):
            progress.stage("computing")
        with pytest.raises(KeyboardInterrupt):
            progress.advance(1, 0, 2)


def test_other_threads_have_no_signals_to_heed() -> None:
    failures = []

    def work() -> None:
        try:
            with heeding_interrupts(Progress()):
                pass
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []


STARTER = """
import os, subprocess, sys, time
environment = os.environ | {"_CLEAR_AUDIT_STARTED_BY": str(os.getpid())}
started = subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=environment)
print(started.pid, flush=True)
time.sleep(60)
"""

STARTED = """
import time
from flows.orchestration.interruption import end_with_starter
end_with_starter()
{0}
"""


@pytest.mark.parametrize("work", ["time.sleep(60)", "while True:\n try: time.sleep(60)\n except KeyboardInterrupt: pass"])
def test_a_process_ends_with_the_one_that_started_it(work: str) -> None:
    starter = subprocess.Popen([sys.executable, "-c", STARTER, STARTED.format(work)], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    started = psutil.Process(int(starter.stdout.readline()))
    time.sleep(2)
    assert started.is_running()
    starter.kill()
    # Not waited for: a process that ended may be there until somebody asks what became of it.
    started.wait(timeout=15)
    starter.wait()


def test_a_process_that_nobody_started_so_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("_CLEAR_AUDIT_STARTED_BY", raising=False)
    before = threading.active_count()
    end_with_starter()
    assert threading.active_count() == before
