"""What a worker of our own cluster does before anything else."""

import os
import signal
import sys


def dask_setup(worker: object) -> None:
    """Leaves Ctrl-C to the run, which then ends its workers, and the run's stdout, which is data, to the run.

    Ctrl-C reaches every process of a terminal. What the user's own code prints goes to stderr.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2 if sys.stderr is not None else os.open(os.devnull, os.O_WRONLY), 1)
