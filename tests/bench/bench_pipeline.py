"""The whole pipeline against the bare engine, statistics against maps, start-up, and memory.

make bench          # some minutes; ratios are of one run on one machine
"""

import argparse
import gzip
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from auditor import Clear, measure
from flows.demo.train import HERE as DEMO
from flows.demo.train import read_digits
from storage.models.factories import FactorySpec
from storage.models.sources import load_model

BATCH = 64
MEMORY_GROWTH = 6


def engine(images: Tensor, labels: Tensor) -> dict[str, float]:
    """Images a second of the forward pass, of maps, and of maps with statistics, each in one process from memory.

    The three take turns, batch by batch, so that a machine that slows down slows all of them.
    """
    model = load_model(FactorySpec("flows.demo.allcnn:build", str(DEMO / "allcnn.safetensors")))
    clear = Clear(model)
    ways: dict[str, Callable[[Tensor, Tensor], object]] = {
        "forward": torch.inference_mode()(lambda batch, _: clear.model(batch)),
        "maps": lambda batch, _: clear(batch),
        "maps and statistics": lambda batch, own: measure(clear, batch, own),
    }
    for way in ways.values():
        way(images[:BATCH], labels[:BATCH])
    secs = dict.fromkeys(ways, 0.0)
    for batch, own in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        for name, way in ways.items():
            started = time.perf_counter()
            way(batch, own)
            secs[name] += time.perf_counter() - started
    return {name: len(images) / taken for name, taken in secs.items()}


@dataclass(frozen=True)
class Timed:
    """One run of the command line. startup_secs: until its plan is on disk; work_secs: from there until the process ended."""

    startup_secs: float
    compute_secs: float
    work_secs: float


def timed(arguments: list[str], store: Path) -> Timed:
    started = time.perf_counter()
    process = subprocess.Popen(command(arguments, store), stdout=subprocess.PIPE, text=True)
    while not list(store.glob("runs/*/plan.json")) and process.poll() is None:
        time.sleep(0.02)
    planned = time.perf_counter()
    output, _ = process.communicate()
    ended = time.perf_counter()
    check(process)
    found = re.search(r"([\d.]+) s for the images", output)
    assert found is not None, output
    return Timed(planned - started, float(found[1]), ended - planned)


def peak_memory(arguments: list[str], store: Path) -> int:
    """Bytes, of the whole tree of processes at once. A run of its own: to read a large process's maps slows it down."""
    process = subprocess.Popen(command(arguments, store), stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, tree_memory(process.pid))
        time.sleep(1)
    check(process)
    return peak


def command(arguments: list[str], store: Path) -> list[str]:
    return [sys.executable, "-m", "flows.cli", *arguments, "--store", str(store)]


def check(process: subprocess.Popen[Any]) -> None:
    if process.returncode:
        raise SystemExit(f"{process.args} ended with code {process.returncode}")


def tree_memory(pid: int) -> int:
    """Proportional set size of a process and its descendants: shared pages count once."""
    total = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def write_tiled(folder: Path, times: int) -> Path:
    """The demo's digits `times` over, as a config and IDX files."""
    for kind, header in (("images-idx3", 16), ("labels-idx1", 8)):
        content = gzip.decompress((DEMO / f"t10k-{kind}-ubyte.gz").read_bytes())
        magic, count = struct.unpack(">2i", content[:8])
        tiled = struct.pack(">2i", magic, count * times) + content[8:header] + content[header:] * times
        (folder / f"{kind}.gz").write_bytes(gzip.compress(tiled, 1))
    text = (DEMO / "demo.toml").read_text()
    text = text.replace("t10k-images-idx3-ubyte.gz", "images-idx3.gz").replace("t10k-labels-idx1-ubyte.gz", "labels-idx1.gz")
    path = folder / "audit.toml"
    path.write_text(text.replace('"allcnn.safetensors"', f'"{(DEMO / "allcnn.safetensors").as_posix()}"'))
    return path


def help_secs() -> float:
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "flows.cli", "--help"], check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - started)
    return median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000, help="images for the engine's part")
    parser.add_argument("--no-memory", action="store_true", help="leave out the run of 60,000 images")
    options = parser.parse_args()
    images, labels = read_digits(DEMO / "t10k-images-idx3-ubyte.gz", DEMO / "t10k-labels-idx1-ubyte.gz")
    images, labels = images[: options.images], labels[: options.images]
    table = Table(
        "what", "measured", "wanted", title=f"{os.cpu_count()} cores, torch {torch.__version__}, numpy {np.__version__}"
    )

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # The engine before and after the pipeline: a machine whose speed drifts drifts for both.
        before = engine(images, labels)
        small = timed(["demo"], folder / "timed")
        after = engine(images, labels)
        rates = {way: (before[way] + after[way]) / 2 for way in before}
        for way, rate in rates.items():
            table.add_row(f"engine: {way}", f"{rate:.0f} images/s", "")
        cost = rates["maps"] / rates["maps and statistics"] - 1
        table.add_row("statistics, of the maps' time", f"{cost:.2f}", "≤ 0.40")
        rate = 10_000 / small.work_secs
        table.add_row("pipeline, all after start-up", f"{rate:.0f} images/s", "")
        table.add_row("pipeline, shards alone", f"{10_000 / small.compute_secs:.0f} images/s", "")
        table.add_row("pipeline / engine", f"{rate / rates['maps and statistics']:.2f}", "≥ 0.80")
        table.add_row("start-up", f"{small.startup_secs:.1f} s", "≤ 25 s")
        table.add_row("clear-audit --help", f"{help_secs():.2f} s", "≤ 1 s")
        if not options.no_memory:
            few = peak_memory(["demo"], folder / "few")
            many = peak_memory(["run", str(write_tiled(folder, MEMORY_GROWTH))], folder / "many")
            table.add_row("peak memory, 10,000 images", f"{few / 1e6:.0f} MB", "")
            table.add_row("peak memory, 60,000 images", f"{many / 1e6:.0f} MB", "")
            table.add_row("memory, 60,000 / 10,000", f"{many / few:.2f}", "≤ 1.10")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
