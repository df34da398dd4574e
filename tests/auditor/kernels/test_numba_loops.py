"""Loops that numba compiles: where it is there, where it is not, and on several threads."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import auditor.kernels.numba_loops
from auditor.kernels.numba_loops import compiled, share_out


def count_up(values: Any, step: int, start: int, stop: int) -> None:
    for place in range(start, stop):
        values[place] += step * place


@pytest.fixture(params=["torch's threads", "ours"])
def openmp(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With GNU's OpenMP, which PyTorch brings along on Linux, and as it is elsewhere."""
    if request.param == "ours":
        monkeypatch.setattr(auditor.kernels.numba_loops, "gnu_openmp", lambda: None)
    elif sys.platform == "linux":
        assert auditor.kernels.numba_loops.gnu_openmp() is not None


@pytest.mark.usefixtures("openmp")
@pytest.mark.parametrize("count", [0, 1, 7, 100])
@pytest.mark.parametrize("number", [1, 2, 5])
def test_every_part_is_done_once(count: int, number: int, threads: Callable[[int], None]) -> None:
    loops = compiled(count_up)
    assert loops is not None
    threads(number)
    values = np.zeros(count, np.int64)
    share_out(loops, count, values, 3)
    assert values.tolist() == [3 * place for place in range(count)]


@pytest.mark.usefixtures("openmp")
@pytest.mark.parametrize("number", [1, 2])
def test_an_error_in_a_thread_is_an_error(number: int, threads: Callable[[int], None]) -> None:
    def failing(start: int, stop: int) -> None:
        if stop == 8:
            raise ValueError("no loop")

    threads(number)
    with pytest.raises(ValueError, match="no loop"):
        share_out(failing, 8)


def printed(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_without_numba_nothing_is_compiled() -> None:
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import torch; from auditor.kernels.numba_loops import compiled\n"
        "from auditor.kernels.sparse_conv_transpose import is_worth_it\n"
        "print(compiled(print), is_worth_it(torch.zeros(8, 32, 8, 8), torch.ones(32, 32, 3, 3)))"
    )
    assert printed(code) == "None False"


def test_numba_is_not_imported_before_something_is_compiled() -> None:
    assert printed("import sys, auditor, flows.cli.app; print('numba' in sys.modules)") == "False"
