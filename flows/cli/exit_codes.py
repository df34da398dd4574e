"""How a command ends: with a sentence on stderr for what went wrong, and the exit code that stands for it."""

import errno
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from flows.streams import open_closed_streams, silence, silence_unread
from storage.text import printable

GATE_FAILED, USAGE, FAILED, INTERRUPTED, PIPE_CLOSED = 1, 2, 3, 130, 141


def say(sentence: str) -> None:
    """A sentence for people, on stderr."""
    tell(f"clear-audit: {sentence}")


def write(text: object) -> None:
    """A line on stdout that a person reads."""
    typer.echo(printable(str(text)))


def tell(text: str) -> None:
    """On stderr; where nobody reads that any more, the command ends as it would have."""
    try:
        typer.echo(printable(text, lines=True), err=True)
    except BrokenPipeError:
        silence(sys.stderr)


@contextmanager
def exit_codes(afterwards: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Turns what went wrong into a sentence on stderr and the exit code that stands for it.

    afterwards: what becomes of what was interrupted, as far as there is something to say. Whoever reads stdout may go at any
    time: the command then ends without a word.
    """
    from flows.errors import ClusterLost, ServerLost
    from storage.errors import InputError, StoreLost
    from storage.filesystems import is_lost, say_lost

    def then() -> str:
        words = afterwards()
        return f"; {words}" if words else ""

    open_closed_streams()
    try:
        yield
        # Here, for what fails when the interpreter ends cannot be handled any more.
        sys.stdout.flush()
    except InputError as error:
        say(str(error))
        raise typer.Exit(USAGE) from error
    except (ClusterLost, ServerLost) as error:
        say(f"{error}{then()}")
        raise typer.Exit(FAILED) from error
    except (typer.Exit, typer.Abort):
        silence_unread()
        raise
    except (KeyboardInterrupt, Exception) as error:
        # Not before: they import PyTorch, which takes seconds, and who asks a question has no need of it.
        if silence_unread() and isinstance(error, BrokenPipeError):
            raise typer.Exit(PIPE_CLOSED) from error
        from auditor.errors import UnsupportedModel
        from flows.orchestration.launch import was_interrupted

        if isinstance(error, UnsupportedModel):
            say(str(error))
            raise typer.Exit(USAGE) from error
        if was_interrupted(error):
            say(f"interrupted{then()}")
            raise typer.Exit(INTERRUPTED) from error
        if isinstance(error, StoreLost) or is_lost(error):
            say(f"failed, for the store was lost ({say_lost(error)}){then()}")
            raise typer.Exit(FAILED) from error
        if is_full_or_gone(error):
            say(f"failed, for a place could not be written ({error}): make it writable{then()}")
            raise typer.Exit(FAILED) from error
        tell(traceback.format_exc().rstrip())
        say(f"failed ({type(error).__name__}: {error}){then()}")
        raise typer.Exit(FAILED) from error


def is_full_or_gone(error: BaseException) -> bool:
    """Whether a disk is full, or read-only, or a network's is lost: nothing that our traceback would explain."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EFBIG)
    return isinstance(error, OSError) and error.errno in codes
