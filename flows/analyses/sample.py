"""What analyses of a seeded sample of images share: their options, their units, and what a unit reads."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from flows.analyses.analysis import Context, Options
from flows.runtime.sampling import Drawn, draw, read_drawn, units_of
from storage.runs.plan import Plan, Unit

if TYPE_CHECKING:
    from flows.runtime.worker import AuditWorker

UNIT_IMAGES = 64


class SampleOptions(Options):
    """samples: images of the sample. seed: decides which, and what else is drawn at random."""

    samples: Annotated[int, Field(ge=1)] = 256
    seed: int = 0


def units(plan: Plan, options: Options) -> list[Unit]:
    assert isinstance(options, SampleOptions)
    return units_of(plan, options.samples, UNIT_IMAGES)


def read_unit(unit: Unit, context: Context) -> tuple["AuditWorker", Drawn]:
    """The worker, and the unit's images."""
    worker, options = context.worker, context.options
    assert worker is not None
    assert isinstance(options, SampleOptions)
    indices = draw(context.plan.sample_count, options.samples, options.seed)[unit.start : unit.stop]
    return worker, read_drawn(worker, indices)
