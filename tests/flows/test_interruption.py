"""Ctrl-C is heard, even where an event loop swallows it."""

import asyncio
import os
import signal
import threading

import pytest

from flows.interruption import heeding_interrupts
from flows.listener import Listener


def test_interrupt_is_raised_and_remembered() -> None:
    before, listener = signal.getsignal(signal.SIGINT), Listener()
    with pytest.raises(KeyboardInterrupt), heeding_interrupts(listener):
        os.kill(os.getpid(), signal.SIGINT)
    assert listener.interrupted
    assert signal.getsignal(signal.SIGINT) is before


def test_swallowed_interrupt_is_raised_by_the_next_stage() -> None:
    async def swallow() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(1)
        except (KeyboardInterrupt, asyncio.CancelledError):
            pass

    listener = Listener()
    with heeding_interrupts(listener):
        asyncio.run(swallow())
        with pytest.raises(KeyboardInterrupt):
            listener.stage("computing")
        with pytest.raises(KeyboardInterrupt):
            listener.advance(1, 0, 2)


def test_other_threads_have_no_signals_to_heed() -> None:
    failures = []

    def work() -> None:
        try:
            with heeding_interrupts(Listener()):
                pass
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []
