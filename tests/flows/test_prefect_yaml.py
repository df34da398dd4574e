"""The deployment for work pools: what its file says is so, and Prefect takes it."""

import inspect
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient

from flows.orchestration.schedule import ONE_AT_A_TIME

FILE = Path(__file__).parents[2] / "prefect.yaml"


@pytest.fixture
def deployment() -> dict[str, Any]:
    (found,) = yaml.safe_load(FILE.read_text(encoding="utf-8"))["deployments"]
    assert isinstance(found, dict)
    return found


def test_it_names_the_flow_and_all_of_its_parameters(deployment: dict[str, Any]) -> None:
    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(import_module(module), name)
    assert list(inspect.signature(flow.fn).parameters) == list(deployment["parameters"])


def test_it_runs_one_at_a_time_as_a_served_schedule_does(deployment: dict[str, Any]) -> None:
    served = ONE_AT_A_TIME.model_dump(mode="json", include={"limit", "collision_strategy"})
    assert deployment["concurrency_limit"] == served


@pytest.mark.soak
def test_prefect_deploys_it_to_a_work_pool(deployment: dict[str, Any], prefect_api: str, tmp_path: Path) -> None:
    shutil.copy(FILE, tmp_path)

    def prefect(*arguments: str) -> None:
        command = [sys.executable, "-m", "prefect", *arguments]
        environment = os.environ | {"PREFECT_API_URL": prefect_api, "PYTHONPATH": str(FILE.parent)}
        subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True)

    prefect("work-pool", "create", deployment["work_pool"]["name"], "--type", "process")
    prefect("--no-prompt", "deploy", "--all")
    with SyncPrefectClient(prefect_api) as client:
        made = client.read_deployment_by_name(f"deployed-audit/{deployment['name']}")
    assert made.entrypoint == deployment["entrypoint"]
    assert made.parameters == deployment["parameters"]
    assert made.pull_steps == [{"prefect.deployments.steps.set_working_directory": {"directory": str(tmp_path)}}]
    assert [schedule.schedule.cron for schedule in made.schedules] == ["0 3 * * *"]  # type: ignore[union-attr]
    assert made.global_concurrency_limit is not None
    assert made.global_concurrency_limit.limit == 1
