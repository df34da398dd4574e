"""What a manifest, and that of an analysis that was added, keeps of a run."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from storage.errors import InputError
from storage.runs.lookup import find_unfinished
from storage.runs.manifest import Addition, Manifest
from storage.runs.plan import ConservedRelevance, Examination, Plan, Trigger
from storage.runs.run import Run, create_run, publish, read_additions, read_manifest, read_plan

MakePlan = Callable[..., Plan]
MakeManifest = Callable[[Run], Manifest]

ON_DISK = pytest.mark.parametrize("store_place", ["disk"], indirect=True)
"""Of what is read, not of where it lies: not asked of S3 too."""


@pytest.fixture
def run(store_place: Path, make_plan: MakePlan) -> Run:
    return create_run(store_place, make_plan())


def test_what_was_found_of_the_model_is_kept_in_plan_and_manifest(
    store_place: Path, make_plan: MakePlan, make_manifest: MakeManifest
) -> None:
    fold = {"where": "image", "shape": (4, 5), "rows": 40}
    found = Examination(
        sample_count=8,
        precision_agreement_frac=0.5,
        fold=fold,
        fold_deviation=1e-7,
        conservation=ConservedRelevance(kept=-0.5, size=3.25, operation="'conv2d' (1 of 2)", taken=1.5),
        notes=["two classes"],
    )
    run = create_run(store_place, make_plan(examination=found))
    read = read_plan(run).examination
    publish(run, make_manifest(run).model_copy(update={"examination": read}))
    for kept in (read, read_manifest(run).examination):
        assert kept is not None
        assert kept.model_dump() == found.model_dump() | {"fold": fold | {"shape": [4, 5]}}
    assert find_unfinished(store_place, make_plan(examination=None)) is None


def test_what_started_a_run_is_kept_and_another_may_resume_it(
    store_place: Path, make_plan: MakePlan, make_manifest: MakeManifest
) -> None:
    nightly = Trigger(
        kind="schedule",
        flow_run_id="f1",
        parent_flow_run_id="f0",
        deployment_id="d0",
        deployment_name="nightly",
        scheduled_at=datetime(2026, 11, 21, 3, tzinfo=UTC),
    )
    by_hand = Trigger(kind="command line", flow_run_id="f2")
    run = create_run(store_place, make_plan(trigger=nightly))
    assert find_unfinished(store_place, make_plan(run_id="another", trigger=by_hand)) == run
    publish(run, make_manifest(run).model_copy(update={"trigger": by_hand}))
    assert (read_plan(run).trigger, read_manifest(run).trigger) == (nightly, by_hand)


@ON_DISK
def test_what_was_added_to_a_run_is_read_in_order_and_named_where_it_is_damaged(run: Run) -> None:
    assert read_additions(run) == []
    run.added.mkdir()
    added = [
        Addition(
            run_id=run.run_id,
            analysis=name,
            options={"run": True},
            started_at=datetime(2026, 11, 21, 3, tzinfo=UTC),
            finished_at=datetime(2026, 11, 21, 4, tzinfo=UTC),
            tool_version="0.1.0",
            processed_count=3,
            failed_count=0,
            environment={"python": "3.11"},
            artefacts={f"tables/{name}": "0"},
        )
        for name in ("second", "first")
    ]
    for addition in added:
        (run.added / f"{addition.analysis}.json").write_text(addition.model_dump_json())
    assert read_additions(run) == added[::-1]
    path = run.added / "first.json"
    kept = json.loads(path.read_text())
    for changes, message in (
        ({"run_id": "another"}, "is of run 'another', and lies in the folder of run"),
        ({"artefacts": {"../x": "0"}}, "is not a addition of this version: artefacts"),
        ({"more": 1}, "is not a addition of this version: more"),
    ):
        path.write_text(json.dumps(kept | changes))
        with pytest.raises(InputError) as caught:
            read_additions(run)
        assert f"'{path}' {message}" in str(caught.value)
