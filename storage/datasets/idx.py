"""IDX files, as MNIST is published in them, gzipped or plain."""

import dataclasses
import gzip
import hashlib
import json
import struct
import threading
import zlib
from collections.abc import Mapping
from math import prod
from typing import IO, ClassVar, Literal, cast

import numpy as np
import pyarrow as pa
from pydantic.dataclasses import dataclass

from storage.addresses import open_file
from storage.datasets.classes import check_labels, empty_classes, named_classes, numbered_classes
from storage.datasets.dataset import Samples
from storage.datasets.images import (
    BLOCK_BYTES,
    Content,
    UnreadableImage,
    check_count,
    check_range,
    samples_of,
)
from storage.errors import InputError
from storage.options import STRICT

DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
LARGEST_IMAGE = 1 << 30
LARGEST_RATIO = 1032
"""How much deflate can make of a byte: what claims to be more is no honest file."""

BROKEN_STREAM = (EOFError, zlib.error, gzip.BadGzipFile)


@dataclasses.dataclass(frozen=True)
class Header:
    """What an IDX file says of itself. offset: where its values start, in bytes."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, config=STRICT)
class IdxSpec:
    """path: the images' IDX file. labels: the labels' one; without it all are unknown. classes: see `DatasetSpec`."""

    format: Literal["idx"]
    path: str
    labels: str | None = None
    classes: tuple[str, ...] | None = None
    addresses: ClassVar[tuple[str, ...]] = ("path", "labels")


class IdxDataset:
    """Images ubyte (N, H, W) or (N, H, W, 3) and labels of integers (N,), −1 = unknown; without labels all are unknown.

    Only the labels are held in memory: one open handle seeks in the images. Bytes after the last value are ignored. A
    gzipped file is not scanned when it is opened: where it breaks off, that sample and all after it are failures.

    Raises InputError: a file that is not there, not IDX, of another type or shape, or cut off (images: where they are
    plain); counts that differ; a label outside the classes.
    """

    classes: tuple[str, ...]
    meta_schema: pa.Schema
    passed_over: Mapping[str, int]
    empty_classes: tuple[str, ...]

    def __init__(self, spec: IdxSpec) -> None:
        named = named_classes(spec)
        self._spec = spec
        self._lock = threading.Lock()
        self._stream: IO[bytes] | None = None
        self._broken_at: int | None = None
        with _open(spec.path) as stream:
            self._header = _read_header(stream, spec.path)
            self._check_images(stream)
        self._labels = self._read_labels()
        self.classes = named or numbered_classes(self._labels, spec.labels or spec.path)
        self.meta_schema = pa.schema([])
        check_labels(self._labels, self.classes, spec.labels or spec.path, "position", 0)
        self.passed_over = {}
        self.empty_classes = empty_classes(self.classes, self._labels)

    def __reduce__(self) -> tuple[type["IdxDataset"], tuple[IdxSpec]]:
        return IdxDataset, (self._spec,)

    def __len__(self) -> int:
        return self._header.shape[0]

    def read(self, start: int, stop: int) -> Samples:
        """The samples of [start, stop), their images read-only. Safe from several threads. Raises IndexError: no range.

        What cannot be read is a failure, keyed by position in this range.
        """
        check_range(start, stop, len(self))
        with self._lock:
            contents = [self._content(index) for index in range(start, stop)]
        return samples_of(self.ids(start, stop), self._labels[start:stop], contents)

    def ids(self, start: int, stop: int) -> list[str]:
        """Positions, as five digits."""
        return [f"{index:05d}" for index in range(start, stop)]

    def content_hash(self) -> str:
        """SHA-256 over classes, shape, labels and pixels, up to where they can be read: the same gzipped and plain."""
        total = hashlib.sha256(json.dumps([self.classes, self._header.shape]).encode())
        total.update(self._labels.astype("<i8").tobytes())
        left = prod(self._header.shape)
        with self._lock:
            try:
                stream = self._at(self._header.offset)
                while left and (block := stream.read(min(left, BLOCK_BYTES))):
                    total.update(block)
                    left -= len(block)
            except (OSError, InputError, *BROKEN_STREAM):
                self._close()
        return total.hexdigest()

    def _at(self, offset: int) -> IO[bytes]:
        if self._stream is None:
            self._stream = _open(self._spec.path)
        self._stream.seek(offset)
        return self._stream

    def _close(self) -> None:
        """Lets go of a stream whose state an error has made doubtful; the next read opens another."""
        if self._stream is not None:
            self._stream.close()
        self._stream = None

    def _content(self, index: int) -> Content | UnreadableImage:
        path, size = self._spec.path, prod(self._header.shape[1:])
        if self._broken_at is None or index < self._broken_at:
            try:
                content = self._at(self._header.offset + index * size).read(size)
            except BROKEN_STREAM:
                content = b""
            except (OSError, InputError) as error:
                self._close()
                return UnreadableImage(f"{path} cannot be read: {error}")
            if len(content) == size:
                pixels = np.frombuffer(content, np.uint8).reshape(self._header.shape[1:])
                return pixels, hashlib.sha256(content).hexdigest()
            self._close()
            self._broken_at = index
        return UnreadableImage(f"{path} breaks off at or before sample {self._broken_at}; fetch the file again")

    def _check_images(self, stream: IO[bytes]) -> None:
        path, header = self._spec.path, self._header
        if header.dtype != np.uint8:
            raise InputError(f"{path} holds values of type {header.dtype.name}; save the images as unsigned bytes")
        if len(header.shape) != 3 and (len(header.shape) != 4 or header.shape[-1] != 3):
            raise InputError(f"{path} has shape {header.shape}; name a file of images, (N, H, W) or (N, H, W, 3)")
        if 0 in header.shape or prod(header.shape[1:]) > LARGEST_IMAGE:
            raise InputError(f"{path} has shape {header.shape}, which no set of images has; fetch the file again")
        check_count(header.shape[0], path)
        expected = header.offset + prod(header.shape)
        if isinstance(stream, _GzipFile):
            if stream.compressed_size * LARGEST_RATIO < expected:
                raise InputError(f"{path} claims {expected:,} bytes, which its size cannot hold; fetch the file again")
        elif (size := stream.seek(0, 2)) < expected:
            raise InputError(f"{path} is cut off: {size} bytes of {expected}; fetch the file again")

    def _read_labels(self) -> np.ndarray:
        path = self._spec.labels
        if path is None:
            return np.full(len(self), -1, dtype=np.int64)
        with _open(path) as stream:
            header = _read_header(stream, path)
            if header.dtype.kind == "f" or len(header.shape) != 1:
                raise InputError(f"{path} holds {header.dtype.name} of shape {header.shape}; labels are integers (N,)")
            if header.shape[0] != len(self):
                raise InputError(
                    f"{path} has {header.shape[0]} labels for the {len(self)} images of {self._spec.path}; "
                    "name two files that belong together"
                )
            size = header.shape[0] * header.dtype.itemsize
            try:
                content = stream.read(size)
            except (OSError, *BROKEN_STREAM) as error:
                raise InputError(f"{path} cannot be read ({error}); fetch the file again") from error
        if len(content) < size:
            raise InputError(f"{path} is cut off: {len(content)} of {size} bytes of labels; fetch the file again")
        return np.frombuffer(content, header.dtype).astype(np.int64)


class _GzipFile(gzip.GzipFile):
    def __init__(self, compressed: IO[bytes]) -> None:
        self._compressed = compressed
        super().__init__(fileobj=compressed)

    @property
    def compressed_size(self) -> int:
        """In bytes; the stream is to be read from its beginning after."""
        size = self._compressed.seek(0, 2)
        self._compressed.seek(0)
        return size

    def close(self) -> None:
        super().close()
        self._compressed.close()


def _open(address: str) -> IO[bytes]:
    """The file's bytes, decompressed where its first two bytes are gzip's. Raises InputError: not there, no access."""
    try:
        file = open_file(address)
    except OSError as error:
        raise InputError(f"{address} cannot be opened ({error}); give an IDX file that is readable") from error
    is_gzipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return cast(IO[bytes], _GzipFile(file)) if is_gzipped else file


def _read_header(stream: IO[bytes], address: str) -> Header:
    try:
        start = stream.read(4)
        sizes = stream.read(4 * start[3]) if len(start) == 4 else b""
    except BROKEN_STREAM as error:
        raise InputError(f"{address} is damaged ({error}); fetch the file again") from error
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in DTYPES or len(sizes) < 4 * start[3]:
        raise InputError(f"{address} is no IDX file (starts with {start.hex(' ') or 'nothing'}); give one, or its .gz")
    return Header(np.dtype(DTYPES[start[2]]), struct.unpack(f">{start[3]}I", sizes), 4 + len(sizes))
