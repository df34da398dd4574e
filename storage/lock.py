"""One process a run: who works on it holds its lock, which a process that dies lets go."""

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from storage.errors import InputError
from storage.runs import Run


@contextmanager
def hold(run: Run) -> Iterator[None]:
    """Holds an unfinished run for this process alone.

    Raises InputError where another process has it, on this machine or another one that sees the store, or has finished it.
    """
    lock = FileLock(run.lock, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"run '{run.run_id}' is being worked on by another process: wait until it has ended, or end it; "
            "the same command then goes on with the run"
        ) from error
    try:
        if run.is_published:
            raise InputError(f"run '{run.run_id}' was finished by another process just now: see its report")
        yield
    finally:
        lock.release()
        if run.is_published:
            run.lock.unlink(missing_ok=True)
