"""Operators on disk: what is written is read, anything else is not, and workers of one machine share it."""

import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from storage.filesystems import files_below
from storage.operators import (
    UnusableOperator,
    describe,
    operator_path,
    read_operator,
    read_refusal,
    read_rows,
    rows_folder,
    write_operator,
    write_refusal,
    write_rows,
)

FACTS: dict[str, Any] = {"model": "m0", "plan": {"rows": 6, "shape": (4, 5)}, "input": [1, 4, 5], "head": None}


def operator(seed: int = 0, kind: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    values = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(seed)).to(kind)
    return {"operator": values.transpose(0, 1), "ranks": torch.arange(5)}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("with_hash", [False, True])
def test_what_was_written_is_read(tmp_path: Path, kind: torch.dtype, with_hash: bool) -> None:
    path = operator_path(tmp_path, FACTS)
    write_operator(path, FACTS, operator(kind=kind))
    assert_equal(read_operator(path, FACTS, with_hash), operator(kind=kind))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_file_says_of_what_it_is_to_any_reader(tmp_path: Path) -> None:
    path = operator_path(tmp_path, FACTS)
    write_operator(path, FACTS, operator())
    with safe_open(path, framework="np") as file:
        metadata, values, ranks = file.metadata(), file.get_tensor("operator"), file.get_tensor("ranks")
    facts = json.loads(metadata["facts"])
    assert facts == {"format": 3, **FACTS, "plan": {"rows": 6, "shape": [4, 5]}}
    assert metadata["sha256"] == hashlib.sha256(values.tobytes() + ranks.tobytes()).hexdigest()


def test_the_name_is_the_hash_of_all_that_decides_what_is_in_it(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"model": "m1"},
        {"plan": {"rows": 7, "shape": (4, 5)}},
        {"plan": {"rows": 6, "shape": (5, 4)}},
        {"input": [3, 4, 5]},
        {"head": "last"},
        {"torch": "3.0"},
    ]
    paths = [operator_path(tmp_path, FACTS | change) for change in changes]
    assert len(set(paths)) == len(paths)
    assert {path.parent for path in paths} == {tmp_path / "operators"}
    assert all(len(path.stem) == 64 and path.suffix == ".safetensors" for path in paths)
    assert operator_path(tmp_path, dict(reversed(FACTS.items()))) == paths[0]
    assert operator_path(tmp_path, json.loads(json.dumps(FACTS))) == paths[0], "a plan that was read from JSON has no tuples"


def test_others_may_read_it(tmp_path: Path) -> None:
    path = operator_path(tmp_path, FACTS)
    before = os.umask(0o027)
    try:
        write_operator(path, FACTS, operator())
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_an_operator_of_something_else_is_not_used(tmp_path: Path) -> None:
    path = operator_path(tmp_path, FACTS)
    write_operator(path, FACTS | {"model": "m1"}, operator())
    with pytest.raises(UnusableOperator, match="of another model or method"):
        read_operator(path, FACTS)
    save_file({"operator": torch.zeros(3)}, path)
    with pytest.raises(UnusableOperator, match="of another model or method"):
        read_operator(path, FACTS)
    save_file({"other": torch.zeros(3)}, path, {"facts": describe(FACTS)})
    with pytest.raises(UnusableOperator, match="no tensor 'operator'"):
        read_operator(path, FACTS)


def test_a_file_that_is_not_there_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(UnusableOperator, match="cannot be read"):
        read_operator(operator_path(tmp_path, FACTS), FACTS)


def test_a_file_that_was_cut_short_is_not_used_wherever_it_was_cut(tmp_path: Path) -> None:
    path = operator_path(tmp_path, FACTS)
    write_operator(path, FACTS, operator())
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(UnusableOperator, match="cannot be read"):
            read_operator(path, FACTS)


def test_a_refusal_holds_until_more_memory_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "operators" / "0a.safetensors"
    assert read_refusal(path, 1e9) is None
    write_refusal(path, "it takes 9.8 GB", 1e9)
    refused = (
        "it takes 9.8 GB; so it was when it was last built: remove operators/0a.refused from the store to have it tried again"
    )
    assert read_refusal(path, 1e9) == read_refusal(path, 5e8) == refused
    assert read_refusal(path, 2e9) is None
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"reason": "it takes 9.8 GB", "memory": "much"}', '{"reason": "it'])
def test_a_damaged_refusal_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "0a.refused").write_text(text)
    assert read_refusal(tmp_path / "0a.safetensors", 0) is None


def test_a_refusal_in_s3_is_heeded(s3_store: Path) -> None:
    path = s3_store / "operators" / "0a.safetensors"
    assert read_refusal(path, 1e9) is None
    write_refusal(path, "it deviates", 1e9)
    assert "it deviates; so it was" in str(read_refusal(path, 1e9))


def test_a_changed_bit_is_found_by_the_hash(tmp_path: Path) -> None:
    path = operator_path(tmp_path, FACTS)
    write_operator(path, FACTS, operator())
    whole = bytearray(path.read_bytes())
    whole[-3] ^= 1
    path.write_bytes(whole)
    read_operator(path, FACTS)
    with pytest.raises(UnusableOperator, match="data have changed"):
        read_operator(path, FACTS, with_hash=True)


def test_two_that_write_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    path = operator_path(tmp_path, FACTS)
    whole = {"operator": torch.randn(20, 50, 1000)}
    threads = [threading.Thread(target=write_operator, args=(path, FACTS, whole)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_equal(read_operator(path, FACTS, with_hash=True), whole)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_is_in_use_stays_when_it_is_written_again(tmp_path: Path) -> None:
    path = operator_path(tmp_path, FACTS)
    write_operator(path, FACTS, operator(0))
    used = read_operator(path, FACTS)
    write_operator(path, FACTS, operator(1))
    assert_equal(used, operator(0))
    assert_equal(read_operator(path, FACTS), operator(1))


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = operator_path(tmp_path, FACTS)

    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("storage.operators.flush", fail)
    with pytest.raises(OSError, match="No space"):
        write_operator(path, FACTS, operator())
    assert list(path.parent.iterdir()) == []


READER = """
import sys
from pathlib import Path
import psutil
from storage.operators import read_operator
tensor = read_operator(Path(sys.argv[1]), {})["operator"]
before = psutil.Process().memory_full_info().uss
total = float(tensor.sum())
print(psutil.Process().memory_full_info().uss - before, flush=True)
sys.stdin.readline()
print(psutil.Process().memory_full_info().uss - before, flush=True)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the kernel's account of shared pages")
def test_workers_of_one_machine_share_its_pages(tmp_path: Path) -> None:
    """Read by two processes, none of it is any process's own."""
    path = tmp_path / "operator.safetensors"
    size = 64_000_000
    write_operator(path, {}, {"operator": torch.ones(size // 4)})
    command = [sys.executable, "-c", READER, str(path)]
    readers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for reader in readers:
        assert reader.stdout is not None
        reader.stdout.readline()
    for reader in readers:
        assert psutil.Process(reader.pid).memory_info().rss > size
    own = [int(reader.communicate("\n")[0].split()[-1]) for reader in readers]
    assert max(own[:1]) < size / 4, "of both, the first to end shared with the other"


def test_rows_come_back_in_order_and_their_folder_is_swept(tmp_path: Path) -> None:
    path = operator_path(tmp_path, FACTS)
    rows = torch.randn(1200, 7)
    with rows_folder(path) as folder:
        for start in (1000, 0, 500):
            write_rows(folder, start, rows[start : start + 500])
        assert torch.equal(torch.cat(read_rows(folder)), rows)
        assert folder.parent == path.parent
    assert list(path.parent.iterdir()) == []


def test_rows_are_swept_at_an_error_and_a_late_worker_leaves_nothing(tmp_path: Path) -> None:
    path = operator_path(tmp_path, FACTS)

    def build() -> None:
        nonlocal late
        with rows_folder(path) as folder:
            late = folder
            write_rows(folder, 0, torch.zeros(3, 2))
            raise KeyboardInterrupt

    late = path
    with pytest.raises(KeyboardInterrupt):
        build()
    with pytest.raises(Exception, match=r"(?i)no such file"):
        write_rows(late, 3, torch.zeros(3, 2))
    assert list(path.parent.iterdir()) == []


def test_rows_of_two_builders_do_not_mix(tmp_path: Path) -> None:
    path = operator_path(tmp_path, FACTS)
    with rows_folder(path) as first, rows_folder(path) as second:
        write_rows(first, 0, torch.zeros(3, 2))
        write_rows(second, 0, torch.ones(3, 2))
        assert [part.sum() for part in read_rows(first)] == [0]
        assert [part.sum() for part in read_rows(second)] == [6]


def test_a_row_file_is_plain_safetensors(tmp_path: Path) -> None:
    write_rows(tmp_path, 256, torch.ones(2, 3))
    assert load_file(tmp_path / "0000000256.safetensors")["rows"].tolist() == [[1, 1, 1], [1, 1, 1]]


# In S3.


def test_an_operator_in_s3_is_mapped_from_a_copy_that_follows_it(s3_store: Path, tmp_path: Path) -> None:
    path, facts = operator_path(s3_store, {"model": "m"}), {"model": "m"}
    with pytest.raises(UnusableOperator):
        read_operator(path, facts)
    for value in (1.0, 2.0):
        write_operator(path, facts, {"operator": torch.full((3, 4), value)})
        assert_equal(read_operator(path, facts, with_hash=True), {"operator": torch.full((3, 4), value)})
        (copy,) = (tmp_path / "cache").rglob("*.safetensors")
    before = copy.stat().st_mtime_ns
    read_operator(path, facts)
    assert copy.stat().st_mtime_ns == before, "it is fetched once"
    with pytest.raises(UnusableOperator, match="another model"):
        read_operator(path, {"model": "other"})


def test_rows_of_an_operator_in_s3_come_in_order_and_are_swept(s3_store: Path) -> None:
    path = operator_path(s3_store, {})
    with rows_folder(path) as folder:
        for start in (512, 0, 256):
            write_rows(folder, start, torch.full((2, 3), float(start)))
        assert [float(part[0, 0]) for part in read_rows(folder)] == [0, 256, 512]
    assert not list(files_below(s3_store))


def test_a_pipe_is_no_operator_and_not_waited_for(tmp_path: Path) -> None:
    path = operator_path(tmp_path, {})
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises(UnusableOperator, match="is not a file"):
        read_operator(path, {})
