"""What a worker of our own cluster does before anything else."""

import signal


def dask_setup(worker: object) -> None:
    """Leaves Ctrl-C, which reaches every process of a terminal, to the run, which then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
