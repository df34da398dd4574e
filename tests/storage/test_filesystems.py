"""Where a store lies, and what differs between a disk and S3."""

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from storage.errors import InputError
from storage.filesystems import (
    check_reachable,
    check_writable,
    create_file,
    files_below,
    hash_file,
    is_lost,
    is_remote,
    parse_store,
    publish_files,
    put_folder,
    remote,
    remove_tree,
    replace_file,
    scratch,
    sweep_tree,
)


@pytest.mark.parametrize("text", ["audits", "/srv/audits", "C:/audits", "a:b", "audits/s3", ".", "../x", "s3"])
def test_other_names_are_folders(text: str) -> None:
    assert parse_store(text) == Path(text)
    assert not is_remote(parse_store(text))


@pytest.mark.parametrize("text", ["s3://bucket/audits/nightly", "s3://bucket/audits/nightly/", "S3:/bucket/audits/nightly"])
def test_addresses_in_s3(text: str) -> None:
    store = parse_store(text)
    assert is_remote(store)
    assert (str(store), str(store / "runs")) == ("s3://bucket/audits/nightly", "s3://bucket/audits/nightly/runs")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gs://bucket/audits", "is of a kind that is not known: name a folder, or s3://bucket/prefix"),
        ("http://host/audits", "is of a kind that is not known"),
        ("s3://", "is no address in S3"),
        ("s3:///audits", "is no address in S3"),
        ("s3://bucket/../other", "is no address in S3"),
        ("s3://bucket//audits", "is no address in S3"),
        ("s3://Bucket/audits", "is no address in S3"),
        ("s3://KEY:xyzzy@bucket/audits", "give credentials in the environment"),
        ("s3://bucket/audits?X-Amz-Signature=xyzzy", "give credentials in the environment"),
    ],
)
def test_what_is_no_store_is_said(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_store(text)
    assert said in str(caught.value)
    assert "xyzzy" not in str(caught.value)


def test_s3_without_its_extra_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(InputError, match="needs the extra: pip install 'clear-audit\\[s3\\]'"):
        parse_store("s3://bucket/audits")


# Files.


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in files_below(folder)]


def test_a_file_is_created_whole_and_once(store_place: Path) -> None:
    create_file(store_place / "a.json", "été")
    with pytest.raises(FileExistsError):
        create_file(store_place / "a.json", "second")
    assert (store_place / "a.json").read_bytes() == "été".encode()
    assert names(store_place) == ["a.json"]


def test_of_many_writers_at_once_exactly_one_wins(store_place: Path) -> None:
    barrier, won = threading.Barrier(16), []

    def write(number: int) -> None:
        barrier.wait()
        try:
            create_file(store_place / "a.json", str(number) * 10_000)
            won.append(number)
        except FileExistsError:
            pass

    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert (store_place / "a.json").read_text() == str(won[0]) * 10_000
    assert names(store_place) == ["a.json"]


def test_an_answer_that_was_lost_does_not_make_a_loser_of_the_winner(s3_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first request is done and its answer lost; the second, which the library sends by itself, finds the file there."""
    filesystem, _ = remote(s3_store)
    put = filesystem.pipe_file

    def twice(*arguments: Any, **options: Any) -> None:
        put(*arguments, **options)
        put(*arguments, **options)

    monkeypatch.setattr(filesystem, "pipe_file", twice)
    create_file(s3_store / "a.json", "ours")
    assert (s3_store / "a.json").read_text() == "ours"
    with pytest.raises(FileExistsError):
        create_file(s3_store / "a.json", "another's")


def test_a_file_is_replaced(store_place: Path) -> None:
    for text in ("first", "<p>été\n"):
        replace_file(store_place / "reports" / "a.html", text)
    assert (store_place / "reports" / "a.html").read_bytes() == "<p>été\n".encode()
    assert names(store_place) == ["reports/a.html"]
    if is_remote(store_place):
        filesystem, place = remote(store_place / "reports" / "a.html")
        assert filesystem.info(place)["ContentType"] == "text/html; charset=utf-8"


def make_files(folder: Path) -> dict[str, bytes]:
    contents = {"z.txt": b"z", "a/b/c": os.urandom(3_000_000), "a/d": b"", ".hidden": b"h"}
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return contents


def test_a_folder_is_put_listed_hashed_and_removed(store_place: Path) -> None:
    with scratch(store_place) as folder:
        contents = make_files(folder)
        put_folder(folder, store_place / "x" / "y")
    assert not folder.exists()
    target = store_place / "x" / "y"
    assert names(target) == sorted(contents, key=lambda name: name.split("/"))
    for name, content in contents.items():
        assert hash_file(target / name) == hashlib.sha256(content).hexdigest()
    remove_tree(target)
    assert names(target) == []
    with pytest.raises(FileNotFoundError):
        remove_tree(target)
    sweep_tree(target)


def test_files_are_published_and_may_be_again(store_place: Path) -> None:
    for name in ("a", "b"):
        replace_file(store_place / "attempts" / name, name)
    places = {store_place / "attempts" / name: store_place / "maps" / "c" / name for name in ("a", "b")}
    for _ in range(2):
        publish_files(places)
        assert {path.name: path.read_text() for path in files_below(store_place / "maps")} == {"a": "a", "b": "b"}
    with pytest.raises(FileNotFoundError):
        publish_files({store_place / "attempts" / "none": store_place / "maps" / "none"})


# Whether a store is there.


def test_a_store_that_can_be_written_is_left_as_it_was(store_place: Path) -> None:
    check_writable(store_place)
    assert names(store_place) == []


def test_a_bucket_that_is_not_there_is_said(s3_store: Path) -> None:
    with pytest.raises(InputError, match="there is no bucket 'no-such-bucket': make it, or name another"):
        check_reachable(parse_store("s3://no-such-bucket/audits"))


def test_a_service_that_does_not_heed_conditions_is_refused(s3_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filesystem, _ = remote(s3_store)
    put = filesystem.pipe_file
    monkeypatch.setattr(filesystem, "pipe_file", lambda path, content, mode="": put(path, content))
    with pytest.raises(InputError, match="does not heed 'If-None-Match'"):
        check_writable(s3_store)
    assert names(s3_store) == []


def test_what_was_lost_is_told_from_what_is_a_defect(s3_store: Path) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011
        remote(s3_store)[0].pipe_file("no-such-bucket/a", b"")
    assert is_lost(caught.value)
    assert not is_lost(FileNotFoundError("no file"))
    assert not is_lost(ValueError("no number"))
