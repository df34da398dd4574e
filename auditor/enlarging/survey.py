"""Statistics over many classes whose responses are enlarged: by closed forms where there are any."""

from collections.abc import Sequence

import torch
from torch import Tensor

from auditor.enlarging.competition import compete
from auditor.folding.class_statistics import Survey
from auditor.kernels.enlargement import enlarge, make_axis, weights
from auditor.statistics.dominance import mean_cosine


def survey(seeds: Tensor, names: Tensor, size: Sequence[int]) -> Survey:
    """seeds: (N, K, h, w) float32 ≥ 0. names: (K,) or (N, K) int64, ascending: the classes they are of. size: (H, W)."""
    rows, columns = (
        weights(make_axis(*lengths, seeds.device), lengths[0]) for lengths in zip(seeds.shape[2:], size, strict=True)
    )
    energy = (seeds @ columns.sum(0)) @ rows.sum(0)
    # An enlarged map is rows · seed · columnsᵀ: its square is a product of the seed with itself.
    along, down = seeds @ (columns.t() @ columns), (seeds.transpose(2, 3) @ (rows.t() @ rows)).transpose(2, 3)
    norms = (along * down).sum((2, 3)).sqrt()
    scales = torch.where(norms > 0, 1 / norms, 0)
    units = enlarge((seeds * scales[:, :, None, None]).sum(1), size)
    is_finite = energy.isfinite().all(1) & seeds.isfinite().flatten(1).all(1)
    return Survey(compete(seeds, names, size), energy, mean_cosine(units.flatten(1), (norms > 0).sum(1)), is_finite)
