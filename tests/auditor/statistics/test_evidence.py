"""Mean evidence against a loop over samples and pixels."""

import numpy as np
import pytest
import torch

from auditor.statistics.evidence import label_evidence


def literal(classes: np.ndarray, responses: np.ndarray, labels: np.ndarray, side: int) -> dict[int, tuple[int, np.ndarray]]:
    """By label: how many samples, and their summed shares, (2, h, w): of the label, of the others."""
    _, height, width = classes.shape
    sums: dict[int, tuple[int, np.ndarray]] = {}
    for sample, label in enumerate(labels.tolist()):
        total = float(responses[sample].astype(float).sum())
        if label < 0 or total == 0:
            continue
        count, cells = sums.get(label, (0, np.zeros((2, -(-height // side), -(-width // side)))))
        for y, x in np.ndindex(height, width):
            cells[int(classes[sample, y, x] != label), y // side, x // side] += float(responses[sample, y, x]) / total
        sums[label] = count + 1, cells
    return sums


@pytest.mark.parametrize(("height", "width", "side"), [(4, 5, 1), (4, 5, 2), (3, 7, 3), (2, 2, 5)])
def test_evidence_is_that_of_a_loop(height: int, width: int, side: int) -> None:
    generator = np.random.default_rng(3)
    classes = generator.integers(-1, 4, (9, height, width)).astype(np.int16)
    responses = np.where(classes >= 0, generator.random((9, height, width)), 0).astype(np.float32)
    responses[4] = 0
    labels = np.array([2, 0, -1, 2, 3, 0, 2, 3, 0])
    found = label_evidence(torch.from_numpy(classes), torch.from_numpy(responses), torch.from_numpy(labels), side)
    expected = literal(classes, responses, labels, side)
    assert found.labels.tolist() == sorted(expected) == [0, 2, 3]
    for label, count, own, other in zip(*(part.tolist() for part in found), strict=True):
        assert count == expected[label][0]
        np.testing.assert_allclose([own, other], expected[label][1], rtol=1e-12, atol=1e-15)


def test_shares_of_a_sample_add_up_to_one() -> None:
    classes = torch.tensor([[[0, 1], [1, -1]]], dtype=torch.int16)
    found = label_evidence(classes, torch.tensor([[[1.0, 2.0], [5.0, 0.0]]]), torch.tensor([1]), 1)
    assert found.own.tolist() == [[[0, 0.25], [0.625, 0]]]
    assert found.other.tolist() == [[[0.125, 0], [0, 0]]]


@pytest.mark.parametrize("labels", [[-1, -1], [0, 1]])
def test_nothing_to_sum_is_no_label(labels: list[int]) -> None:
    """Without labels; without any response."""
    response = torch.full((2, 3, 3), float(labels[0] < 0))
    found = label_evidence(torch.zeros(2, 3, 3, dtype=torch.int16), response, torch.tensor(labels), 2)
    assert [len(part) for part in found] == [0, 0, 0, 0]
    assert found.own.shape == (0, 2, 2)
