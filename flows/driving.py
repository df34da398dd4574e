"""Many tasks over a cluster, a bounded number of them at a time."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from distributed import Client, as_completed

WINDOW = 2
"""Tasks in flight for each worker: one at work, one waiting."""

Item = TypeVar("Item")


def drive(client: Client, submit: Callable[[Item], Any], items: Iterable[Item], progress: Callable[[Any], None]) -> None:
    """Submits a task for each item, releasing each when it is done; its result goes to `progress`. Raises what a task raised."""
    waiting = iter(items)
    window = WINDOW * max(1, sum(client.nthreads().values()))
    running = as_completed([submit(item) for _, item in zip(range(window), waiting, strict=False)], loop=client.loop)
    for future in running:
        progress(future.result())
        future.release()
        for following in waiting:
            running.add(submit(following))
            break
