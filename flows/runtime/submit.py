"""Many tasks over a cluster, a bounded number of them at a time."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from distributed import Client, KilledWorker, as_completed

WINDOW = 2
"""Tasks in flight for each worker: one at work, one waiting."""

Item = TypeVar("Item")


def submit_all(
    client: Client, submit: Callable[[Item], Any], items: Iterable[Item], progress: Callable[[Any], None]
) -> list[Item]:
    """Submits a task for each item, releasing each when it is done; its result goes to `progress`.

    Returns the items whose worker died: one of them, or a neighbour on that worker, may be why. Raises what a task raised.
    """
    waiting = iter(items)
    window = WINDOW * max(1, sum(client.nthreads().values()))
    item_of: dict[str, Item] = {}
    suspects: list[Item] = []

    def begin(item: Item) -> Any:
        future = submit(item)
        item_of[future.key] = item
        return future

    running = as_completed([begin(item) for _, item in zip(range(window), waiting, strict=False)], loop=client.loop)
    for future in running:
        item = item_of.pop(future.key)
        try:
            progress(future.result())
        except KilledWorker:
            suspects.append(item)
        future.release()
        for following in waiting:
            running.add(begin(following))
            break
    return suspects


def try_alone(submit: Callable[[int], Any], progress: Callable[[Any], None], tries: int) -> bool:
    """Runs one task with no other beside it, until it ends; its result goes to `progress`.

    submit: takes how often its worker has died. tries: the deaths, of which there was one already, after which it is given
    up. Returns whether it ended.
    """
    for deaths in range(1, tries):
        try:
            progress(submit(deaths).result())
        except KilledWorker:
            continue
        return True
    return False
