"""Files at whatever address fsspec knows: a dataset's, a model's."""

from pathlib import Path
from typing import IO, cast

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from storage.errors import InputError
from storage.filesystems import check_regular


def filesystem_of(address: str) -> tuple[AbstractFileSystem, str]:
    """The file system that an fsspec address or local path names, and the path in it.

    Raises InputError: a protocol that is unknown or whose package is not installed.
    """
    try:
        filesystem, path = url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise InputError(f"{address}: {error}; install what it names or use another address") from error
    return filesystem, path


def open_file(address: str) -> IO[bytes]:
    """A file's bytes. Raises InputError: no such protocol, or a pipe or device, which may never end; and OSError."""
    filesystem, path = filesystem_of(address)
    if isinstance(filesystem, LocalFileSystem):
        check_regular(Path(path))
    return cast(IO[bytes], filesystem.open(path, "rb"))
