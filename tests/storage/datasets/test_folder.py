import hashlib
import io
import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem
from PIL import Image

from storage.datasets.dataset import say_empty, say_passed_over
from storage.datasets.files import FILES_IN_FLIGHT, ImageFiles
from storage.datasets.folder import FolderDataset, FolderSpec
from storage.datasets.formats import open_dataset
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
    return FolderDataset(FolderSpec("folder", str(root), classes))


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
    dataset = open_dataset(FolderSpec("folder", root + "/"))
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
    fill(str(tmp_path), {"data/.all/1.png": png(1), "data/.all/more/3.png": png(3), "data/dog/2.png": png(2)})
    (tmp_path / "data/cat").symlink_to(tmp_path / "data/.all")
    (tmp_path / "data/dog/1.png").symlink_to("../.all/1.png")
    (tmp_path / "linked").symlink_to(tmp_path / "data")
    samples = open_folder(tmp_path / "linked").read(0, 4)
    assert samples.ids == ["cat/1.png", "cat/more/3.png", "dog/1.png", "dog/2.png"]
    assert samples.failures == {}


def test_images_that_two_ways_lead_to_are_there_once(tmp_path: Path) -> None:
    fill(str(tmp_path), {"cat/v1/1.png": png(1), "cat/v2/2.png": png(2), "dog/3.png": png(3)})
    (tmp_path / "cat/latest").symlink_to("v2")
    (tmp_path / "cat/again").symlink_to(".")
    (tmp_path / "dog/everything").symlink_to("..")
    dataset = open_folder(tmp_path)
    assert dataset.ids(0, 3) == ["cat/v1/1.png", "cat/v2/2.png", "dog/3.png"]
    assert len(dataset) == 3


def test_a_link_from_one_class_to_another_is_named(tmp_path: Path) -> None:
    fill(str(tmp_path), {"cat/v1/1.png": png(1), "dog/2.png": png(2)})
    (tmp_path / "kitty").symlink_to("cat")
    with pytest.raises(InputError, match="folder 'kitty' links to 'cat', whose images would be of two classes; remove the link"):
        open_folder(tmp_path)
    (tmp_path / "kitty").unlink()
    (tmp_path / "dog/odd").symlink_to("../cat/v1")
    with pytest.raises(InputError, match="folder 'dog/odd' links to 'cat/v1', whose images would be of two classes"):
        open_folder(tmp_path)


def test_a_folder_that_leads_out_is_named_and_not_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(str(tmp_path), {"elsewhere/deep/1.png": png(1), "data/dog/2.png": png(2)})
    listed: list[str] = []
    listing = LocalFileSystem.ls
    monkeypatch.setattr(
        LocalFileSystem, "ls", lambda self, path, **options: listed.append(path) or listing(self, path, **options)
    )
    for target in (tmp_path / "elsewhere", Path("/"), tmp_path):
        (tmp_path / "data/dog/out").symlink_to(target)
        with pytest.raises(InputError, match="folder 'dog/out' is a link that leads out of the dataset's folder; copy there"):
            open_folder(tmp_path / "data")
        (tmp_path / "data/dog/out").unlink()
    assert set(listed) == {f"{tmp_path}/data", f"{tmp_path}/data/dog"}


def test_folders_in_folders_are_walked_however_deep_and_however_many_ways_lead_there(tmp_path: Path) -> None:
    deep = tmp_path / "cat"
    deep.mkdir()
    os.chdir(deep)
    try:
        for _ in range(1500):
            Path("a").mkdir()
            os.chdir("a")
        Path("1.png").write_bytes(png(1))
    finally:
        os.chdir(Path(__file__).parent)
    dataset = open_folder(tmp_path)
    assert dataset.ids(0, 1) == ["cat/" + "a/" * 1500 + "1.png"]
    assert dataset.read(0, 1).failures == {}
    wide = tmp_path / "dog"
    fill(str(tmp_path), {f"dog/{step}/{step}.png": png(step) for step in range(30)})
    for step in range(29):
        for way in "abc":
            (wide / str(step) / way).symlink_to(f"../{step + 1}")
    assert len(open_folder(tmp_path)) == 31
    subprocess.run(["rm", "-r", tmp_path / "cat"], check=True)


def test_a_link_that_leads_out_of_the_folder_is_a_failure_of_its_sample(tmp_path: Path) -> None:
    fill(str(tmp_path), {"elsewhere/1.png": png(1), "data/dog/2.png": png(2), "data2/3.png": png(3)})
    (tmp_path / "data/dog/1.png").symlink_to("../../elsewhere/1.png")
    (tmp_path / "data/dog/3.png").symlink_to(tmp_path / "data2/3.png")
    (tmp_path / "data/dog/4.png").symlink_to("/dev/zero")
    dataset = open_folder(tmp_path / "data")
    samples = dataset.read(0, 4)
    assert samples.ids == ["dog/1.png", "dog/2.png", "dog/3.png", "dog/4.png"]
    assert samples.failures.keys() == {0, 2, 3}
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


ÉTÉ, ÉTÉ_OF_MACOS = (unicodedata.normalize(form, "été") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("suffix", "format"),
    [
        *((suffix, "JPEG") for suffix in (".jfif", ".JFIF", ".jpe", ".jif", ".pjpeg", ".pjp", ".mpo")),
        *((suffix, "PNG") for suffix in (".apng", ".jpg")),
        *((suffix, "PPM") for suffix in (".pnm", ".pbm")),
        *((suffix, "JPEG2000") for suffix in (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx")),
        (".avif", "AVIF"),
        (".Avifs", "AVIF"),
        (".qoi", "QOI"),
        (".dib", "BMP"),
    ],
)
def test_what_pillow_reads_is_read(tmp_path: Path, suffix: str, format: str) -> None:
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (16, 16), (77, 77, 77)).save(tmp_path / f"cat/1{suffix}", format)
    dataset = open_folder(tmp_path)
    (image,) = dataset.read(0, 1).images
    assert image is not None
    assert np.abs(image.astype(int) - 77).max() <= 1
    assert dataset.passed_over == {}


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    names = ["cat/1.png", "cat/2.heic", "cat/3.HEIC", "cat/b/4.heic", "cat/5", "list.csv", "notes/a.txt"]
    unseen = ["cat/.6.heic", ".git/config", "cat/Thumbs.db", "cat/desktop.ini", "__MACOSX/._1.png"]
    fill(str(tmp_path), {name: png(1) for name in names + unseen})
    (tmp_path / "dog").mkdir()
    dataset = open_folder(tmp_path)
    assert dataset.read(0, len(dataset)).ids == ["cat/1.png"]
    assert dataset.passed_over == {".heic": 3, "": 1, ".csv": 1, ".txt": 1}
    assert dataset.empty_classes == ("__MACOSX", "dog", "notes")
    assert open_folder(tmp_path, ("dog", "cat", "owl")).empty_classes == ("dog", "owl")
    assert say_passed_over(dataset.passed_over) == "6 files with other suffixes (.heic 3, none 1, .csv 1, .txt 1)"
    assert say_empty(dataset.empty_classes) == "3 ('__MACOSX', 'dog', 'notes')"
    assert say_empty([str(index) for index in range(11)]).endswith("'9' …)")


@pytest.mark.parametrize(
    "tops",
    [
        {"train": ["cat", "dog"], "val": ["cat", "dog"]},
        {"train": ["cat", "dog"], "val": ["cat"]},
        {"Train": ["cat"], "Test_2": ["cat"], "images": ["cat"]},
        {"training": [""], "validation": [""]},
        {"trn": ["cat", "dog", "owl"], "tst": ["cat", "owl"]},
        {"fold a": ["cat", "dog"], "fold b": ["cat", "dog"]},
        {"2023": ["cat/x", "dog"], "2024": ["cat", "dog/y/z"]},
    ],
    ids=str,
)
def test_parts_of_a_dataset_are_no_classes_unless_they_are_wished(tmp_path: Path, tops: dict[str, list[str]]) -> None:
    fill(str(tmp_path), {f"{top}/{inside}/1.png": png(1) for top, held in tops.items() for inside in held})
    first = sorted(tops)[0]
    with pytest.raises(InputError, match=f"folders \\('{first}'.* look like parts of a dataset.*dataset's path, or name them"):
        open_folder(tmp_path)
    assert open_folder(tmp_path, tuple(tops)).classes == tuple(tops)
    part = tmp_path / first
    assert all((part / inside).is_dir() for inside in tops[first])


@pytest.mark.parametrize("inside", [["cat", "dog"], ["cat/1", "dog/2/x", "owl"]])
@pytest.mark.parametrize("top", ["train", "images"])
def test_the_only_folder_that_holds_the_class_folders(tmp_path: Path, top: str, inside: list[str]) -> None:
    fill(str(tmp_path), {f"{top}/{name}/1.png": png(1) for name in inside})
    with pytest.raises(
        InputError, match=f"its only folder, '{top}', holds the folders of classes; give it as the dataset's path"
    ):
        open_folder(tmp_path)
    assert open_folder(tmp_path, (top,)).classes == (top,)
    assert open_folder(tmp_path / top).classes == tuple(sorted({name.split("/")[0] for name in inside}))


@pytest.mark.parametrize(
    "names",
    [
        ["cat/images/1.png", "dog/images/1.png"],
        ["cat/a/1.png", "cat/b/1.png", "dog/a/1.png"],
        ["cat/a/1.png", "cat/b/1.png", "dog/a/1.png", "dog/b/1.png", "dog/2.png"],
        ["bus/1.png", "train/1.png"],
        ["cat/a/1.png"],
        ["cat/a/1.png", "cat/b/1.png", "dog/b/1.png", "dog/c/1.png"],
        ["valid ticket/1.png", "no ticket/1.png"],
    ],
    ids=str,
)
def test_folders_within_class_folders_are_no_parts(tmp_path: Path, names: list[str]) -> None:
    fill(str(tmp_path), {name: png(1) for name in names})
    assert set(open_folder(tmp_path).classes) == {name.split("/")[0] for name in names}


def test_class_folders_that_are_numbers(tmp_path: Path) -> None:
    fill(str(tmp_path), {f"{index}/1.png": png(index) for index in range(12)})
    with pytest.raises(InputError, match=r"class folders are numbers.* as text \('10' before '2'\).*name them in `classes`"):
        open_folder(tmp_path)
    names = tuple(str(index) for index in range(12))
    samples = open_folder(tmp_path, names).read(0, 12)
    assert [names[label] for label in samples.labels] == [name.split("/")[0] for name in samples.ids]
    fill(str(tmp_path / "padded"), {f"{index:02d}/1.png": png(index) for index in range(12)})
    assert open_folder(tmp_path / "padded").read(0, 12).labels.tolist() == list(range(12))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have names that are text")
def test_names_that_are_no_text_are_made_visible(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path)
    for name in (b"\xe9t\xe9/1.png", b"a/\xe9.png", b"a/\\xe9.png", b"a/\xff\xc3\xa9.png", b"a/b.\xe9"):
        path = root + b"/" + name
        Path(os.fsdecode(path)).parent.mkdir(exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(png(len(name)))
    dataset = open_folder(tmp_path)
    samples = dataset.read(0, 4)
    assert samples.failures == {}
    assert samples.ids == dataset.ids(0, 4) == ["a/\\xe9.png", "a/\\\\xe9.png", "a/\\xffé.png", "\\xe9t\\xe9/1.png"]
    assert [image[0, 0] for image in samples.images if image is not None] == [10, 7, 9, 9]
    assert dataset.classes == ("\\xe9t\\xe9", "a")
    assert dataset.passed_over == {".\\xe9": 1}
    assert len(dataset.content_hash()) == 64
    json.dumps([samples.ids, dataset.classes, *dataset.passed_over], ensure_ascii=False).encode()
    assert pa.array(samples.ids).to_pylist() == samples.ids
    assert open_folder(tmp_path, ("a", "\\xe9t\\xe9")).read(0, 4).labels.tolist() == [0, 0, 0, 1]


@pytest.mark.skipif(sys.platform == "darwin", reason="the system takes both forms for one")
def test_folders_are_classes_in_either_normal_form(tmp_path: Path) -> None:
    fill(str(tmp_path), {f"{ÉTÉ_OF_MACOS}/1.png": png(1), "hiver/1.png": png(2)})
    assert open_folder(tmp_path).classes == ("hiver", ÉTÉ)
    dataset = open_folder(tmp_path, (ÉTÉ, "hiver"))
    assert dataset.read(0, 2).labels.tolist() == [0, 1]
    assert dataset.read(0, 2).ids == [f"{ÉTÉ_OF_MACOS}/1.png", "hiver/1.png"]
    fill(str(tmp_path), {f"{ÉTÉ}/2.png": png(3)})
    for classes in (None, (ÉTÉ, "hiver")):
        with pytest.raises(InputError, match=r"folders 'e\\u0301te\\u0301' and '\\xe9t\\xe9' look alike"):
            open_folder(tmp_path, classes)


def test_a_folder_of_a_class_that_has_a_twin(tmp_path: Path) -> None:
    fill(str(tmp_path), {"crane/1.png": png(1)})
    with pytest.raises(
        InputError, match=r"images are in folder 'crane', which may be any of the classes 0 = 'crane \(0\)', 2 = "
    ):
        open_folder(tmp_path, ("crane", "heron", "crane"))
    (tmp_path / "crane").rename(tmp_path / "crane (2)")
    dataset = open_folder(tmp_path, ("crane", "heron", "crane"))
    assert dataset.classes == ("crane (0)", "heron", "crane (2)")
    assert dataset.read(0, 1).labels.tolist() == [2]
