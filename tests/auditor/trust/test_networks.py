"""A network without a tape gives the scores that the model gives."""

import pytest
import torch
from torch import Tensor, nn

from auditor import Clear
from auditor.trust.networks import scores_of
from tests.auditor.networks import NETWORKS, FlattenHead, random_network


@pytest.mark.parametrize("kind", NETWORKS)
def test_scores_are_the_models(kind: type[nn.Module]) -> None:
    model, images = random_network(kind, samples=3)
    before = images.clone()
    scores = scores_of(Clear(model), images)(images)
    with torch.no_grad():
        torch.testing.assert_close(scores, model(images.clone()), rtol=1e-4, atol=1e-5)
    assert torch.equal(images, before)


def test_larger_images_of_a_network_that_takes_them(clear: Clear, network: tuple[nn.Module, Tensor]) -> None:
    model, images = network
    larger = torch.cat([images[:2], images[2:4]], 3)
    with torch.no_grad():
        torch.testing.assert_close(scores_of(clear, images)(larger), model(larger), rtol=1e-4, atol=1e-5)


def test_an_image_that_is_not_finite_leaves_the_others_alone() -> None:
    model, images = random_network(FlattenHead, samples=3)
    images[1, 0, 0, 0] = torch.nan
    scores = scores_of(Clear(model), images[:1])(images)
    with torch.no_grad():
        torch.testing.assert_close(scores[::2], model(images)[::2], rtol=1e-4, atol=1e-5)
    assert scores[1].isnan().all()
