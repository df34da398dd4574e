"""What commits cost beside the work of a shard, how fast a run is resumed, how fast its tables answer, and what images cost.

python -m tests.bench.bench_store [commits] [resume] [queries] [images] [--imagenet FOLDER]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import torch
from distributed import LocalCluster
from rich.console import Console
from rich.table import Table

from auditor import Clear
from auditor.statistics.evidence import label_evidence
from flows.analyses import known_schemas, runner
from flows.analyses.evidence import as_sums, cell_pixels, mean_evidence
from flows.config import load_config
from flows.demo.train import HERE as DEMO
from flows.orchestration.launch import run_audit
from flows.runtime.progress import Progress
from reports.formats import file_size
from storage.aggregates import CONFUSION
from storage.datasets.formats import open_dataset
from storage.datasets.manifest import ManifestSpec
from storage.datasets.preprocessing import InputSpec, normalize, read_prepared
from storage.filesystems import files_below
from storage.joins import place_rows
from storage.maps import MapShape, shard_files, write_shard
from storage.runs.commits import Commit, ensure_folders, open_attempt
from storage.runs.manifest import Manifest
from storage.runs.plan import Plan, Unit
from storage.runs.run import MAPS, Run, create_run, publish
from storage.sql.read_only import connect, select
from storage.tables import SCHEMAS, compact, write_table
from tests.bench.bench_control import memory, resume
from tests.bench.networks import efficientnet_lite0
from tests.reports.stores import SMALL, make_plan

PARTS = ("commits", "resume", "queries", "images")
SHARDS = 20_000
ROWS = 10_000_000
SHARD_SAMPLES = 512
CASES = ((10, 10), (1_000, 20))
"""Classes of the model, and how many of them have a row for a sample."""
ROUNDS = 7
LARGE_IMAGES = 48

QUERIES = {
    "point lookup": ("SELECT * FROM responses WHERE sample_index = {sample} ORDER BY class_index", 30),
    "class group-by": (
        "SELECT class_index, count(*) AS sample_count, avg(dominant_energy_frac) AS energy FROM responses "
        "GROUP BY class_index ORDER BY class_index",
        150,
    ),
    "label × dominant class": (
        "SELECT label, dominant_class, sum(sample_count) AS sample_count FROM confusion GROUP BY ALL ORDER BY ALL",
        50,
    ),
}
"""SELECTs, and the milliseconds that they may take."""


def measure_commits(table: Table, folder: Path) -> None:
    """An audit of the demo's digits whose one worker, of one thread, is in this process, where its steps can be timed."""
    began, ended = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)

    def timed(name: str) -> Callable[..., Any]:
        function = getattr(runner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            began[name].append(time.perf_counter())
            result = function(*arguments, **options)
            ended[name].append(time.perf_counter())
            return result

        return call

    def secs(name: str) -> np.ndarray:
        return np.array(ended[name]) - np.array(began[name])

    steps = {name: timed(name) for name in ("adopt_planned", "open_attempt", "commit_attempt", "commit_pass")}
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "protocol": "tcp://", "dashboard_address": None}
    with LocalCluster(**options) as cluster, patch.multiple(runner, **steps):
        settings = [f"compute.cluster={cluster.scheduler_address}", "compute.threads=1"]
        outcome = run_audit(load_config(DEMO / "demo.toml", settings), folder, Progress())
    say_sizes(table, outcome.run, outcome.processed)
    # Each analysis of the pass has an attempt of its own.
    protocol = (secs("open_attempt") + secs("commit_attempt")).reshape(len(began["commit_pass"]), -1).sum(1)
    work = float(np.median(np.array(began["commit_pass"]) - np.array(ended["adopt_planned"])))
    table.add_row(f"shard of {SHARD_SAMPLES} digits: its work", f"{1000 * work:.0f} ms", "")
    for name, taken, bound in (
        ("writing its maps and tables", secs("commit_pass") - protocol, ""),
        ("committing them", protocol, "≤ 3 %"),
    ):
        median = float(np.median(taken))
        table.add_row(f"  {name}", f"{1000 * median:.1f} ms, {100 * median / work:.1f} % of the work", bound)


def say_sizes(table: Table, run: Run, images: int) -> None:
    maps = sum(path.stat().st_size for path in files_below(run.maps))
    tables = sum(run.table(name).stat().st_size for name in known_schemas())
    table.add_row("on disk: maps", f"{maps / images:.0f} bytes an image", "")
    table.add_row("on disk: tables", f"{tables / images:.0f} bytes an image", "")


def measure_resume(table: Table, folder: Path) -> None:
    """Of a run whose process died before its last shards: plan, commits and attempts as workers leave them."""
    plan = make_plan(SMALL).model_copy(update={"sample_count": SHARDS * SHARD_SAMPLES, "shard_samples": SHARD_SAMPLES})
    run = create_run(folder, plan)
    left = plan.shards()[-10:]
    chunks = [f"maps.zarr/{name}" for name in shard_files(0)]
    arrays = [f"maps.zarr/{name.split('/')[0]}/zarr.json" for name in shard_files(0)]
    parts = [f"{name}.parquet" for name in ("failures", "samples", "responses")]
    files = {MAPS: [*parts, "maps.zarr/zarr.json", *arrays, *chunks], "evidence": ["evidence.parquet"]}
    ensure_folders(run, files)
    for shard in plan.shards():
        for analysis, names in files.items():
            attempt = open_attempt(run, analysis, shard)
            if shard in left:
                continue
            commit = Commit(
                run_id=run.run_id,
                analysis=analysis,
                unit=shard.index,
                attempt=attempt.name,
                processed_count=SHARD_SAMPLES,
                failed_count=0,
                duration_secs=1.0,
                files=dict.fromkeys(names, f"{shard.index:064x}"),
            )
            (run.commits_of(analysis) / f"{shard.index:05d}.json").write_text(commit.model_dump_json(indent=1))
    times = []
    for _ in range(ROUNDS):
        secs, remaining = resume(run, plan)
        assert remaining == left
        times.append(secs)
    table.add_row(f"resume of {SHARDS:,} shards", f"{statistics.median(times):.2f} s", "≤ 10 s")


def measure_queries(table: Table, folder: Path, classes: int, kept: int) -> None:
    run, plan = make_tables(folder, classes, kept, table)
    started = time.perf_counter()
    connection = connect(folder, [run.run_id])
    connected = time.perf_counter() - started
    size = file_size(run.table("responses").stat().st_size)
    table.add_row(f"{ROWS:,} rows, {classes:,} classes: connect", f"{1000 * connected:.0f} ms ({size})", "")
    generator = np.random.default_rng(1)
    for name, (sql, bound) in QUERIES.items():
        times = []
        used = time.process_time()
        for sample in generator.integers(plan.sample_count, size=ROUNDS + 1):
            started = time.perf_counter()
            found = select(connection, sql.format(sample=sample))
            times.append(1000 * (time.perf_counter() - started))
            assert found.num_rows == {"point lookup": kept, "class group-by": classes}.get(name, found.num_rows)
        # Of all threads: where other load slows them down, what they would take alone is no less than this over the cores.
        processor = 1000 * (time.process_time() - used) / len(times)
        first, *others = times
        told = f"first {first:.0f}, least {min(others):.0f}, processor {processor:.0f}"
        table.add_row(f"  {name}", f"{statistics.median(others):.0f} ms ({told})", f"≤ {bound} ms")
    connection.close()
    for name in ("point lookup", "class group-by"):
        sql = QUERIES[name][0].format(sample=plan.sample_count // 2)
        times = [command_secs(sql, folder) for _ in range(ROUNDS)]
        table.add_row(f"  clear-audit query: {name}", f"{statistics.median(times):.2f} s", "")


def command_secs(sql: str, store: Path) -> float:
    started = time.perf_counter()
    command = [sys.executable, "-m", "flows.cli", "query", sql, "--store", str(store)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def measure_images(table: Table, folder: Path, imagenet: Path | None) -> None:
    """What grows with the dataset rather than with the shards. Processor time, which other load hardly changes."""
    folder.mkdir()
    listed = folder / "images.csv"
    lines = (f"train/n{index % 1000:08d}/n{index % 1000:08d}_{index:08d}.JPEG,{index % 1000}\n" for index in range(1_000_000))
    listed.write_text("path,label\n" + "".join(lines))
    names = tuple(map(str, range(1000)))
    before, started = memory(), time.process_time()
    many = open_dataset(ManifestSpec("manifest", str(listed), classes=names))
    secs = time.process_time() - started
    table.add_row(f"manifest of {len(many):,} images, opened", f"{secs:.1f} s, {(memory() - before) / 1e6:.0f} MB", "")
    if imagenet is None:
        return
    torch.set_num_threads(1)
    dataset = open_dataset(ManifestSpec("manifest", str(imagenet / "labels.csv"), classes=names))
    spec = InputSpec(3, 224, 224, mean=(0.498,) * 3, std=(0.502,) * 3)

    def cpu_ms(work: Callable[[], object], images: int) -> float:
        times = []
        for _ in range(3):
            started = time.process_time()
            work()
            times.append(1000 * (time.process_time() - started) / images)
        return statistics.median(times)

    table.add_row("image file: hashed when planned", f"{cpu_ms(dataset.content_hash, len(dataset)):.2f} ms", "")
    milliseconds = cpu_ms(lambda: read_prepared(dataset, spec, 0, LARGE_IMAGES), LARGE_IMAGES)
    table.add_row("  read, hashed, decoded, cut to 224 × 224", f"{milliseconds:.2f} ms", "")
    _, pixels, _ = read_prepared(dataset, spec, 0, LARGE_IMAGES)
    clear = Clear(efficientnet_lite0(), top_k=10)
    maps = [clear(torch.from_numpy(normalize(pixels[start : start + 4], spec))) for start in range(0, LARGE_IMAGES, 4)]
    dominant = np.concatenate([found.dominant_class.numpy() for found in maps])
    response = np.concatenate([found.dominant_response.numpy() for found in maps])
    paths = iter(folder / f"{number}.zarr" for number in range(3))
    shape = MapShape(LARGE_IMAGES, 224, 224, LARGE_IMAGES)
    milliseconds = cpu_ms(lambda: write_shard(next(paths), shape, dominant, response), LARGE_IMAGES)
    written = sum(path.stat().st_size for path in files_below(folder / "0.zarr"))
    table.add_row("  its maps", f"{milliseconds:.2f} ms to write, {written / LARGE_IMAGES / 1000:.0f} kB", "")
    labels = torch.arange(LARGE_IMAGES)
    sums = label_evidence(torch.from_numpy(dominant), torch.from_numpy(response), labels, cell_pixels(224, 224))
    write_table(as_sums(*(part.numpy() for part in sums)), folder / "sums.parquet")
    kilobytes = (folder / "sums.parquet").stat().st_size / LARGE_IMAGES / 1000
    shards = 10
    plan = make_plan(SMALL).model_copy(update={"class_names": list(names), "height": 224, "width": 224})
    milliseconds = cpu_ms(lambda: mean_evidence([folder / "sums.parquet"] * shards, plan), shards * LARGE_IMAGES)
    table.add_row("  its label's evidence, in a shard", f"{milliseconds:.2f} ms to add, {kilobytes:.0f} kB", "")


def make_tables(store: Path, classes: int, kept: int, table: Table) -> tuple[Run, Plan]:
    """A published run with the tables that are asked, joined from shards as an audit joins them."""
    samples = ROWS // kept
    names = [str(number) for number in range(classes)]
    update = {"sample_count": samples, "shard_samples": SHARD_SAMPLES, "class_names": names}
    plan = make_plan(SMALL).model_copy(update=update)
    run = create_run(store, plan)
    generator = np.random.default_rng(0)
    parts: dict[str, list[Path]] = {"samples": [], "responses": []}
    for shard in plan.shards():
        rows = {
            "samples": make_samples(generator, shard, classes),
            "responses": make_responses(generator, shard, classes, kept),
        }
        for name, part in rows.items():
            parts[name].append(run.attempts / f"{name}-{shard.index}.parquet")
            write_table(part, parts[name][-1])
    for name, paths in parts.items():
        run.table(name).parent.mkdir(parents=True)
        started = time.perf_counter()
        joined = compact(paths, run.table(name), SCHEMAS[name])
        if name == "responses":
            rate = joined / (time.perf_counter() - started)
            table.add_row(f"joining {len(paths):,} parts of responses", f"{rate / 1e6:.1f} million rows a second", "")
    with connect(store, [run.run_id]) as connection:
        place_rows(run, "confusion", select(connection, CONFUSION))
    counts = {"expected_count": samples, "processed_count": samples, "failed_count": 0}
    times = {"started_at": plan.created_at, "finished_at": datetime.now(UTC)}
    publish(run, Manifest(run_id=run.run_id, plan_hash="", readings=[], environment={}, artefacts={}, **counts, **times))
    return run, plan


def make_samples(generator: np.random.Generator, shard: Unit, classes: int) -> pa.Table:
    count = shard.stop - shard.start
    label = generator.integers(classes, size=count)
    prediction = np.where(generator.random(count) < 0.8, label, near(generator, label, classes))
    dominant = np.where(generator.random(count) < 0.6, prediction, near(generator, label, classes))
    known = {
        "sample_index": np.arange(shard.start, shard.stop),
        "sample_id": [f"{index:08d}.png" for index in range(shard.start, shard.stop)],
        "content_hash": [row.tobytes().hex() for row in generator.integers(256, size=(count, 32), dtype=np.uint8)],
        "label": label,
        "prediction": prediction,
        "is_correct": label == prediction,
        "dominant_class": dominant,
    }
    return fill(SCHEMAS["samples"], known, count, generator)


def near(generator: np.random.Generator, label: np.ndarray, classes: int) -> np.ndarray:
    """Classes that the labels are taken for: some often, most of them hardly ever."""
    return (label + generator.geometric(0.1, size=len(label))) % classes


def make_responses(generator: np.random.Generator, shard: Unit, classes: int, kept: int) -> pa.Table:
    count = shard.stop - shard.start
    chosen = np.argsort(generator.random((count, classes)), axis=1)[:, :kept]
    known = {"sample_index": np.repeat(np.arange(shard.start, shard.stop), kept), "class_index": np.sort(chosen, axis=1).ravel()}
    return fill(SCHEMAS["responses"], known, count * kept, generator)


def fill(schema: pa.Schema, known: dict[str, Any], count: int, generator: np.random.Generator) -> pa.Table:
    """Rows with the columns that are known, and numbers as scores have them: positive, and no two alike."""
    columns = [
        pa.array(known[field.name] if field.name in known else generator.gamma(2, size=count), field.type) for field in schema
    ]
    return pa.table(columns, schema=schema)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"what to measure, of {', '.join(PARTS)}; default: all")
    parser.add_argument("--imagenet", type=Path, help="folder with labels.csv and ImageNet images, for what images cost")
    options = parser.parse_args()
    parts = options.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no {', '.join(unknown)}")
    table = Table("what", "measured", "wanted", title=f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "commits" in parts:
            measure_commits(table, folder / "commits")
        if "resume" in parts:
            measure_resume(table, folder / "resume")
        for classes, kept in CASES if "queries" in parts else ():
            measure_queries(table, folder / f"queries-{classes}", classes, kept)
        if "images" in parts:
            measure_images(table, folder / "images", options.imagenet)
    table.caption = f"load at the end {os.getloadavg()[0]:.1f}"
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
