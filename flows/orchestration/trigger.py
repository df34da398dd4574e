"""What started an audit, as Prefect knows it."""

from datetime import UTC
from typing import Literal
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import get_client

from storage.runs.plan import Trigger


def find_trigger(caller: Literal["command line", "python"]) -> Trigger:
    """Of the flow that runs now. caller: what started it where no deployment did."""
    flow_run = runtime.flow_run
    own = {"flow_run_id": flow_run.id, "parent_flow_run_id": flow_run.parent_flow_run_id}
    deployment_id = runtime.deployment.id
    if deployment_id is None:
        return Trigger(kind=caller, **own)
    # A deployment runs the outermost flow: what it was to do, and when, is known of that one alone.
    with get_client(sync_client=True) as client:
        outermost = client.read_flow_run(UUID(flow_run.root_flow_run_id))
    due = outermost.expected_start_time
    return Trigger(
        kind="schedule" if outermost.auto_scheduled else "deployment",
        deployment_id=deployment_id,
        deployment_name=runtime.deployment.name,
        scheduled_at=None if due is None else due.astimezone(UTC),
        **own,
    )
