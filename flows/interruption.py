"""Ctrl-C, which must not get lost on its way through other people's event loops."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from flows.listener import Listener


@contextmanager
def heeding_interrupts(listener: Listener) -> Iterator[None]:
    """Raises KeyboardInterrupt at once, and tells the listener, which raises it again where it was swallowed.

    An event loop of asyncio that runs in the main thread when Ctrl-C comes may end as if nothing had been.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signal_number: int, frame: FrameType | None) -> None:
        listener.interrupted = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
