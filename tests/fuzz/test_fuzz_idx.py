"""Whatever bytes an IDX file has: it is read, or refused by an InputError, or its samples fail."""

import gzip
import struct
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.datasets.idx import IdxDataset, IdxSpec
from storage.errors import InputError
from tests.fuzz.conftest import Watch, check_sentence
from tests.fuzz.mutations import changed_bytes

SIZES = st.sampled_from([0, 1, 2, 3, 4, 28, 2**16, 2**31, 2**32 - 1]) | st.integers(0, 9)


@st.composite
def idx_files(draw: st.DrawFn) -> bytes:
    """A header of any kind, some values, perhaps changed, perhaps compressed, perhaps changed again."""
    sizes = draw(st.lists(SIZES, max_size=5))
    start = bytes(
        [0, 0, draw(st.sampled_from([8, 8, 8, 9, 11, 12, 13, 14, 0, 255])), draw(st.sampled_from([len(sizes), 255, 0, 3]))]
    )
    content = start + struct.pack(f">{len(sizes)}I", *sizes) + draw(st.binary(max_size=64))
    return draw(changes_of(content))


def changes_of(content: bytes) -> st.SearchStrategy[bytes]:
    packed = gzip.compress(content, 1, mtime=0)
    return st.just(content) | changed_bytes(content) | changed_bytes(packed) | changed_bytes(content).map(gzip.compress)


IMAGES = bytes([0, 0, 8, 3]) + struct.pack(">III", 4, 3, 2) + bytes(range(24))
LABELS = bytes([0, 0, 8, 1]) + struct.pack(">I", 4) + bytes([1, 0, 1, 2])


def test_idx_files_of_any_content(tmp_path: Path, trials: settings, watch: Watch) -> None:
    images_file, labels_file = tmp_path / "images", tmp_path / "labels"

    @trials
    @given(
        images=changes_of(IMAGES) | idx_files(),
        labels=st.none() | changes_of(LABELS) | idx_files(),
        classes=st.sampled_from([None, ("a",), ("a", "b", "c")]),
        data=st.data(),
    )
    def check(images: bytes, labels: bytes | None, classes: tuple[str, ...] | None, data: st.DataObject) -> None:
        images_file.write_bytes(images)
        labels_file.write_bytes(labels or b"")
        with watch():
            try:
                dataset = IdxDataset(IdxSpec("idx", str(images_file), None if labels is None else str(labels_file), classes))
            except InputError as error:
                check_sentence(error, tmp_path)
                return
            start = data.draw(st.integers(0, len(dataset)))
            samples = dataset.read(start, min(start + 5, len(dataset)))
            for position, image in enumerate(samples.images):
                assert (image is None) == (position in samples.failures)
                assert image is None or (image.dtype == np.uint8 and image.ndim in (2, 3))
            assert ((samples.labels >= -1) & (samples.labels < len(dataset.classes))).all()
            if len(dataset) < 10_000:
                assert len(dataset.content_hash()) == 64

    check()
