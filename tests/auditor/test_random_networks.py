"""R(x|c) of random small networks, every rule and reduction, against eq. 3 and its relatives in matrix form."""

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from auditor import Clear
from tests.auditor import matrix_form, matrix_rules
from tests.auditor.matrix_rules import RULES
from tests.auditor.random_networks import networks

REDUCTIONS: dict[str, Any] = {
    "sum": lambda responses: responses.sum(2),
    "l2": lambda responses: np.sqrt((responses**2).sum(2)),
    "max": lambda responses: responses.max(2),
}


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(networks(), st.sampled_from(sorted(REDUCTIONS)))
def test_random_network_matches_its_matrix_form(drawn: tuple[nn.Module, Tensor], reduction: str) -> None:
    model, images = drawn
    traced = [model.trace(matrix_form.image_node(image)) for image in images]  # type: ignore[operator]
    for rule in RULES:
        expected = REDUCTIONS[reduction](np.stack([matrix_rules.responses(node, rule) for node in traced]))
        clear = Clear(model, rule, precision="float64", reduction=reduction)
        found = torch.cat([responses for _, responses in clear.responses(images)], 1).numpy()
        peaks = np.abs(expected).max((2, 3), keepdims=True)
        apart = np.abs(found - expected)
        assert (apart <= 1e-5 * np.maximum(peaks, 1e-3 * peaks.max())).all(), (rule, reduction)
