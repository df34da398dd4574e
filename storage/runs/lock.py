"""One process a run: who works on it holds its lock, which a process that dies lets go: at once on a disk, later in S3."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

from filelock import FileLock, Timeout

from storage.errors import InputError, StoreLost
from storage.filesystems import is_lost, is_remote
from storage.runs.lease import Lease, is_live
from storage.runs.run import Run


@contextmanager
def hold(run: Run) -> Iterator[Callable[[], None]]:
    """Holds an unfinished run for this process alone; gives what raises StoreLost where it does no longer.

    Raises InputError where another process has it, on this machine or another one that sees the store, or has finished or
    removed it.
    """
    check_own_folders(run)
    with hold_alone(run) as check:
        if not run.plan.exists():
            raise InputError(f"run '{run.run_id}' was removed by another process just now: the same command begins a new one")
        if run.is_published:
            raise InputError(f"run '{run.run_id}' was finished by another process just now: see its report")
        yield check


def check_own_folders(run: Run) -> None:
    """Raises InputError where a folder that a run is written into, and swept, only leads to one."""
    if is_remote(run.store):
        return
    folders = (run.folder, run.attempts, run.commits, *run.commits.glob("*"), run.maps, run.gallery, run.added)
    linked = next((folder for folder in (*folders, *run.table_folders()) if folder.is_symlink()), None)
    if linked is not None:
        raise InputError(f"'{linked}' is a link, and who goes on with a run removes files there: put the folder itself there")


def hold_alone(run: Run) -> AbstractContextManager[Callable[[], None]]:
    """The same of a run in whatever state. Raises InputError where another process has it."""
    return hold_lease(run) if is_remote(run.store) else hold_file(run)


@contextmanager
def hold_file(run: Run) -> Iterator[Callable[[], None]]:
    lock = FileLock(run.lock, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise refusal(run) from error
    try:
        yield lambda: None
    finally:
        lock.release()
        if run.is_published:
            run.lock.unlink(missing_ok=True)
        elif run.folder.exists() and not run.plan.exists():
            # Its removal took the folder away, and the lock made another.
            run.lock.unlink(missing_ok=True)
            with suppress(OSError):
                run.folder.rmdir()


@contextmanager
def hold_lease(run: Run) -> Iterator[Callable[[], None]]:
    lease = Lease(run.lock)
    if not lease.acquire():
        raise refusal(run)

    def check() -> None:
        if not lease.is_held():
            raise StoreLost(f"run '{run.run_id}' was taken over by another process while the store was not reached")

    try:
        yield check
    finally:
        try:
            lease.release()
        except Exception as error:
            # It is free when it is too old; what went wrong before matters more.
            if not is_lost(error):
                raise


def refusal(run: Run) -> InputError:
    return InputError(
        f"run '{run.run_id}' is being worked on by another process: wait until it has ended, or end it; "
        "the same command then goes on with the run"
    )


def is_held(run: Run) -> bool:
    """Whether a process works on a run now."""
    if is_remote(run.store):
        return is_live(run.lock)
    if not run.lock.is_file():
        return run.lock.exists()  # what is no lock of ours is let alone
    lock = FileLock(run.lock, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    return False
