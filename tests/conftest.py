"""Stores that all tests can ask for: in a folder, and in S3."""

import importlib.util
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.filesystems import parse_store, remote
from tests.s3 import environment, serve_s3

NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """An S3 service that all tests share."""
    if importlib.util.find_spec("moto") is None:
        pytest.skip("no S3 service to test with: pip install 'clear-audit[dev,s3]'")
    with serve_s3() as port:
        yield port


@pytest.fixture
def s3_store(s3_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store in S3, in a bucket of its own, without an object; this machine's copies of its files are in `tmp_path`."""
    for name, value in environment(s3_port).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    store = parse_store(f"s3://bucket-{next(NUMBERS)}/audits/store")
    remote(store)[0].mkdir(remote(store)[1].split("/")[0])
    return store


@pytest.fixture(params=["disk", "s3"])
def store_place(request: pytest.FixtureRequest) -> Path:
    """An empty store, once in a folder and once in S3."""
    place: Path = request.getfixturevalue("tmp_path" if request.param == "disk" else "s3_store")
    return place
