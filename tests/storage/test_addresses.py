"""Files at any address: what is there, and what is no file."""

import os
from pathlib import Path

import pytest

from storage.addresses import filesystem_of, open_file
from storage.datasets.formats import open_dataset
from storage.datasets.idx import IdxSpec
from storage.datasets.manifest import ManifestSpec
from storage.errors import InputError
from storage.json_records import read_record
from storage.models.weights import read_weights
from storage.runs.plan import Plan


def test_an_address_that_nothing_reads_is_named(tmp_path: Path) -> None:
    assert filesystem_of(str(tmp_path))[1] == tmp_path.as_posix()
    with pytest.raises(InputError, match="nowhere://x"):
        filesystem_of("nowhere://x")


def test_a_file_is_opened_through_links(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    for address in (tmp_path / "file", tmp_path / "link", f"file://{tmp_path}/file"):
        with open_file(str(address)) as file:
            assert file.read() == b"abc"
    with pytest.raises(FileNotFoundError):
        open_file(str(tmp_path / "absent"))


def test_a_pipe_is_no_file_and_not_waited_for(tmp_path: Path) -> None:
    """Wherever a file is named: nobody writes into the pipe, and whoever opens it waits without end."""
    names = ("images.idx", "list.csv", "list.parquet", "net.safetensors", "net.pt", "net.pt2", "plan.json")
    for name in names:
        os.mkfifo(tmp_path / name)
    for name in names:
        path = tmp_path / name
        with pytest.raises(InputError, match=f"'{path}' is not a file"):
            open_file(str(path))
    for spec in (
        IdxSpec("idx", str(tmp_path / "images.idx")),
        ManifestSpec("manifest", str(tmp_path / "list.csv")),
        ManifestSpec("manifest", str(tmp_path / "list.parquet")),
    ):
        with pytest.raises(InputError, match="is not a file"):
            open_dataset(spec)
    for name in ("net.safetensors", "net.pt"):
        with pytest.raises(InputError, match=r"model.weights '.*' cannot be read \(.* is not a file"):
            read_weights(str(tmp_path / name))
    with pytest.raises(InputError, match=r"plan.json' is not a file"):
        read_record(Plan, tmp_path / "plan.json")
    with pytest.raises(InputError, match="is not a file"):
        open_file("/dev/zero")
