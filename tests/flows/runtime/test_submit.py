"""Tasks that kill their worker, on real processes: who is suspected, who is given up, and how often each was begun."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from flows.runtime.cluster import open_cluster
from flows.runtime.submit import submit_all, try_alone
from flows.sections import ComputeSection


@pytest.fixture(scope="module")
def processes() -> Iterator[Client]:
    with open_cluster(ComputeSection(workers=2, threads=1)) as cluster, Client(cluster, set_as_default=False) as client:
        yield client


def work(folder: Path, item: int, deadly: int) -> int:
    """Notes that it was begun, and kills its worker the first `deadly` times."""
    begun = len(list(folder.glob(f"{item}-*")))
    (folder / f"{item}-{begun}").touch()
    if begun < deadly:
        os._exit(9)
    return item


def begun(folder: Path, item: int) -> int:
    return len(list(folder.glob(f"{item}-*")))


def test_who_kills_is_suspected_and_all_others_end(processes: Client, tmp_path: Path) -> None:
    """Item 3 kills always, item 7 once. A neighbour of theirs may be suspected as well; nobody is forgotten, or done twice."""
    deadly = {3: 99, 7: 1}
    done: list[int] = []

    def submit(item: int, deaths: int = 0) -> Any:
        return processes.submit(work, tmp_path, item, deadly.get(item, 0), key=f"work-{item}-{deaths}", pure=False)

    suspects = submit_all(processes, submit, range(20), done.append)
    assert {3, 7} <= set(suspects)
    assert sorted([*done, *suspects]) == list(range(20))
    given_up = [item for item in suspects if not try_alone(lambda deaths, item=item: submit(item, deaths), done.append, 3)]
    assert given_up == [3]
    assert sorted(done) == [item for item in range(20) if item != 3]
    assert (begun(tmp_path, 3), begun(tmp_path, 7)) == (3, 2)


def test_one_try_is_one_try(processes: Client, tmp_path: Path) -> None:
    suspects = submit_all(processes, lambda item: processes.submit(work, tmp_path, item, 1, pure=False), [0], print)
    assert suspects == [0]
    assert not try_alone(lambda deaths: pytest.fail("tried again"), print, tries=1)
    assert begun(tmp_path, 0) == 1


def test_what_a_task_raises_is_raised(processes: Client) -> None:
    with pytest.raises(ZeroDivisionError):
        submit_all(processes, lambda item: processes.submit(divmod, 1, item, pure=False), [1, 0], print)


def test_progress_hears_every_result(processes: Client) -> None:
    heard: list[int] = []
    assert submit_all(processes, lambda item: processes.submit(abs, item, pure=False), range(-9, 0), heard.append) == []
    assert sorted(heard) == list(range(1, 10))
