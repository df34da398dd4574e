"""The script for a machine with a GPU, on a CPU: the same code at small sizes, so that it does not rot."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.gpu import PARTS

ROOT = Path(__file__).parents[1]


def dry(out: Path, *parts: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OUT": str(out), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = [str(ROOT / "tests" / "bench" / "gpu.sh"), "--dry", *parts]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=out.parent)


def test_every_part_leaves_a_file_and_all_of_them_one(tmp_path: Path) -> None:
    parts = ["environment", "tests", "memory", "engine"]
    done = dry(tmp_path / "out", *parts)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*(f"{part}.md" for part in parts), "gpu.md"}
    whole = (tmp_path / "out" / "gpu.md").read_text()
    assert re.findall(r"^## (\w+)$", whole, re.MULTILINE) == parts
    assert "test_a_gpu_that_is_full_is_tried_with_less" in whole
    assert re.search(r"batches of 24 were asked for, and 6 fitted; no image was lost", whole)
    rows = [line for line in whole.splitlines() if line.startswith("| ALL-CNN") and "| gradient |" in line]
    assert [row.split(" | ")[1] for row in rows] == ["float32", "TF32", "bfloat16"]
    assert "100.00 %" in rows[0]


def test_a_part_that_fails_is_counted_and_costs_no_other(tmp_path: Path) -> None:
    done = dry(tmp_path / "out", "nonesuch", "environment")
    assert done.returncode == 1
    assert "(nonesuch ended with code 2)" in done.stdout
    assert "- device: " in (tmp_path / "out" / "environment.md").read_text()


@pytest.mark.soak
def test_whole_audits(tmp_path: Path) -> None:
    assert "audit" in PARTS
    done = dry(tmp_path / "out", "audit")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("maps equal to the last bit") == 2
