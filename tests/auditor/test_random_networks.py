"""R(x|c) of random small networks, every rule and reduction, against eq. 3 and its relatives in matrix form."""

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from auditor import Clear, UnsupportedModel
from tests.auditor import matrix_form, matrix_rules
from tests.auditor.matrix_rules import RULES
from tests.auditor.random_networks import networks

REDUCTIONS: dict[str, Any] = {
    "sum": lambda responses: responses.sum(2),
    "l2": lambda responses: np.sqrt((responses**2).sum(2)),
    "max": lambda responses: responses.max(2),
}


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(networks(), st.sampled_from(sorted(REDUCTIONS)))
def test_random_network_matches_its_matrix_form(drawn: tuple[nn.Module, Tensor], reduction: str) -> None:
    compare(*drawn, reduction)


@pytest.mark.soak
@settings(max_examples=2000, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks(), st.sampled_from(sorted(REDUCTIONS)))
def test_many_random_networks_match_their_matrix_form(drawn: tuple[nn.Module, Tensor], reduction: str) -> None:
    compare(*drawn, reduction)


def compare(model: nn.Module, images: Tensor, reduction: str) -> None:
    traced = [model.trace(matrix_form.image_node(image)) for image in images]  # type: ignore[operator]
    for rule in RULES:
        expected = REDUCTIONS[reduction](np.stack([matrix_rules.responses(node, rule) for node in traced]))
        clear = Clear(model, rule, precision="float64", reduction=reduction)
        try:
            with patch("auditor.operations.lrp.EPSILON", 0):
                found = torch.cat([responses for _, responses in clear.responses(images)], 1).numpy()
        except UnsupportedModel:
            # Two bounded responses that are multiplied: which of them is the gate is known to the matrix form alone.
            reject()
        # Where contributions cancel, the rounding of float32 seeds is left.
        peaks = np.maximum(np.abs(expected).max((2, 3), keepdims=True), 0.2)
        deviation = (np.abs(found - expected) / peaks).max()
        assert deviation <= 1e-5, (rule, reduction)
