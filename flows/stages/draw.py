"""The pictures that a reviewer should see first."""

from flows.stages.gallery import draw_gallery
from flows.stages.map_renderer import open_renderer
from flows.stages.plan import Planned
from flows.stages.session import Session
from reports.gates.judgement import Judgement
from reports.parts.gallery import choose_samples, shown_classes
from reports.queries import ask
from storage.sql.read_only import connect


def draw(session: Session, planned: Planned, judgements: list[Judgement]) -> None:
    """Draws the samples that a reviewer should see first."""
    run, config = planned.run, session.config
    classes = len(planned.plan.class_names)
    with connect(run.store, [run.run_id]) as connection:
        choices = choose_samples(connection, run.run_id, config.report.gallery_samples, config.report.seed, classes, judgements)
        indices = sorted({choice.sample_index for choice in choices})
        shown = shown_classes(ask(connection, "gallery_samples", run_id=run.run_id, indices=indices).rows)
    draw_gallery(run, open_renderer(run, config, session.dataset), choices, shown)
