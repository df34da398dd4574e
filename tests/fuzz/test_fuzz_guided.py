"""Inputs that grow towards what the readers' code does not expect, where atheris can be installed."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.conftest import FUZZ_EXAMPLES, LONGEST_SECS

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed: pip install '.[fuzz]'"),
]


@pytest.mark.parametrize("reader", ["config", "idx", "manifest", "query", "plan", "commit", "run-manifest"])
def test_nothing_that_reaches_new_code_breaks_a_reader(reader: str, tmp_path: Path) -> None:
    options = [
        f"-runs={FUZZ_EXAMPLES}",
        "-max_len=1000",
        "-seed=1",
        f"-timeout={LONGEST_SECS:.0f}",
        f"-artifact_prefix={tmp_path}/",
    ]
    command = [sys.executable, "-m", "tests.fuzz.guided", reader, str(tmp_path), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"Done {FUZZ_EXAMPLES} runs" in done.stderr
