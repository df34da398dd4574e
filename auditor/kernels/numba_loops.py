"""Loops that numba compiles (extra `cpu`), and the threads that share them out."""

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch

Loops = Callable[..., None]
PARTS = 4
"""Into how many parts the work of a thread is cut, so that none waits long for another."""


@cache
def compiled(loops: Loops) -> Loops | None:
    """The same, compiled at its first call, which takes a second or so; None without numba."""
    try:
        import numba
    except ImportError:
        return None
    # Fused multiply and add, sums in any order: as in any library of matrix products.
    done: Loops = numba.njit(nogil=True, fastmath={"contract", "reassoc", "nsz"})(loops)
    return done


def share_out(loops: Loops, count: int, *given: Any) -> None:
    """Has compiled loops, called with `given`, a start and a stop, go from 0 to `count`, on as many threads as torch has."""
    threads = torch.get_num_threads()
    if threads == 1:
        loops(*given, 0, count)
        return
    part = max(1, -(-count // (threads * PARTS)))
    starts = iter(range(0, count, part))
    errors: list[BaseException] = []

    def work(_: int | None = None) -> None:
        try:
            for start in starts:
                loops(*given, start, min(start + part, count))
        except BaseException as error:
            errors.append(error)

    run_on_each(threads, work)
    if errors:
        raise errors[0]


def run_on_each(threads: int, work: Callable[[int | None], None]) -> None:
    """On torch's own threads where its OpenMP is GNU's: idle, they spin for milliseconds, and would slow any other threads."""
    parallel = gnu_openmp()
    if parallel is None:
        for done in [team(threads).submit(work, None) for _ in range(threads)]:
            done.result()
    else:
        parallel(Work(work), None, threads, 0)


Work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@cache
def gnu_openmp() -> Callable[..., None] | None:
    """The function by which compilers start a parallel region, of the library that torch has loaded, found by its name."""
    try:
        parallel = ctypes.CDLL("libgomp.so.1").GOMP_parallel
    except (OSError, AttributeError):
        return None
    parallel.restype, parallel.argtypes = None, [Work, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    started: Callable[..., None] = parallel
    return started


@cache
def team(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)
