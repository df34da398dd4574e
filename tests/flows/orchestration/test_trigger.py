"""What started an audit, asked of flows that really run on a Prefect server."""

import os
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Scheduled

from flows.orchestration.trigger import find_trigger
from storage.runs.plan import Trigger

found: list[Trigger] = []
DUE = datetime(2026, 11, 21, 3, tzinfo=UTC)


@flow
def part() -> None:
    found.append(find_trigger("command line"))


@flow
def whole() -> None:
    part()


@pytest.fixture
def client(prefect_api: str) -> Iterator[SyncPrefectClient]:
    found.clear()
    with temporary_settings({PREFECT_API_URL: prefect_api}), SyncPrefectClient(prefect_api) as made:
        yield made


def parent_of(client: SyncPrefectClient, flow_run_id: str) -> str | None:
    """The flow run that a flow run is a part of, by the task run that stands for it there."""
    task_run = client.read_flow_run(UUID(flow_run_id)).parent_task_run_id
    return None if task_run is None else str(client.read_task_run(task_run).flow_run_id)


def test_a_flow_that_nothing_deployed_was_started_by_its_caller(client: SyncPrefectClient) -> None:
    part()
    whole()
    alone, inner = found
    assert alone == Trigger(kind="command line", flow_run_id=alone.flow_run_id)
    assert inner == Trigger(
        kind="command line", flow_run_id=inner.flow_run_id, parent_flow_run_id=parent_of(client, inner.flow_run_id)
    )
    assert inner.parent_flow_run_id is not None
    assert client.read_flow_run(UUID(inner.parent_flow_run_id)).flow_id == client.read_flow_by_name("whole").id


@pytest.mark.parametrize(("auto_scheduled", "kind"), [(True, "schedule"), (False, "deployment")])
def test_a_deployment_is_named_with_its_time(client: SyncPrefectClient, auto_scheduled: bool, kind: str) -> None:
    deployment = client.create_deployment(client.create_flow_from_name("whole"), "nightly")
    flow_run = client.create_flow_run_from_deployment(deployment, state=Scheduled(scheduled_time=DUE))
    with sqlite3.connect(Path(os.environ["PREFECT_HOME"]) / "prefect.db") as database:
        # Only Prefect's scheduler sets it, by no request.
        database.execute("UPDATE flow_run SET auto_scheduled = ? WHERE id = ?", [auto_scheduled, str(flow_run.id)])
    run_flow(whole, flow_run=client.read_flow_run(flow_run.id), return_type="state")
    (trigger,) = found
    assert trigger == Trigger(
        kind=kind,
        flow_run_id=trigger.flow_run_id,
        parent_flow_run_id=str(flow_run.id),
        deployment_id=str(deployment),
        deployment_name="nightly",
        scheduled_at=DUE,
    )
    assert parent_of(client, trigger.flow_run_id) == str(flow_run.id)
