import gzip
import hashlib
import pickle
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.datasets import DatasetSpec, Samples
from storage.datasets.formats import open_dataset
from storage.datasets.idx import IdxDataset, IdxSpec
from storage.errors import InputError

DTYPE_CODES = {"u1": 0x08, "i1": 0x09, ">i2": 0x0B, ">i4": 0x0C, ">f4": 0x0D}


def idx_bytes(values: np.ndarray, dtype: str = "u1") -> bytes:
    sizes = struct.pack(f">{values.ndim}I", *values.shape)
    return bytes([0, 0, DTYPE_CODES[dtype], values.ndim]) + sizes + values.astype(dtype).tobytes()


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(folder: Path, images: bytes, labels: bytes, classes: tuple[str, ...] | None = None) -> DatasetSpec:
    (folder / "images").write_bytes(images)
    (folder / "labels").write_bytes(labels)
    return IdxSpec("idx", str(folder / "images"), str(folder / "labels"), classes)


def pixels(samples: Samples) -> np.ndarray:
    return np.array([image for image in samples.images if image is not None])


def test_reads_what_was_packed_by_hand_and_nothing_after_it(tmp_path: Path) -> None:
    images = b"\x00\x00\x08\x03" + struct.pack(">III", 2, 2, 3) + bytes(range(12)) + b"more"
    labels = b"\x00\x00\x08\x01" + struct.pack(">I", 2) + bytes([1, 0]) + b"more"
    dataset = open_dataset(save(tmp_path, images, labels))
    samples = dataset.read(0, 2)
    assert len(dataset) == 2
    assert dataset.classes == ("0", "1")
    assert samples.ids == ["00000", "00001"]
    assert pixels(samples).tolist() == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]
    assert samples.labels.tolist() == [1, 0]
    assert samples.labels.dtype == np.int64
    assert samples.hashes == [hashlib.sha256(pixel_bytes).hexdigest() for pixel_bytes in (images[16:22], images[22:28])]
    assert samples.failures == {}
    assert samples.meta is None
    assert dataset.meta_schema.names == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), colour=st.booleans(), compressed=st.booleans(), count=st.integers(1, 40))
def test_any_ranges_in_any_order_equal_slices(
    tmp_path: Path, data: st.DataObject, colour: bool, compressed: bool, count: int
) -> None:
    values = noise(count, 5, 4, *([3] if colour else []), seed=count)
    labels = np.arange(count) % 7
    pack = gzip.compress if compressed else bytes
    dataset = IdxDataset(save(tmp_path, pack(idx_bytes(values)), pack(idx_bytes(labels))))
    for _ in range(4):
        start = data.draw(st.integers(0, count))
        stop = data.draw(st.integers(start, count))
        samples = dataset.read(start, stop)
        assert len(samples.images) == len(samples.hashes) == stop - start
        assert start == stop or np.array_equal(pixels(samples), values[start:stop])
        assert samples.failures == {}
        assert samples.labels.tolist() == labels[start:stop].tolist()
        assert samples.ids == [f"{index:05d}" for index in range(start, stop)]


@pytest.mark.parametrize("dtype", ["i1", ">i2", ">i4"])
def test_signed_labels_may_be_unknown(tmp_path: Path, dtype: str) -> None:
    spec = save(tmp_path, idx_bytes(noise(3, 2, 2)), idx_bytes(np.array([2, -1, 0]), dtype), ("a", "b", "c"))
    dataset = IdxDataset(spec)
    assert dataset.read(0, 3).labels.tolist() == [2, -1, 0]
    assert dataset.classes == ("a", "b", "c")


def test_without_a_label_file_labels_are_unknown_and_classes_must_be_named(tmp_path: Path) -> None:
    path = save(tmp_path, idx_bytes(noise(3, 2, 2)), b"").path
    assert IdxDataset(IdxSpec("idx", path, None, ("a",))).read(1, 3).labels.tolist() == [-1, -1]
    with pytest.raises(InputError, match=r"no label is known.*name them in `classes`"):
        IdxDataset(IdxSpec("idx", path))


def test_addresses_that_are_no_local_paths_and_pickling(memory: str) -> None:
    values = noise(6, 3, 3)
    for name, content in (("images.gz", idx_bytes(values)), ("labels.gz", idx_bytes(np.arange(6)))):
        with fsspec.open(f"{memory}/{name}", "wb") as file:
            file.write(gzip.compress(content, mtime=0))
    dataset = open_dataset(IdxSpec("idx", f"{memory}/images.gz", f"{memory}/labels.gz"))
    for opened in (dataset, pickle.loads(pickle.dumps(dataset))):
        opened.content_hash()
        assert np.array_equal(pixels(opened.read(2, 5)), values[2:5])


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    values = np.zeros((20_000, 28, 28), dtype=np.uint8)
    spec = save(tmp_path, gzip.compress(idx_bytes(values), 1), idx_bytes(np.zeros(20_000)))
    tracemalloc.start()
    dataset = IdxDataset(spec)
    dataset.read(19_990, 20_000)
    dataset.content_hash()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6_000_000 < values.nbytes / 2


def test_content_hash_knows_content_but_not_compression(tmp_path: Path) -> None:
    values, labels = noise(4, 3, 3), np.array([0, 1, 2, 0])

    def hash_of(images: bytes, labels: bytes, classes: tuple[str, ...] | None = None) -> str:
        return IdxDataset(save(tmp_path, images, labels, classes)).content_hash()

    plain = hash_of(idx_bytes(values), idx_bytes(labels))
    assert hash_of(gzip.compress(idx_bytes(values)), gzip.compress(idx_bytes(labels))) == plain
    assert hash_of(idx_bytes(values), idx_bytes(labels, ">i4")) == plain
    assert hash_of(idx_bytes(values), idx_bytes(labels), ("0", "1", "2")) == plain
    changed = values.copy()
    changed[3, 2, 2] ^= 1
    others = [
        hash_of(idx_bytes(changed), idx_bytes(labels)),
        hash_of(idx_bytes(values), idx_bytes(labels[::-1])),
        hash_of(idx_bytes(values), idx_bytes(labels), ("0", "1", "two")),
        hash_of(idx_bytes(values.reshape(4, 9, 1)), idx_bytes(labels)),
        hash_of(gzip.compress(idx_bytes(values)[:-1]), idx_bytes(labels)),
    ]
    assert len({plain, *others}) == 6


@pytest.mark.parametrize(
    ("end", "lost"),
    [("cut", 0), ("short", 0), ("corrupt", 82)],  # zlib gives up a block of 8 kB, 82 images, with the corrupt byte
)
def test_a_gzip_that_breaks_off_fails_only_from_there_on(tmp_path: Path, end: str, lost: int) -> None:
    values = noise(400, 10, 10)
    compressor = zlib.compressobj(wbits=31)
    half = compressor.compress(idx_bytes(values)[: 16 + 200 * 100]) + compressor.flush(zlib.Z_FULL_FLUSH)
    ends = {"cut": b"", "short": compressor.flush(), "corrupt": b"\xff" * 64}
    dataset = IdxDataset(save(tmp_path, half + ends[end], idx_bytes(np.zeros(400))))
    last = dataset.read(399, 400)
    assert (last.images, last.hashes) == ([None], [""])
    assert "breaks off at or before sample 399; fetch the file again" in last.failures[0]
    samples = dataset.read(0, 400)
    first = min(samples.failures)
    assert 200 - lost <= first <= 200
    assert sorted(samples.failures) == list(range(first, 400))
    assert np.array_equal(pixels(samples), values[:first])
    assert f"sample {first};" in samples.failures[399]
    assert dataset.read(0, 1).failures == {}


def test_a_file_that_vanishes_is_a_failure_of_its_samples(tmp_path: Path) -> None:
    spec = save(tmp_path, idx_bytes(noise(3, 2, 2)), idx_bytes(np.zeros(3)))
    whole, dataset = IdxDataset(spec).content_hash(), IdxDataset(spec)
    Path(spec.path).unlink()
    assert "cannot be opened" in dataset.read(1, 2).failures[0]
    assert dataset.content_hash() != whole


IMAGES, LABELS = idx_bytes(noise(3, 2, 2)), idx_bytes(np.array([0, 1, 2]))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (b"\x89PNG" + IMAGES[4:], LABELS, r"images is no IDX file \(starts with 89 50 4e 47\); give one"),
        (gzip.compress(IMAGES, mtime=0)[:12], LABELS, "images is damaged.*fetch the file again"),
        (idx_bytes(np.zeros((3, 2, 2)), ">f4"), LABELS, "images holds values of type float32; save .* unsigned bytes"),
        (LABELS, LABELS, r"images has shape \(3,\); name a file of images"),
        (idx_bytes(noise(3, 2, 2, 4)), LABELS, r"images has shape \(3, 2, 2, 4\)"),
        (idx_bytes(noise(0, 2, 2)), LABELS, r"images has shape \(0, 2, 2\), which no set of images has"),
        (b"\0\0\x08\x03" + b"\xff" * 12, LABELS, "which no set of images has"),
        (IMAGES[:-1], LABELS, "images is cut off: 27 bytes of 28; fetch the file again"),
        (IMAGES, idx_bytes(np.zeros(2)), "labels has 2 labels for the 3 images of .*images; name two files"),
        (IMAGES, IMAGES, r"labels holds uint8 of shape \(3, 2, 2\); labels are integers"),
        (IMAGES, idx_bytes(np.zeros(3), ">f4"), "labels holds float32"),
        (IMAGES, LABELS[:-1], "labels is cut off: 2 of 3 bytes of labels"),
        (IMAGES, gzip.compress(LABELS, mtime=0)[:-12], "labels .*fetch the file again"),
        (IMAGES, idx_bytes(np.array([0, -2, 0]), "i1"), "labels: position 1 has label -2, outside the 1 classes"),
        (IMAGES, idx_bytes(np.array([0, 1, 99_999]), ">i4"), "labels: label 99999 asks for more than 32768 classes"),
    ],
)
def test_a_wrong_file_is_named_with_the_way_out(tmp_path: Path, images: bytes, labels: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_dataset(save(tmp_path, images, labels))


@pytest.mark.parametrize("address", ["{}/absent", "{}", "nowhere://images"])
def test_an_address_that_leads_nowhere(tmp_path: Path, address: str) -> None:
    named = address.format(tmp_path)
    with pytest.raises(InputError, match=named):
        open_dataset(IdxSpec("idx", named, None, ("a",)))


def header(*sizes: int, dtype: int = 0x08) -> bytes:
    return bytes([0, 0, dtype, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes)


MOST = 2**32 - 1


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    "content",
    [
        header(MOST, MOST, MOST),
        header(MOST, MOST, MOST, 3),
        header(MOST, 1, 1) + bytes(100),
        header(2**31, 2, 2),  # 2^33, which 32 bits hold as 0
        header(1, 2**16, 2**16),
        header(100, 0, 5),
        header(*[MOST] * 255),
        header(*[1] * 255) + b"x",
        header(60_000, 28, 28) + bytes(28 * 28),
    ],
)
def test_a_header_that_claims_more_than_there_is(tmp_path: Path, content: bytes, pack: Callable[[bytes], bytes]) -> None:
    spec = save(tmp_path, pack(content), idx_bytes(np.zeros(2)), ("a", "b"))
    tracemalloc.start()
    with pytest.raises(InputError, match=str(tmp_path)):
        IdxDataset(IdxSpec("idx", spec.path, None, ("a",)))
    with pytest.raises(InputError, match=str(tmp_path)):
        IdxDataset(spec)
    with pytest.raises(InputError, match=str(tmp_path)):
        IdxDataset(save(tmp_path, idx_bytes(noise(2, 2, 2)), pack(content), ("a", "b")))
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_a_gzip_bomb_is_read_as_far_as_its_header_says(tmp_path: Path) -> None:
    images, labels = (gzip.compress(idx_bytes(values) + bytes(50_000_000), 1) for values in (noise(4, 3, 3), np.zeros(4)))
    spec = save(tmp_path, images, labels)
    tracemalloc.start()
    dataset = IdxDataset(spec)
    assert np.array_equal(pixels(dataset.read(0, 4)), noise(4, 3, 3))
    dataset.content_hash()
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_more_samples_than_an_audit_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.datasets.images.MOST_SAMPLES", 3)
    with pytest.raises(InputError, match=r"lists 4 samples; split it into datasets of at most 3"):
        IdxDataset(save(tmp_path, idx_bytes(noise(4, 2, 2)), idx_bytes(np.zeros(4))))
