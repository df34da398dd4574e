"""What a run is to do, as it was frozen, and its division into shards."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import InputError
from storage.runs.plan import Plan, Unit
from storage.runs.run import Run, create_run, read_plan

MakePlan = Callable[..., Plan]

ON_DISK = pytest.mark.parametrize("store_place", ["disk"], indirect=True)
"""Of what is read, not of where it lies: not asked of S3 too."""


@pytest.fixture
def run(store_place: Path, make_plan: MakePlan) -> Run:
    return create_run(store_place, make_plan())


@given(samples=st.integers(0, 5000), size=st.integers(1, 600))
def test_shards_cover_the_samples_once_and_in_order(make_plan: MakePlan, samples: int, size: int) -> None:
    shards = make_plan(sample_count=samples, shard_samples=size).shards()
    assert [index for shard in shards for index in range(shard.start, shard.stop)] == list(range(samples))
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert all(shard.stop - shard.start == size for shard in shards[:-1])
    assert all(shard.stop > shard.start for shard in shards)


def test_shards_of_forty_samples(make_plan: MakePlan) -> None:
    assert make_plan().shards() == [Unit(0, 0, 16), Unit(1, 16, 32), Unit(2, 32, 40)]


@ON_DISK
@pytest.mark.parametrize("key", ["run_id", "sample_count", "shard_samples", "model_hash"])
def test_a_plan_that_lacks_a_key_names_it(run: Run, key: str) -> None:
    path = run.folder / "plan.json"
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"plan.json' is not a plan of this version: {key}: "):
        read_plan(run)


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@ON_DISK
@pytest.mark.parametrize(
    "changes",
    [
        {"shard_samples": 0},
        {"shard_samples": -16},
        {"sample_count": -1},
        {"sample_count": 10**30},
        {"sample_count": 1 << 40, "shard_samples": 16},
        {"height": 0},
        {"created_at": "2026-11-21T03:00:00"},
    ],
)
def test_a_plan_without_an_end_is_refused(run: Run, changes: dict[str, Any]) -> None:
    change(run.folder / "plan.json", **changes)
    with pytest.raises(InputError, match=r"plan\.json' is not a plan of this version"):
        read_plan(run)
