"""stdin, stdout and stderr, which may be closed, or read by nobody: what is written there then leads nowhere."""

import os
import select
import sys
from io import UnsupportedOperation
from typing import TextIO


def open_closed_streams() -> None:
    """Has stdin, stdout and stderr lead nowhere where they were closed before the program began."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: PTH123, SIM115


def silence_unread() -> bool:
    """Has stdout and stderr lead nowhere where nobody reads them. Returns whether that is so for one of them."""
    unread = [stream for stream in (sys.stdout, sys.stderr) if is_unread(stream)]
    for stream in unread:
        silence(stream)
    return bool(unread)


def is_unread(stream: TextIO) -> bool:
    """Whether what is written to a stream cannot arrive: whoever read it is gone, or its disk is full."""
    try:
        stream.flush()
        if not hasattr(select, "poll"):  # Windows
            return False
        # What could not be written may be forgotten by now, and a pipe without a reader still tells.
        watched = select.poll()
        watched.register(stream.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in watched.poll(0))
    except UnsupportedOperation:  # of a stream that is not a file's
        return False
    except OSError:
        return True


def silence(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
