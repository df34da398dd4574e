"""Starting an audit from a terminal: what need not wait for each other starts side by side."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from auditor.errors import UnsupportedModel
from flows.config import AuditConfig
from flows.errors import ClusterLost, ServerLost
from flows.orchestration.interruption import heeding_interrupts
from flows.orchestration.notification import News, notify
from flows.orchestration.server import prefect_server
from flows.runtime.progress import Progress
from reports.formats import plural
from storage.datasets import Dataset
from storage.datasets.formats import open_dataset
from storage.errors import InputError
from storage.filesystems import check_writable

if TYPE_CHECKING:
    from flows.orchestration.audit import AuditOutcome

SAID = (InputError, UnsupportedModel, ClusterLost, ServerLost)
"""Errors whose message is a sentence for people."""


def check_places(config: AuditConfig, store: Path) -> Dataset:
    """The dataset, opened. Raises InputError where it is not as it must be, or the store is no place for a run."""
    check_writable(store)
    try:
        return open_dataset(config.dataset)
    except InputError as error:
        raise InputError(f"section [dataset] of the config: {error}") from error


def run_audit(
    config: AuditConfig, store: Path, progress: Progress, resumed: str | None = None, rechoose: bool = False
) -> "AuditOutcome":
    """Runs the audit flow with a Prefect server and a Dask cluster of its own, or those that are named.

    resumed: the unfinished run that is to be gone on with; where none is named, one that planned the same is. rechoose:
    whether a rule that is to be chosen is chosen anew. Whoever is to be
    told of the audit's end is told. Raises InputError, for a bad dataset or store before anything starts.
    """
    try:
        outcome = start_audit(config, store, progress, resumed, rechoose)
    except Exception as error:
        if not was_interrupted(error):
            said = str(error) if isinstance(error, SAID) else f"{type(error).__name__}: {error}"
            tell(config, store, News("failure", error=said, run=progress.run))
        raise
    excess = say_excess(outcome, config)
    if excess is not None or any(judgement.fails for judgement in outcome.judgements):
        event = "gate" if excess is None else "failure"
        counts = {"expected": outcome.expected, "processed": outcome.processed, "failed": outcome.failed}
        tell(config, store, News(event, error=excess, run=outcome.run, judgements=outcome.judgements, **counts))
    return outcome


def tell(config: AuditConfig, store: Path, news: News) -> None:
    """A webhook that is not reached changes nothing of the audit."""
    problem = notify(config, store, news)
    if problem is not None:
        print(f"clear-audit: {problem}", file=sys.stderr)


def was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is at the bottom of an error: Prefect raises others while it handles one."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def start_audit(config: AuditConfig, store: Path, progress: Progress, resumed: str | None, rechoose: bool) -> "AuditOutcome":
    """The audit itself, when its dataset is there."""
    dataset = check_places(config, store)
    # Workers of a cluster that is not ours may have another working directory.
    store = store.absolute()
    progress.stage("starting")
    with heeding_interrupts(progress), prefect_server() as server:
        # Here, because these imports take seconds in which the server can start.
        from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        from flows.orchestration.audit import audit_in
        from flows.stages.session import Session

        with Session(config, store, dataset, progress, resumed, rechoose) as session:
            server.wait()
            # A server that ends with the run watches over nothing: a heartbeat would only hold up the end by a second.
            own = {PREFECT_API_URL: server.url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
            with temporary_settings(own if server.url else {}):
                return audit_in(session)


def say_excess(outcome: "AuditOutcome", config: AuditConfig) -> str | None:
    """That shards were given up, or more samples failed than the config allows, in a sentence; None where all is well."""
    if outcome.quarantined:
        return (
            f"{plural(outcome.quarantined, 'shard')} given up, for a worker died of each of {config.compute.shard_tries} tries: "
            "their images are in the table 'failures'"
        )
    if outcome.failed <= config.limits.failed_frac_max * outcome.expected:
        return None
    why = "; ".join([*outcome.not_finite, "see the table 'failures'"])
    return (
        f"{outcome.failed:,} of {outcome.expected:,} samples failed, more than limits.failed_frac_max = "
        f"{config.limits.failed_frac_max:g} allows: {why}"
    )
