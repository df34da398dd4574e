"""Labelled image files below a root, and the folder of class folders."""

import hashlib
import json
import posixpath
import re
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from os.path import realpath
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pyarrow as pa
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from storage.datasets.dataset import DatasetSpec, Samples
from storage.datasets.images import (
    BLOCK_BYTES,
    Content,
    UnreadableImage,
    check_classes,
    check_range,
    decode,
    filesystem_of,
    nearest,
    samples_of,
)
from storage.errors import InputError

READING_THREADS = 8
FILES_IN_FLIGHT = 1024
LARGEST_FILE = 1 << 30
SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"))


@dataclass(frozen=True)
class ImageFiles:
    """Labelled image files below one root, read in order.

    paths: POSIX paths relative to `root`, and the samples' ids. labels: (N,) int64, −1 = unknown.
    """

    filesystem: AbstractFileSystem
    root: str
    paths: list[str]
    labels: np.ndarray

    def read(self, start: int, stop: int) -> Samples:
        """The samples of [start, stop); failures are keyed by position in this range."""
        check_range(start, stop, len(self.paths))
        paths = self.paths[start:stop]
        with ThreadPoolExecutor(READING_THREADS) as pool:
            contents = list(pool.map(self._content, paths))
        return samples_of(paths, self.labels[start:stop], contents)

    def content_hash(self, classes: tuple[str, ...]) -> str:
        """SHA-256 over the classes and every (id, label, SHA-256 of the file); an unreadable file counts as such."""
        total = hashlib.sha256(json.dumps(classes).encode())
        for path, label, digest in zip(self.paths, self.labels.tolist(), self._digests(), strict=True):
            total.update(json.dumps([path, label, digest]).encode())
        return total.hexdigest()

    def _content(self, path: str) -> Content | UnreadableImage:
        try:
            content = b"".join(self._blocks(path))
            return decode(content), hashlib.sha256(content).hexdigest()
        except UnreadableImage as error:
            return error

    def _digests(self) -> Iterator[str]:
        with ThreadPoolExecutor(READING_THREADS) as pool:
            for start in range(0, len(self.paths), FILES_IN_FLIGHT):
                yield from pool.map(self._digest, self.paths[start : start + FILES_IN_FLIGHT])

    def _digest(self, path: str) -> str:
        digest = hashlib.sha256()
        try:
            for block in self._blocks(path):
                digest.update(block)
        except UnreadableImage:
            return ""
        return digest.hexdigest()

    def _blocks(self, path: str) -> Iterator[bytes]:
        located = self._locate(path)
        left = LARGEST_FILE
        try:
            if isinstance(self.filesystem, LocalFileSystem):
                self._check_local(path, located)
            with self.filesystem.open(located, "rb") as file:
                for block in iter(partial(file.read, BLOCK_BYTES), b""):
                    left -= len(block)
                    if left < 0:
                        raise UnreadableImage(f"{path!r} is larger than {LARGEST_FILE >> 20} MB")
                    yield block
        except FileNotFoundError as error:
            raise UnreadableImage(f"there is no file {path!r}") from error
        except OSError as error:
            raise UnreadableImage(f"{path!r} cannot be read: {error.strerror or error}") from error

    def _check_local(self, path: str, located: str) -> None:
        """A link must not lead out of the folder, and a pipe or a device never ends."""
        if not Path(realpath(located)).is_relative_to(self._real_root):
            raise UnreadableImage(f"{path!r} is a link that leads out of the dataset's folder; copy there what it leads to")
        if not stat.S_ISREG(Path(located).stat().st_mode):
            raise UnreadableImage(f"{path!r} cannot be read: it is not a file")

    @cached_property
    def _real_root(self) -> str:
        return realpath(self.root or "/")

    def _locate(self, path: str) -> str:
        if not path or "\0" in path:
            raise UnreadableImage("no path is given" if not path else f"{path!r} is not a path")
        inside = posixpath.normpath(path)
        is_anchored = "://" in path or inside.startswith("/") or PureWindowsPath(path).anchor
        if is_anchored or ".." in re.split(r"[\\/]", inside):
            raise UnreadableImage(f"{path!r} leads out of the dataset's folder; only files below it are read")
        return f"{self.root}/{inside}"


class FolderDataset:
    """One folder a class, with its images in it or anywhere below it.

    Ids are POSIX paths relative to the root, in the order of their code points on every machine. Hidden files and
    folders (".…") and other suffixes are passed over; a folder without images is no class. Linked folders are entered,
    but what lies outside the root is a failure of its sample.

    Raises InputError: no such folder, one that cannot be listed, no images, an image outside a class folder, or a class
    folder that `spec.classes` does not name.
    """

    classes: tuple[str, ...]
    meta_schema: pa.Schema

    def __init__(self, spec: DatasetSpec) -> None:
        check_classes(spec)
        filesystem, found_root = filesystem_of(spec.path)
        root = found_root.rstrip("/")
        if not filesystem.isdir(found_root):
            raise InputError(f"{spec.path} is not a folder; give the folder that holds the class folders")
        try:
            paths = sorted(path.removeprefix(f"{root}/") for path in _image_paths(filesystem, root))
        except OSError as error:
            raise InputError(f"{spec.path} cannot be listed ({error}); mend that folder") from error
        folders = _class_folders(paths, spec)
        self.classes = spec.classes or tuple(sorted(set(folders)))
        self.meta_schema = pa.schema([])
        indices = {name: index for index, name in enumerate(self.classes)}
        labels = np.array([indices[folder] for folder in folders], dtype=np.int64)
        self._files = ImageFiles(filesystem, root, paths, labels)

    def __len__(self) -> int:
        return len(self._files.paths)

    def read(self, start: int, stop: int) -> Samples:
        """The samples of [start, stop). What cannot be read is a failure of its sample. Raises IndexError: no range."""
        return self._files.read(start, stop)

    def ids(self, start: int, stop: int) -> list[str]:
        """Paths below the dataset's folder."""
        return self._files.paths[start:stop]

    def content_hash(self) -> str:
        """SHA-256 over the classes and every file's (id, label, SHA-256 of its bytes), in order."""
        return self._files.content_hash(self.classes)


def _image_paths(filesystem: AbstractFileSystem, folder: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    way = (*above, folder)
    for entry in filesystem.ls(folder or "/", detail=True):
        path: str = entry["name"].rstrip("/")
        if path == folder or PurePosixPath(path).name.startswith("."):
            continue
        if entry["type"] == "directory" or (entry.get("islink") and filesystem.isdir(path)):
            if entry.get("islink") and realpath(path) in map(realpath, way):
                raise OSError(f"{path} links to a folder that holds it")
            yield from _image_paths(filesystem, path, way)
        elif PurePosixPath(path).suffix.lower() in SUFFIXES:
            yield path


def _class_folders(paths: list[str], spec: DatasetSpec) -> list[str]:
    """The class folder of each path; all of them are named by `spec.classes` where it is given."""
    if not paths:
        raise InputError(f"{spec.path} holds no image ({', '.join(sorted(SUFFIXES))}); put them in one folder a class")
    for path in paths:
        if "/" not in path:
            raise InputError(f"{spec.path}: image {path!r} is in no class folder; move it into the folder of its class")
    folders = [path.split("/", 1)[0] for path in paths]
    unknown = sorted(set(folders).difference(spec.classes)) if spec.classes else []
    if unknown:
        raise InputError(
            f"{spec.path}: folder {unknown[0]!r} is not among the {len(spec.classes or ())} classes "
            f"({nearest(unknown[0], spec.classes or ())}); rename the folder, move it away, or add it to `classes`"
        )
    return folders
