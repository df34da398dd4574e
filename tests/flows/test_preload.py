"""What a worker does first."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_what_a_worker_and_what_it_starts_print_is_no_data() -> None:
    script = "import os; from flows.preload import dask_setup; dask_setup(None); print('one', flush=True); os.system('echo two')"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "one\ntwo\n")
