"""Ways to do the same work that take turns, and what they took, as a table."""

import argparse
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

COLUMNS = ["work", "ours", "peer", "peer's", "ratio", "wanted"]

Run = Callable[[Tensor], object]


@dataclass(frozen=True)
class Way:
    """A way to do the work: `run` takes `images`, one batch, through `share` of the classes."""

    run: Run
    images: Tensor
    share: float = 1.0

    def turn(self, at_least: float) -> float:
        """Seconds an image takes with all classes, of as many batches as fill `at_least` seconds."""
        done, started = 0, clock()
        while not done or clock() - started < at_least:
            self.run(self.images)
            done += len(self.images)
        return (clock() - started) / done / self.share


@dataclass(frozen=True)
class Row:
    """A measured pair. ratio: how many times better ours is; with `at_most`, ours over theirs, or a part of it."""

    work: str
    ours: str
    peer: str
    theirs: str
    ratio: float
    wanted: float | None = None
    at_most: bool = False

    @property
    def missed(self) -> bool:
        if self.wanted is None:
            return False
        return not (self.ratio <= self.wanted if self.at_most else self.ratio >= self.wanted)

    def cells(self) -> list[str]:
        wanted = "" if self.wanted is None else f"{'≤' if self.at_most else '≥'} {self.wanted:g}"
        ratio = "" if math.isnan(self.ratio) else f"{self.ratio:,.{2 if self.ratio < 100 else 0}f}"
        return [self.work, self.ours, self.peer, self.theirs, ratio, wanted]


def clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def contest(ways: dict[str, Way], options: argparse.Namespace) -> dict[str, float]:
    """Seconds an image, each way's median over the rounds. In turns: a machine that slows down slows all of them."""
    for way in ways.values():
        way.run(way.images)
    rounds = [{name: way.turn(options.seconds) for name, way in ways.items()} for _ in range(options.rounds)]
    return {name: median(secs[name] for secs in rounds) for name in ways}


def at_best_batch(run: Run, images: Tensor, sizes: tuple[int, ...], share: float = 1.0) -> Way:
    """Of some batch sizes the best, by the best of five turns, of which the first warms up."""
    ways = [Way(run, images[:size].clone(), share) for size in sizes]
    return min(ways, key=lambda way: min(way.turn(0.1) for _ in range(5)))


def against(work: str, way: str, secs: dict[str, float], wanted: Mapping[str, float | None]) -> list[Row]:
    """A row a peer: the peer's seconds over ours, and what is wanted of them."""
    return [Row(work, shown(secs[way]), peer, shown(secs[peer]), secs[peer] / secs[way], least) for peer, least in wanted.items()]


def shown(secs: float) -> str:
    return f"{secs * 1e3:,.2f} ms" if secs < 0.1 else f"{secs * 1e3:,.0f} ms"


def as_markdown(title: str, rows: list[Row]) -> str:
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(row.cells() for row in rows)]
    return title + "\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def required_flops(model: nn.Module, image: Tensor, classes: int) -> int:
    """Of convolutions and linear layers in one forward and `classes` data-gradient passes over one image.

    A multiplication with its addition counts two, as for the matrix product; what else is done counts nothing.
    """
    image = image.detach().requires_grad_()
    with FlopCounterMode(display=False) as ahead:
        logits = model(image)
    with FlopCounterMode(display=False) as back:
        torch.autograd.grad(logits[:, 0].sum(), image)
    return int(ahead.get_total_flops() + classes * back.get_total_flops())
