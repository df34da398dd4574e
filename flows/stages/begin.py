"""The beginning of an audit: what is to be done, planned and held."""

from flows.stages.choose import settle_rule
from flows.stages.plan import Planned, plan_run
from flows.stages.session import Session
from storage.runs.lock import hold
from storage.runs.plan import Trigger
from storage.runs.retention import sweep


def make_plan(session: Session, trigger: Trigger) -> Planned:
    """Freezes what is to be done and how, or finds the unfinished run that planned the same; holds it until the end."""
    with session.cluster.losses():
        choice = settle_rule(session, session.rechoose)
        planned = plan_run(
            session.config, session.store, session.dataset, session.cluster, session.progress, trigger, session.resumed, choice
        )
    session.check_held = session.held.enter_context(hold(planned.run))
    sweep(session.store)
    return planned
