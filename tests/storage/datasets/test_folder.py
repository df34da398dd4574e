import hashlib
import io
import os
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from storage.datasets import DatasetSpec, open_dataset
from storage.datasets.files import FILES_IN_FLIGHT, ImageFiles
from storage.datasets.folder import FolderDataset
from storage.errors import InputError


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (3, 2), value).save(buffer, "PNG")
    return buffer.getvalue()


def fill(root: str, contents: dict[str, bytes]) -> None:
    filesystem, path = fsspec.url_to_fs(root)
    for name, content in contents.items():
        filesystem.makedirs(f"{path}/{name}".rpartition("/")[0], exist_ok=True)
        filesystem.pipe_file(f"{path}/{name}", content)


def open_folder(root: object, classes: tuple[str, ...] | None = None) -> FolderDataset:
    return FolderDataset(DatasetSpec("folder", str(root), None, classes))


@pytest.mark.parametrize("place", ["local", "memory"])
def test_flat_and_nested_images_in_order(tmp_path: Path, memory: str, place: str) -> None:
    root = str(tmp_path) if place == "local" else memory
    fill(
        root,
        {
            "dog/2.PNG": png(4),
            "cat/b/1.png": png(2),
            "cat/a.png": png(1),
            "cat/c.d/e/0.Jpeg": png(3),
            "cat/notes.txt": b"no image",
            "cat/.hidden.png": png(9),
            "cat/.cache/1.png": png(9),
            "empty/readme.md": b"no class",
        },
    )
    dataset = open_dataset(DatasetSpec("folder", root + "/"))
    samples = dataset.read(0, 4)
    assert len(dataset) == 4
    assert dataset.classes == ("cat", "dog")
    assert dataset.meta_schema.names == []
    assert samples.ids == ["cat/a.png", "cat/b/1.png", "cat/c.d/e/0.Jpeg", "dog/2.PNG"]
    assert samples.labels.tolist() == [0, 0, 0, 1]
    assert samples.labels.dtype == np.int64
    assert [image.tolist() for image in samples.images if image is not None] == [[[v] * 3] * 2 for v in (1, 2, 3, 4)]
    assert samples.hashes == [hashlib.sha256(png(value)).hexdigest() for value in (1, 2, 3, 4)]
    assert samples.failures == {}
    assert samples.meta is None
    assert dataset.read(3, 4).ids == ["dog/2.PNG"]
    assert dataset.read(2, 2).images == []


def test_named_classes_set_the_order(tmp_path: Path) -> None:
    fill(str(tmp_path), {"cat/1.png": png(1), "dog/1.png": png(2)})
    dataset = open_folder(tmp_path, ("dog", "bird", "cat"))
    assert dataset.classes == ("dog", "bird", "cat")
    assert dataset.read(0, 2).labels.tolist() == [2, 0]


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "bmp", "gif", "tif", "tiff", "webp", "ppm", "pgm"])
def test_every_suffix_is_read(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "cat").mkdir()
    Image.new("L", (16, 16), 77).save(tmp_path / f"cat/1.{suffix}")
    image = open_folder(tmp_path).read(0, 1).images[0]
    assert image is not None
    assert np.unique(image).tolist() == [77]


def test_a_damaged_image_is_a_failure_of_its_sample(tmp_path: Path) -> None:
    fill(str(tmp_path), {"cat/1.png": png(1), "cat/2.png": b"", "cat/3.png": png(3)[:50], "cat/4.png": png(4)})
    samples = open_folder(tmp_path).read(1, 4)
    assert samples.failures.keys() == {0, 1}
    assert "empty" in samples.failures[0]
    assert "truncated" in samples.failures[1]
    assert samples.images[:2] == [None, None]
    assert samples.hashes == ["", "", hashlib.sha256(png(4)).hexdigest()]


def test_an_image_that_vanishes_is_a_failure_of_its_sample(tmp_path: Path) -> None:
    fill(str(tmp_path), {"cat/1.png": png(1), "cat/2.png": png(2)})
    dataset = open_folder(tmp_path)
    whole = dataset.content_hash()
    (tmp_path / "cat/1.png").unlink()
    assert dataset.read(0, 2).failures == {0: "there is no file 'cat/1.png'"}
    assert dataset.content_hash() != whole


def test_links_within_the_folder_are_followed(tmp_path: Path) -> None:
    fill(str(tmp_path), {"data/all/1.png": png(1), "data/dog/2.png": png(2)})
    (tmp_path / "data/cat").symlink_to(tmp_path / "data/all")
    (tmp_path / "data/dog/1.png").symlink_to("../all/1.png")
    (tmp_path / "linked").symlink_to(tmp_path / "data")
    samples = open_folder(tmp_path / "linked").read(0, 4)
    assert samples.ids == ["all/1.png", "cat/1.png", "dog/1.png", "dog/2.png"]
    assert samples.failures == {}


def test_a_link_that_leads_out_of_the_folder_is_a_failure_of_its_sample(tmp_path: Path) -> None:
    fill(str(tmp_path), {"elsewhere/1.png": png(1), "data/dog/2.png": png(2), "data2/3.png": png(3)})
    (tmp_path / "data/cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/dog/1.png").symlink_to("../../elsewhere/1.png")
    (tmp_path / "data/dog/3.png").symlink_to(tmp_path / "data2/3.png")
    (tmp_path / "data/dog/4.png").symlink_to("/dev/zero")
    dataset = open_folder(tmp_path / "data")
    samples = dataset.read(0, 5)
    assert samples.ids == ["cat/1.png", "dog/1.png", "dog/2.png", "dog/3.png", "dog/4.png"]
    assert samples.failures.keys() == {0, 1, 3, 4}
    assert all("leads out of the dataset's folder" in reason for reason in samples.failures.values())
    whole = dataset.content_hash()
    (tmp_path / "elsewhere/1.png").write_bytes(png(9))
    assert dataset.content_hash() == whole, "what lies outside was read"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_a_failure_of_its_sample_and_not_waited_for(tmp_path: Path) -> None:
    fill(str(tmp_path), {"cat/1.png": png(1), "cat/2.png": b""})
    (tmp_path / "cat/2.png").unlink()
    os.mkfifo(tmp_path / "cat/2.png")
    dataset = open_folder(tmp_path)
    assert dataset.read(0, 2).failures == {1: "'cat/2.png' cannot be read: it is not a file"}
    dataset.content_hash()


def test_a_file_that_is_too_large_is_a_failure_of_its_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(str(tmp_path), {"cat/1.png": png(1), "cat/2.png": png(2) + bytes(2 << 20)})
    monkeypatch.setattr("storage.datasets.files.LARGEST_FILE", 1 << 20)
    assert open_folder(tmp_path).read(0, 2).failures == {1: "'cat/2.png' is larger than 1 MB"}


def test_a_folder_that_links_to_itself_is_named(tmp_path: Path) -> None:
    fill(str(tmp_path), {"data/cat/1.png": png(1), "elsewhere/2.png": png(2)})
    (tmp_path / "data/cat/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/again").symlink_to(tmp_path / "data/cat")
    with pytest.raises(InputError, match=r"cannot be listed \(.*cat/b/again links to a folder that holds it\)"):
        open_folder(tmp_path / "data")


def test_content_hash_knows_order_labels_names_and_bytes(tmp_path: Path, memory: str) -> None:
    contents = {"cat/1.png": png(1), "dog/2.png": png(2)}

    def hash_of(name: str, contents: dict[str, bytes], classes: tuple[str, ...] | None = None) -> str:
        fill(str(tmp_path / name), contents)
        return open_folder(tmp_path / name, classes).content_hash()

    first = hash_of("first", contents)
    fill(memory, contents)
    assert hash_of("second", contents) == open_folder(memory).content_hash() == first
    others = [
        hash_of("first", contents, ("dog", "cat")),
        hash_of("first", contents, ("cat", "dog", "bird")),
        hash_of("bytes", {**contents, "dog/2.png": png(3)}),
        hash_of("damage", {**contents, "dog/2.png": b""}),
        hash_of("name", {"cat/1.png": png(1), "dog/3.png": png(2)}),
        hash_of("label", {"cat/1.png": png(1), "cat/2.png": png(2), "dog/0.png": png(0)}),
    ]
    assert len({first, *others}) == 7


def test_content_hash_keeps_order_over_many_files(memory: str) -> None:
    names = [f"{index:05d}.png" for index in range(FILES_IN_FLIGHT + 20)]
    fill(memory, {name: name.encode() for name in names})
    filesystem, root = fsspec.url_to_fs(memory)
    labels = np.zeros(len(names), dtype=np.int64)
    expected = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    assert list(ImageFiles(filesystem, root, names, labels)._digests()) == expected


def test_a_folder_that_is_no_class(tmp_path: Path) -> None:
    fill(str(tmp_path), {"cat/1.png": png(1), "Dogs/1.png": png(2)})
    message = r"folder 'Dogs' is not among the 2 classes \(the nearest is 'dog'\); rename the folder"
    with pytest.raises(InputError, match=message):
        open_folder(tmp_path, ("cat", "dog"))


@pytest.mark.parametrize(
    ("contents", "path", "message"),
    [
        ({"cat/1.png": b"", "2.png": b""}, "", "image '2.png' is in no class folder; move it into"),
        (
            {"cat/1.txt": b""},
            "",
            r"holds no image \(\.apng.*; it has 1 file with other suffixes \(\.txt 1\); put them in one folder",
        ),
        ({"cat/1.png": b""}, "/absent", "absent is not a folder; give the folder"),
        ({"cat/1.png": b""}, "/cat/1.png", "1.png is not a folder"),
    ],
)
def test_a_wrong_folder_is_named_with_the_way_out(tmp_path: Path, contents: dict[str, bytes], path: str, message: str) -> None:
    fill(str(tmp_path), contents)
    with pytest.raises(InputError, match=message):
        open_folder(f"{tmp_path}{path}")
