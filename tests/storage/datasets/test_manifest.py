import io
import unicodedata
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from storage.datasets.folder import FolderDataset, FolderSpec
from storage.datasets.formats import open_dataset
from storage.datasets.manifest import ManifestDataset, ManifestSpec
from storage.errors import InputError


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (3, 2), value).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with cat/1.png, cat/2.png and dog/3.png, grey 1 to 3."""
    for name in ("cat/1.png", "cat/2.png", "dog/3.png"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(int(path.stem)))
    return tmp_path / "data"


def from_csv(folder: Path, text: str, classes: tuple[str, ...] | None = None) -> ManifestDataset:
    (folder / "manifest.csv").write_text(text, encoding="utf-8")
    return ManifestDataset(ManifestSpec("manifest", str(folder / "manifest.csv"), classes))


def from_parquet(folder: Path, classes: tuple[str, ...] | None = None, **columns: object) -> ManifestDataset:
    pa.parquet.write_table(pa.table(columns), folder / "manifest.parquet")
    return ManifestDataset(ManifestSpec("manifest", str(folder / "manifest.parquet"), classes))


def test_csv_with_names_and_meta(folder: Path) -> None:
    text = "Patient Age,path,label,siteID,seen\n41,cat/2.png,cat,x,2024-05-06\n,dog/3.png,dog,y,\n,cat/1.png,,,\n"
    dataset = from_csv(folder, text)
    samples = dataset.read(0, 3)
    assert len(dataset) == 3
    assert dataset.classes == ("cat", "dog")
    assert samples.ids == ["cat/2.png", "dog/3.png", "cat/1.png"]
    assert samples.labels.tolist() == [0, 1, -1]
    assert samples.labels.dtype == np.int64
    assert [image[0, 0] for image in samples.images if image is not None] == [2, 3, 1]
    assert dataset.meta_schema == pa.schema(
        [("meta_patient_age", pa.int64()), ("meta_site_id", pa.string()), ("meta_seen", pa.date32())]
    )
    meta = dataset.read(1, 3).meta
    assert meta is not None
    assert meta.schema == dataset.meta_schema
    assert meta["meta_site_id"].to_pylist() == ["y", None]
    assert meta["meta_patient_age"].to_pylist() == [None, None]


def test_a_manifest_on_no_disk_without_meta(memory: str) -> None:
    filesystem, root = fsspec.url_to_fs(memory)
    filesystem.pipe_file(f"{root}/m.csv", b"path,label\n./images/../images/1.png,3\n")
    filesystem.pipe_file(f"{root}/images/1.png", png(7))
    dataset = open_dataset(ManifestSpec("manifest", f"{memory}/m.csv"))
    image = dataset.read(0, 1).images[0]
    assert image is not None
    assert image.tolist() == [[7] * 3] * 2
    assert dataset.classes == ("0", "1", "2", "3")
    assert dataset.meta_schema.names == []
    assert dataset.read(0, 1).meta is None


@pytest.mark.parametrize(
    "labels",
    [
        pa.array([1, None, 0], pa.int8()),
        pa.array([1.0, None, 0.0]),
        pa.array([1, -1, 0]),
        pa.array(["dog", None, "cat"]),
        pa.array(["dog", None, "cat"], pa.large_string()),
        pa.array(["dog", None, "cat"], pa.string_view()),
        pa.array(["dog", None, "cat"]).dictionary_encode(),
    ],
    ids=lambda labels: str(labels.type),
)
def test_parquet_labels_of_every_type(folder: Path, labels: pa.Array) -> None:
    dataset = from_parquet(folder, ("cat", "dog"), path=["cat/1.png"] * 3, label=labels)
    assert dataset.read(0, 3).labels.tolist() == [1, -1, 0]


def test_labels_that_are_all_unknown(folder: Path) -> None:
    paths = ["cat/1.png", "cat/2.png"]
    assert from_parquet(folder, ("cat",), path=paths, label=pa.nulls(2)).read(0, 2).labels.tolist() == [-1, -1]
    assert from_csv(folder, "path,label\ncat/1.png,\n", ("cat",)).read(0, 1).labels.tolist() == [-1]
    with pytest.raises(InputError, match=r"no label is known.*name them in `classes`"):
        from_parquet(folder, path=paths, label=pa.nulls(2))
    with pytest.raises(InputError, match=r"no label is known.*name them in `classes`"):
        from_parquet(folder, path=paths, label=pa.nulls(2, pa.string()))


def test_types_are_inferred_from_every_row(folder: Path) -> None:
    rows = 'cat/1.png,0,7,"a\nb"\n' * 120_000  # more than one block of the parser
    dataset = from_csv(folder, f"path,label,device,meta_note\n{rows}cat/1.png,0,unknown,\n")
    assert dataset.meta_schema == pa.schema([("meta_device", pa.string()), ("meta_note", pa.string())])
    assert len(dataset) == 120_001


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../secret.png", "leads out of the dataset's folder"),
        ("cat/../../secret.png", "leads out"),
        ("..\\secret.png", "leads out"),
        ("/etc/passwd", "leads out"),
        ("C:\\secret.png", "leads out"),
        ("s3://bucket/secret.png", "leads out"),
        ("", "no path is given"),
        ("cat/absent.png", "there is no file 'cat/absent.png'"),
        ("cat", "cannot be read"),
        ("cat/\0.png", "is not a path"),
    ],
)
def test_a_path_that_cannot_be_read_is_a_failure_of_its_sample(folder: Path, path: str, reason: str) -> None:
    (folder.parent / "secret.png").write_bytes(png(9))
    dataset = from_parquet(folder, path=["cat/1.png", path], label=[0, 0])
    samples = dataset.read(0, 2)
    assert samples.failures.keys() == {1}
    assert reason in samples.failures[1]
    assert samples.ids[1] == path
    assert samples.hashes[1] == ""
    assert len(dataset.content_hash()) == 64


def test_a_path_from_the_very_top_that_lies_in_the_folder(folder: Path, memory: str) -> None:
    paths = [f"{folder}/cat/1.png", f"{folder}//cat/../dog/3.png", f"file://{folder}/cat/2.png", str(folder), f"{folder}x/1.png"]
    samples = from_parquet(folder, path=paths, label=[0] * 5).read(0, 5)
    assert samples.ids == paths
    assert [None if image is None else int(image[0, 0]) for image in samples.images] == [1, 3, 2, None, None]
    assert "leads out" in samples.failures[4]
    fsspec.filesystem("memory").pipe(f"{memory}/cat/1.png", png(7))
    fsspec.filesystem("memory").pipe(f"{memory}/list.csv", f"path,label\n{memory}/cat/1.png,cat\n".encode())
    (image,) = ManifestDataset(ManifestSpec("manifest", f"{memory}/list.csv")).read(0, 1).images
    assert image is not None
    assert int(image[0, 0]) == 7


def test_content_hash_knows_meta_but_not_the_format(folder: Path) -> None:
    text = "path,label,age\ncat/1.png,cat,4\ndog/3.png,dog,\n"
    paths, labels = ["cat/1.png", "dog/3.png"], ["cat", "dog"]
    first = from_csv(folder, text).content_hash()
    assert from_parquet(folder, path=paths, label=labels, age=pa.array([4, None], pa.int64())).content_hash() == first
    microseconds = [pa.array([value, None], pa.timestamp("ns")) for value in (4000, 5000)]
    others = [
        from_csv(folder, text.replace(",4", ",5")).content_hash(),
        from_csv(folder, text.replace("age", "years")).content_hash(),
        from_csv(folder, text, ("cat", "dog", "bird")).content_hash(),
        from_csv(folder, text.replace(",dog,", ",cat,"), ("cat", "dog")).content_hash(),
        *(from_parquet(folder, path=paths, label=labels, age=age).content_hash() for age in microseconds),
    ]
    (folder / "cat/1.png").write_bytes(png(200))
    others.append(from_csv(folder, text).content_hash())
    assert len({first, *others}) == 8


def test_reads_the_same_as_the_folder_that_it_lists(folder: Path) -> None:
    by_folder = FolderDataset(FolderSpec("folder", str(folder))).read(0, 3)
    by_list = from_csv(folder, "path,label\ncat/1.png,cat\ncat/2.png,cat\ndog/3.png,dog\n").read(0, 3)
    assert by_list.labels.tolist() == by_folder.labels.tolist()
    assert (by_list.ids, by_list.hashes) == (by_folder.ids, by_folder.hashes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Paths,label\na,0\n", "has no column 'path'; the nearest is 'Paths': rename one"),
        ("Path,PATH,label\na,b,0\n", "has no column 'path'; the nearest is 'P.*': rename one"),
        ("path,LABELS\na,0\n", "has no column 'label'; the nearest is 'LABELS'"),
        ("path,label\n", "has no rows; list at least one image"),
        ("", "is no readable csv table .*write it again"),
        ("path,label\na\n", "is no readable csv table .*Expected 2 columns"),
        ("path,label,Age,age\na,0,1,2\n", "columns 'Age' and 'age' are both 'meta_age'; rename one"),
        ("path,path,label\na,b,0\n", "columns 'path' and 'path' are both 'path'"),
        ("path,label,%\na,0,1\n", "column '%' has no letter or digit in its name"),
        ("path,label\na,0\nb,2\n", r"row 2 has label 2, outside the 2 classes \(0 = 'cat' to 1 = 'dog'\)"),
        ("path,label\na,cat\nb,\nc,catt\n", r"row 3 has label 'catt', .*2 classes \(the nearest is 'cat'\); mend the"),
    ],
)
def test_a_wrong_table_is_named_with_the_way_out(folder: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"manifest.csv.*{message}"):
        from_csv(folder, text, ("cat", "dog"))


def test_wrong_columns_of_parquet(folder: Path) -> None:
    with pytest.raises(InputError, match=r"column 'label' is date32.*; write class indices or class names"):
        from_parquet(folder, path=["a"], label=pa.array([1], pa.date32()))
    with pytest.raises(InputError, match=r"row 1 has label '1\.5', .*write whole class indices"):
        from_parquet(folder, path=["a"], label=[1.5])
    with pytest.raises(InputError, match="column 'path' is int64; write the paths as strings"):
        from_parquet(folder, path=[1], label=[0])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.csv", "absent.csv cannot be read .*check that it is there"),
        ("list.txt", "a manifest is a .csv or .parquet file; rename or convert it"),
        ("list.parquet", "list.parquet is no readable parquet table"),
    ],
)
def test_a_wrong_file_is_named_with_the_way_out(tmp_path: Path, name: str, message: str) -> None:
    if not name.startswith("absent"):
        (tmp_path / name).write_bytes(b"path,label\na,0\n")
    with pytest.raises(InputError, match=message):
        open_dataset(ManifestSpec("manifest", str(tmp_path / name)))


def test_a_table_that_unfolds_to_too_much_is_not_unfolded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = {"path": ["x" * 10_000] * 3000, "label": [0] * 3000}
    monkeypatch.setattr("storage.datasets.manifest.LARGEST_TABLE", 10 << 20)
    monkeypatch.setattr("storage.datasets.manifest.ROWS_A_BATCH", 100)
    with pytest.raises(InputError, match=r"manifest.parquet is larger than 10 MB when unpacked"):
        from_parquet(folder, **bomb)
    with pytest.raises(InputError, match=r"manifest.parquet is larger than 10 MB when unpacked"):
        from_parquet(folder, **bomb | {"path": ["cat/1.png"] * 3000, "note": ["x" * 10_000] * 3000})
    assert (folder / "manifest.parquet").stat().st_size < 100_000
    monkeypatch.setattr("storage.datasets.images.MOST_SAMPLES", 2999)
    with pytest.raises(InputError, match=r"lists 3,000 samples"):
        from_parquet(folder, **bomb)


def test_a_table_that_unfolds_to_gigabytes_takes_no_memory(folder: Path) -> None:
    """Half a megabyte that is forty gigabytes of text, in one batch."""
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(4000, np.int32)), pa.array(["x" * 10_000_000]))
    before = pa.total_allocated_bytes()
    with pytest.raises(InputError, match=r"manifest.parquet is larger than 256 MB when unpacked"):
        from_parquet(folder, path=["cat/1.png"] * 4000, label=[0] * 4000, note=text)
    assert pa.total_allocated_bytes() - before < 100 << 20
    assert (folder / "manifest.parquet").stat().st_size < 500_000


def test_lists_that_unfold_are_not_unfolded(folder: Path) -> None:
    many = pa.array([np.zeros(100_000_000, np.int8)], pa.list_(pa.int8()))
    before = pa.total_allocated_bytes()
    with pytest.raises(InputError, match=r"manifest.parquet is larger than 256 MB when unpacked"):
        from_parquet(folder, path=["cat/1.png"], label=[0], note=many)
    assert pa.total_allocated_bytes() - before < 300 << 20
    nested = pa.array([{"a": "x" * 500_000}] * 4000)
    with pytest.raises(InputError, match=r"manifest.parquet is larger than 256 MB when unpacked"):
        from_parquet(folder, path=["cat/1.png"] * 4000, label=[0] * 4000, note=nested)
    meta = from_parquet(folder, path=["cat/1.png"] * 40, label=[0] * 40, note=pa.array([{"a": "x"}] * 40)).read(0, 40).meta
    assert meta is not None
    assert meta["meta_note"].to_pylist() == [{"a": "x"}] * 40


def test_text_that_is_no_text_is_named(folder: Path) -> None:
    offsets, content = pa.py_buffer(np.array([0, 2, 4], np.int32)), pa.py_buffer(b"\xff\xfeab")
    invalid = pa.Array.from_buffers(pa.string(), 2, [None, offsets, content])
    for columns in ({"path": invalid, "label": [0, 0]}, {"path": ["a", "b"], "label": invalid}):
        with pytest.raises(InputError, match=r"manifest.parquet is no readable parquet table .*UTF"):
            from_parquet(folder, **columns)
    with pytest.raises(InputError, match=r"manifest.parquet is no readable parquet table .*UTF"):
        from_parquet(folder, path=["a", "b"], label=[0, 0], site=invalid)
    (folder / "manifest.csv").write_bytes(b"path,label\n\xff\xfe,0\n")
    with pytest.raises(InputError, match=r"manifest.csv: line 2 is not in UTF-8 .*save it as UTF-8"):
        ManifestDataset(ManifestSpec("manifest", str(folder / "manifest.csv")))
    for encoding, mark in (("utf-16", ""), ("utf-16-be", "\ufeff"), ("utf-16-le", ""), ("utf-16-be", "")):
        text = mark + "path,label\na,0\n"
        (folder / "manifest.csv").write_bytes(text.encode(encoding))
        with pytest.raises(InputError, match=r"manifest.csv is written in UTF-16, .*save it as that"):
            ManifestDataset(ManifestSpec("manifest", str(folder / "manifest.csv")))


@pytest.mark.parametrize(
    "labels",
    [
        pa.array([2**64 - 1, 0], pa.uint64()),
        pa.array([-(2**63), 0]),
        pa.array([float("inf"), 0]),
        pa.array([1e300, 0]),
        pa.array([2**40, 0]),
        pa.array([[0], [1]]),
        pa.array([{"a": 0}, {"a": 1}]),
        pa.array([b"\xff\x00", b"dog"]),
    ],
    ids=lambda labels: str(labels[:1]),
)
def test_labels_that_are_none_are_named(folder: Path, labels: pa.Array) -> None:
    for classes in (None, ("cat", "dog")):
        # Bytes that are no text are read as the name that their digits are.
        if pa.types.is_binary(labels.type) and classes is None:
            continue
        with pytest.raises(InputError, match=r"manifest.parquet.*label"):
            from_parquet(folder, classes, path=["cat/1.png"] * 2, label=labels)


def test_more_classes_than_a_map_can_hold(folder: Path) -> None:
    names = [f"class {index}" for index in range(2**15 + 1)]
    pa.parquet.write_table(pa.table({"path": ["cat/1.png"] * len(names), "label": names}), folder / "manifest.parquet")
    with pytest.raises(InputError, match=r"has 32,769 classes, and an audit holds 32,768"):
        open_dataset(ManifestSpec("manifest", str(folder / "manifest.parquet")))


def test_a_link_out_of_the_folder_and_a_loop_of_links_are_failures_of_their_samples(folder: Path) -> None:
    (folder.parent / "secret.png").write_bytes(png(9))
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "up").symlink_to("..")
    paths = ["link.png", "loop.png", "up/secret.png", "up/data/cat/1.png", "x" * 300, "cat/1.png/x", "~/secret.png"]
    samples = from_parquet(folder, path=[*paths, "cat/1.png"], label=[0] * 8).read(0, 8)
    assert samples.failures.keys() == {0, 1, 2, 4, 5, 6}
    assert all("\n" not in reason for reason in samples.failures.values())


def test_a_csv_as_other_programs_write_it(folder: Path) -> None:
    rows = [["Path", "Label", "Note"], ["cat/1.png", "0", "a"], ["dog/3.png", "1.0", "b, c;d"], ["cat/2.png", "", ""]]
    expected = [(0, "a"), (1, "b, c;d"), (-1, None)]

    def written(delimiter: str, end: str) -> str:
        return end.join(delimiter.join(f'"{field}"' if " " in field else field for field in row) for row in rows) + end

    for text in (
        written(",", "\n"),
        written(";", "\n"),
        written("\t", "\r\n"),
        written("|", "\n"),
        "\ufeff" + written(";", "\r\n"),
        written(",", "\n").replace("Path,Label", " path , LABEL "),
        written(",", "\n").replace("cat/1.png,", " cat/1.png, "),
    ):
        dataset = from_csv(folder, text)
        samples = dataset.read(0, 3)
        assert samples.failures == {}
        assert samples.meta is not None
        assert list(zip(samples.labels.tolist(), samples.meta["meta_note"].to_pylist(), strict=True)) == expected, text
    for name in ("", "Unnamed: 0"):
        meta = from_csv(folder, f"{name},path,label\n4,cat/1.png,0\n9,dog/3.png,1\n").read(0, 2).meta
        assert meta is not None
        assert meta.to_pydict() == {"meta_index": [4, 9]}
    text = 'path;label;note\n"cat/1.png";0;"one\ntwo"\n'
    meta = from_csv(folder, text).read(0, 1).meta
    assert meta is not None
    assert meta["meta_note"].to_pylist() == ["one\ntwo"]
    with pytest.raises(InputError, match="columns 'Note' and 'note' are both 'meta_note'"):
        from_csv(folder, "path;label;Note;note\ncat/1.png;0;a;b\n")


def test_a_column_called_path_in_two_ways(folder: Path) -> None:
    dataset = from_csv(folder, "Path,path,label\nelsewhere,cat/1.png,0\n")
    assert dataset.ids(0, 1) == ["cat/1.png"]
    assert dataset.meta_schema.names == ["meta_path"]


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("written", ["NFC", "NFD"])
def test_a_path_is_found_under_a_name_that_looks_the_same(folder: Path, on_disk: str, written: str) -> None:
    name = "été/à.png"
    path = folder / unicodedata.normalize(on_disk, "été") / unicodedata.normalize("NFC", "à.png")
    path.parent.mkdir()
    path.write_bytes(png(9))
    samples = from_csv(folder, f"path,label\n{unicodedata.normalize(written, name)},0\nété/è.png,0\n").read(0, 2)
    assert samples.ids[0] == unicodedata.normalize(written, name), "ids are paths as they are written"
    assert [None if image is None else image[0, 0] for image in samples.images] == [9, None]
    assert samples.failures == {1: "there is no file 'été/è.png'"}


def test_further_columns_are_kept_in_types_that_can_be_read(folder: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Qualité") for form in ("NFC", "NFD"))
    columns = {decomposed: pa.array([1.5, None], pa.float16()), "took": pa.array([1500, None], pa.duration("ms"))}
    dataset = from_parquet(folder, path=["cat/1.png", "dog/3.png"], label=[0, 1], **columns)
    meta = dataset.read(0, 2).meta
    assert meta is not None
    assert meta.to_pydict() == {f"meta_{composed.lower()}": [1.5, None], "meta_took": [1.5, None]}
    assert meta.schema == dataset.meta_schema
    with pytest.raises(InputError, match=r"manifest.parquet: column 'x' is .*, which no table can hold"):
        from_parquet(folder, path=["cat/1.png"], label=[0], x=pa.array([[b"\xff"]]))
    spark = from_parquet(folder, path=[b"cat/1.png"], label=[b"cat"])
    assert spark.read(0, 1).failures == {}
    assert spark.classes == ("cat",)


def test_classes_without_a_sample_are_named(folder: Path) -> None:
    assert from_csv(folder, "path,label\ncat/1.png,cat\n", ("cat", "dog")).empty_classes == ("dog",)
    assert from_csv(folder, "path,label\ncat/1.png,2\n").empty_classes == ("0", "1")
    assert from_csv(folder, "path,label\ncat/1.png,\n", ("cat", "dog")).empty_classes == ()
    assert from_csv(folder, "path,label\ncat/1.png,cat\n").passed_over == {}
