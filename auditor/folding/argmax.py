"""Eq. 4 and 5 of many classes: which wins at each pixel, without all their maps ever leaving the caches of the CPU."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from auditor.folding.low_rank import PIXELS, Patterns, tiles
from auditor.kernels.numba_loops import compiled, share_out

CLASSES, GROUP = 64, 8
"""How many classes compete at once, and how many of these are a group that competes first."""
STRONG = 6
"""Patterns by which classes compete first: at nearly every pixel of photographs all but one are then out.

No setting: `find_winners` names each of them.
"""
ROUNDING = 1e-6
"""The rounding error that a response may have, relative to the product of the norms of its factors."""
LEAST = np.finfo(np.float32).tiny

Respond = Callable[[slice, Tensor], Tensor]
"""Writes the responses of a block of classes, (k, N, p), where it is told to."""
Outcome = tuple[Tensor, Tensor]
"""Ĉ, int16, −1 where no response is positive, and D, float32, ≥ 0: (N, p)."""


def compete(operator: Tensor, patterns: Patterns | None, seeds: Tensor, names: Tensor) -> Outcome:
    """operator: (K, h·w, P), or (K, h·w, R) of patterns. seeds: (K, N, h·w). names: (K,) int16, ascending, of the K classes."""
    outcomes = [compete_in_tile(part, shapes, seeds, names) for part, shapes in tiles(operator, patterns)]
    winner, best = (torch.cat(parts, 1) for parts in zip(*outcomes, strict=True))
    return winner, best


def compete_in_tile(operator: Tensor, shapes: Tensor | None, seeds: Tensor, names: Tensor) -> Outcome:
    """operator: (K, h·w, p), or (K, h·w, r) of patterns `shapes`, (r, p)."""
    samples = seeds.shape[1]
    if shapes is None:
        return compete_in_blocks(partial(multiply_each, seeds, operator), samples, operator.shape[2], names)
    coefficients, shapes = torch.bmm(seeds, operator.to(seeds.dtype)), shapes.float()
    if compiled(find_winners) is not None:
        return compete_by_strongest(coefficients, shapes, names)
    return compete_in_blocks(partial(multiply_all, coefficients, shapes), samples, shapes.shape[1], names)


def multiply_each(seeds: Tensor, operator: Tensor, block: slice, out: Tensor) -> Tensor:
    return torch.bmm(seeds[block], operator[block].to(seeds.dtype), out=out)


def multiply_all(coefficients: Tensor, shapes: Tensor, block: slice, out: Tensor) -> Tensor:
    return torch.mm(coefficients[block].flatten(0, 1), shapes, out=out.view(-1, out.shape[2]))


def compete_in_blocks(respond: Respond, samples: int, width: int, names: Tensor) -> Outcome:
    best, winner = torch.zeros(samples * width), torch.full((samples * width,), -1, dtype=torch.int16)
    size = min(len(names), CLASSES * max(1, PIXELS // width))
    buffer = torch.empty(size, samples, width)
    for start in range(0, len(names), size):
        block = slice(start, min(start + size, len(names)))
        responses = buffer[: block.stop - start]
        respond(block, responses)
        merge(responses.flatten(1), names[block], best, winner)
    return winner.view(samples, width), best.view(samples, width)


def merge(responses: Tensor, names: Tensor, best: Tensor, winner: Tensor) -> None:
    """Lets a block of classes compete with what is best so far, in place.

    responses: (k, M), of M pixels of all samples. names: (k,) int16, ascending. best, winner: (M,).
    """
    size = GROUP if len(names) % GROUP == 0 else len(names)
    pixels = responses.shape[1]
    groups = responses.view(len(names) // size, size, pixels).amax(1)
    strongest = groups.amax(0)
    # A block wins at few pixels, and only there is the class looked for. Of equals, the first is found.
    won = (strongest > best).nonzero()[:, 0]
    group = groups.index_select(1, won).max(0).indices
    places = pixels * torch.arange(size)[:, None] + (group * (size * pixels) + won)
    member = responses.view(-1).take(places).max(0).indices
    winner[won] = names[group * size + member]
    torch.maximum(best, strongest, out=best)


def compete_by_strongest(coefficients: Tensor, shapes: Tensor, names: Tensor) -> Outcome:
    """Lets classes compete by the strongest patterns first, and by all where that does not decide: the outcome is the same.

    coefficients: (K, N, r), of the patterns `shapes`, (r, p), the strongest last. A response Σ aⱼ qⱼ over all patterns is
    that over the strongest to within |a′| |q′|, the norms over the other patterns, rounding counted as one of them.
    """
    missing = STRONG - len(shapes)
    if missing > 0:
        coefficients, shapes = F.pad(coefficients, (missing, 0)), F.pad(shapes, (0, 0, missing, 0))
    samples, pixels = coefficients.shape[1], shapes.shape[1]
    weights = torch.full((len(shapes),), ROUNDING)
    weights[:-STRONG] += 1
    doubts = (weights @ shapes.square()).sqrt()
    winner, best = torch.empty((samples, pixels), dtype=torch.int16), torch.empty(samples, pixels)
    strong = shapes[-STRONG:].contiguous()
    assert len(strong) == 6, "find_winners is written out for six patterns"
    given = (coefficients, strong, shapes.t().contiguous(), weights, doubts, names, winner, best)
    find = compiled(find_winners)
    assert find is not None
    share_out(find, samples, *(tensor.numpy() for tensor in given))
    return winner, best


def find_winners(
    coefficients: Any,
    strong: Any,
    columns: Any,
    weights: Any,
    doubts: Any,
    names: Any,
    winner: Any,
    best: Any,
    start: int,
    stop: int,
) -> None:
    """Of the samples from `start` to `stop`. strong: (6, p). columns: (p, r), all patterns. weights: (r,). doubts: (p,), |q′|."""
    pixels, rank = columns.shape
    a, b, c, d, e, f = strong[0], strong[1], strong[2], strong[3], strong[4], strong[5]
    reached = np.empty(pixels, strong.dtype)
    reach = np.empty((len(coefficients), pixels), strong.dtype)
    rivals = np.empty(len(coefficients), np.int64)
    for sample in range(start, stop):
        # By the strongest patterns: what the best class reaches at least, and all classes that may reach as much.
        reached[:] = LEAST
        count = 0
        for rival in range(len(coefficients)):
            own = coefficients[rival, sample]
            u, v, w, x, y, z = own[rank - 6], own[rank - 5], own[rank - 4], own[rank - 3], own[rank - 2], own[rank - 1]
            doubt = strong.dtype.type(0)
            for pattern in range(rank):
                doubt += weights[pattern] * own[pattern] * own[pattern]
            doubt = np.sqrt(doubt)
            may_win = False
            for pixel in range(pixels):
                response = u * a[pixel] + v * b[pixel] + w * c[pixel] + x * d[pixel] + y * e[pixel] + z * f[pixel]
                off = doubt * doubts[pixel]
                reach[count, pixel] = response + off
                may_win |= response + off >= reached[pixel]
                reached[pixel] = max(reached[pixel], response - off)
            if may_win:
                rivals[count] = rival
                count += 1
        # These by all patterns, at the pixels where they still may.
        winner[sample] = -1
        best[sample] = 0
        for place in range(count):
            own = coefficients[rivals[place], sample]
            for pixel in range(pixels):
                if reach[place, pixel] >= reached[pixel]:
                    response = strong.dtype.type(0)
                    for pattern in range(rank):
                        response += own[pattern] * columns[pixel, pattern]
                    if response > best[sample, pixel]:
                        best[sample, pixel] = response
                        winner[sample, pixel] = names[rivals[place]]
