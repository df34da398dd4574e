"""The maps of a shard as a run stored them, against those that were measured."""

import numpy as np
import pyarrow as pa

from flows.analyses.analysis import Context, Options
from flows.analyses.maps import as_result
from flows.analyses.runner import commit_result
from flows.analyses.stored_maps import read_shard
from flows.runtime.shard import measure_shard
from flows.runtime.worker import AuditWorker
from storage.aggregates import TABLES
from storage.joins import join_maps, join_parts
from storage.runs.commits import read_commits
from storage.runs.plan import Plan
from storage.runs.run import Run
from tests.flows.units import JOBS


def test_stored_maps_are_the_measured_ones_but_for_the_last_digits(begun: tuple[Run, Plan], worker: AuditWorker) -> None:
    """Two samples failed: of these the maps are empty and the label is not known."""
    run, plan = begun
    measured = []
    for unit in plan.shards():
        found = measure_shard(worker, unit)
        result = as_result(found)
        if unit.index == 1:
            lost = [3, 7]
            result.maps.dominant_class[lost], result.maps.dominant_response[lost] = -1, 0
            kept = pa.array([index not in (19, 23) for index in result.tables["samples"]["sample_index"].to_pylist()])
            result.tables["samples"] = result.tables["samples"].filter(kept)
        commit_result(Context(run, plan, Options(), worker), JOBS[0], unit, result, 1.0, False)
        measured.append(result.maps)
    commits = list(read_commits(run, "maps").values())
    join_maps(run, plan, commits, {})
    join_parts(run, plan, TABLES, commits)
    for unit, maps in zip(plan.shards(), measured, strict=True):
        stored = read_shard(run, unit)
        labels = maps.labels.copy()
        if unit.index == 1:
            labels[[3, 7]] = -1
        assert stored.labels.dtype == np.int64
        np.testing.assert_array_equal(stored.labels, labels)
        np.testing.assert_array_equal(stored.dominant_class, maps.dominant_class)
        assert (stored.dominant_class.dtype, stored.dominant_response.dtype) == (np.int16, np.float32)
        # Half a unit in the last of eleven binary digits, of the peak where the value is denormal.
        peaks = maps.dominant_response.max((1, 2), keepdims=True)
        bound = np.maximum(maps.dominant_response * 2.0**-11, peaks * 2.0**-25)
        assert (np.abs(stored.dominant_response - maps.dominant_response) <= 1.001 * bound).all()
