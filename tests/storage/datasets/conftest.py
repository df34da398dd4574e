from collections.abc import Iterator
from uuid import uuid4

import fsspec
import pytest


@pytest.fixture
def memory() -> Iterator[str]:
    """The address of an empty folder that is on no disk."""
    address = f"memory://{uuid4().hex}"
    yield address
    filesystem, path = fsspec.url_to_fs(address)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)
