"""What a GPU can show, a part at a time: python -m tests.bench.gpu PART [--dry]; `gpu.sh` runs them all.

Writes markdown on stdout. --dry: the same code on a CPU, at small sizes, so that it does not rot.
"""

import argparse
import copy
import gzip
import importlib
import importlib.metadata
import os
import platform
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from auditor import Clear, UnsupportedModel, measure
from auditor.operations.rule_table import RULES
from flows.demo import allcnn
from flows.runtime.batches import BatchSize, compute_batches
from tests.bench.contests import clock, required_flops
from tests.bench.networks import VisionTransformer, resnet18, resnet20, resnet50, vit_small
from tests.bench.peers import autograd_loop, captum_loop

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "flows" / "demo"
PACKAGES = ("torch", "numpy", "pyarrow", "zarr", "dask", "distributed", "dask-cuda", "duckdb", "prefect", "captum", "numba")
PRECISIONS = ("float32", "TF32", "bfloat16")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Subject:
    """A network that is measured. shape: of an image. batch: images at once. competing: classes that are sent back."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    batch: int
    competing: int


SUBJECTS = (
    Subject("ALL-CNN, 28², 10 classes", allcnn.build, (1, 28, 28), 2048, 10),
    Subject("ResNet-20, 32², 10 classes", resnet20, (3, 32, 32), 2048, 10),
    Subject("ResNet-18, 224², 10 classes", resnet18, (3, 224, 224), 128, 10),
    Subject("ResNet-18, 224², 10 of 1000 classes", partial(resnet18, 1000), (3, 224, 224), 128, 10),
    Subject("ResNet-50, 224², 10 of 1000 classes", resnet50, (3, 224, 224), 64, 10),
    Subject("ViT-S/16, 224², 10 of 1000 classes", vit_small, (3, 224, 224), 128, 10),
)
DRY = (
    Subject("ALL-CNN, 28², 10 classes", allcnn.build, (1, 28, 28), 4, 10),
    Subject("ViT, 32², 10 of 60 classes", partial(VisionTransformer, 32, 16, 24, 1, 2, 60), (3, 32, 32), 2, 10),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu", description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--dry", action="store_true", help="on a CPU, at small sizes")
    options = parser.parse_args()
    if DEVICE == "cpu" and not options.dry:
        sys.exit("no CUDA device was found: --dry runs the same on a CPU, at small sizes")
    warnings.filterwarnings("ignore", module="captum")
    if options.dry:
        torch.set_num_threads(1)
    for line in PARTS[options.part](options.dry):
        print(line, flush=True)


def environment(dry: bool) -> Iterator[str]:
    """What is there."""
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else platform.processor() or "a CPU"
    yield f"- device: {name}"
    if DEVICE == "cuda":
        facts = torch.cuda.get_device_properties(0)
        yield f"- memory: {facts.total_memory / 2**30:.1f} GiB; {facts.multi_processor_count} multiprocessors"
        yield f"- CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    yield f"- {platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    for package in PACKAGES:
        try:
            yield f"- {package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"- {package} is not there"


def engine(dry: bool) -> Iterator[str]:
    """Images a second by rule and precision, of which part of the card's own rate of matrix products, and with what memory."""
    rates = {precision: product_rate(precision, 256 if dry else 8192) for precision in PRECISIONS}
    yield "Matrix products: " + ", ".join(f"{precision} {rate / 1e12:,.1f} TFLOP/s" for precision, rate in rates.items()) + "."
    yield ""
    yield "| network | precision | what | images a second | of the rate of products | peak memory | as the CPU's float32 |"
    yield "|---|---|---|---|---|---|---|"
    for subject in DRY if dry else SUBJECTS:
        model = subject.build().eval()
        images = torch.rand((subject.batch, *subject.shape), generator=torch.Generator().manual_seed(0))
        flops = required_flops(copy.deepcopy(model), images[:1], subject.competing)
        expected = {rule: maps for rule in RULES if (maps := on_cpu(model, rule, images[:2])) is not None}
        model, images = model.to(DEVICE), images.to(DEVICE)
        for precision in PRECISIONS:
            with arithmetic(precision) as name:
                ways: dict[str, Callable[[Tensor], object]] = {"forward": forward(model, name)}
                ways |= {rule: Clear(model, rule, precision=name) for rule in expected}
                if precision == "float32" and subject.competing == subject.build().eval()(images[:1].cpu()).shape[1]:
                    ways |= peers(model, subject.competing)
                for way, run in ways.items():
                    secs, peak = timed(run, images, 0 if dry else 0.4)
                    part = f"{100 * flops * subject.batch / secs / rates[precision]:.1f} %" if way in RULES else ""
                    like = alike(run(images[:2]), expected[way]) if way in RULES else ""
                    rate = f"{subject.batch / secs:,.0f}"
                    yield f"| {subject.name} | {precision} | {way} | {rate} | {part} | {peak / 2**20:,.0f} MiB | {like} |"
    for precision in ("float32", "bfloat16"):
        yield from kernels((DRY if dry else SUBJECTS)[min(2, len(DRY if dry else SUBJECTS) - 1)], precision)


def on_cpu(model: nn.Module, rule: str, images: Tensor) -> tuple[Tensor, Tensor] | None:
    """None where the rule has no answer."""
    try:
        maps = Clear(model, rule)(images)
    except UnsupportedModel:
        return None
    return maps.dominant_class, maps.dominant_response


def forward(model: nn.Module, precision: str) -> Callable[[Tensor], object]:
    """The forward pass alone, in the faster memory format."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    faster = copy.deepcopy(model).to(dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return torch.inference_mode()(lambda images: faster(images.to(dtype, memory_format=torch.channels_last)))  # type: ignore[no-any-return]


def peers(model: nn.Module, classes: int) -> dict[str, Callable[[Tensor], object]]:
    """Those that are there."""
    found: dict[str, Callable[[Tensor], object]] = {"autograd, class by class": partial(autograd_loop, model, classes)}
    try:
        from captum.attr import Deconvolution, GuidedBackprop
    except ImportError:
        return found
    found["captum Deconvolution"] = partial(captum_loop, Deconvolution(model), classes)
    found["captum GuidedBackprop"] = partial(captum_loop, GuidedBackprop(model), classes)
    return found


@contextmanager
def arithmetic(precision: str) -> Iterator[str]:
    """Has float32 be that, or TF32; gives the precision's name as `Clear` knows it."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "TF32"
    try:
        yield "bfloat16" if precision == "bfloat16" else "float32"
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def product_rate(precision: str, side: int) -> float:
    """FLOP/s of the product of two big squares."""
    with arithmetic(precision) as name:
        square = torch.randn(side, side, device=DEVICE, dtype=getattr(torch, name))
        secs, _ = timed(lambda rows: rows @ rows, square, 0.3)
    return 2 * side**3 / secs


def timed(run: Callable[[Tensor], object], images: Tensor, at_least: float) -> tuple[float, int]:
    """Seconds a call takes, of as many as fill `at_least` seconds after a first one, and the bytes that it needs at most."""
    run(images)
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    done, started = 0, clock()
    while not done or clock() - started < at_least:
        run(images)
        done += 1
    return (clock() - started) / done, torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0


def alike(maps: object, expected: tuple[Tensor, Tensor]) -> str:
    """The share of pixels with the same dominant class, and the deviation of the responses."""
    classes, responses = maps.dominant_class.cpu(), maps.dominant_response.cpu().float()  # type: ignore[attr-defined]
    same = float((classes == expected[0]).float().mean())
    deviation = float((responses - expected[1]).abs().sum() / expected[1].abs().sum().clamp(min=1e-30))
    return f"{100 * same:.2f} %, {deviation:.1e}"


def kernels(subject: Subject, precision: str) -> Iterator[str]:
    """Where the time goes."""
    model = subject.build().eval().to(DEVICE)
    images = torch.rand((subject.batch, *subject.shape), device=DEVICE)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if DEVICE == "cuda" else [])]
    with arithmetic(precision) as name:
        clear = Clear(model, "gradient", precision=name)
        clear(images)
        with profile(activities=activities) as found:
            clear(images)
            clock()
    table = found.key_averages().table(sort_by=f"self_{DEVICE}_time_total", row_limit=12, max_name_column_width=60)
    yield f"\n{subject.name}, gradient, {precision}:\n\n```\n{table}\n```"


def memory(dry: bool) -> Iterator[str]:
    """A card that is full: batches are halved, and nothing is lost."""
    model = (resnet20() if dry else resnet18()).eval().to(DEVICE)
    shape = (3, 32, 32) if dry else (3, 224, 224)
    images = torch.rand((24 if dry else 512, *shape), generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(len(images), dtype=torch.int64)
    clear = Clear(model, "gradient")

    def audit(size: BatchSize, most: int | None = None) -> tuple[Tensor, Tensor]:
        def feed(batches: list[np.ndarray]) -> Iterator[Tensor]:
            return (images[torch.from_numpy(batch)].to(DEVICE) for batch in batches)

        def work(batch: np.ndarray, given: Tensor) -> tuple[np.ndarray, Tensor, Tensor]:
            if most is not None and len(batch) > most:
                raise torch.OutOfMemoryError("a card that is full, as it were")
            maps = measure(clear, given, labels[torch.from_numpy(batch)].to(DEVICE)).maps
            return batch, maps.dominant_class.cpu(), maps.dominant_response.cpu()

        parts = [made for _, made in compute_batches(size, np.arange(len(images)), feed, work)]
        assert np.array_equal(np.concatenate([batch for batch, _, _ in parts]), np.arange(len(images)))
        return torch.cat([classes for _, classes, _ in parts]), torch.cat([responses for _, _, responses in parts])

    expected = audit(BatchSize(8 if dry else 32))
    size = BatchSize(len(images))
    ballast = []
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        ballast.append(torch.empty(max(0, free - (4 << 30)), dtype=torch.uint8, device=DEVICE))
    found = audit(size, None if DEVICE == "cuda" else 7)
    same = float((found[0] == expected[0]).float().mean())
    deviation = float((found[1] - expected[1]).abs().sum() / expected[1].abs().sum())
    yield f"- batches of {len(images)} were asked for, and {size.samples} fitted; no image was lost"
    yield f"- as in batches that fit: {100 * same:.3f} % of pixels, deviation {deviation:.1e}"
    if size.samples == len(images) or same < 0.999:
        sys.exit("the batch was not halved, or maps are others")


CONFIG = """
name = "{name}"
[dataset]
format = "idx"
path = "images.idx"
labels = "labels.idx"
[input]
channels = {channels}
height = {side}
width = {side}
[model]
factory = "{factory}"
{weights}
[method]
rule = "gradient"
[compute]
cluster = "{cluster}"
shard_samples = {shard}
"""


def audit(dry: bool) -> Iterator[str]:
    """Whole audits, by a worker a card: as long as on a CPU, and as right; killed and gone on with."""
    for package in ("prefect", "duckdb", "distributed", *(() if dry else ("dask_cuda",))):
        try:
            importlib.import_module(package)
        except ImportError as error:
            yield f"Not run: {error}."
            return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        digits = write_digits(folder / "digits", 96 if dry else 10_000)
        cluster = "local" if dry else "cuda"
        secs = run_audit(digits, folder / "gpu", cluster)
        yield f"- {digits.parent.name}: {secs:.1f} s on {cluster}, from the command to the report"
        secs = run_audit(digits, folder / "cpu", "local")
        yield f"- the same on the CPU: {secs:.1f} s; {compare_stores(folder / 'gpu', folder / 'cpu')}"
        pictures = write_pictures(folder / "pictures", 48 if dry else 2_000, 32 if dry else 224)
        secs = run_audit(pictures, folder / "whole", cluster)
        yield f"- {pictures.parent.name}: {secs:.1f} s"
        run_audit(pictures, folder / "killed", cluster, kill_after=1)
        secs = run_audit(pictures, folder / "killed", cluster)
        yield f"- killed, and gone on with: {secs:.1f} s; {compare_stores(folder / 'killed', folder / 'whole')}"


def write_digits(folder: Path, count: int) -> Path:
    folder.mkdir()
    for name, offset, size in (("images", 16, 28 * 28), ("labels", 8, 1)):
        packed = next(DEMO.glob(f"t10k-{name}-idx*.gz")).read_bytes()
        content = gzip.decompress(packed)
        head = bytearray(content[:offset])
        head[4:8] = struct.pack(">i", count)
        (folder / f"{name}.idx").write_bytes(bytes(head) + content[offset : offset + count * size])
    weights = f'weights = "{(DEMO / "allcnn.safetensors").as_posix()}"'
    facts = {"name": "digits", "channels": 1, "side": 28, "factory": "flows.demo.allcnn:build", "weights": weights}
    return write_config(folder, 32 if count < 1000 else 512, facts)


def write_pictures(folder: Path, count: int, side: int) -> Path:
    """Made-up pictures of a few smooth waves each, in ten classes, and a ResNet-18 with random weights."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    rows = np.linspace(0, 6, side)
    with (folder / "images.idx").open("wb") as file:
        file.write(struct.pack(">5i", 0x0804, count, side, side, 3))
        for _ in range(count):
            first, second = generator.normal(size=(2, 3))
            wave = np.sin(rows[:, None, None] * first + 2) * np.cos(rows[None, :, None] * second + 1)
            file.write((127.5 + 127.5 * wave).astype(np.uint8).tobytes())
    labels = generator.integers(0, 10, count).astype(np.uint8)
    (folder / "labels.idx").write_bytes(struct.pack(">2i", 0x0801, count) + labels.tobytes())
    (folder / "made_up.py").write_text("from tests.bench.networks import resnet18\n\n\ndef build():\n    return resnet18()\n")
    facts = {"name": "pictures", "channels": 3, "side": side, "factory": "made_up:build", "weights": ""}
    return write_config(folder, 16 if count < 100 else 64, facts)


def write_config(folder: Path, shard: int, facts: dict[str, object]) -> Path:
    (folder / "audit.toml").write_text(CONFIG.format(**facts, cluster="local", shard=shard))
    return folder / "audit.toml"


def run_audit(config: Path, store: Path, cluster: str, kill_after: int | None = None) -> float:
    """Seconds of a whole audit. kill_after: so many commits after which it is killed with its workers' parent."""
    command = [
        sys.executable,
        "-m",
        "flows.cli",
        "run",
        str(config),
        "--store",
        str(store),
        "--set",
        f"compute.cluster={cluster}",
    ]
    started = time.perf_counter()
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while kill_after is not None and running.poll() is None:
        if len(list(store.glob("runs/*/commits/maps/*.json"))) >= kill_after:
            running.send_signal(signal.SIGKILL)
            break
        time.sleep(0.02)
    _, stderr = running.communicate()
    if kill_after is None and running.returncode:
        sys.exit(f"{' '.join(command)} ended with code {running.returncode}:\n{stderr[-3000:]}")
    return time.perf_counter() - started


def compare_stores(first: Path, second: Path) -> str:
    """How the maps of two stores' only runs agree."""
    import zarr

    one, other = (zarr.open_group(next(store.glob("runs/*/maps.zarr")), mode="r") for store in (first, second))
    classes = [np.asarray(group["dominant_class"]) for group in (one, other)]
    responses = [np.asarray(group["dominant_response"], np.float32) for group in (one, other)]
    if all(np.array_equal(*pair) for pair in (classes, responses)):
        return "maps equal to the last bit"
    same = float((classes[0] == classes[1]).mean())
    deviation = float(np.abs(responses[0] - responses[1]).mean())
    return f"{100 * same:.3f} % of pixels have the same dominant class, and responses, of a peak of 1, deviate by {deviation:.1e}"


def tests(dry: bool) -> Iterator[str]:
    """The tests that need a card."""
    files = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if "pytest.mark.gpu" in path.read_text(encoding="utf-8") and path.name != "test_gpu.py"
    ]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-q",
        "-p",
        "no:cacheprovider",
        "--continue-on-collection-errors",
        *files,
    ]
    done = subprocess.run([*command, *(["--collect-only"] if dry else [])], capture_output=True, text=True, check=False, cwd=ROOT)
    yield "```\n" + re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr).strip()[-6000:] + "\n```"
    if done.returncode:
        sys.exit(f"pytest ended with code {done.returncode}")


PARTS: dict[str, Callable[[bool], Iterator[str]]] = {
    "environment": environment,
    "tests": tests,
    "engine": engine,
    "audit": audit,
    "memory": memory,
}

if __name__ == "__main__":
    main()
