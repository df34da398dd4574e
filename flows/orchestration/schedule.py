"""An audit on a schedule: a deployment of Prefect's, served for as long as this process lives.

Import after `prepare_environment`: Prefect reads the environment when it is imported.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, State, StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner
from prefect.schedules import Cron
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Crashed, Failed
from prefect.types import BANNED_CHARACTERS
from prefect.types.entrypoint import EntrypointType
from pydantic import ValidationError

from flows.config import load_config
from flows.orchestration.interruption import STARTER, end_with_starter
from flows.orchestration.launch import SAID, check_places, run_audit, say_excess
from flows.orchestration.server import prefect_server
from flows.runtime.progress import Progress
from reports.gates.judgement import overall_of, say_judgement, worst_first
from storage.errors import InputError
from storage.filesystems import parse_store
from storage.runs.lock import is_held
from storage.runs.lookup import list_runs

ENTRYPOINT = "clear_audit.deployed.deployed_audit"
"""Where Prefect finds the flow: its users have folders called `flows` themselves."""

ONE_AT_A_TIME = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
"""A run that is due while another goes on is cancelled, not queued: of several that were missed, one is made up for."""


FORSAKEN_SECS = 15
"""How long an audit may go on after its schedule was killed."""

GOES_ON = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)


@flow(name="deployed-audit", validate_parameters=False, persist_result=False)
def deployed_audit(config: str, store: str) -> State:
    """What a deployment runs: as `clear-audit run`, with Prefect's state for an exit code.

    config: path of the audit's config, read anew for each run. store: path of the store. Failed where a gate failed, too many
    samples did, or the input is wrong; raises what else ended the audit before its end.
    """
    end_with_starter()
    try:
        resolved = load_config(Path(config))
        outcome = run_audit(resolved, parse_store(store), Progress())
    except SAID as error:
        return say(Failed, str(error))
    except Exception as error:
        print(f"clear-audit: the audit of '{config}' failed ({type(error).__name__}: {error})", file=sys.stderr)
        raise
    excess = say_excess(outcome, resolved)
    faults = [] if excess is None else [excess]
    faults += [say_judgement(judgement) for judgement in worst_first(outcome.judgements) if judgement.fails]
    found = "; ".join(faults) or f"gates {overall_of(outcome.judgements)}"
    return say(Failed if faults else Completed, f"run {outcome.run.run_id}: {found}")


def say(state: Callable[..., State], message: str) -> State:
    """A state with a message that is said on stderr too."""
    print(f"clear-audit: {message}", file=sys.stderr)
    return state(message=message)


def plan_deployment(config: Path, store: Path, cron: str, timezone: str, name: str | None) -> RunnerDeployment:
    """A deployment that runs an audit by the clock, not known to any server yet. Raises InputError.

    cron: minute, hour, day, month and day of the week. timezone: of those, an IANA name. name: the deployment's; where it is
    None, the audit's.
    """
    resolved = load_config(config)
    check_places(resolved, store)
    try:
        CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        fault = error.errors()[0]
        way_out = {"cron": "minute, hour, day, month and weekday, as in '0 3 * * *'", "timezone": "an IANA name, as in 'UTC'"}
        key = str(fault["loc"][0])
        raise InputError(f"--{key} '{fault['input']}' cannot be read: give {way_out[key]}") from error
    name = name or resolved.name
    if any(character in name for character in BANNED_CHARACTERS):
        raise InputError(f"deployment '{name}' has one of {' '.join(BANNED_CHARACTERS)} in its name: give another with --name")
    deployment = RunnerDeployment.from_flow(
        deployed_audit,
        name=name,
        schedule=Cron(cron, timezone=timezone),
        parameters={"config": str(config.absolute()), "store": str(store.absolute())},
        concurrency_limit=ONE_AT_A_TIME,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    deployment.entrypoint = ENTRYPOINT
    return deployment


def serve_deployment(deployment: RunnerDeployment) -> None:
    """Registers a deployment and starts its runs when they are due, until it is interrupted; then pauses its schedule."""
    with prefect_server(keeps_schedules=True) as server:
        server.wait()
        with temporary_settings({PREFECT_API_URL: server.url} if server.url else {}):
            # The server decides that a run is one too many: a limit here would keep it waiting instead.
            runner = Runner(name=deployment.name, limit=None)
            runner.add_deployment(deployment)
            os.environ[STARTER] = str(os.getpid())
            if server.url:
                end_forsaken(deployment)
            print(
                f"clear-audit: serves '{deployment.full_name}'; Prefect's API is {PREFECT_API_URL.value()}; Ctrl-C ends it",
                file=sys.stderr,
                flush=True,
            )
            asyncio.run(start_until_told(runner))


def end_forsaken(deployment: RunnerDeployment) -> None:
    """Has Prefect know that runs of a deployment whose server was killed are over: for minutes it would let no other begin.

    Nothing where an audit still goes on in the store: it ends soon, or is another schedule's.
    """
    store = parse_store(str(deployment.parameters["store"]))
    deadline = time.monotonic() + FORSAKEN_SECS
    while any(is_held(run) for run in list_runs(store) if not run.is_published):
        if time.monotonic() > deadline:
            return
        time.sleep(1)
    named = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[*GOES_ON])))
    of_ours = DeploymentFilter(name=DeploymentFilterName(any_=[deployment.name]))
    with get_client(sync_client=True) as client:
        for flow_run in client.read_flow_runs(flow_run_filter=named, deployment_filter=of_ours):
            state: State = Crashed(message="its schedule was killed: the next one goes on with the audit")
            client.set_flow_run_state(flow_run.id, state, force=True)


async def start_until_told(runner: Runner) -> None:
    """Starts what is due. On Ctrl-C, and on SIGTERM, ends what runs, pauses the schedule and raises KeyboardInterrupt."""
    loop = asyncio.get_running_loop()
    ending: list[asyncio.Task[None]] = []

    def end(*_: object) -> None:
        if not runner.started:
            raise KeyboardInterrupt
        loop.call_soon_threadsafe(lambda: ending.append(loop.create_task(runner.astop())))

    # Left to themselves, Prefect's handlers leave a run that is ended in the state Running: for minutes no other could begin.
    runner.handle_sigterm = end  # type: ignore[method-assign]
    before = signal.signal(signal.SIGINT, end)
    try:
        await runner.start()
    finally:
        signal.signal(signal.SIGINT, before)
    raise KeyboardInterrupt
