"""An audit that is killed again and again, at any moment, its workers as well: it ends as one that was left alone.

SOAK_KILLS says how many kills it takes, 40 where it says nothing.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from storage.runs.commits import read_commits
from storage.runs.lookup import list_runs, published_runs
from storage.runs.run import MAPS
from tests.flows.conftest import DEMO, MODEL, clear_audit
from tests.flows.test_survival import assert_same

KILLS = int(os.environ.get("SOAK_KILLS", "40"))
LONGEST_SECS = 25.0
"""Of a run that is killed: from the start of its process to its end, on a slow machine."""

CONFIG = (
    f"""
name = "digits"
[dataset]
format = "idx"
path = "{DEMO}/t10k-images-idx3-ubyte.gz"
labels = "{DEMO}/t10k-labels-idx1-ubyte.gz"
"""
    + MODEL.format(weights=(DEMO / "allcnn.safetensors").as_posix())
    + """
[method]
rule = "gradient"
[data_checks]
samples = 64
[trust]
samples = 64
[compute]
shard_samples = 64
workers = 2
threads = 1
shard_tries = 9
"""
)


def workers_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        children = psutil.Process(process.pid).children(recursive=True)
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    except psutil.Error:
        return []


@pytest.mark.soak
def test_an_audit_that_is_killed_again_and_again_equals_one_that_was_not(prefect_api: str, tmp_path: Path) -> None:
    config = tmp_path / "audit.toml"
    config.write_text(CONFIG)
    reference = tmp_path / "reference"
    done = clear_audit("run", config, "--store", reference, api=prefect_api)
    assert done.returncode == 0, done.stderr
    generator, killed, finished = random.Random(0), Counter[str](), 0
    store = tmp_path / "audits"
    command = [sys.executable, "-m", "flows.cli", "run", str(config), "--store", str(store)]
    environment = os.environ | {"PREFECT_API_URL": prefect_api}
    while killed.total() < KILLS or not published_runs(store):
        with (tmp_path / "stderr.txt").open("wb") as stderr:
            running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, env=environment)
            while killed.total() < KILLS:
                time.sleep(generator.uniform(0, LONGEST_SECS))
                if running.poll() is not None:
                    break
                if generator.random() < 0.5 and (workers := workers_of(running)):
                    generator.choice(workers).kill()
                    killed["worker"] += 1
                    continue
                running.send_signal(signal.SIGKILL)
                killed["process"] += 1
                break
            code = running.wait(timeout=300)
        said = (tmp_path / "stderr.txt").read_text(errors="replace")
        runs = list_runs(store)
        assert len(runs) <= 1
        print(f"{killed.total()} kills, exit code {code}, {len(read_commits(runs[0], MAPS)) if runs else 0} commits", flush=True)
        # 3: a worker was killed before there were shards that another could take over.
        assert code in (0, -signal.SIGKILL, 3), said
        if published_runs(store):
            assert_same(published_runs(store)[0], published_runs(reference)[0])
            finished += 1
            if killed.total() < KILLS:
                store = store.with_name(f"audits-{finished}")
                command[-1] = str(store)
    (run,) = published_runs(store)
    assert {path.name for path in run.folder.iterdir()} == {"plan.json", "commits", "maps.zarr", "gallery", "manifest.json"}
    assert not list(run.commits.rglob(".*"))
    done = clear_audit("verify", "--store", store)
    assert done.returncode == 0, done.stderr
    print(f"{dict(killed)}; {finished} audits ended, each equal to one that was left alone")
