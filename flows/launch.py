"""Starting an audit from a terminal: what need not wait for each other starts side by side."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from flows.config import AuditConfig
from flows.interruption import heeding_interrupts
from flows.listener import Listener
from flows.server import prefect_server
from storage.datasets import open_dataset
from storage.errors import InputError

if TYPE_CHECKING:
    from flows.audit import Outcome


def run_audit(config: AuditConfig, store: Path, listener: Listener) -> "Outcome":
    """Runs the audit flow with a Prefect server and a Dask cluster of its own, or those that are named.

    Raises InputError, for a bad dataset or store before anything starts.
    """
    # A drive letter is one character; pathlib makes one slash of two.
    if re.match(r"\w{2,}:/", store.as_posix()):
        raise InputError(f"store '{store}' is not a local folder: name one")
    try:
        dataset = open_dataset(config.dataset_spec)
    except InputError as error:
        raise InputError(f"section [dataset] of the config: {error}") from error
    listener.stage("starting")
    with heeding_interrupts(listener), prefect_server() as server:
        # Here, because these imports take seconds in which the server can start.
        from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        from flows.audit import Session, audit, starting

        with Session(config, store, dataset, listener) as session:
            token = starting.set(session)
            try:
                server.wait()
                # A server that ends with the run watches over nothing: a heartbeat would only hold up the end by a second.
                own = {PREFECT_API_URL: server.url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
                with temporary_settings(own if server.url else {}):
                    return audit(config.model_dump(mode="json"), str(store))
            finally:
                starting.reset(token)
