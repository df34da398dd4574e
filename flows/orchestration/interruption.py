"""Ctrl-C, which must not get lost on its way through other people's event loops, and the end of whoever started us."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from flows.runtime.progress import Progress

STARTER = "_CLEAR_AUDIT_STARTED_BY"
"""The variable that has the number of the process with which this one is to end."""

LOOKING_SECS, ENDING_SECS = 1.0, 8.0


def end_with_starter() -> None:
    """Has this process end soon after the one that STARTER names, however that went: as by Ctrl-C, and if need be at once.

    Nobody would be told of what it came to, and the next one is to go on with the run.
    """
    if STARTER not in os.environ:
        return
    import psutil

    number = int(os.environ[STARTER])
    try:
        starter = psutil.Process(number)
    except psutil.NoSuchProcess:
        starter = None

    def watch() -> None:
        while starter is not None and starter.is_running() and starter.status() != psutil.STATUS_ZOMBIE:
            time.sleep(LOOKING_SECS)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(ENDING_SECS)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-starter", daemon=True).start()


@contextmanager
def heeding_interrupts(progress: Progress) -> Iterator[None]:
    """Raises KeyboardInterrupt at once, and marks the progress, which raises it again where it was swallowed.

    An event loop of asyncio that runs in the main thread when Ctrl-C comes may end as if nothing had been.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signal_number: int, frame: FrameType | None) -> None:
        progress.interrupted = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
