"""One process a run, as seen from another process."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.errors import InputError, StoreLost
from storage.filesystems import replace_file
from storage.runs import lease
from storage.runs.lease import Lease
from storage.runs.lock import hold, is_held
from storage.runs.manifest import Manifest
from storage.runs.plan import Plan
from storage.runs.run import Run, create_run, publish

HOLD = """
import sys, time
from storage.runs import lease
from storage.runs.lock import hold
from storage.filesystems import parse_store
from storage.runs.run import Run
lease.RENEWAL_SECS = 0.3
with hold(Run(parse_store(sys.argv[1]), sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def run(store_place: Path, make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(lease, "LEASE_SECS", 3.0)
    monkeypatch.setattr(lease, "ASKING_SECS", 0.1)
    monkeypatch.setattr(lease, "RENEWAL_SECS", 0.3)
    return create_run(store_place, make_plan())


def test_a_second_process_is_refused_until_the_first_is_dead(run: Run) -> None:
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(run.store), run.run_id], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline().strip() == "held"
    with pytest.raises(InputError, match="is being worked on by another process: wait until it has ended"), hold(run):
        pytest.fail("held twice")
    assert is_held(run)
    first.kill()
    first.wait()
    with hold(run):
        assert run.lock.exists()
        assert is_held(run)
    assert not is_held(run)


def test_a_run_that_was_finished_meanwhile_is_not_worked_on(run: Run, make_manifest: Callable[[Run], Manifest]) -> None:
    with hold(run) as check:
        publish(run, make_manifest(run))
        check()
    assert not run.lock.exists()
    with pytest.raises(InputError, match="was finished by another process just now"), hold(run):
        pytest.fail("held")
    assert not run.lock.exists()


def test_an_error_lets_go(run: Run) -> None:
    with pytest.raises(ZeroDivisionError), hold(run):
        _ = 1 / 0
    with hold(run) as check:
        check()


# In S3.


@pytest.fixture
def lock(s3_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lease, "LEASE_SECS", 2.0)
    monkeypatch.setattr(lease, "ASKING_SECS", 0.1)
    return s3_store / "lock"


def test_a_lease_that_is_renewed_outlives_its_time_and_is_refused_at_once(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWAL_SECS", 0.2)
    first, second = Lease(lock), Lease(lock)
    assert first.acquire()
    time.sleep(3.5)
    assert not second.acquire()
    assert first.is_held()
    assert not second.is_held()
    first.release()
    assert not lock.exists()
    assert second.acquire()
    second.release()


def test_a_lease_that_is_renewed_no_longer_is_taken_over_and_its_holder_knows(
    lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEWAL_SECS", 60.0)
    first, second, third = Lease(lock), Lease(lock), Lease(lock)
    assert first.acquire()
    assert second.acquire()
    assert not first.is_held()
    assert second.is_held()
    assert not first.write(first.tag), "its late renewal does nothing"
    assert second.is_ours()
    with pytest.raises(OSError, match="pre-conditions"):
        first.release()
    assert lock.exists(), "what is another's is not removed"
    assert not third.write(first.tag)
    second.release()


def test_of_many_that_take_a_lease_over_one_wins(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWAL_SECS", 60.0)
    assert Lease(lock).acquire()
    leases, won = [Lease(lock) for _ in range(6)], []
    threads = [threading.Thread(target=lambda own=own: won.append(own.acquire())) for own in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 5 + [True]


def test_who_lost_a_run_is_told(s3_store: Path, make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWAL_SECS", 0.5)
    run = create_run(s3_store, make_plan())
    with hold(run) as check:
        check()
        replace_file(run.lock, json.dumps({"holder": "another", "renewal": 0}))
        held = next(thread for thread in threading.enumerate() if thread.name == "lease")
        assert held.is_alive()
        held.join(lease.RENEWAL_SECS + 5)
        with pytest.raises(StoreLost, match="was taken over by another process"):
            check()


@pytest.mark.parametrize("store_place", ["disk"], indirect=True)
@pytest.mark.parametrize("part", ["attempts", "commits", "maps", "gallery"])
def test_a_run_whose_folders_are_links_is_not_gone_on_with(run: Run, tmp_path_factory: pytest.TempPathFactory, part: str) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "file").write_text("x")
    folder = getattr(run, part)
    if folder.exists():
        folder.rmdir()
    folder.symlink_to(elsewhere)
    with pytest.raises(InputError, match="is a link, and who goes on with a run removes files there: put the folder"), hold(run):
        pytest.fail("held")
    assert (elsewhere / "file").exists()
