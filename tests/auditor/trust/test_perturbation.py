"""Keeping and removing pixels of a network that adds up brightness, against loops; areas by hand."""

import pytest
import torch
from torch import Tensor

from auditor.trust.perturbation import area, perturb

SHARES = (0.0, 0.25, 0.5, 1.0)


def bright(images: Tensor) -> Tensor:
    """Says class 1 where the image's sum is above 4, class 0 else."""
    total = images.sum((1, 2, 3)) - 4
    return torch.stack([-total, total], 1)


@pytest.fixture
def images(generator: torch.Generator) -> Tensor:
    return torch.rand(5, 1, 4, 4, generator=generator)


def test_against_loops(images: Tensor, generator: torch.Generator) -> None:
    maps = torch.randn(5, 4, 4, generator=generator)
    classes = torch.tensor([1, 0, 1, 0, 1])
    found = perturb(bright, images, classes, maps, torch.full((5, 1, 1, 1), 0.1), SHARES)
    for n in range(5):
        values = images[n].flatten().tolist()
        order = sorted(range(16), key=lambda place: -maps[n].flatten()[place].item())
        for column, share in enumerate(SHARES):
            taken = order[: round(16 * share)]
            kept = sum(value if place in taken else 0.1 for place, value in enumerate(values)) - 4
            removed = sum(0.1 if place in taken else value for place, value in enumerate(values)) - 4
            for total, correct, probability in (
                (kept, found.kept_correct, found.kept_probability),
                (removed, found.removed_correct, found.removed_probability),
            ):
                sign = 1 if classes[n] == 1 else -1
                assert correct[n, column] == float(sign * total > 0)
                assert probability[n, column].item() == pytest.approx(
                    1 / (1 + torch.tensor(-2 * sign * total).exp().item()), abs=1e-5
                )


def test_whole_and_nothing(images: Tensor) -> None:
    found = perturb(bright, images, torch.ones(5, dtype=torch.long), images[:, 0], torch.zeros(5, 1, 1, 1), SHARES)
    probability = bright(images).softmax(1)[:, 1]
    torch.testing.assert_close(found.kept_probability[:, -1], probability)
    torch.testing.assert_close(found.removed_probability[:, 0], probability)
    torch.testing.assert_close(found.removed_probability[:, -1], found.kept_probability[:, 0])


def test_the_image_itself_is_the_best_map_of_brightness(images: Tensor, generator: torch.Generator) -> None:
    classes, fill = torch.ones(5, dtype=torch.long), torch.zeros(5, 1, 1, 1)
    own = perturb(bright, images, classes, images[:, 0], fill, SHARES)
    other = perturb(bright, images, classes, torch.rand(5, 4, 4, generator=generator), fill, SHARES)
    assert (area(own.kept_probability, SHARES) > area(other.kept_probability, SHARES)).all()
    assert (area(own.removed_probability, SHARES) < area(other.removed_probability, SHARES)).all()


def test_an_empty_map_has_no_answer(images: Tensor) -> None:
    maps = images[:, 0].clone()
    maps[2] = -1
    for answer in perturb(bright, images, torch.zeros(5, dtype=torch.long), maps, torch.zeros(5, 1, 1, 1), SHARES):
        assert answer.isnan().all(1).tolist() == [False, False, True, False, False]
        assert answer.shape == (5, 4)


def test_area_by_hand() -> None:
    """Trapezoids of ¼ · ½, ¼ · 1 and ½ · ½ over 1, and of a constant."""
    curves = torch.tensor([[0.0, 1, 1, 0], [0.3, 0.3, 0.3, 0.3]])
    assert area(curves, SHARES).tolist() == pytest.approx([0.125 + 0.25 + 0.25, 0.3])
    assert area(curves[:, 1:3], SHARES[1:3]).tolist() == pytest.approx([1, 0.3])
