"""The analysis that every audit has: its units, its tables, and what a shard comes to that is given up."""

import numpy as np

from flows.analyses.analysis import Options
from flows.analyses.maps import ANALYSIS
from flows.runtime.worker import Work
from storage.datasets.formats import open_dataset
from storage.runs.plan import Unit
from storage.tables import PER_SHARD, SCHEMAS
from tests.reports.stores import SMALL, make_plan

PLAN = make_plan(SMALL).model_copy(update={"sample_count": 40, "shard_samples": 16})


def test_its_units_are_the_shards() -> None:
    assert ANALYSIS.units(PLAN, Options()) == [Unit(0, 0, 16), Unit(1, 16, 32), Unit(2, 32, 40)]


def test_its_tables_are_those_that_every_run_has() -> None:
    assert {table.name: table.schema for table in ANALYSIS.tables} == {
        name: schema for name, schema in SCHEMAS.items() if name not in ("runs", "gates")
    }
    assert ANALYSIS.part_schemas == {name: SCHEMAS[name] for name in PER_SHARD}


def test_a_shard_that_is_given_up_has_empty_maps_and_a_failure_a_sample(digits_work: Work) -> None:
    result = ANALYSIS.failed(PLAN, open_dataset(digits_work.dataset), Unit(2, 32, 40), "it kills")
    assert (result.processed, result.failed) == (0, 8)
    rows = result.tables["failures"].to_pylist()
    assert [(row["sample_index"], row["stage"], row["reason"]) for row in rows] == [
        (index, "compute", "it kills") for index in range(32, 40)
    ]
    for name in ("samples", "responses"):
        assert (result.tables[name].schema.names, result.tables[name].num_rows) == (SCHEMAS[name].names, 0)
    assert result.maps is not None
    assert (result.maps.labels == -1).all()
    assert (result.maps.dominant_class == np.full((8, 28, 28), -1)).all()
    assert (result.maps.dominant_response == np.zeros((8, 28, 28))).all()
