import os
from pathlib import Path

from flows.streams import is_unread


def test_only_a_pipe_without_a_reader_is_unread(unread_pipe: int, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with open(reading), open(writing, "w") as read, (tmp_path / "file").open("w") as file:  # noqa: PTH123
        assert not is_unread(read)
        assert not is_unread(file)
    with open(os.dup(unread_pipe), "w") as stream:  # noqa: PTH123
        assert is_unread(stream)
