"""Whether a map depends on the image: does it move when the image moves, and is it another one for another image?

A map that stays where it was, or is the same for all images, shows the network and not what it saw.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from auditor.trust.similarity import centred, pearson

BLURRED = 4
"""Maps are averaged over a box of the odd number of pixels next to a quarter of the movement: 9 for 32, 1 (none) for 4.

A grainy map need not match to the pixel, and the box must stay well below the movement.
"""


class Movement(NamedTuple):
    """Correlations of an image's map with the map of the image moved, each (N,) float32, NaN where one of them is empty.

    along: where both show the same part of the image; near 1 for a map that belongs to its image.
    stayed: where they were, over the same pixels of the moved image; near 1 for a map that does not.
    """

    along: Tensor
    stayed: Tensor


def moved(images: Tensor, pixels: int) -> Tensor:
    """Images (N, ch, H, W) moved to the left; what comes in at the right replicates the edge."""
    columns = torch.arange(images.shape[3], device=images.device) + pixels
    return images[..., columns.clamp(max=images.shape[3] - 1)]


def movement(before: Tensor, after: Tensor, pixels: int) -> Movement:
    """Does a map, its positive part, move with its image?

    before, after: (N, H, W), maps of one class of the image and of the image moved: column x of the second shows what column
    x + pixels of the first shows, but for the last `pixels` columns, which are not compared. The image is `moved`, or better cut
    out twice of a larger one. pixels: at least 1 and less than W; the network's stride, or more.
    """
    old, new = blurred(before, pixels), blurred(after, pixels)[..., :-pixels]
    return Movement(pearson(old[..., pixels:], new), pearson(old[..., :-pixels], new))


def blurred(maps: Tensor, pixels: int) -> Tensor:
    """The positive part, averaged over a box of about a quarter of a movement's pixels; at the border over what is there."""
    side = pixels // BLURRED | 1
    return F.avg_pool2d(maps[:, None].clamp(min=0), side, 1, side // 2, count_include_pad=False)[:, 0]


def between_images(maps: Tensor, pixels: int) -> Tensor:
    """Correlations of the maps of different images, all pairs: (N (N − 1) / 2,) float32, NaN where one map is empty.

    maps: (N, H, W), of which the positive part is compared, blurred as for a movement by so many pixels. The level to which
    `Movement.along` is to be compared; where it is near 1 the map does not depend on the image.
    """
    flat = centred(blurred(maps, pixels))
    norms = torch.linalg.vector_norm(flat, dim=1)
    first, second = torch.triu_indices(len(maps), len(maps), 1, device=maps.device)
    correlations: Tensor = (flat @ flat.t())[first, second] / (norms[first] * norms[second])
    return correlations.clamp(-1, 1).float()
