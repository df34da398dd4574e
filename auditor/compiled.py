"""Loops that numba compiles (extra `cpu`), and the threads that share them out."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch

Loops = Callable[..., None]
PARTS = 4
"""Of the work, for each thread, so that none waits long for another."""


@cache
def compiled(loops: Loops) -> Loops | None:
    """The same, compiled at its first call, which takes a second or so; None without numba."""
    try:
        import numba
    except ImportError:
        return None
    # A product and a sum in one instruction, in any order: as the products of any library.
    done: Loops = numba.njit(nogil=True, fastmath={"contract", "reassoc", "nsz"})(loops)
    return done


def share_out(loops: Loops, count: int, *given: Any) -> None:
    """Has compiled loops, called with `given`, a start and a stop, go from 0 to `count`, on as many threads as torch has."""
    threads = torch.get_num_threads()
    if threads == 1:
        loops(*given, 0, count)
        return
    part = max(1, -(-count // (threads * PARTS)))
    for done in [team(threads).submit(loops, *given, start, min(start + part, count)) for start in range(0, count, part)]:
        done.result()


@cache
def team(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)
