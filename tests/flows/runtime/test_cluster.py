"""Clusters that exist already, as processes of their own, and what becomes of a run when they are killed."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from distributed import Client, KilledWorker

from flows.errors import ClusterLost
from flows.runtime import cluster
from flows.runtime.cluster import Cluster
from flows.runtime.submit import submit_all
from flows.runtime.worker import Work
from flows.sections import ComputeSection
from storage.runs.lookup import list_runs, published_runs
from tests.flows.conftest import Digits, clear_audit, write_idx
from tests.flows.test_survival import assert_same

WAIT_SECS = 90
SAMPLES = 1_500


@dataclass
class Dask:
    """A scheduler and its workers. Workers end when their scheduler is lost, as Dask has them do."""

    address: str
    folder: Path
    scheduler: subprocess.Popen[bytes] | None = None
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def command(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / "dask.log").open("ab") as log:
            return subprocess.Popen([sys.executable, "-m", "dask", *arguments, "--no-dashboard"], stdout=log, stderr=log)

    def start(self, workers: int) -> None:
        host, port = self.address.removeprefix("tcp://").split(":")
        self.scheduler = self.command("scheduler", "--host", host, "--port", port)
        options = ("--nthreads", "1", "--no-nanny", "--memory-limit", "0", "--local-directory", str(self.folder))
        self.workers = [self.command("worker", self.address, *options) for _ in range(workers)]
        with Client(self.address, timeout=WAIT_SECS, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=WAIT_SECS)

    def kill(self) -> None:
        """The scheduler, without a word to anybody."""
        assert self.scheduler is not None
        self.scheduler.kill()
        self.scheduler.wait()

    def stop(self) -> None:
        for process in [*self.workers, self.scheduler]:
            if process is not None:
                process.kill()
                process.wait()


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[Dask]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        made = Dask(f"tcp://127.0.0.1:{free.getsockname()[1]}", tmp_path)
    yield made
    made.stop()


def until(found: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECS
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_work_on_a_cluster_that_dies_ends_with_a_sentence(dask: Dask, digits_work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """First its workers, of which there are none for too long; then its scheduler."""
    monkeypatch.setattr(cluster, "WATCH_SECS", 0.1)
    monkeypatch.setattr(cluster, "WORKERLESS_SECS", 0.5)
    dask.start(1)
    begun = Cluster(ComputeSection(cluster=dask.address), digits_work)
    client, _ = begun.wait()

    def sleep_through(kill: Callable[[], None]) -> None:
        def submit(item: int) -> object:
            if item == 1:
                kill()
            return client.submit(time.sleep, 60, pure=False)

        with begun.losses():
            submit_all(client, submit, range(2), print)

    started = time.monotonic()
    with pytest.raises(ClusterLost, match=f"^the Dask cluster at {dask.address} has no workers any more: start some$"):
        sleep_through(dask.workers[0].kill)
    begun.loss = None
    with pytest.raises(ClusterLost, match=f"^the Dask scheduler at {dask.address} is gone: start it and its workers again$"):
        sleep_through(dask.kill)
    begun.close()
    assert time.monotonic() - started < 30


def test_a_worker_that_dies_before_there_are_shards_is_a_sentence(digits_work: Work) -> None:
    begun = Cluster(ComputeSection(workers=1, threads=1), digits_work)
    client, _ = begun.wait()
    with pytest.raises(ClusterLost, match=r"^a Dask worker died before there were shards"), begun.losses():
        client.submit(os._exit, 9).result()
    begun.close()


@pytest.fixture
def config(digits: Digits, digits_config: Path, tmp_path: Path) -> Path:
    """An audit of many short shards."""
    times = -(-SAMPLES // len(digits.labels))
    write_idx(tmp_path, Digits(digits.pixels.repeat(times, 0)[:SAMPLES], digits.labels.repeat(times)[:SAMPLES]))
    text = digits_config.read_text()
    assert "shard_samples = 64" in text
    (tmp_path / "audit.toml").write_text(text.replace("shard_samples = 64", "shard_samples = 16"))
    return tmp_path / "audit.toml"


def commits(store: Path) -> int:
    return sum(len(list(run.commits.glob("*.json"))) for run in list_runs(store))


@pytest.mark.soak
def test_a_run_whose_scheduler_is_killed_says_so_and_the_next_one_goes_on(
    dask: Dask, config: Path, prefect_api: str, tmp_path: Path
) -> None:
    whole = clear_audit("run", config, "--store", tmp_path / "whole", api=prefect_api)
    assert whole.returncode == 0, whole.stderr
    (reference,) = published_runs(tmp_path / "whole")
    store = tmp_path / "audits"
    arguments = ["run", str(config), "--store", str(store), "--set", f"compute.cluster={dask.address}"]
    for restarted in (True, False, True):
        before = commits(store)
        dask.stop()
        dask.start(2)
        running = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PREFECT_API_URL": prefect_api},
        )
        until(lambda before=before: commits(store) >= before + 5)
        dask.workers[0].kill()
        # The other one goes on alone.
        until(lambda before=before: commits(store) >= before + 12)
        dask.kill()
        if restarted:
            dask.start(2)
        killed = time.monotonic()
        _, said = running.communicate(timeout=WAIT_SECS)
        print(f"{commits(store)} commits; ended {time.monotonic() - killed:.1f} s after its scheduler:\n{said}")
        assert running.returncode == 3
        last = said.strip().splitlines()[-1]
        assert last == (
            f"clear-audit: the Dask scheduler at {dask.address} is gone: start it and its workers again; "
            "the same command resumes the run"
        )
        assert "Traceback" not in said
        assert "distributed" not in said
        assert not published_runs(store)
    dask.stop()
    dask.start(2)
    done = clear_audit(*arguments, api=prefect_api)
    assert done.returncode == 0, done.stderr
    assert "(resumed)" in done.stdout
    (run,) = list_runs(store)
    assert_same(run, reference)


def test_a_worker_that_dies_of_loading_the_model_says_of_which(digits_work: Work) -> None:
    def gather(futures: object) -> None:
        raise KilledWorker("warm_up", None, 0)  # type: ignore[arg-type]

    client = SimpleNamespace(
        register_plugin=lambda plugin: None, nthreads=lambda: {"tcp://one": 1}, submit=lambda *_, **__: None, gather=gather
    )
    with pytest.raises(ClusterLost, match=r"^a Dask worker died while it loaded model\.factory 'flows\.demo\.allcnn:build' and"):
        cluster.load_workers(client, digits_work)  # type: ignore[arg-type]
