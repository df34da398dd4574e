"""The explanation engine against its peers, which take turns with it on the same images and threads.

make bench-engine                    # about ten minutes; exits 1 where a wanted ratio is missed
make bench-engine IMAGENET=FOLDER    # EfficientNet-Lite0 on the images that FOLDER/labels.csv names (path, label)
"""

import argparse
import copy
import csv
import math
import os
import platform
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from captum.attr import LRP, Deconvolution, GuidedBackprop, InputXGradient
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule
from contests import COLUMNS, Row, Way, against, as_markdown, at_best_batch, clock, contest, required_flops, shown
from networks import efficientnet_lite0, resnet18, resnet20
from peers import autograd_loop, batched_gradients, captum_loop
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from auditor import CannotFold, Clear, UnsupportedModel, measure
from auditor.kernels.relu_backward import Rectification, convolve_rectified, turned
from auditor.kernels.sparse_conv_transpose import scatter, strips
from auditor.operations.rule_table import Treatment
from flows.demo.train import HERE as DEMO
from flows.demo.train import read_digits
from flows.runtime.cluster import KEEP_MEMORY
from storage.models.factories import FactorySpec
from storage.models.sources import load_model

DECONVOLUTION = "captum Deconvolution"
GUIDED = "captum GuidedBackprop"
PRODUCT_WITH_INPUT = "captum InputXGradient"
EPSILON, ZPLUS, EPSILON_PLUS = "captum LRP, ε", "captum LRP, z⁺", "captum LRP, z⁺ and ε"
LOOP = "autograd, class by class"
BATCHED = "autograd, is_grads_batched"
FORWARD = "forward pass alone"
PRODUCT = "torch.mm float32"
PRODUCT_BFLOAT16 = "torch.mm bfloat16"
SIDE = 2048


def peers(model: nn.Module, images: Tensor, sizes: tuple[int, ...], classes: int = 10, of: int = 10) -> dict[str, Way]:
    """The peers of every network, with the model as loaded. classes: how many of all, `of`, are timed."""
    runs = {
        DECONVOLUTION: partial(captum_loop, Deconvolution(model), classes),
        LOOP: partial(autograd_loop, model, classes),
        BATCHED: partial(batched_gradients, model, classes),
    }
    return {name: at_best_batch(run, images, sizes, classes / of) for name, run in runs.items()}


def forward(model: nn.Module, images: Tensor) -> Way:
    """The forward pass in the faster memory format."""
    faster = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Way(torch.inference_mode()(lambda batch: faster(batch)), images.contiguous(memory_format=torch.channels_last))


def products(device: str) -> dict[str, Way]:
    """Of big squares; an image is a row here."""
    square = torch.randn(SIDE, SIDE, device=device)
    return {PRODUCT: Way(lambda rows: rows @ rows, square), PRODUCT_BFLOAT16: Way(lambda rows: rows @ rows, square.bfloat16())}


def fraction(work: str, flops: int, secs: float, row_secs: float) -> Row:
    """The part of the machine's matrix-product rate that a plain path reaches."""
    rate, product = flops / secs, 2 * SIDE**2 / row_secs
    return Row(work + ", required FLOPs", f"{rate / 1e9:,.0f} GFLOP/s", PRODUCT, f"{product / 1e9:,.0f} GFLOP/s", rate / product)


def allcnn(options: argparse.Namespace) -> list[Row]:
    """The demo's network and digits."""
    model = load_model(FactorySpec("flows.demo.allcnn:build", str(DEMO / "allcnn.safetensors"))).to(options.device)
    digits, _ = read_digits(DEMO / "t10k-images-idx3-ubyte.gz", DEMO / "t10k-labels-idx1-ubyte.gz")
    images, sizes = digits[:512].to(options.device), (32, 64, 128, 256, 512)
    clears = {}
    for way in ("linear float32", "deconv float32", "guided float32", "linear bfloat16", "deconv bfloat16"):
        rule, precision = way.split()
        clears[way] = Clear(model, rule, precision=precision)
    for precision in ("float32", "bfloat16"):
        folded = clears[f"linear {precision}, folded tail"] = Clear(model, precision=precision, rule="linear")
        folded.fold(images[:8], memory=options.memory)
    ours = {way: at_best_batch(clear, images, sizes) for way, clear in clears.items()}
    guided = at_best_batch(partial(captum_loop, GuidedBackprop(model), 10), images, sizes)
    halved = f"{DECONVOLUTION} bfloat16"
    narrow = partial(captum_loop, Deconvolution(copy.deepcopy(model).bfloat16()), 10)
    others = {GUIDED: guided, halved: at_best_batch(narrow, images.bfloat16(), sizes)}
    secs = contest(ours | peers(model, images, sizes) | others | products(options.device), options)

    flops = required_flops(model, images[:1], 10)
    product, product_bfloat16 = (f"{2 * SIDE**2 / secs[name] / 1e9:,.0f} GFLOP/s" for name in (PRODUCT, PRODUCT_BFLOAT16))
    # What bfloat16 can gain at all: without instructions for it, it loses.
    gain = secs[PRODUCT] / secs[PRODUCT_BFLOAT16]
    rows = [Row("this machine", product_bfloat16 + " bfloat16", PRODUCT, product, gain)]
    for way in ours:
        in_full = "float32" in way
        peer, least = (GUIDED, 3.0) if "guided" in way else (DECONVOLUTION, 3.0 if in_full else 6.0)
        work = f"MNIST ALL-CNN, 10 classes, {way}"
        rows += against(work, way, secs, {peer: least, LOOP: 1.0, BATCHED: 1.0})
        if not in_full:
            rows += against(work, way, secs, {halved: None})
        elif "folded" not in way:
            rows.append(fraction(work, flops, secs[way], secs[PRODUCT]))
    return rows


class Relevance:
    """Captum's LRP of a chain of modules. convolutions, last: the rules of all convolutions but the last, and of that."""

    def __init__(self, model: nn.Module, convolutions: Callable[[], object], last: Callable[[], object]) -> None:
        self.model, self.convolutions, self.last = copy.deepcopy(model), convolutions, last
        self.method = LRP(self.model)

    def attribute(self, images: Tensor, target: int) -> Tensor:
        # Captum takes rules off again at the end of each call.
        for module in self.model.children():
            if isinstance(module, nn.Conv2d):
                module.rule, last = self.convolutions(), module
            elif isinstance(module, nn.AdaptiveAvgPool2d | nn.Flatten):
                module.rule = epsilon()
        last.rule = self.last()
        found: Tensor = self.method.attribute(images, target=target)
        return found


def epsilon() -> object:
    return EpsilonRule(1e-9)


def zplus() -> object:
    return Alpha1_Beta0_Rule(set_bias_to_zero=True)


def relevance(options: argparse.Namespace) -> list[Row]:
    """The demo's network and digits by rules whose responses add up. Captum has no flat rule; it goes against ε and z⁺."""
    model = load_model(FactorySpec("flows.demo.allcnn:build", str(DEMO / "allcnn.safetensors"))).to(options.device)
    digits, _ = read_digits(DEMO / "t10k-images-idx3-ubyte.gz", DEMO / "t10k-labels-idx1-ubyte.gz")
    images, sizes = digits[:256].to(options.device), (32, 64, 128, 256)
    methods = {
        PRODUCT_WITH_INPUT: InputXGradient(model),
        EPSILON: Relevance(model, epsilon, epsilon),
        ZPLUS: Relevance(model, zplus, zplus),
        EPSILON_PLUS: Relevance(model, zplus, epsilon),
    }
    wanted = {
        "gradient_times_input": PRODUCT_WITH_INPUT,
        "lrp_epsilon": EPSILON,
        "lrp_zplus": ZPLUS,
        "lrp_epsilon_plus": EPSILON_PLUS,
        "lrp_epsilon_plus_flat": EPSILON_PLUS,
    }
    ours = {rule: at_best_batch(Clear(model, rule), images, sizes) for rule in wanted}
    theirs = {name: at_best_batch(partial(captum_loop, method, 10), images, sizes) for name, method in methods.items()}
    secs = contest(ours | theirs, options)
    work = "MNIST ALL-CNN, 10 classes, {}".format
    return [
        row for rule, peer in wanted.items() for row in against(work(rule), rule, secs, {PRODUCT_WITH_INPUT: None, peer: 4.0})
    ]


def small(options: argparse.Namespace) -> list[Row]:
    images = torch.randn(256, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return resnet("ResNet-20", resnet20(), images, (16, 64, 256), 20, 1.3, options)


def large(options: argparse.Namespace) -> list[Row]:
    images = torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    return resnet("ResNet-18", resnet18(), images, (1, 4, 8), 6, None, options)


def resnet(
    title: str,
    model: nn.Module,
    images: Tensor,
    sizes: tuple[int, ...],
    least: float,
    most: float | None,
    options: argparse.Namespace,
) -> list[Row]:
    """A residual network with ten classes, folded, and its plain path beside it.

    least: wanted of captum's time over ours. most: wanted of our time over the forward pass's.
    """
    model, images = model.to(options.device), images.to(options.device)
    folded, plain = Clear(model, rule="linear"), Clear(model, rule="linear")
    folded.fold(images[:8], memory=options.memory)
    ways = {"folded": Way(folded, images), "plain": Way(plain, images[:64]), FORWARD: forward(model, images)}
    secs = contest(ways | peers(model, images, sizes) | products(options.device), options)
    rows = against(f"{title}, 10 classes, folded", "folded", secs, {DECONVOLUTION: least, LOOP: 1.0, BATCHED: 1.0})
    cost = secs["folded"] / secs[FORWARD]
    rows.append(
        Row(f"{title}, of the forward pass", shown(secs["folded"]), FORWARD, shown(secs[FORWARD]), cost, most, at_most=True)
    )
    rows += against(f"{title}, 10 classes, plain", "plain", secs, {DECONVOLUTION: None})
    return [*rows, fraction(f"{title}, plain", required_flops(model, images[:1], 10), secs["plain"], secs[PRODUCT])]


def efficientnet(options: argparse.Namespace) -> list[Row]:
    """All 1000 classes of EfficientNet-Lite0. Peers do 20, scaled: a forward pass that all classes share counts 50 times."""
    model = efficientnet_lite0().to(options.device)
    images, labels = pictures(options.imagenet) if options.imagenet else (torch.rand(128, 3, 224, 224) * 2 - 1, None)
    images, batch = images.to(options.device), images[:64].to(options.device)
    rows = []
    if labels is not None:
        with torch.inference_mode():
            right = torch.cat([model(part).argmax(1) for part in images.split(50)]).cpu() == labels
        accuracy = right.double().mean().item()
        rows.append(Row(f"EfficientNet-Lite0, top-1 of {len(right)} images", f"{accuracy:.1%}", "", "", accuracy, 0.65))
    clear = Clear(model, precision=options.efficientnet_precision, rule="linear")
    started = clock()
    deviation = clear.fold(batch, memory=options.memory)
    print("efficientnet: operator built …", file=sys.stderr, flush=True)
    size = 0 if clear.operator is None else clear.operator.memory
    built = f"{clock() - started:,.0f} s, {size / 1e9:.1f} GB, {deviation:.0e} off"
    rows.append(Row("EfficientNet-Lite0, the operator's build", built, "", "", math.nan))
    unlabelled = torch.full((len(batch),), -1, device=batch.device)
    ways = {
        "folded": at_best_batch(clear, images, (64, 128)),
        "measured": Way(partial(measure, clear, labels=unlabelled), batch),
        FORWARD: forward(model, batch),
    }
    secs = contest(ways | peers(model, batch, (1, 4), 20, 1000), options)
    wanted = {DECONVOLUTION: 1000.0, LOOP: 1.0, BATCHED: 1.0}
    rows += against(f"EfficientNet-Lite0, 1000 classes, folded {options.efficientnet_precision}", "folded", secs, wanted)
    maps, measured, alone = secs["folded"], secs["measured"], secs[FORWARD]
    return [
        *rows,
        Row("EfficientNet-Lite0, of the forward pass", shown(maps), FORWARD, shown(alone), maps / alone),
        Row("EfficientNet-Lite0, with an audit's statistics", shown(measured), "maps alone", shown(maps), measured / maps),
    ]


def pictures(folder: Path) -> tuple[Tensor, Tensor]:
    """The images that labels.csv names and their labels, as EfficientNet-Lite takes them: 224² of 256, (x − 127) / 128."""
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    images = []
    for line in lines:
        with Image.open(folder / line["path"]) as opened:
            image = ImageOps.fit(opened.convert("RGB"), (256, 256), Image.Resampling.BICUBIC).crop((16, 16, 240, 240))
        images.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    return (torch.stack(images) - 127.0) / 128, torch.tensor([int(line["label"]) for line in lines])


def scattering(options: argparse.Namespace) -> list[Row]:
    """One convolution's way back where little is not zero, masked and rectified: scattered by loops, and dense."""
    random, rows = torch.Generator().manual_seed(0), []
    for samples, channels, side in ((64, 32, 28), (64, 64, 14), (8, 128, 28), (8, 512, 7)):
        whole = (samples, channels, side, side)
        weight = torch.randn(channels, channels, 3, 3, generator=random)
        rectification = Rectification(Treatment.POSITIVE_DERIVATIVE)
        rectification.observe(channels_last(torch.randn(whole, generator=random).relu()))
        kernels, layer = strips(weight), turned(weight, ((1, 1), (1, 1), (1, 1)))
        scattered = partial(scatter, kernels=kernels, padding=(1, 1), size=whole, mask=rectification.mask, positive=True)
        dense = partial(convolve_rectified, layer=layer, rectification=rectification)
        for share in (0.03, 0.1, 0.25):
            kept = torch.rand(whole, generator=random) < share
            arrived = channels_last(torch.randn(whole, generator=random) * kept)
            ways = {"scattered": Way(scattered, arrived), "dense": Way(dense, arrived)}
            secs = contest(ways, options)
            work = f"{channels} → {channels} channels of {side}², {share:.0%} not zero"
            rows += against(work, "scattered", secs, {"dense": None})
    return rows


def channels_last(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


def memory(options: argparse.Namespace) -> list[Row]:
    """Peak memory of the plain path of ResNet-20 on a batch of 32: 1000 classes against 10, each a process of its own."""
    peaks = []
    for classes in (1000, 10):
        command = [sys.executable, __file__, "--peak-memory", str(classes), "--device", options.device]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    many, few = (f"{peak / 1e6:,.0f} MB" for peak in peaks)
    return [Row("ResNet-20, plain, peak memory: 1000 classes", many, "10 classes", few, peaks[0] / peaks[1], 1.3, at_most=True)]


def peak_memory(classes: int, device: str) -> int:
    """Bytes that this process had at its peak, having explained one batch."""
    images = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    Clear(resnet20(classes).to(device), rule="linear")(images)
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    # Not getrusage: its peak begins with the parent's, before exec.
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


PARTS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "allcnn": allcnn,
    "relevance": relevance,
    "resnet20": small,
    "resnet18": large,
    "efficientnet": efficientnet,
    "scatter": scattering,
    "memory": memory,
}


def hardware(options: argparse.Namespace) -> str:
    if options.device != "cpu":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    described = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    named = {key: re.search(rf"^{key}\s*: (.*)$", described, re.MULTILINE) for key in ("model name", "model")}
    name = " model ".join(found[1] for found in named.values() if found) or platform.processor()
    kinds = [kind for kind in ("avx512_bf16", "amx_bf16") if re.search(rf"\b{kind}\b", described)]
    instructions = ", ".join([torch.backends.cpu.get_cpu_capability(), *kinds])
    return f"{name} ({instructions}), {options.threads} threads on {os.cpu_count()} cores, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS), help="parts to measure")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each way; its median counts")
    parser.add_argument("--seconds", type=float, default=0.5, help="least length of a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu or cuda; ratios are wanted of the CPU only")
    parser.add_argument("--imagenet", type=Path, help="a folder of images with labels.csv (path, label); random images without")
    parser.add_argument("--efficientnet-precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--memory", type=lambda gigabytes: int(float(gigabytes) * 1e9), default="12", help="GB for an operator")
    parser.add_argument("--markdown", type=Path, help="write the table here as well")
    parser.add_argument("--peak-memory", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not KEEP_MEMORY.keys() <= os.environ.keys():
        # As the workers of an audit are started; it speeds up the peers as well.
        os.execve(
            sys.executable, [sys.executable, *sys.argv], os.environ | {name: str(size) for name, size in KEEP_MEMORY.items()}
        )
    torch.set_num_threads(options.threads)
    # captum says at every call that it sets hooks.
    warnings.filterwarnings("ignore", module="captum")
    if options.peak_memory:
        print(peak_memory(options.peak_memory, options.device))
        return

    rows = []
    for name in options.only:
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            rows += PARTS[name](options)
        except (CannotFold, UnsupportedModel) as error:
            rows.append(Row(f"{name}: {error}", "", "", "", math.nan, math.inf))
    title = hardware(options)
    table = Table(*COLUMNS, title=title)
    for row in rows:
        table.add_row(*row.cells(), style="bold red" if row.missed else None)
    Console(width=150).print(table)
    if options.markdown:
        options.markdown.write_text(as_markdown(title, rows), encoding="utf-8")
    if options.device == "cpu" and any(row.missed for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
