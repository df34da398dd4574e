"""What each operation sends back under each rule, against its matrix form; what the tape sees, and what it refuses."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from auditor.backward.tape import Tape
from tests.auditor import matrix_form, matrix_rules
from tests.auditor.matrix_rules import RULES
from tests.auditor.pieces import CATALOGUE, Piece

SHAPE = 4, 5, 6


@pytest.fixture(autouse=True)
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrix form has no ε."""
    monkeypatch.setattr("auditor.operations.lrp.EPSILON", 0)


def sent_back(operation: Callable[[Tensor], Tensor], values: Tensor, signal: Tensor, rule: str = "linear") -> Tensor:
    values = values.clone().requires_grad_()
    with Tape(rule) as tape:
        output = operation(values.clone())
    tape.check_path(output)
    return torch.autograd.grad(output, values, signal)[0]


def assert_matches_matrix_form(piece: Piece, rule: str) -> None:
    """Forward, and what a random signal of both signs sends back, for two images."""
    piece = piece.double().eval().requires_grad_(False)
    images = 1.5 * torch.randn(2, *SHAPE, dtype=torch.float64)
    traced = [piece.trace(matrix_form.image_node(image)) for image in images]
    actual = piece(images.clone()).numpy()
    expected = np.stack([node.array for node in traced]).reshape(actual.shape)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9, err_msg="forward")

    signal = torch.randn(actual.shape, dtype=torch.float64)
    # The input is multiplied at the end, once: an operation alone sends back what the gradient does.
    literal = "gradient" if rule == "gradient_times_input" else rule
    back = [matrix_rules.reach_image(node, sent.numpy(), literal) for node, sent in zip(traced, signal, strict=True)]
    found = sent_back(piece, images, signal, rule).numpy()
    np.testing.assert_allclose(found, np.stack(back), rtol=1e-7, atol=1e-8 * np.abs(back).max())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, pieces in CATALOGUE.items() for name in pieces])
def test_operation_matches_its_matrix_form(kind: str, name: str, rule: str) -> None:
    torch.manual_seed(0)
    assert_matches_matrix_form(CATALOGUE[kind][name](SHAPE), rule)
