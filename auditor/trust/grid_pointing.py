"""The Grid Pointing Game (Böhle, Fritz & Schiele 2021; Rao, Böhle & Schiele 2022): of four images, which one is of this class?"""

import torch
from torch import Tensor

from auditor.trust.explainers import Explainer

CELLS = 4


def grids_of(classes: Tensor) -> Tensor:
    """Images in fours, no two of one class and none twice: (G, 4) int64 indices, G as large as this allows.

    classes: (N,) int64, of the images that may be used: those of which the network is sure.
    """
    order = classes.argsort(stable=True)
    classes = classes[order]
    first = torch.searchsorted(classes, classes)
    rank = torch.arange(len(classes), device=classes.device) - first
    grids = len(order) // CELLS
    # With no class in more than G images, images that are G apart, sorted by class, are of different classes.
    while grids and (allowed := int((rank < grids).sum()) // CELLS) < grids:
        grids = allowed
    chosen = order[rank < grids]
    return chosen[: grids * CELLS].view(CELLS, grids).t()


def mosaics(images: Tensor, grids: Tensor) -> Tensor:
    """2 × 2 images each, row by row: (G, ch, 2H, 2W). images: (N, ch, H, W). grids: (G, 4) int64."""
    first, second, third, fourth = images[grids].unbind(1)
    return torch.cat([torch.cat([first, second], 3), torch.cat([third, fourth], 3)], 2)


def grid_pointing(explainer: Explainer, images: Tensor, classes: Tensor, grids: Tensor) -> Tensor:
    """The share of a class's positive response that lies in its own cell, (4 G,) float32, in the order of `grids`, row by row.

    A quarter for a map that knows nothing; NaN where it is empty. classes: (N,) int64, of each image. The network must take
    images of twice the height and width.
    """
    maps = explainer(mosaics(images, grids), classes[grids]).clamp(min=0)
    height, width = images.shape[2:]
    cells = maps.view(-1, CELLS, 2, height, 2, width).sum((3, 5)).flatten(2)
    own: Tensor = cells.diagonal(dim1=1, dim2=2) / cells.sum(2)
    return own.flatten()
