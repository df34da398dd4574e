"""The maps of all samples, with what is said of each: the analysis that every audit has.

Its options are the config's sections dataset, input, model, method and compute, which are the run's own identity.
"""

from typing import TYPE_CHECKING

from flows.analyses.analysis import Analysis, Context, Options, Result, ShardMaps, shards
from storage.aggregates import TABLES
from storage.datasets import Dataset
from storage.runs.parts import measured_fault
from storage.runs.plan import Plan, Unit
from storage.runs.run import MAPS

if TYPE_CHECKING:
    from flows.runtime.shard import Findings


def work(unit: Unit, context: Context) -> Result:
    from flows.runtime.shard import measure_shard

    assert context.worker is not None
    return as_result(measure_shard(context.worker, unit))


def fail(plan: Plan, dataset: Dataset, unit: Unit, reason: str) -> Result:
    """Empty maps; the samples are not read, for that may be why."""
    from flows.runtime.shard import give_up

    return as_result(give_up(dataset, unit, plan.height, plan.width, reason))


def as_result(found: "Findings") -> Result:
    return Result(
        processed=len(found.ids) - len(found.failures),
        failed=len(found.failures),
        tables=found.tables,
        maps=ShardMaps(found.labels, found.dominant_class, found.dominant_response),
    )


ANALYSIS = Analysis(
    name=MAPS,
    about="CLEAR maps of all samples, and statistics of each sample and class",
    options=Options,
    tables=TABLES,
    units=shards,
    work=work,
    check=measured_fault,
    fail=fail,
)
