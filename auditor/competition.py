"""Eq. 4 and 5 of many classes: which wins at each pixel, without the maps of all of them ever leaving the caches."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from auditor.patterns import GROUPS, PIXELS, Patterns, Stretch

CLASSES, GROUP = 64, 8
"""How many classes compete at once, and in groups of how many first."""
MANY = 256
"""Of so many classes it is worth finding out who may win where."""
RIVALS = 64
"""Where more classes than these may win, all compete."""
BOUNDS = 1 << 24
"""How many bounds are held at once."""
ROUNDING = 1e-5
"""What a response may be off, of the largest norm of the sample's responses."""

Respond = Callable[[slice, Tensor], Tensor]
"""Writes the responses of a block of classes, (k, N, p), where it is told to."""
Outcome = tuple[Tensor, Tensor]
"""Ĉ, int16, −1 where no response is positive, and D, float32, ≥ 0: (N, p)."""


def compete(operator: Tensor, patterns: Patterns | None, seeds: Tensor, names: Tensor) -> Outcome:
    """operator: (K, h·w, P), or (K, h·w, R) of patterns. seeds: (K, N, h·w). names: (K,) int16, ascending, of the K classes."""
    samples = max(1, BOUNDS // (GROUPS * len(names)))
    outcomes = [joined(contests(operator, patterns, part, names), 1) for part in torch.split(seeds, samples, 1)]
    return joined(outcomes, 0)


def joined(outcomes: Iterable[Outcome], axis: int) -> Outcome:
    winner, best = (torch.cat(parts, axis) for parts in zip(*outcomes, strict=True))
    return winner, best


def contests(operator: Tensor, patterns: Patterns | None, seeds: Tensor, names: Tensor) -> Iterator[Outcome]:
    """One stretch of the pixels after another."""
    if patterns is None:
        for part in torch.split(operator, PIXELS, 2):
            yield compete_in_blocks(partial(multiply_each, seeds, part), seeds.shape[1], part.shape[2], names)
        return
    for stretch in patterns.stretches():
        coefficients = torch.bmm(seeds, operator[:, :, stretch.numbers].to(seeds.dtype))
        compete_in_stretch = compete_where_open if len(names) >= MANY else compete_everywhere
        yield compete_in_stretch(coefficients, stretch, names)


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


def compete_everywhere(coefficients: Tensor, stretch: Stretch, names: Tensor) -> Outcome:
    """coefficients: (K, N, r). All classes, at all pixels of a stretch."""
    samples, width = coefficients.shape[1], stretch.shapes.shape[1]
    return compete_in_blocks(partial(multiply_all, coefficients, stretch.shapes), samples, width, names)


def compete_where_open(coefficients: Tensor, stretch: Stretch, names: Tensor) -> Outcome:
    """The same; all classes only where many may win, elsewhere those that may."""
    may_win = who_may_win(coefficients, stretch)
    is_open = may_win.sum(1).amax(1) > RIVALS
    opened = is_open[stretch.groups]
    samples, pixels = coefficients.shape[1], len(opened)
    winner, best = torch.empty((samples, pixels), dtype=torch.int16), torch.empty(samples, pixels)
    everywhere, settled = opened.nonzero()[:, 0], (~opened).nonzero()[:, 0]
    if len(everywhere):
        winner[:, everywhere], best[:, everywhere] = compete_everywhere(coefficients, stretch.at(everywhere), names)
    if len(settled):
        rivals = torch.tensordot((~is_open).float(), may_win, 1) > 0
        winner[:, settled], best[:, settled] = compete_among(coefficients, stretch.at(settled), names, rivals)
    return winner, best


def who_may_win(coefficients: Tensor, stretch: Stretch) -> Tensor:
    """Which classes, at some pixel of a group, may respond as strongly as any other: (J, K, N), 1 or 0.

    A response is |q| (a · u), with u the direction of the pixel's patterns q. In a group, u is in a box around its centre m,
    of half widths ρ: a · u ≤ a · m + |a| · ρ. A class whose bound is less than what some class has at every pixel cannot win.
    """
    classes, samples, rank = coefficients.shape
    flat = coefficients.view(-1, rank)
    central = stretch.centres.t() @ flat.t()
    by_class = central.view(-1, classes, samples)
    leads = (by_class - by_class.amax(1, keepdim=True)).amax(0) >= 0
    reached = responses_of(coefficients, chosen_by(leads, RIVALS), stretch.shapes).amax(0) / stretch.lengths
    least = reached.new_full((samples, len(central)), torch.inf)
    least.scatter_reduce_(1, stretch.groups.expand(samples, -1), reached, "amin")
    # Nobody wins by a response that is not positive: not even one of a sample that has no response at all.
    least.clamp_(min=0).sub_(ROUNDING * torch.linalg.vector_norm(coefficients, dim=2).amax(0)[:, None])
    least += torch.finfo(least.dtype).tiny
    # In place, and numbers for truth values: several times as fast.
    bounds = central.addmm_(stretch.radii.t(), flat.abs().t()).view(by_class.shape)
    return bounds.ge_(least.t().contiguous()[:, None])


def compete_among(coefficients: Tensor, stretch: Stretch, names: Tensor, rivals: Tensor) -> Outcome:
    """Each sample's own classes. rivals: (K, N) bool."""
    chosen = chosen_by(rivals, len(rivals))
    best, first = responses_of(coefficients, chosen, stretch.shapes).max(0)
    winner = names[chosen].t().gather(1, first)
    return winner.where(best > 0, -1), best.clamp_(min=0)


def chosen_by(marks: Tensor, limit: int) -> Tensor:
    """The marked classes of each sample, or `limit` of them, ascending, and others that make up for their number: (m, N).

    marks: (K, N) bool.
    """
    most = max(1, min(limit, int(marks.sum(0).amax())))
    return marks.byte().topk(most, dim=0).indices.sort(dim=0).values


def responses_of(coefficients: Tensor, chosen: Tensor, shapes: Tensor) -> Tensor:
    """(m, N, p). chosen: (m, N), the classes of each sample."""
    rank = coefficients.shape[2]
    own = coefficients.gather(0, chosen[:, :, None].expand(-1, -1, rank))
    return (own.view(-1, rank) @ shapes).view(*chosen.shape, -1)


def merge(responses: Tensor, names: Tensor, best: Tensor, winner: Tensor) -> None:
    """Lets a block of classes compete with what is best so far, in place.

    responses: (k, M), of M pixels of all samples. names: (k,) int16, ascending. best, winner: (M,).
    """
    size = GROUP if len(names) % GROUP == 0 else len(names)
    pixels = responses.shape[1]
    groups = responses.view(len(names) // size, size, pixels).amax(1)
    strongest = groups.amax(0)
    # A block wins at few pixels: what finds the class is spent on them alone. Of equals, the first is found.
    won = (strongest > best).nonzero()[:, 0]
    group = groups.index_select(1, won).max(0).indices
    places = pixels * torch.arange(size)[:, None] + (group * (size * pixels) + won)
    member = responses.view(-1).take(places).max(0).indices
    winner[won] = names[group * size + member]
    torch.maximum(best, strongest, out=best)
