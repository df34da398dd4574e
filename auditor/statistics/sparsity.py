"""How concentrated a map of positive response is."""

import numpy as np
import torch
from torch import Tensor


def sort_values(values: Tensor) -> Tensor:
    """Ascending along the last axis. numpy's sort on a CPU: several times faster than torch's."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.sort(dim=-1).values


def sparseness(ascending: Tensor) -> Tensor:
    """Gini index of the values (Chalasani et al. 2020): 0 all alike, towards 1 one pixel holds everything.

    ascending: (…, d) sorted values ≥ 0. Returns (…) in [0, 1); NaN where all are zero.
    """
    count = ascending.shape[-1]
    rank = torch.arange(count, 0, -1, device=ascending.device, dtype=ascending.dtype) - 0.5
    gini: Tensor = 1 - 2 * (ascending @ (rank / count)) / ascending.sum(-1)
    return gini.clamp(min=0)


def complexity(values: Tensor, energy: Tensor) -> Tensor:
    """Entropy, in nats, of the values as a distribution (Bhatt, Weller & Moura 2020): 0 one pixel, ln d all alike.

    values: (…, d) ≥ 0. energy: (…), their sum. Returns (…); NaN where all are zero.
    """
    entropy: Tensor = torch.special.entr(values / energy[..., None]).sum(-1)
    return entropy


def half_energy_area(ascending: Tensor) -> Tensor:
    """The least share of pixels that holds half of the energy.

    ascending: (…, d) sorted values ≥ 0. Returns (…) in (0, 1]; NaN where all are zero.
    """
    held = ascending.cumsum(-1)
    total = held[..., -1:]
    spare = torch.searchsorted(held, total / 2, right=True)[..., 0]
    area = 1 - spare.to(ascending.dtype) / ascending.shape[-1]
    return torch.where(total[..., 0] > 0, area, torch.nan)
