"""Why an audit could not go on, where neither its input nor its code is at fault."""


class ClusterLost(Exception):
    """The Dask cluster ended under a run. The message says which, and what to do, in one sentence; the run can be resumed."""


class ServerLost(Exception):
    """The Prefect server did not start, or is not reached. The message says which, and what to do, in one sentence."""
