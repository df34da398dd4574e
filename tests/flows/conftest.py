"""Small real datasets, and audits of them that several tests read."""

import gzip
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from flows.sections import MethodSection
from storage.datasets.idx import IdxSpec
from storage.datasets.preprocessing import InputSpec
from storage.models.factories import FactorySpec

# Imported where they are used: what needs neither Dask nor Prefect is tested without them, on a machine with a GPU say.
if TYPE_CHECKING:
    from distributed import Client

    from flows.runtime.worker import Work

DEMO = Path(__file__).parents[2] / "flows" / "demo"
SAMPLES = 300


@dataclass(frozen=True)
class Digits:
    """The first real digits: pixels (N, 28, 28) uint8 and labels (N,) uint8."""

    pixels: np.ndarray
    labels: np.ndarray


@pytest.fixture
def unread_pipe() -> Iterator[int]:
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.fixture(scope="session")
def digits() -> Digits:
    pixels = np.frombuffer(gzip.decompress((DEMO / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((DEMO / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    return Digits(pixels.reshape(-1, 28, 28)[:SAMPLES], labels[:SAMPLES])


def write_deadly(path: Path, condition: str) -> None:
    """Writes a module whose `build` makes the demo's network, which kills its process where `condition` holds of `images`."""
    path.write_text(DEADLY.format(condition=condition))


DEADLY = """
import os
from torch import nn
from flows.demo import allcnn

class Deadly(nn.Sequential):
    def forward(self, images):
        if {condition}:
            os._exit(9)
        return super().forward(images)

def build():
    return Deadly(*allcnn.build())
"""


def write_idx(folder: Path, digits: Digits) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">4i", 0x0803, *digits.pixels.shape)
    (folder / "images.idx").write_bytes(header + digits.pixels.tobytes())
    (folder / "labels.idx").write_bytes(struct.pack(">2i", 0x0801, len(digits.labels)) + digits.labels.tobytes())


MODEL = """
[input]
channels = 1
height = 28
width = 28
[model]
factory = "flows.demo.allcnn:build"
weights = "{weights}"
"""
"""What every audit of digits says of its model."""

CONFIG = (
    """
name = "digits"
[dataset]
format = "idx"
path = "images.idx"
labels = "labels.idx"
"""
    + MODEL
    + """
[method]
rule = "linear"
[compute]
shard_samples = 64
workers = 2
threads = 1
[report]
gallery_samples = 2
[data_checks]
samples = 24
[trust]
samples = 24
"""
)


@pytest.fixture(scope="session")
def digits_work(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> "Work":
    """What a worker needs to audit the first digits with the demo's network."""
    from flows.runtime.worker import Work

    folder = tmp_path_factory.mktemp("work")
    write_idx(folder, digits)
    return Work(
        key="digits",
        model=FactorySpec("flows.demo.allcnn:build", str(DEMO / "allcnn.safetensors")),
        folder=None,
        dataset=IdxSpec("idx", str(folder / "images.idx"), str(folder / "labels.idx")),
        input=InputSpec(1, 28, 28),
        method=MethodSection(rule="linear"),
        batch_samples=64,
        threads=None,
    )


@pytest.fixture(scope="module")
def client() -> "Iterator[Client]":
    """A cluster of two workers in this process."""
    from distributed import Client

    with Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=":0", set_as_default=False) as made:
        yield made


@pytest.fixture(scope="session")
def digits_config(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config that audits the first digits in five shards."""
    folder = tmp_path_factory.mktemp("digits")
    write_idx(folder, digits)
    path = folder / "audit.toml"
    path.write_text(CONFIG.format(weights=(DEMO / "allcnn.safetensors").as_posix()))
    return path


@pytest.fixture(scope="session", autouse=True)
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Prefect database of the tests' own."""
    before = os.environ.get("PREFECT_HOME")
    os.environ["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect"))
    yield
    if before is None:
        del os.environ["PREFECT_HOME"]
    else:
        os.environ["PREFECT_HOME"] = before


def clear_audit(*arguments: object, api: str | None = None, **options: object) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a process of its own; `api` names a Prefect server that runs already."""
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | ({"PREFECT_API_URL": api} if api else {}),
        **options,  # type: ignore[call-overload]
    )


@pytest.fixture(scope="session")
def finished(digits_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of one whole audit of the digits, with a Prefect server of its own."""
    store = tmp_path_factory.mktemp("finished") / "audits"
    done = clear_audit("run", digits_config, "--store", store)
    assert done.returncode == 0, done.stderr
    (store / "stdout.txt").write_text(done.stdout)
    (store / "stderr.txt").write_text(done.stderr)
    return store


@pytest.fixture(scope="session")
def prefect_api(finished: Path) -> Iterator[str]:
    """A Prefect server that several runs share, so that each need not start its own."""
    from flows.orchestration.server import PrefectServer

    server = PrefectServer()
    server.wait()
    assert server.url is not None
    yield server.url
    server.stop()
