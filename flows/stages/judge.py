"""What is to be said of a run's figures: that they are not finite, and what becomes of its gates."""

from flows.stages.session import Session
from reports.gates.judgement import Judgement, as_rows
from reports.gates.judging import judge, readable_reference
from reports.queries import ask
from reports.sections.failures import say_not_finite
from storage.errors import InputError
from storage.joins import place_table
from storage.runs.run import Run, planned_rule
from storage.sql.read_only import connect
from storage.tables import write_table

EMPTY = (
    "no image has positive response for any class, so that all maps are empty: nothing is known of the model's evidence; where "
    "its scores are never above 0, name the layer before what makes them so in method.head"
)


def find_not_finite(session: Session, run: Run) -> list[str]:
    """What is to be said of images whose scores or maps are not finite, and says it; of maps that are all empty as well, and what
    the run's analyses warn of.
    """
    with connect(run.store, [run.run_id]) as connection:
        row = ask(connection, "verdict", run_id=run.run_id).rows[0]
        warnings = [sentence for job in session.config.jobs for sentence in job.analysis.warn(connection)]
    found = say_not_finite(row)
    empty = [EMPTY] if row["processed_count"] and row["no_dominant_count"] == row["processed_count"] else []
    for sentence in [*found, *empty, *warnings]:
        session.progress.say(sentence)
    return found


def judge_run(session: Session, run: Run) -> list[Judgement]:
    """Puts the gates to the run and writes what became of them into its table `gates`."""
    session.progress.stage("judging")
    try:
        reference = readable_reference(run, session.config.reference)
    except InputError as error:
        # Another run's fault loses nothing of this one: a gate that compares with it does not pass.
        session.progress.say(f"gates: there is no reference to compare with: {error}")
        reference = None
    if reference is not None and session.config.gates and (rule := planned_rule(reference)) != session.config.method.rule:
        session.progress.say(
            f"gates: the maps of the reference, run '{reference.run_id}', are by rule '{rule}', and this run's by "
            f"'{session.config.method.rule}': what moved between them may be the rule"
        )
    judgements = judge(session.config.gates, run, reference)
    place_table(run, "gates", lambda path: write_table(as_rows(judgements, reference), path))
    return judgements
