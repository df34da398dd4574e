"""The run's report, and the page over all runs."""

from pathlib import Path

from flows.stages.session import Session
from reports.pages.index import write_index
from reports.pages.report import write_report
from storage.errors import InputError
from storage.runs.run import Run


def report(session: Session, run: Run) -> Path:
    """Writes the run's report, and the page over all runs of its store, which can be made at any time."""
    path = write_report(run)
    try:
        write_index(run.store)
    except (InputError, OSError) as error:
        session.progress.say(f"the page over all runs cannot be written ({error}): 'clear-audit report' writes it again")
    return path
