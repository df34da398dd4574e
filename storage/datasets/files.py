"""Labelled image files below a root, read in order."""

import hashlib
import json
import posixpath
import re
import stat
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from os.path import realpath
from pathlib import Path, PureWindowsPath

import numpy as np
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from storage.datasets.dataset import Samples
from storage.datasets.images import BLOCK_BYTES, Content, UnreadableImage, check_range, decode, samples_of

READING_THREADS = 8
FILES_IN_FLIGHT = 1024
LARGEST_FILE = 1 << 30
SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class ImageFiles:
    """Labelled image files below one root, read in order.

    paths: POSIX paths relative to `root`. labels: (N,) int64, −1 = unknown. ids: the paths, with what is no text in them
    made visible.
    """

    filesystem: AbstractFileSystem
    root: str
    paths: list[str]
    labels: np.ndarray

    @cached_property
    def ids(self) -> list[str]:
        return visible_names(self.paths)

    def read(self, start: int, stop: int) -> Samples:
        """The samples of [start, stop); failures are keyed by position in this range."""
        check_range(start, stop, len(self.paths))
        with ThreadPoolExecutor(READING_THREADS) as pool:
            contents = list(pool.map(self._content, self.paths[start:stop]))
        return samples_of(self.ids[start:stop], self.labels[start:stop], contents)

    def content_hash(self, classes: tuple[str, ...]) -> str:
        """SHA-256 over the classes and every (id, label, SHA-256 of the file); an unreadable file counts as such."""
        total = hashlib.sha256(json.dumps(classes).encode())
        for name, label, digest in zip(self.ids, self.labels.tolist(), self._digests(), strict=True):
            total.update(json.dumps([name, label, digest]).encode())
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
        located = self._find(path)
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

    def _find(self, path: str) -> str:
        """Where a file lies: as its path is written, or, where nothing is there, under a name that looks the same."""
        inside = self._inside(path)
        located = f"{self.root}/{inside}"
        if (path.isascii() and path == path.strip()) or self.filesystem.exists(located):
            return located
        place = self.root
        for part in inside.strip().split("/"):
            forms = [part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD"))]
            place = next((f"{place}/{form}" for form in forms if self.filesystem.exists(f"{place}/{form}")), f"{place}/{part}")
        return place

    def _below_root(self, path: str) -> str:
        """A path as it is below the root, where it is written from the very top, or as an address, and lies there."""
        protocols = self.filesystem.protocol
        names = (protocols,) if isinstance(protocols, str) else protocols
        if not path.startswith(("/", *(f"{name}://" for name in names))):
            return path
        written = posixpath.normpath(str(self.filesystem._strip_protocol(path)))
        return written.removeprefix(f"{self.root}/")

    def _inside(self, path: str) -> str:
        """A path below the root. Raises UnreadableImage where it leads elsewhere."""
        if not path or "\0" in path:
            raise UnreadableImage("no path is given" if not path else f"{path!r} is not a path")
        below = self._below_root(path)
        inside = posixpath.normpath(below)
        is_anchored = "://" in below or inside.startswith("/") or PureWindowsPath(inside).anchor
        if is_anchored or ".." in re.split(r"[\\/]", inside):
            raise UnreadableImage(f"{path!r} leads out of the dataset's folder; only files below it are read")
        return inside


def visible(name: str) -> str:
    """A name of a file with the bytes in it that are no UTF-8, which Python has as surrogates, written out: \\xe9."""
    return SURROGATES.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}" if found[0] >= "\udc80" else ascii(found[0])[1:-1], name)


def visible_names(names: list[str]) -> list[str]:
    """The names, made visible; one that is then called as another is has more backslashes."""
    strange = [place for place, name in enumerate(names) if not name.isascii() and SURROGATES.search(name)]
    if not strange:
        return names
    shown, taken = [*names], {*names}
    for place in strange:
        name = visible(names[place])
        while name in taken:
            name = name.replace("\\x", "\\\\x")
        shown[place] = name
        taken.add(name)
    return shown
