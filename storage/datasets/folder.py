"""The folder of class folders."""

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from os.path import realpath
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from pydantic.dataclasses import dataclass

from storage.addresses import filesystem_of
from storage.datasets.classes import ClassNames, empty_classes, nearest, plain
from storage.datasets.dataset import Samples, say_passed_over
from storage.datasets.files import ImageFiles, visible
from storage.errors import InputError
from storage.options import STRICT

SUFFIXES = frozenset(
    (
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".mpo", ".bmp", ".dib", ".gif"),
        *(".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".avifs", ".qoi"),
        *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    )
)
"""Of the files that hold an image of one of `storage.datasets.images.FORMATS`, if they are what they are called."""

SYSTEM_FILES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini"))
"""What Windows leaves in folders that somebody looked at; that of other systems is hidden."""

SPLIT = re.compile(r"(train|training|val|valid|validation|test|testing|eval|evaluation|dev|holdout)[\W_]*[0-9]*", re.IGNORECASE)
"""What the parts of a dataset are called, where each has the class folders in it."""


@dataclass(frozen=True, config=STRICT)
class FolderSpec:
    """path: the folder of class folders. classes: see `DatasetSpec`."""

    format: Literal["folder"]
    path: str
    classes: tuple[str, ...] | None = None
    addresses: ClassVar[tuple[str, ...]] = ("path",)


class FolderDataset:
    """One folder a class, with its images in it or anywhere below it.

    Ids are POSIX paths relative to the root, in the order of their code points on every machine. Hidden files and
    folders (".…") and those of the system are passed over; other suffixes as well, and counted. A folder without images is
    no class. Linked folders are entered, but none twice, and none outside the root; a linked file that lies there is a failure
    of its sample. Classes are named after
    their folders, in Unicode's composed form, and are sorted as text, unless `spec.classes` names them.

    Raises InputError: no such folder, one that cannot be listed, no images, an image outside a class folder, a class
    folder that `spec.classes` does not name, two that look alike; and where `spec.classes` is not given, folders that are
    parts of a dataset (train, val), or that are numbers whose order is not that of their texts.
    """

    classes: tuple[str, ...]
    meta_schema: pa.Schema
    passed_over: Mapping[str, int]
    empty_classes: tuple[str, ...]

    def __init__(self, spec: FolderSpec) -> None:
        named = None if spec.classes is None else ClassNames(spec.classes, spec.path)
        filesystem, found_root = filesystem_of(spec.path)
        root = found_root.rstrip("/")
        if not filesystem.isdir(found_root):
            raise InputError(f"{spec.path} is not a folder; give the folder that holds the class folders")
        try:
            found = sorted(path.removeprefix(f"{root}/") for path in _files(filesystem, root, spec.path))
        except OSError as error:
            raise InputError(f"{spec.path} cannot be listed ({error}); mend that folder") from error
        paths = [path for path in found if _suffix(path) in SUFFIXES]
        counts = Counter(_suffix(path) for path in found if not path.endswith("/"))
        self.passed_over = {visible(suffix): count for suffix, count in counts.most_common() if suffix not in SUFFIXES}
        if not paths:
            also = f"; it has {say_passed_over(self.passed_over)}" if self.passed_over else ""
            raise InputError(f"{spec.path} holds no image ({', '.join(sorted(SUFFIXES))}){also}; put them in one folder a class")
        folders = [_class_folder(path, spec.path) for path in paths]
        if named is None:
            check_parts(paths, spec.path)
            self.classes, indices = _own_classes(sorted(set(folders)), spec.path)
        else:
            self.classes, indices = named.names, _indices(sorted(set(folders)), named, spec.path)
        self.meta_schema = pa.schema([])
        labels = np.array([indices[folder] for folder in folders], dtype=np.int64)
        unused = {path.removesuffix("/") for path in found if path.endswith("/") and path.count("/") == 1} - {*folders}
        self.empty_classes = tuple(sorted(map(visible, unused))) if named is None else empty_classes(self.classes, labels)
        self._files = ImageFiles(filesystem, root, paths, labels)

    def __len__(self) -> int:
        return len(self._files.paths)

    def read(self, start: int, stop: int) -> Samples:
        """The samples of [start, stop). What cannot be read is a failure of its sample. Raises IndexError: no range."""
        return self._files.read(start, stop)

    def ids(self, start: int, stop: int) -> list[str]:
        """Paths below the dataset's folder, with what is no text in them made visible."""
        return self._files.ids[start:stop]

    def content_hash(self) -> str:
        """SHA-256 over the classes and every file's (id, label, SHA-256 of its bytes), in order."""
        return self._files.content_hash(self.classes)


def _files(filesystem: AbstractFileSystem, root: str, address: str) -> Iterator[str]:
    """All files below the root, and folders, with a slash behind them, but those that are hidden, or the system's.

    Each folder is entered once, by its own name where it has one that is seen. Raises InputError: see `_check_link`.
    """
    top = realpath(root or "/") if isinstance(filesystem, LocalFileSystem) else root
    entered: dict[str, str] = {}
    waiting, links = [(root, top)], list[str]()
    while waiting or links:
        if waiting:
            folder, real = waiting.pop()
        else:
            # Links last: what they lead to may be seen without them.
            folder = links.pop()
            real = realpath(folder)
        if real in entered or not Path(real).is_relative_to(top):
            _check_link(folder, real, entered, root, address)
            continue
        entered[real] = folder
        if folder != root:
            yield f"{folder}/"
        for entry in sorted(filesystem.ls(folder or "/", detail=True), key=itemgetter("name"), reverse=True):
            path: str = entry["name"].rstrip("/")
            name = path.rpartition("/")[2]
            if path == folder or name.startswith(".") or name.lower() in SYSTEM_FILES:
                continue
            if entry.get("islink") and filesystem.isdir(path):
                links.append(path)
            elif entry["type"] == "directory":
                waiting.append((path, f"{real}/{name}"))
            else:
                yield path


def _check_link(folder: str, real: str, entered: Mapping[str, str], root: str, address: str) -> None:
    """Raises InputError where a link leads out of the dataset, or to images that are then of two classes."""
    shown = visible(folder.removeprefix(f"{root}/"))
    if real not in entered:
        raise InputError(
            f"{address}: folder {shown!r} is a link that leads out of the dataset's folder; copy there what it leads to"
        )
    other = visible(entered[real].removeprefix(root).lstrip("/"))
    if other and other.split("/")[0] != shown.split("/")[0]:
        raise InputError(f"{address}: folder {shown!r} links to {other!r}, whose images would be of two classes; remove the link")


def _suffix(path: str) -> str:
    return posixpath.splitext(path)[1].lower()


def _class_folder(path: str, address: str) -> str:
    if "/" not in path:
        raise InputError(f"{address}: image {path!r} is in no class folder; move it into the folder of its class")
    return path.split("/", 1)[0]


def _own_classes(folders: Sequence[str], address: str) -> tuple[tuple[str, ...], dict[str, int]]:
    """Classes named after the folders, sorted as text, and the index of each folder."""
    names = {folder: plain(visible(folder)) for folder in folders}
    classes = tuple(sorted(set(names.values())))
    in_numbers = sorted(classes, key=int) if all(name.isascii() and name.isdecimal() for name in classes) else [*classes]
    for text, number in zip(classes, in_numbers, strict=True):
        if text != number:
            raise InputError(
                f"{address}: the class folders are numbers, and are in one order as text ({text!r} before {number!r}) and in "
                "another as numbers; name them in `classes`, in the order of the model's outputs"
            )
    places = {name: index for index, name in enumerate(classes)}
    indices = {folder: places[name] for folder, name in names.items()}
    check_alike(indices, address)
    return classes, indices


def _indices(folders: Sequence[str], classes: ClassNames, address: str) -> dict[str, int]:
    """The index of each folder among the classes that the config names."""
    indices = {}
    for folder in folders:
        found = classes.find(visible(folder))
        if not found:
            raise InputError(
                f"{address}: folder {visible(folder)!r} is not among the {len(classes.names)} classes "
                f"({nearest(folder, classes.names)}); rename the folder, move it away, or add it to `classes`"
            )
        indices[folder] = classes.only(found, f"images are in folder {folder!r}")
    check_alike(indices, address)
    return indices


def check_alike(indices: Mapping[str, int], address: str) -> None:
    """Raises InputError where two folders are of one class: their names differ by what nobody sees."""
    first: dict[int, str] = {}
    for folder, index in indices.items():
        other = first.setdefault(index, folder)
        if other != folder:
            raise InputError(
                f"{address}: folders {other!a} and {folder!a} look alike, and would be one class; put their images in one"
            )


def check_parts(paths: Sequence[str], address: str) -> None:
    """Raises InputError where the folders at the top are not classes but parts of a dataset, each with all classes in it.

    They are such where they are called so (train, val), or where each has two folders or more in it, and no image beside
    these, and none that the one with the most folders lacks: a single one always does.
    """
    inside: dict[str, set[str]] = {}
    for path in paths:
        top, *folders, _ = path.split("/")
        inside.setdefault(top, set()).add(folders[0] if folders else "")
    tops = list(inside)
    parts = [top for top in tops if SPLIT.fullmatch(top)]
    if len(parts) < 2 and len(parts) < len(tops):
        most = max(inside.values(), key=len)
        if any("" in held or len(held) == 1 or not held <= most for held in inside.values()):
            return
        parts = tops
    if len(tops) == 1:
        raise InputError(
            f"{address}: its only folder, {visible(tops[0])!r}, holds the folders of classes; give it as the dataset's path, or "
            "name it in `classes` if it is a class"
        )
    listed = ", ".join(repr(visible(top)) for top in parts[:3])
    raise InputError(
        f"{address}: its folders ({listed}) look like parts of a dataset, each with all classes, and not like classes; give one "
        f"of them as the dataset's path, or name them in `classes` if classes they are"
    )
