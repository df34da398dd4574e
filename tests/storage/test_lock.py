"""One process a run, as seen from another process."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.errors import InputError
from storage.lock import hold
from storage.runs import Manifest, Plan, Run, create_run, publish

HOLD = """
import sys, time
from pathlib import Path
from storage.lock import hold
from storage.runs import Run
with hold(Run(Path(sys.argv[1]), sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def run(tmp_path: Path, make_plan: Callable[..., Plan]) -> Run:
    return create_run(tmp_path, make_plan())


def test_a_second_process_is_refused_until_the_first_is_dead(run: Run) -> None:
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(run.store), run.run_id], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline().strip() == "held"
    with pytest.raises(InputError, match="is being worked on by another process: wait until it has ended"), hold(run):
        pytest.fail("held twice")
    first.kill()
    first.wait()
    with hold(run):
        assert run.lock.exists()


def test_a_run_that_was_finished_meanwhile_is_not_worked_on(run: Run, make_manifest: Callable[[Run], Manifest]) -> None:
    with hold(run):
        publish(run, make_manifest(run))
    assert not run.lock.exists()
    with pytest.raises(InputError, match="was finished by another process just now"), hold(run):
        pytest.fail("held")
    assert not run.lock.exists()


def test_an_error_lets_go(run: Run) -> None:
    with pytest.raises(ZeroDivisionError), hold(run):
        _ = 1 / 0
    with hold(run):
        pass
