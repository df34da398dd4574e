"""An audit on a schedule: served by a process of its own, asked about through Prefect's API."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from distributed import LocalCluster
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Scheduled
from typer.testing import CliRunner

import flows.orchestration.schedule
from flows.cli.app import app
from flows.config import AuditConfig, load_config
from flows.orchestration.audit import AuditOutcome
from flows.runtime.progress import Progress
from reports.gates.gate import Gate
from reports.gates.judgement import GateOutcome, Judgement
from storage.runs.lookup import list_runs, published_runs
from storage.runs.run import Run, read_manifest, read_plan

WAIT_SECS = 120


@dataclass
class Served:
    """A schedule that is served. api: of the Prefect server that it started."""

    process: subprocess.Popen[str]
    client: SyncPrefectClient
    api: str
    deployment: UUID

    def runs(self) -> list[FlowRun]:
        chosen = DeploymentFilter(id=DeploymentFilterId(any_=[self.deployment]))
        return self.client.read_flow_runs(deployment_filter=chosen)

    def trigger(self) -> UUID:
        """Starts a run by hand, through the API."""
        return self.client.create_flow_run_from_deployment(self.deployment).id

    def state(self, flow_run: UUID) -> str:
        state = self.client.read_flow_run(flow_run).state
        assert state is not None
        return state.name


def until(found: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECS
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@contextmanager
def serve(config: Path, store: Path) -> Iterator[Served]:
    """Serves a schedule that is due twelve hours from now."""
    due = datetime.now(UTC) + timedelta(hours=12)
    command = [sys.executable, "-m", "flows.cli", "schedule", str(config), "--store", str(store), "--name", store.parent.name]
    process = subprocess.Popen(
        [*command, "--cron", f"{due.minute} {due.hour} * * *"],
        stderr=subprocess.PIPE,
        text=True,
        # A session of its own: Ctrl-C reaches every process of a terminal's foreground group.
        start_new_session=True,
        env={name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
        | {"PREFECT_RUNNER_POLL_FREQUENCY": "1"},
    )
    assert process.stderr is not None
    try:
        said = process.stderr.readline()
        assert "Prefect's API is http" in said, said + process.stderr.read()
        api = said.split("Prefect's API is ")[1].split(";")[0]
        with SyncPrefectClient(api) as client:
            deployment = client.read_deployment_by_name(f"deployed-audit/{store.parent.name}")
            until(lambda: client.read_deployment(deployment.id).last_polled)
            yield Served(process, client, api, deployment.id)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def config(digits_config: Path) -> Iterator[Path]:
    """An audit of the digits with a gate that fails, on a cluster that is there already."""
    path = digits_config.with_name("scheduled.toml")
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, protocol="tcp://", dashboard_address=None) as cluster:
        text = digits_config.read_text()
        assert "[compute]\n" in text
        text = text.replace("[compute]\n", f'[compute]\ncluster = "{cluster.scheduler_address}"\n').replace("workers = 2\n", "")
        path.write_text(text + '[[gates]]\nname = "accuracy"\nmin = 2\n')
        yield path


@pytest.mark.soak
def test_a_scheduled_run_is_an_audit_and_no_other_runs_beside_it(config: Path, finished: Path, tmp_path: Path) -> None:
    store = tmp_path / "audits"
    with serve(config, store) as served:
        until(lambda: any(run.auto_scheduled for run in served.runs()))
        first = next(run for run in served.runs() if run.auto_scheduled)
        served.client.set_flow_run_state(first.id, Scheduled(), force=True)
        until(lambda: list(store.glob("runs/*/plan.json")))
        second = served.trigger()
        until(lambda: served.state(second) != "Scheduled")
        assert (served.state(second), served.state(first.id)) == ("Cancelled", "Running")
        until(lambda: served.state(first.id) != "Running")
        state = served.client.read_flow_run(first.id).state
        (run,), (same,) = published_runs(store), published_runs(finished)
        assert run.table("samples").read_bytes() == same.table("samples").read_bytes()
        assert state is not None
        assert state.name == "Failed"
        assert str(state.message).startswith(f"run {run.run_id}: gate 'accuracy' failed: ")
        assert str(state.message).endswith(" is below the least allowed, 2")
        trigger = read_plan(run).trigger
        assert trigger is not None
        assert (trigger.kind, trigger.deployment_id, trigger.deployment_name, trigger.parent_flow_run_id) == (
            "schedule",
            str(served.deployment),
            store.parent.name,
            str(first.id),
        )
        part = served.client.read_flow_run(UUID(trigger.flow_run_id))
        assert part.parent_task_run_id is not None
        assert read_manifest(run).trigger == trigger

        os.killpg(served.process.pid, signal.SIGINT)
        _, stderr = served.process.communicate(timeout=WAIT_SECS)
        assert served.process.returncode == 130, stderr
        assert f"clear-audit: {state.message}" in stderr
        assert "Traceback" not in stderr
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(f"{served.api}/health", timeout=5)


@pytest.mark.soak
def test_a_run_that_is_ended_with_its_schedule_is_gone_on_with_by_the_next(config: Path, tmp_path: Path) -> None:
    """SIGTERM, as a service manager sends it to the one process that it knows."""
    store = tmp_path / "audits"
    with serve(config, store) as served:
        ended = served.trigger()
        until(lambda: list(store.glob("runs/*/plan.json")))
        served.process.send_signal(signal.SIGTERM)
        _, stderr = served.process.communicate(timeout=WAIT_SECS)
        assert served.process.returncode == 130, stderr
    assert not published_runs(store)
    with serve(config, store) as served:
        assert served.state(ended) == "Cancelled"
        again = served.trigger()
        until(lambda: served.state(again) == "Failed")
    assert len(list_runs(store)) == 1
    (run,) = published_runs(store)
    plan, manifest = read_plan(run), read_manifest(run)
    assert plan.trigger is not None
    assert manifest.trigger is not None
    assert (plan.trigger.kind, plan.trigger.parent_flow_run_id) == ("deployment", str(ended))
    assert (manifest.trigger.kind, manifest.trigger.parent_flow_run_id) == ("deployment", str(again))


@pytest.mark.soak
def test_a_schedule_that_is_killed_takes_its_audit_along_and_the_next_goes_on(config: Path, tmp_path: Path) -> None:
    store = tmp_path / "audits"
    with serve(config, store) as served:
        ended = served.trigger()
        until(lambda: list(store.glob("runs/*/plan.json")))
        processes = [psutil.Process(served.process.pid), *psutil.Process(served.process.pid).children(recursive=True)]
        assert len(processes) > 2
        served.process.kill()
        served.process.wait()
        _, left = psutil.wait_procs(processes, timeout=15)
        assert not left
    assert not published_runs(store)
    with serve(config, store) as served:
        until(lambda: served.state(ended) == "Crashed")
        again = served.trigger()
        until(lambda: served.state(again) == "Failed")
    assert len(list_runs(store)) == 1
    assert len(published_runs(store)) == 1


@pytest.mark.soak
def test_of_several_that_were_missed_one_is_made_up_for(config: Path, tmp_path: Path) -> None:
    store = tmp_path / "audits"
    with serve(config, store) as served:
        # The server, in a session of its own, goes on.
        os.killpg(served.process.pid, signal.SIGSTOP)
        due = [datetime.now(UTC) - timedelta(hours=hours) for hours in (3, 2, 1)]
        states = [Scheduled(scheduled_time=time) for time in due]
        missed = [served.client.create_flow_run_from_deployment(served.deployment, state=state).id for state in states]
        os.killpg(served.process.pid, signal.SIGCONT)
        until(lambda: "Failed" in map(served.state, missed))
        assert sorted(map(served.state, missed)) == ["Cancelled", "Cancelled", "Failed"]
    (run,) = list_runs(store)
    trigger = read_plan(run).trigger
    assert trigger is not None
    assert trigger.scheduled_at in due


FAILS = Judgement(Gate("accuracy", min=2), GateOutcome.failed, "1 is below the least allowed, 2")
WARNS = Judgement(Gate("agreement", min=2, severity="warn"), GateOutcome.warned, "1 is below the least allowed, 2")
PASSES = Judgement(Gate("failed", max=2), GateOutcome.passed, "0 is within the limits")
TOO_MANY = "4 of 300 samples failed, more than limits.failed_frac_max = 0.01 allows: see the table 'failures'"
FAILED_GATE = "gate 'accuracy' failed: 1 is below the least allowed, 2"


@pytest.mark.parametrize(
    ("judgements", "failed", "name", "said"),
    [
        ([], 3, "Completed", "gates not judged"),
        ([PASSES], 0, "Completed", "gates passed"),
        ([PASSES, WARNS], 0, "Completed", "gates warned"),
        ([PASSES, WARNS, FAILS], 0, "Failed", FAILED_GATE),
        ([], 4, "Failed", TOO_MANY),
        ([FAILS], 4, "Failed", f"{TOO_MANY}; {FAILED_GATE}"),
    ],
)
def test_prefects_state_says_what_an_exit_code_would(
    digits_config: Path,
    prefect_api: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    judgements: list[Judgement],
    failed: int,
    name: str,
    said: str,
) -> None:
    def ended(config: AuditConfig, store: Path, progress: Progress) -> AuditOutcome:
        assert (config, store) == (load_config(digits_config), tmp_path)
        return AuditOutcome(
            Run(store, "r"),
            judgements,
            False,
            expected=300,
            processed=300 - failed,
            failed=failed,
            quarantined=0,
            startup_secs=1,
            compute_secs=1,
        )

    monkeypatch.setattr(flows.orchestration.schedule, "run_audit", ended)
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        state = flows.orchestration.schedule.deployed_audit(str(digits_config), str(tmp_path), return_state=True)
    assert (state.name, state.message) == (name, f"run r: {said}")
    assert f"clear-audit: run r: {said}\n" in capfd.readouterr().err


def test_an_audit_that_does_not_come_to_its_end_is_failed(
    digits_config: Path, prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*_: object) -> AuditOutcome:
        raise OSError("disk full")

    monkeypatch.setattr(flows.orchestration.schedule, "run_audit", ended)
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        wrong = flows.orchestration.schedule.deployed_audit(str(tmp_path / "none.toml"), str(tmp_path), return_state=True)
        crashed = flows.orchestration.schedule.deployed_audit(str(digits_config), str(tmp_path), return_state=True)
    assert wrong.name == crashed.name == "Failed"
    assert str(wrong.message).startswith(f"config '{tmp_path / 'none.toml'}' cannot be read")
    assert str(crashed.message).endswith("OSError: disk full")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--cron", "61 3 * * *"], ["--cron '61 3 * * *'", "minute, hour"]),
        (["--cron", "tomorrow"], ["--cron 'tomorrow'", "minute, hour"]),
        (["--cron", "0 3 * * *", "--timezone", "Mars/Olympus"], ["--timezone 'Mars/Olympus'", "'UTC'"]),
        (["--cron", "0 3 * * *", "--name", "a/b"], ["'a/b'", "--name"]),
        ([], ["--cron"]),
    ],
)
def test_a_bad_schedule_ends_before_anything_starts(
    digits_config: Path, tmp_path: Path, options: list[str], named: list[str]
) -> None:
    result = CliRunner().invoke(app, ["schedule", str(digits_config), "--store", str(tmp_path / "audits"), *options])
    assert result.exit_code == 2
    assert [name for name in named if name not in result.stderr] == []
    assert not (tmp_path / "audits").exists()


def test_a_bad_config_ends_before_anything_starts(digits_config: Path, tmp_path: Path) -> None:
    broken = tmp_path / "audit.toml"
    broken.write_text(digits_config.read_text())
    result = CliRunner().invoke(app, ["schedule", str(broken), "--cron", "0 3 * * *", "--store", str(tmp_path / "audits")])
    assert result.exit_code == 2
    assert "images.idx" in result.stderr
    assert not (tmp_path / "audits").exists()
