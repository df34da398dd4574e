"""Eq. 4 and 5 of many enlarged maps: only those compete in a tile that may dominate it.

Within a tile an enlarged map is nowhere above the largest of its four corners, and nowhere below the least. A class whose largest
is below the second largest of all classes' least is neither first nor second at any of the tile's pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.backward.trace import chunk_values
from auditor.enlarging.tiles import SIDE, Pieces, cut
from auditor.statistics.dominance import DominanceResult, replace_where_greater

MARGIN = 0.01
"""By what part a class may be below that limit and still competes: more than any rounding, that of TensorFloat-32 included."""

LEAST = 2.0**-149
"""The smallest number above zero in float32: a class without positive response competes nowhere."""
CACHED_VALUES = 1_000_000
"""Corners looked at in one go on a CPU: more leave its caches, which takes twice as long."""


@dataclass(frozen=True)
class Rivals:
    """Who competes where: T pairs of a tile and a class, in the order in which they do.

    First one class of each tile, then a second of each that has one, and so on; a tile's classes ascend, and tiles with more of
    them stand before those with fewer.

    tiles: (R,) int64, of all samples, in that order. place: (R,) int64, where each is in it. counts: how many tiles have a first
    class, a second one, and so on. tile, column: (T,) int64, of each pair the tile and its class, numbered as the seeds are.
    """

    tiles: Tensor
    place: Tensor
    counts: list[int]
    tile: Tensor
    column: Tensor


def compete(seeds: Tensor, names: Tensor, size: Sequence[int]) -> DominanceResult:
    """What `Dominance` makes of the maps that `enlarge` makes of the seeds, to the last bit, where these are finite.

    seeds: (N, K, h, w) float32 ≥ 0. names: (K,) or (N, K) int64, ascending: the classes they are of. size: (H, W), of the image.
    """
    rows, columns = (cut(*lengths, seeds.device) for lengths in zip(seeds.shape[2:], size, strict=True))
    tiles = len(rows.low) * len(columns.low)
    rivals = put_in_order(torch.cat(list(find_rivals(seeds, rows, columns))), tiles * len(seeds))
    sample, (row, column) = rivals.tile.div(tiles, rounding_mode="floor"), place_of(rivals.tile, rows, columns)
    corners = [
        seeds[sample, rivals.column, y[row], x[column]][:, None, None]
        for y in (rows.low, rows.high)
        for x in (columns.low, columns.high)
    ]
    titles = names.to(torch.int16).expand(len(seeds), -1)[sample, rivals.column][:, None, None]
    row, column = place_of(rivals.tiles, rows, columns)
    down, right = rows.share[row][:, :, None], columns.share[column][:, None]
    best = seeds.new_zeros(len(row), SIDE, SIDE)
    second, winner = torch.zeros_like(best), torch.full_like(best, -1, dtype=torch.int16)
    start = 0
    for count in rivals.counts:
        own = slice(start, start + count)
        response = blend([corner[own] for corner in corners], down[:count], right[:count])
        strongest = best[:count]
        winner[:count] = replace_where_greater(response, strongest, titles[own], winner[:count])
        second[:count] = torch.maximum(second[:count], torch.minimum(strongest, response))
        best[:count] = torch.maximum(strongest, response)
        start += count
    return DominanceResult(*(join(values[rivals.place], len(seeds), rows, columns) for values in (winner, best, second)))


def find_rivals(seeds: Tensor, rows: Pieces, columns: Pieces) -> Iterator[Tensor]:
    """Yields the tile, of all samples, and the class of each pair that competes, both ascending: (t, 2) int64.

    seeds: (N, K, h, w).
    """
    tiles = len(rows.low) * len(columns.low)
    values = CACHED_VALUES if seeds.device.type == "cpu" else chunk_values(seeds.device)
    size = max(1, values // (4 * tiles * seeds.shape[1]))
    for number, part in enumerate(torch.split(seeds, size)):
        # Classes last: what follows goes along them.
        given = part.permute(0, 2, 3, 1).contiguous()
        least, largest = bounds(given, rows, columns)
        second = least.topk(min(2, seeds.shape[1]), dim=-1).values[..., -1:]
        may_dominate = largest >= ((1 - MARGIN) * second).clamp(min=LEAST)
        found = may_dominate.view(-1, seeds.shape[1]).nonzero()
        found[:, 0] += number * size * tiles
        yield found


def place_of(tile: Tensor, rows: Pieces, columns: Pieces) -> tuple[Tensor, Tensor]:
    """The row and the column, of tiles, that tiles of all samples are in."""
    across = len(columns.low)
    return tile.div(across, rounding_mode="floor") % len(rows.low), tile % across


def bounds(given: Tensor, rows: Pieces, columns: Pieces) -> tuple[Tensor, Tensor]:
    """The least and the largest of the corners of each tile, (N, p, q, K). given: (N, h, w, K)."""
    least: Tensor | None = None
    largest: Tensor | None = None
    for above in (rows.first, rows.last):
        edge = (above @ given.flatten(2)).view(len(given), len(above), *given.shape[2:])
        for left in (columns.first, columns.last):
            corner = left @ edge
            if least is None or largest is None:
                least, largest = corner, corner.clone()
            else:
                torch.minimum(least, corner, out=least)
                torch.maximum(largest, corner, out=largest)
    assert least is not None
    assert largest is not None
    return least, largest


def put_in_order(found: Tensor, tiles: int) -> Rivals:
    """found: (T, 2), see `find_rivals`. tiles: of all samples."""
    tile, column = found.unbind(1)
    counts = torch.bincount(tile, minlength=tiles)
    order = counts.argsort(descending=True)
    place = torch.empty_like(order).scatter_(0, order, torch.arange(tiles, device=order.device))
    turn = torch.arange(len(tile), device=tile.device) - (counts.cumsum(0) - counts)[tile]
    sequence = (turn * tiles + place[tile]).argsort()
    return Rivals(order, place, torch.bincount(turn).tolist(), tile[sequence], column[sequence])


def blend(corners: list[Tensor], down: Tensor, right: Tensor) -> Tensor:
    """(t, SIDE, SIDE), by the operations of `enlarge`. corners: each (t, 1, 1). down: (t, SIDE, 1). right: (t, 1, SIDE)."""
    (above_left, above_right, below_left, below_right), left = corners, 1 - right
    above, below = above_left * left + above_right * right, below_left * left + below_right * right
    return (above * (1 - down)).add_(below * down)


def join(values: Tensor, samples: int, rows: Pieces, columns: Pieces) -> Tensor:
    """(N, H, W) of all samples' tiles (R, SIDE, SIDE)."""
    down, across = len(rows.low), len(columns.low)
    whole = values.view(samples, down, across, SIDE, SIDE).transpose(2, 3).reshape(samples, down * SIDE, across * SIDE)
    return whole.index_select(1, rows.place).index_select(2, columns.place)
